"""kernels/xorchunk.py against slow twins, and against bytes that Prometheus wrote."""

from __future__ import annotations

import struct

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.reference import xorchunk as reference
from tsengine.kernels.xorchunk import CHUNK_SIZE_MAX, SAMPLE_SIZE_MAX, encode_xor_chunks

words = st.integers(0, 2**64 - 1) | st.floats(width=64).map(
    lambda v: struct.unpack("<Q", struct.pack("<d", v))[0]
) | st.sampled_from([0, 1, 1 << 63, 0x7FF0000000000002, 2**64 - 1])  # fmt: skip
deltas = st.integers(1, 100_000) | st.sampled_from([15_000, 8192, 65_536, 524_288, 1 << 40])


def encoded(samples, ends):
    t_ms = np.array([t for t, _ in samples], np.int64)
    bits = np.array([b for _, b in samples], np.uint64)
    starts = np.array([0, *ends[:-1]], np.int64)
    out = np.zeros(CHUNK_SIZE_MAX * len(ends) + SAMPLE_SIZE_MAX * len(samples), np.uint8)
    bounds = np.empty(len(ends) + 1, np.int64)
    size = encode_xor_chunks(t_ms, bits, starts, np.array(ends, np.int64), out, bounds)
    assert bounds[0] == 0
    assert bounds[-1] == size
    assert not out[size:].any()
    return [out[a:b].tobytes() for a, b in zip(bounds[:-1], bounds[1:], strict=True)]


@given(st.integers(-(2**62), 2**62), st.lists(st.tuples(deltas, words), min_size=1, max_size=60),
       st.integers(1, 60))  # fmt: skip
@settings(deadline=None)
def test_chunks_match_the_reference(first, steps, at_most):
    times = first + np.cumsum([delta for delta, _ in steps])
    samples = [(int(t), word) for t, (_, word) in zip(times, steps, strict=True)]
    ends = [*range(at_most, len(samples), at_most), len(samples)]
    chunks = encoded(samples, ends)
    start = 0
    for end, chunk in zip(ends, chunks, strict=True):
        assert reference.decode_xor_chunk(chunk) == samples[start:end]
        assert chunk == reference.encode_xor_chunks(samples[start:end])
        start = end


def test_changes_of_every_width():
    edges = [0, 1, -1, 8192, -8191, 8193, -8192, 65536, -65535, 65537, 524288, -524287, 524289,
             -524288, 1 << 33]  # fmt: skip
    t, delta, samples = 0, 10_000_000, []
    for k, change in enumerate(edges):
        delta += change
        t += delta
        samples.append((t, k))
    (chunk,) = encoded(samples, [len(samples)])
    assert reference.decode_xor_chunk(chunk) == samples


def test_extreme_times():
    samples = [(-(2**63), 1), (-1, 2), (2**63 - 1, 3)]
    (chunk,) = encoded(samples, [3])
    assert reference.decode_xor_chunk(chunk) == samples


def test_a_chunk_by_hand():
    """1.0 and 15 s later 2.0: they differ in 11 bits behind the first (11 00001 001011 111...)."""
    (chunk,) = encoded([(1000, 0x3FF0000000000000), (16_000, 0x4000000000000000)], [2])
    assert chunk == bytes.fromhex("0002 d00f 3ff0000000000000 9875 c25fff")
