"""Operations on label rows against plain dicts."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.reference.memory_source import MemoryDictionary
from tsengine.model.labels import LabelRows
from tsengine.query.labelspace import OVERLAY, LabelSpace

NAMES = ["__name__", "__type__", "a", "ab", "b", "Z", "ü", "\U0001f600", "\uffee"]
VALUES = ["x", "xy", "y", "ü", "\U0001f600", "\uffee", "Z"]

label_sets = st.dictionaries(st.sampled_from(NAMES), st.sampled_from(VALUES), max_size=5)
lists = st.lists(label_sets, max_size=8)


def by_name(labels):
    return dict(sorted(labels.items(), key=lambda kv: kv[0].encode()))


@st.composite
def spaces(draw):
    """A space that knows some of the pairs from its dictionary, and rows of it."""
    dictionary = MemoryDictionary()
    for name, value in draw(
        st.lists(st.tuples(st.sampled_from(NAMES), st.sampled_from(VALUES)), max_size=20)
    ):
        dictionary.pair(name, value)
    space = LabelSpace(dictionary)
    dicts = draw(lists)
    return space, [by_name(labels) for labels in dicts], space.from_dicts(dicts)


def check(space, rows, wanted):
    got = space.materialise(rows)
    assert got == [by_name(labels) for labels in wanted]
    assert [list(labels) for labels in got] == [list(by_name(labels)) for labels in wanted]


@settings(max_examples=50, deadline=None)
@given(spaces())
def test_rows_come_back_as_dicts(made):
    space, dicts, rows = made
    check(space, rows, dicts)


@settings(max_examples=50, deadline=None)
@given(spaces(), st.lists(st.sampled_from([*NAMES, "unknown"]), max_size=4))
def test_keep_and_drop(made, names):
    space, dicts, rows = made
    check(space, space.keep(rows, names), [{n: d[n] for n in d if n in names} for d in dicts])
    check(space, space.drop(rows, names), [{n: d[n] for n in d if n not in names} for d in dicts])


@settings(max_examples=50, deadline=None)
@given(spaces())
def test_groups_are_numbered_by_first_appearance(made):
    space, dicts, rows = made
    group_of_row, first_row = space.group(rows)
    distinct = []
    for labels in dicts:
        if labels not in distinct:
            distinct.append(labels)
    assert group_of_row.tolist() == [distinct.index(labels) for labels in dicts]
    assert first_row.tolist() == [dicts.index(labels) for labels in distinct]


@settings(max_examples=50, deadline=None)
@given(spaces(), st.sampled_from(NAMES))
def test_column(made, name):
    space, dicts, rows = made
    column = space.column(rows, name)
    got = [space.value_of(pair) if pair >= 0 else None for pair in column]
    assert got == [labels.get(name) for labels in dicts]


@settings(max_examples=50, deadline=None)
@given(spaces(), st.sampled_from([*NAMES, "new"]), st.data())
def test_set_column(made, name, data):
    space, dicts, rows = made
    texts = data.draw(
        st.lists(st.sampled_from(["", "x", "fresh", "y"]), min_size=len(dicts), max_size=len(dicts))
    )
    changed = space.set_column(rows, name, space.intern_values(name, texts))
    wanted = []
    for labels, text in zip(dicts, texts, strict=True):
        rest = {n: v for n, v in labels.items() if n != name}
        wanted.append({**rest, name: text} if text else rest)
    check(space, changed, wanted)
    # Equal sets are equal runs of ids, however they were made.
    again = space.from_dicts(wanted)
    assert again.pairs.tolist() == changed.pairs.tolist()
    assert again.offsets.tolist() == changed.offsets.tolist()


@settings(max_examples=50, deadline=None)
@given(spaces(), st.data())
def test_take_and_concat(made, data):
    space, dicts, rows = made
    idx = data.draw(st.lists(st.integers(0, max(len(dicts) - 1, 0)), max_size=6))
    idx = idx if dicts else []
    taken = space.take(rows, np.array(idx, np.int64))
    check(space, taken, [dicts[i] for i in idx])
    both = space.concat([rows, taken, space.empty_rows(2)])
    check(space, both, dicts + [dicts[i] for i in idx] + [{}, {}])


@settings(max_examples=50, deadline=None)
@given(spaces())
def test_sort_order_is_bytewise_label_by_label(made):
    space, dicts, rows = made
    keys = [[(n.encode(), v.encode()) for n, v in labels.items()] for labels in dicts]
    order = space.sort_order(rows)
    assert order.tolist() == sorted(range(len(keys)), key=keys.__getitem__)


def test_many_rows_take_the_dense_way_to_the_same_order():
    dictionary = MemoryDictionary()
    dicts = [{"a": str(k % 7), "b": str(k % 11), "c": "same"} for k in range(500)]
    for labels in dicts[:300]:
        for name, value in labels.items():
            dictionary.pair(name, value)
    space = LabelSpace(dictionary)
    rows = space.from_dicts(dicts)
    ordered = space.materialise(space.take(rows, space.sort_order(rows)))
    assert ordered == sorted(dicts, key=lambda d: sorted(d.items()))


def test_pairs_of_the_dictionary_keep_their_ids_and_new_ones_are_the_query_s_own():
    dictionary = MemoryDictionary()
    known = dictionary.pair("a", "x")
    dictionary.pair("b", "y")
    space = LabelSpace(dictionary)
    assert space.intern("a", "x") == known
    # Both symbols are known, the pair is not.
    fresh = space.intern("a", "y")
    assert fresh >= OVERLAY
    assert space.intern("a", "y") == fresh
    assert (space.name_of(fresh), space.value_of(fresh)) == ("a", "y")


def test_what_is_added_to_the_dictionary_later_is_not_used():
    dictionary = MemoryDictionary()
    dictionary.pair("a", "x")
    space = LabelSpace(dictionary)
    later = dictionary.pair("b", "new")
    mine = space.intern("b", "new")
    assert mine >= OVERLAY
    assert mine != later
    assert space.materialise(LabelRows(np.array([0, 1]), np.array([mine], np.uint32))) == [
        {"b": "new"}
    ]


def test_texts_that_are_not_utf8_survive():
    space = LabelSpace(MemoryDictionary())
    rows = space.from_dicts([{"a": "\udcff"}, {"a": "z"}])
    assert space.materialise(rows) == [{"a": "\udcff"}, {"a": "z"}]
    assert space.sort_order(rows).tolist() == [1, 0]


@settings(max_examples=50, deadline=None)
@given(spaces())
def test_names_go_with_type_and_unit(made):
    space, dicts, rows = made
    gone = ("__name__", "__type__", "__unit__")
    check(space, space.drop_name(rows), [{n: d[n] for n in d if n not in gone} for d in dicts])
