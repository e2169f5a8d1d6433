"""Kernels of value blocks, axes, checksums and Gorilla: run by `make bench`.

A million values in blocks of 8192. Sizes and the table of speeds are `python -m bench.codecs`.
"""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest

from bench.codecs import decode_all, recordings
from tsengine.codecs.axis import decode_axes, encode_axes
from tsengine.codecs.block import decode_blocks, encode_blocks
from tsengine.kernels.blockcode import decode_file
from tsengine.kernels.decimals import decimal_exponent
from tsengine.kernels.gorilla import VALUES, WORD_BYTES_MAX, decode_gorilla, encode_gorilla
from tsengine.kernels.packing import checksum_ranges

N = 1 << 20
BLOCK = 8192
OFFSETS = np.arange(0, N + 1, BLOCK)
ROWS = np.zeros(N // BLOCK, np.int64)
RECORDINGS = {name: values.view(np.uint64) for name, _, values in recordings(N)}


@pytest.mark.parametrize("name", RECORDINGS)
def bench_encode_blocks(measure, name):
    bits = RECORDINGS[name]
    measure(lambda: encode_blocks(bits, OFFSETS, ROWS), N, unit="values", n_bytes=bits.nbytes)


@pytest.mark.parametrize("name", RECORDINGS)
def bench_decode_blocks(measure, name):
    bits = RECORDINGS[name]
    made = encode_blocks(bits, OFFSETS, ROWS)
    out = np.zeros_like(bits)
    measure(lambda: decode_all(made, OFFSETS, out), N, unit="values", n_bytes=bits.nbytes)
    np.testing.assert_array_equal(out, bits)


def bench_decode_blocks_in_part(measure):
    """The middle vector of each block."""
    bits = RECORDINGS["gauges, 2 decimals"]
    made = encode_blocks(bits, OFFSETS, ROWS)
    n = len(ROWS)
    out = np.zeros(1024 * n, np.uint64)
    call = partial(
        decode_blocks, made.payload, made.offsets[:-1], np.diff(made.offsets), ROWS, ROWS + BLOCK,
        ROWS + 4096, ROWS + 5120, out, 1024 * np.arange(n),
    )  # fmt: skip
    measure(call, len(out), unit="values", n_bytes=out.nbytes)
    np.testing.assert_array_equal(out, bits.reshape(n, BLOCK)[:, 4096:5120].ravel())


def bench_decode_file(measure, tmp_path):
    """The last 20 values of each block of an hour."""
    n, length = 4000, 240
    bits = RECORDINGS["gauges, 2 decimals"][: n * length]
    made = encode_blocks(bits, length * np.arange(n + 1), np.zeros(n, np.int64))
    path = tmp_path / "values"
    path.write_bytes(made.payload.tobytes())
    out = np.zeros(20 * n, np.uint64)
    each = np.arange(n)
    with path.open("rb") as file:
        call = partial(
            decode_file, file.fileno(), made.offsets, each.astype(np.uint32),
            np.zeros(n, np.uint16), np.full(n, length, np.uint16), each, np.full(n, length - 20),
            np.full(n, 20), each, 20 * each, np.empty(128 * 1024, np.uint8), out,
        )  # fmt: skip
        measure(call, len(out), unit="values", n_bytes=out.nbytes)
    np.testing.assert_array_equal(out, bits.reshape(n, length)[:, -20:].ravel())


TIMES = 15_000 * np.arange(N) + np.random.default_rng(1).integers(-9, 9, N)


def bench_encode_axes(measure):
    measure(lambda: encode_axes(TIMES, OFFSETS), N, unit="times", n_bytes=TIMES.nbytes)


def bench_decode_axes(measure):
    payload, positions = encode_axes(TIMES, OFFSETS)
    out = np.zeros_like(TIMES)
    call = partial(
        decode_axes, payload, positions[:-1], np.diff(positions), np.diff(OFFSETS), out,
        OFFSETS[:-1],
    )  # fmt: skip
    measure(call, N, unit="times", n_bytes=TIMES.nbytes)
    np.testing.assert_array_equal(out, TIMES)


def bench_checksum_ranges(measure):
    data = np.zeros(8 * N, np.uint8)
    out = np.zeros(len(ROWS), np.uint32)
    call = partial(checksum_ranges, data, 8 * OFFSETS[:-1], 8 * OFFSETS[1:], out)
    measure(call, len(data), unit="bytes", n_bytes=len(data))


def bench_decimal_exponent(measure):
    values = RECORDINGS["gauges, 2 decimals"].view(np.float64)
    call = partial(decimal_exponent, values, np.zeros(N, np.int64))
    assert call() == 2
    measure(call, N, unit="values", n_bytes=values.nbytes)


def bench_encode_gorilla(measure):
    words = RECORDINGS["gauges, 2 decimals"]
    out = np.zeros(WORD_BYTES_MAX * N + 16, np.uint8)
    # Each round writes the same bits over the same bits, as if they were zeros.
    measure(
        lambda: encode_gorilla(words, VALUES, out), N, unit="values", n_bytes=words.nbytes,
    )  # fmt: skip


def bench_decode_gorilla(measure):
    words = RECORDINGS["gauges, 2 decimals"]
    out = np.zeros(WORD_BYTES_MAX * N + 16, np.uint8)
    data = out[: encode_gorilla(words, VALUES, out)]
    back = np.zeros_like(words)
    measure(
        lambda: decode_gorilla(data, VALUES, back), N, unit="values", n_bytes=words.nbytes,
    )  # fmt: skip
    np.testing.assert_array_equal(back, words)
