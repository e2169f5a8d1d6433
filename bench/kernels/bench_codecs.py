"""Kernels of value blocks, axes, checksums and Gorilla: run by `make bench`.

A million values in blocks of 8192; divide by the time for values a second. Sizes and the table of
speeds are `python -m bench.codecs`.
"""

from __future__ import annotations

import numpy as np
import pytest

from bench.codecs import decode_all, recordings
from tsengine.codecs.axis import decode_axes, encode_axes
from tsengine.codecs.block import decode_blocks, encode_blocks
from tsengine.kernels.decimals import decimal_exponent
from tsengine.kernels.gorilla import VALUES, WORD_BYTES_MAX, decode_gorilla, encode_gorilla
from tsengine.kernels.packing import checksum_ranges

N = 1 << 20
BLOCK = 8192
OFFSETS = np.arange(0, N + 1, BLOCK)
ROWS = np.zeros(N // BLOCK, np.int64)
RECORDINGS = {name: values.view(np.uint64) for name, _, values in recordings(N)}


@pytest.mark.parametrize("name", RECORDINGS)
def test_encode_blocks(benchmark, name):
    made = benchmark(encode_blocks, RECORDINGS[name], OFFSETS, ROWS)
    assert made.offsets[-1] == len(made.payload)


@pytest.mark.parametrize("name", RECORDINGS)
def test_decode_blocks(benchmark, name):
    bits = RECORDINGS[name]
    made = encode_blocks(bits, OFFSETS, ROWS)
    out = np.zeros_like(bits)
    benchmark(decode_all, made, OFFSETS, out)
    np.testing.assert_array_equal(out, bits)


def test_decode_blocks_in_part(benchmark):
    """The middle vector of each block."""
    bits = RECORDINGS["gauges, 2 decimals"]
    made = encode_blocks(bits, OFFSETS, ROWS)
    n = len(ROWS)
    out = np.zeros(1024 * n, np.uint64)
    benchmark(
        decode_blocks, made.payload, made.offsets[:-1], np.diff(made.offsets), ROWS, ROWS + BLOCK,
        ROWS + 4096, ROWS + 5120, out, 1024 * np.arange(n),
    )  # fmt: skip
    np.testing.assert_array_equal(out, bits.reshape(n, BLOCK)[:, 4096:5120].ravel())


def test_encode_decode_axes(benchmark):
    t_ms = 15_000 * np.arange(N) + np.random.default_rng(1).integers(-9, 9, N)
    payload, positions = encode_axes(t_ms, OFFSETS)
    out = np.zeros_like(t_ms)
    benchmark(
        decode_axes, payload, positions[:-1], np.diff(positions), np.diff(OFFSETS), out,
        OFFSETS[:-1],
    )  # fmt: skip
    np.testing.assert_array_equal(out, t_ms)


def test_checksum_ranges(benchmark):
    data = np.zeros(8 * N, np.uint8)
    out = np.zeros(len(ROWS), np.uint32)
    assert benchmark(checksum_ranges, data, 8 * OFFSETS[:-1], 8 * OFFSETS[1:], out) == 0


def test_decimal_exponent(benchmark):
    values = RECORDINGS["gauges, 2 decimals"].view(np.float64)
    assert benchmark(decimal_exponent, values, np.zeros(N, np.int64)) == 2


def test_gorilla_encode(benchmark):
    words = RECORDINGS["gauges, 2 decimals"]
    out = np.zeros(WORD_BYTES_MAX * N + 16, np.uint8)
    # Each round writes the same bits over the same bits, as if they were zeros.
    assert benchmark(encode_gorilla, words, VALUES, out) > 0


def test_gorilla_decode(benchmark):
    words = RECORDINGS["gauges, 2 decimals"]
    out = np.zeros(WORD_BYTES_MAX * N + 16, np.uint8)
    data = out[: encode_gorilla(words, VALUES, out)]
    back = np.zeros_like(words)
    assert benchmark(decode_gorilla, data, VALUES, back) == 0
    np.testing.assert_array_equal(back, words)
