"""The catalog against a dict of label sets: inserts, replay, limits, views."""

from __future__ import annotations

import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.reference import remote_write as wire
from tsengine.errors import AppendLimitExceeded, CorruptionError, InvalidLabels, MalformedRequest
from tsengine.model.labels import NO_ID
from tsengine.options import LabelLimits
from tsengine.storage.catalog import Catalog

SECRET = bytes(range(32))

names = st.sampled_from(["a", "b", "job", "instance", "Z", "ü", "zone\n", "__x__"])
values = st.text(st.characters(codec="utf-8"), max_size=6)
label_sets = st.dictionaries(names, values, max_size=5).flatmap(
    lambda labels: st.sampled_from(["up", "down", "ünder", "x" * 40]).map(
        lambda metric: {**labels, "__name__": metric}
    )
)


def make_catalog(max_series=10**6, limits=None) -> Catalog:
    return Catalog(secret=SECRET, limits=limits or LabelLimits(), max_series=max_series)


def canonical(labels: dict[str, str]) -> tuple[tuple[str, str], ...]:
    full = [(name, value) for name, value in labels.items() if value]
    return tuple(sorted(full, key=lambda label: label[0].encode()))


def read_back(catalog: Catalog) -> list[tuple[tuple[str, str], ...]]:
    view = catalog.view()
    rows = view.labels(np.arange(view.n_series, dtype=np.uint32))
    texts = [view.text(symbol) for symbol in range(view.n_symbols)]
    pairs = [
        (texts[name], texts[value])
        for name, value in zip(view.pair_names, view.pair_values, strict=True)
    ]
    return [
        tuple(pairs[pair] for pair in rows.pairs[rows.offsets[s] : rows.offsets[s + 1]])
        for s in range(len(rows))
    ]


def numbered(catalog: Catalog, n: int) -> None:
    catalog.series_refs([{"__name__": "m", "i": str(i), "k": str(i % 7)} for i in range(n)])


@given(st.lists(st.lists(label_sets, max_size=20), max_size=4))
@settings(deadline=None, max_examples=80)
def test_series_refs_are_dense_and_equal_for_equal_label_sets(batches):
    catalog = make_catalog()
    known: dict[tuple, int] = {}
    for batch in batches:
        before = len(known)
        expected = [known.setdefault(canonical(labels), len(known)) for labels in batch]
        refs, first_new, n_new = catalog.series_refs(batch)
        assert refs.tolist() == expected
        assert (first_new, n_new) == (before, len(known) - before)
    assert catalog.view().n_series == 0
    catalog.publish()
    assert read_back(catalog) == list(known)


@given(st.lists(label_sets, min_size=1, max_size=30), st.integers(0, 30), st.booleans())
@settings(deadline=None, max_examples=60)
def test_replay_gives_an_equal_catalog(series, cut, again):
    catalog = make_catalog()
    catalog.series_refs(series)
    catalog.publish()
    cut = min(cut, catalog.next_ref)
    head = catalog.encode_series(0, cut)
    tail = catalog.encode_series(cut, catalog.next_ref - cut)
    copy = Catalog(secret=bytes(32), limits=LabelLimits(), max_series=10**6)
    for payload in (head, tail) + (head, tail) * again:
        copy.decode_series(payload)
    copy.publish()
    assert read_back(copy) == read_back(catalog)


def test_replay_refuses_gaps_contradictions_and_repetitions():
    catalog = make_catalog()
    numbered(catalog, 10)
    other = make_catalog()
    with pytest.raises(CorruptionError, match="series 0 to 4 are missing"):
        other.decode_series(catalog.encode_series(5, 5))
    other.series_refs([{"__name__": "another"}])
    with pytest.raises(CorruptionError, match="contradicts"):
        other.decode_series(catalog.encode_series(0, 10))
    # Series 3 under ref 1, which does not exist there yet.
    moved = bytearray(catalog.encode_series(0, 1))
    moved[4:8] = (1).to_bytes(4, "little")
    third = make_catalog()
    third.decode_series(catalog.encode_series(0, 1))
    with pytest.raises(CorruptionError, match="contradicts"):
        third.decode_series(bytes(moved))
    assert third.next_ref == 1


