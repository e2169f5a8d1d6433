"""Native histograms as messages of remote read (``prometheus.Histogram``)."""

from __future__ import annotations

import numpy as np

from tsengine.kernels.bits import f64_bits, put_varint, store_u64
from tsengine.kernels.jit import (
    F64_IN,
    I32_IN,
    I64_IN,
    I64_OUT,
    U8_IN,
    U8_OUT,
    device,
    i64,
    kernel,
)

MESSAGE_SIZE_MAX = 128
"""Bytes of a histogram without buckets and bounds."""
BUCKET_SIZE_MAX = 10 + 16
"""Bytes of a bucket: its count and a span of its own."""
BOUND_SIZE_MAX = 8

_FIELD = 0x22
_KEY_BIAS = 1 << 20
_INTEGER_MAX = 2.0**53


@device
def _put_zigzag(out, at, number):
    return put_varint(out, at, np.uint64((number << 1) ^ (number >> 63)))


@device
def _put_double(out, at, key, value):
    """A field of a double; left out if it has the default's bits."""
    bits = f64_bits(value)
    if bits == np.uint64(0):
        return at
    out[at] = key
    store_u64(out, at + 1, bits)
    return at + 9


@device
def _index(key):
    return key - _KEY_BIAS if key > 0 else -key - _KEY_BIAS


@device
def _put_length(out, at, body, end):
    """Put the length of ``out[body:end]`` at `at` and move the bytes behind it; returns the end."""
    at = put_varint(out, at, np.uint64(end - body))
    for k in range(end - body):
        out[at + k] = out[body + k]
    return at + end - body


@device
def _is_count(value):
    return 0 <= value <= _INTEGER_MAX and value == np.floor(value)


@device
def _put_deltas(counts, first, last, step, out, at):
    """Differences of integer counts, packed; behind their length."""
    n_bytes = 0
    b = first
    before = np.int64(0)
    while b != last:
        delta = np.int64(counts[b]) - before
        before += delta
        number = np.uint64((delta << 1) ^ (delta >> 63))
        n_bytes += 1
        while number >= np.uint64(128):
            number >>= np.uint64(7)
            n_bytes += 1
        b += step
    at = put_varint(out, at, np.uint64(n_bytes))
    b = first
    before = np.int64(0)
    while b != last:
        delta = np.int64(counts[b]) - before
        before += delta
        at = _put_zigzag(out, at, delta)
        b += step
    return at


@device
def _put_side(keys, counts, first, last, step, is_integer, span_key, count_key, out, at):
    """Spans and counts of the buckets from `first` on, `step` apart, up to but without `last`."""
    if first == last:
        return at
    b = first
    after = np.int64(0)
    while b != last:
        start = b
        n = np.int64(0)
        while b != last and _index(keys[b]) == _index(keys[start]) + n:
            n += 1
            b += step
        out[at] = span_key
        body = at + 2
        end = body
        offset = _index(keys[start]) - after
        if offset != 0:
            out[end] = 0x08
            end = _put_zigzag(out, end + 1, np.int64(offset))
        out[end] = 0x10
        end = put_varint(out, end + 1, np.uint64(n))
        out[at + 1] = end - body
        at = end
        after = _index(keys[start]) + n
    n = (last - first) * step
    if is_integer:
        out[at] = count_key - 8
        return _put_deltas(counts, first, last, step, out, at + 1)
    out[at] = count_key
    at = put_varint(out, at + 1, np.uint64(8 * n))
    b = first
    while b != last:
        store_u64(out, at, f64_bits(counts[b]))
        at += 8
        b += step
    return at


@kernel(
    i64(I64_IN, I64_IN, I64_IN, U8_IN, F64_IN, F64_IN, F64_IN, F64_IN,
        I64_IN, I32_IN, F64_IN, I32_IN, I64_IN, F64_IN, U8_OUT, I64_OUT)
)  # fmt: skip
def write_histograms(
    t_ms, rows, schema, hint, count, sum_, zero_threshold, zero_count,
    offsets, keys, counts, bounds_id, bounds_offsets, bounds, out, ends,
):  # fmt: skip
    """Write ``histograms`` fields (4) of ``TimeSeries`` behind each other; returns the bytes.

    Histograms whose counts are all integers are written as such.

    Shapes: sample i has the time ``t_ms[i]`` and the histogram ``rows[i]`` of the table in the
    arrays that follow (`model.histograms.Histograms`; ``schema: i64``). ``out: u8[...]`` has room
    for MESSAGE_SIZE_MAX a sample, BUCKET_SIZE_MAX a bucket and BOUND_SIZE_MAX a custom bound.
    ``ends: i64[N]`` gets where each field ends.
    """
    at = np.int64(0)
    for i in range(rows.shape[0]):
        row = rows[i]
        out[at] = _FIELD
        field = at + 1
        body = at + 6
        first, last = offsets[row], offsets[row + 1]
        is_integer = _is_count(count[row]) and _is_count(zero_count[row])
        for b in range(first, last):
            is_integer = is_integer and _is_count(counts[b])
        # Counts come in two kinds: they are written even if they are zero.
        if is_integer:
            out[body] = 0x08
            at = put_varint(out, body + 1, np.uint64(count[row]))
        else:
            out[body] = 0x11
            store_u64(out, body + 1, f64_bits(count[row]))
            at = body + 9
        at = _put_double(out, at, 0x19, sum_[row])
        if schema[row] != 0:
            out[at] = 0x20
            at = _put_zigzag(out, at + 1, schema[row])
        at = _put_double(out, at, 0x29, zero_threshold[row])
        if is_integer:
            out[at] = 0x30
            at = put_varint(out, at + 1, np.uint64(zero_count[row]))
        else:
            out[at] = 0x39
            store_u64(out, at + 1, f64_bits(zero_count[row]))
            at += 9
        middle = first
        while middle < last and keys[middle] < 0:
            middle += 1
        at = _put_side(keys, counts, middle - 1, first - 1, -1, is_integer, 0x42, 0x52, out, at)
        at = _put_side(keys, counts, middle, last, 1, is_integer, 0x5A, 0x6A, out, at)
        if hint[row] != 0:
            out[at], out[at + 1] = 0x70, hint[row]
            at += 2
        if t_ms[i] != 0:
            out[at] = 0x78
            at = put_varint(out, at + 1, np.uint64(t_ms[i]))
        if bounds_id[row] >= 0:
            start, stop = bounds_offsets[bounds_id[row]], bounds_offsets[bounds_id[row] + 1]
            if stop > start:
                out[at], out[at + 1] = 0x82, 0x01
                at = put_varint(out, at + 2, np.uint64(8 * (stop - start)))
            for b in range(start, stop):
                store_u64(out, at, f64_bits(bounds[b]))
                at += 8
        at = _put_length(out, field, body, at)
        ends[i] = at
    return at
