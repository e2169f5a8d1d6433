"""Orders and texts of label sets against a plain twin."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.reference import labeltexts as reference
from tests.reference.memory_source import MemoryDictionary
from tsengine.kernels.labeltexts import NOT_PLAIN, order_rows, write_pairs

TEXTS = ["a", "ab", "abcdefgh", "abcdefgh1", "abcdefgi", "abcdefghijklmnop", "ü", "\U0001f600", "Z"]
pairs_of = st.tuples(st.sampled_from(TEXTS), st.sampled_from([*TEXTS, "host-00001", "host-00010"]))
label_sets = st.dictionaries(st.sampled_from(TEXTS), st.sampled_from(TEXTS), max_size=4)


def made_of(pairs):
    """A dictionary's arrays, and the ids of pairs of texts."""
    dictionary = MemoryDictionary()
    ids = np.array([dictionary.pair(*pair) for pair in pairs], np.uint32)
    texts = dictionary.arrays
    return (texts.text, texts.text_offsets, texts.pair_names, texts.pair_values), ids


def as_bytes(pairs):
    return [(name.encode(), value.encode()) for name, value in pairs]


@settings(deadline=None, max_examples=200)
@given(st.lists(label_sets, max_size=40))
def test_order_rows_matches_reference(found):
    rows = [sorted(labels.items(), key=lambda pair: pair[0].encode()) for labels in found]
    arrays, pairs = made_of([pair for row in rows for pair in row])
    offsets = np.cumsum([0] + [len(row) for row in rows]).astype(np.int64)
    order = np.empty(len(rows), np.int64)
    order_rows(*arrays, offsets, pairs, order, np.empty(len(rows), np.int64))
    assert order.tolist() == reference.order_rows([as_bytes(row) for row in rows])


def test_many_rows_in_any_order():
    rng = np.random.default_rng(5)
    hosts = [f"host-{number:05d}.example:9100" for number in rng.permutation(3000)]
    arrays, pairs = made_of([("instance", host) for host in hosts])
    order = np.empty(len(hosts), np.int64)
    order_rows(*arrays, np.arange(len(hosts) + 1), pairs, order, np.empty(len(hosts), np.int64))
    assert [hosts[row] for row in order] == sorted(hosts)


@settings(deadline=None, max_examples=200)
@given(st.lists(st.tuples(*2 * [st.text(min_size=1, max_size=20)]) | pairs_of, max_size=10))
def test_write_pairs_matches_reference(pairs):
    arrays, ids = made_of(pairs)
    out, offsets = np.full(1000, 7, np.uint8), np.empty(len(pairs) + 1, np.int64)
    size = write_pairs(*arrays, ids, out, offsets)
    expected = reference.write_pairs(as_bytes(pairs))
    if expected is None:
        assert size == NOT_PLAIN
        return
    assert [out[a:b].tobytes() for a, b in pairwise(offsets)] == expected
    assert size == len(b"".join(expected))
    assert (out[size:] == 7).all()


def test_what_has_no_room_is_only_measured():
    arrays, ids = made_of([("a", "bc"), ("d", "efg")])
    out, offsets = np.full(12, 7, np.uint8), np.empty(3, np.int64)
    assert write_pairs(*arrays, ids, out[:11], offsets) == 17
    assert offsets.tolist() == [0, 8, 17]
    assert out[11] == 7