@given(st.data())
@settings(deadline=None, max_examples=300)
def test_replay_of_damaged_bytes_raises_or_gives_label_sets(data):
    catalog = make_catalog()
    numbered(catalog, data.draw(st.integers(1, 12)))
    payload = bytearray(catalog.encode_series(0, catalog.next_ref))
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.integers(0, len(payload) - 1))
        payload[place] ^= 1 << data.draw(st.integers(0, 7))
    if data.draw(st.booleans()):
        del payload[data.draw(st.integers(0, len(payload))) :]
    copy = make_catalog()
    try:
        copy.decode_series(bytes(payload))
    except CorruptionError:
        assert copy.next_ref <= catalog.next_ref
        return
    copy.publish()
    for labels in read_back(copy):
        assert labels == canonical(dict(labels))


@pytest.mark.parametrize(
    ("labels", "reason"),
    [
        ({"a": "b"}, "there is no metric name"),
        ({"__name__": ""}, "there is no metric name"),
        ({"__name__": "m", "": "x"}, "a label name is empty"),
        ({"__name__": "m", "a": "\ud800"}, "a label value is not UTF-8"),
        ({"__name__": "m", "\udfff": "a"}, "a label name is not UTF-8"),
        ({"__name__": "m", **{f"l{i}": "x" for i in range(128)}}, "more than 128 labels"),
        ({"__name__": "m", "n" * 1025: "x"}, "name is longer than 1024"),
        ({"__name__": "m", "n": "x" * 16385}, "value is longer than 16384"),
        ({"__name__": "m", **{f"l{i}": "x" * 16000 for i in range(5)}}, "longer than 65536"),
        ({"__name__": "m", "a": 5}, "labels must be text"),
    ],
)
def test_series_refs_names_the_broken_rule_and_keeps_nothing(labels, reason):
    catalog = make_catalog()
    with pytest.raises(InvalidLabels, match=reason):
        catalog.series_refs([{"__name__": "fine"}, labels])
    assert catalog.next_ref == 0


def test_labels_at_the_limits_are_accepted():
    catalog = make_catalog()
    labels = {"__name__": "m", "n" * 1024: "v" * 16384, **{f"l{i}": "x" for i in range(126)}}
    empty = {f"e{i}": "" for i in range(300)}
    refs, _, _ = catalog.series_refs([labels, {**labels, **empty}])
    assert refs.tolist() == [0, 0]


def test_series_refs_stops_at_the_series_limit_without_inserting():
    catalog = make_catalog(max_series=5)
    numbered(catalog, 4)
    with pytest.raises(AppendLimitExceeded, match="2 new series would exceed the limit of 5"):
        catalog.series_refs([{"__name__": "x"}, {"__name__": "y"}])
    assert catalog.next_ref == 4
    refs, _, n_new = catalog.series_refs([{"__name__": "x"}, {"__name__": "x"}])
    assert (refs.tolist(), n_new) == ([4, 4], 1)
    numbered(catalog, 4)
    with pytest.raises(AppendLimitExceeded):
        catalog.series_refs([{"__name__": "z"}])


