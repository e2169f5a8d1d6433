"""Checksums against a plain CRC-32C; integer streams are tested by way of blocks and axes."""

import random

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.reference import packing as reference
from tsengine.kernels.packing import checksum_ranges


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=300), st.lists(st.tuples(st.integers(0, 300), st.integers(0, 300))))
def test_checksum_ranges_matches_reference(data, ranges):
    starts = np.array([min(len(data), *pair) for pair in ranges], np.int64)
    ends = np.array([min(len(data), max(pair)) for pair in ranges], np.int64)
    out = np.empty(len(ranges), np.uint32)
    assert checksum_ranges(np.frombuffer(data, np.uint8), starts, ends, out) == 0
    assert out.tolist() == reference.checksum_ranges(data, starts.tolist(), ends.tolist())


def test_checksum_is_castagnoli():
    out = np.empty(1, np.uint32)
    checksum_ranges(np.frombuffer(b"123456789", np.uint8), np.array([0]), np.array([9]), out)
    assert out[0] == 0xE3069283


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 2**32 - 1).map(random.Random), st.integers(1, 400) | st.just(1024))
def test_the_twin_of_streams_undoes_itself(rnd, n):
    """The twin reads what the twin writes; that kernels and twin agree, codecs' tests show."""
    x = [rnd.getrandbits(rnd.choice((1, 8, 30, 64))) for _ in range(n)]
    order = rnd.randrange(min(3, n))
    for choose in (None, rnd.randrange):
        data = reference.write_stream(x, order, choose)
        reader = reference.Reader(data, 0, len(data))
        assert reference.read_stream(reader, n, order) == x
        assert reader.pos == len(data)