def test_a_view_does_not_change_while_the_writer_goes_on():
    catalog = make_catalog()
    numbered(catalog, 50)
    catalog.publish()
    view = catalog.view()
    before = read_back(catalog)
    column = view.pair_column(np.arange(50, dtype=np.uint32), "k")
    for n in (100, 1000, 30_000):
        numbered(catalog, n)
        catalog.publish()
        assert catalog.view().n_series == n
        assert view.n_series == 50
        assert view.label_values("i", None) == sorted(str(i) for i in range(50))
        assert view.label_names(None) == ["__name__", "i", "k"]
        np.testing.assert_array_equal(view.pair_column(np.arange(50, dtype=np.uint32), "k"), column)
        assert view.find_symbol("40") != NO_ID
        assert view.find_symbol(str(n - 1)) == NO_ID
        rows = view.labels(np.arange(50, dtype=np.uint32))
        assert len(rows) == len(before) == 50
        with pytest.raises(IndexError):
            view.labels(np.array([50], np.uint32))


def test_unpublished_series_are_invisible():
    catalog = make_catalog()
    numbered(catalog, 3)
    view = catalog.view()
    assert (view.n_series, view.n_symbols, view.n_pairs) == (0, 0, 0)
    assert view.find_symbol("__name__") == NO_ID
    assert view.find([]).tolist() == []
    assert view.label_names(None) == []
    assert view.label_values("i", None) == []
    catalog.publish()
    assert catalog.view().n_series == 3


def test_readers_are_right_while_series_are_added():
    catalog = make_catalog()
    numbered(catalog, 10)
    catalog.publish()
    stop = threading.Event()
    errors: list[BaseException] = []

    def read() -> None:
        try:
            while not stop.is_set():
                view = catalog.view()
                refs = np.arange(view.n_series, dtype=np.uint32)
                assert len(view.label_values("i", refs[-20:])) == min(20, view.n_series)
                last = view.find_symbol(str(view.n_series - 1))
                assert view.text(last) == str(view.n_series - 1)
                name = view.find_symbol("i")
                assert view.series_of_pairs.rows(view.find_pair(name, last)).tolist() == [
                    view.n_series - 1
                ]
        except BaseException as error:
            errors.append(error)

    readers = [threading.Thread(target=read) for _ in range(2)]
    for reader in readers:
        reader.start()
    for n in range(20, 20_000, 321):
        numbered(catalog, n)
        catalog.publish()
    stop.set()
    for reader in readers:
        reader.join()
    assert not errors


def test_dictionary_finds_what_it_tells():
    catalog = make_catalog()
    numbered(catalog, 300)
    catalog.publish()
    view = catalog.view()
    for symbol in range(view.n_symbols):
        assert view.find_symbol(view.text(symbol)) == symbol
    for pair, (name, value) in enumerate(zip(view.pair_names, view.pair_values, strict=True)):
        assert view.find_pair(int(name), int(value)) == pair
    assert view.find_symbol("nowhere") == NO_ID
    assert view.find_symbol("\ud800") == NO_ID
    assert view.find_pair(int(view.pair_values[0]), int(view.pair_names[0])) == NO_ID
    assert not view.pair_names.flags.writeable


def test_cardinality_counts_like_a_loop():
    catalog = make_catalog()
    numbered(catalog, 20)
    catalog.series_refs([{"__name__": "other", "k": "1"}])
    catalog.publish()
    told = catalog.view().cardinality(3)
    assert told["seriesCountByMetricName"] == [("m", 20), ("other", 1)]
    assert told["labelValueCountByLabelName"] == [("i", 20), ("k", 7), ("__name__", 2)]
    assert told["memoryInBytesByLabelName"] == [("i", 30), ("__name__", 25), ("k", 21)]
    assert told["seriesCountByLabelValuePair"][:2] == [("__name__=m", 20), ("k=1", 4)]
    assert told["numLabelPairs"] == 29


def test_body_errors_name_the_sender():
    with pytest.raises(MalformedRequest, match=r"host-7: .*break at byte 0"):
        make_catalog().scan_remote_write(b"\xff", version=1, sender="host-7")


def test_an_empty_body_is_an_empty_batch():
    for version in (1, 2):
        result = make_catalog().scan_remote_write(wire.encode_v1([]), version=version)
        assert len(result.batch) == 0
        assert result.rejected == ()
