"""Histogram messages of remote write to columns of `tsengine.model.histograms.Histograms`.

The message is the same in 1.0 and 2.0. It holds integer counts as differences or float counts as
they are, by spans of neighbouring buckets; here both become float counts under bucket keys, empty
buckets left out. What Prometheus refuses is refused here: see `Histogram.Validate` and
`FloatHistogram.Validate` in its `model/histogram`, whose rules the statuses name. Schemas 9 to 52
are brought down to 8 as there.

Reads are checked as in `protowire`: none leaves its message.
"""

from __future__ import annotations

import numpy as np

from tsengine.kernels.bits import STALE_BITS, bits_f64, f64_bits, load_u64
from tsengine.kernels.jit import (
    ERR_CORRUPT,
    F64_2D_OUT,
    F64_OUT,
    I32_OUT,
    I64_2D_OUT,
    I64_IN,
    I64_OUT,
    U8_IN,
    device,
    i64,
    kernel,
)
from tsengine.kernels.protowire import ERROR_POSITION, skip_value, varint

MESSAGE_SIZE_MAX = 1 << 20
"""Larger messages are refused, so that scratch has a limit."""

# Statuses.
HISTOGRAM_OK = 0
BAD_SCHEMA = 1
SPANS_MISMATCH = 2
NEGATIVE_OFFSET = 3
NEGATIVE_BUCKET = 4
NEGATIVE_COUNT = 5
COUNT_TOO_SMALL = 6
COUNT_MISMATCH = 7
BAD_BOUNDS = 8
TOO_FEW_BOUNDS = 9
CUSTOM_ZERO_BUCKET = 10
CUSTOM_NEGATIVE = 11
UNWANTED_BOUNDS = 12
INDEX_OUT_OF_RANGE = 13
TOO_LARGE = 14

# Cells of `totals` besides those of `protowire`.
N_KEYS = 0
N_BOUNDS_ROWS = 1

# Rows of the scratch of one sign of one message: spans, integer counts, bits of float counts.
_OFFSETS, _LENGTHS, _DELTAS, _COUNTS = 0, 1, 2, 3
SCRATCH_ROWS = 4

_CUSTOM = np.int64(-53)
_KEY_BIAS = np.int64(1 << 20)
_LOW_32 = np.uint64(0xFFFFFFFF)
_ONE = np.uint64(1)
_EXACT_END = 2.0**63
"""Merged counts below it are summed as integers, which can't overflow then."""


@kernel(
    i64(U8_IN, I64_IN, I64_IN, i64, i64, I64_OUT, I64_OUT, I64_OUT, I64_2D_OUT, F64_2D_OUT,
        I64_OUT, I32_OUT, F64_OUT, I64_OUT, F64_OUT, I64_2D_OUT, I64_2D_OUT, I64_OUT)
)  # fmt: skip
def parse_histograms(
    data, starts, ends, n, version, statuses, t_ms, start_ms, numbers, values, offsets, keys,
    counts, bounds_offsets, bounds, positive, negative, totals,
):  # fmt: skip
    """Take n Histogram messages apart.

    Row r gets a status; ``t_ms[r]``; ``start_ms[r]`` only where the message has one that is not 0
    (2.0); ``numbers[:, r]``: schema, hint, row of bounds (-1: none); ``values[:, r]``: count, sum,
    zero threshold, zero count; buckets ``keys, counts[offsets[r]:offsets[r + 1]]``. Rows that are
    refused have no buckets, and so have those whose sum is the staleness marker. Custom bounds
    equal to those of the row before them share a row of bounds.

    Shapes: row arrays [n], numbers i64[3, n], values f64[4, n], offsets i64[n + 1]; keys and counts
    [bytes of all messages], bounds_offsets i64[n + 1], bounds [an eighth of it]; scratch positive
    and negative i64[SCRATCH_ROWS, bytes of the longest message up to MESSAGE_SIZE_MAX]; totals
    i64[TOTALS_SIZE], of which N_KEYS and N_BOUNDS_ROWS are set. Returns n or ERR_CORRUPT.
    """
    at = np.int64(0)
    n_bounds = np.int64(0)
    offsets[0] = 0
    bounds_offsets[0] = 0
    for i in range(n):
        pos = starts[i]
        end = ends[i]
        statuses[i] = HISTOGRAM_OK
        t_ms[i] = 0
        numbers[0, i] = 0
        numbers[1, i] = 0
        numbers[2, i] = -1
        offsets[i + 1] = at
        for k in range(4):
            values[k, i] = 0.0
        if end - pos > MESSAGE_SIZE_MAX:
            statuses[i] = TOO_LARGE
            continue
        is_float = False
        count = np.uint64(0)
        sum_bits = np.uint64(0)
        threshold = np.uint64(0)
        zero_is_float = False
        zero_count = np.uint64(0)
        n_spans = np.int64(0)
        n_deltas = np.int64(0)
        n_counts = np.int64(0)
        n_negative_spans = np.int64(0)
        n_negative_deltas = np.int64(0)
        n_negative_counts = np.int64(0)
        first_bound = bounds_offsets[n_bounds]
        end_bound = first_bound
        while pos < end:
            totals[ERROR_POSITION] = pos
            tag, pos = varint(data, pos, end)
            if pos < 0 or tag < 8:
                return ERR_CORRUPT
            field = tag >> np.int64(3)
            wire = tag & np.int64(7)
            start = pos
            pos = skip_value(data, pos, end, wire)
            if pos < 0 or not _is_wire_type(field, wire, version):
                return ERR_CORRUPT
            if wire == 2:
                _, start = varint(data, start, end)
                if field == 8:
                    if not _span(data, start, pos, negative, n_negative_spans):
                        return ERR_CORRUPT
                    n_negative_spans += 1
                elif field == 11:
                    if not _span(data, start, pos, positive, n_spans):
                        return ERR_CORRUPT
                    n_spans += 1
            # Numbers may be packed or stand one in a field: one loop takes both.
            if field == 9 or field == 12:
                while start < pos:
                    value, start = varint(data, start, pos)
                    if start < 0:
                        return ERR_CORRUPT
                    delta = _zigzag(np.uint64(value))
                    if field == 9:
                        negative[_DELTAS, n_negative_deltas] = delta
                        n_negative_deltas += 1
                    else:
                        positive[_DELTAS, n_deltas] = delta
                        n_deltas += 1
            elif field == 10 or field == 13 or field == 16:
                if (pos - start) % 8 != 0:
                    return ERR_CORRUPT
                while start < pos:
                    bits = load_u64(data, start)
                    start += 8
                    if field == 10:
                        negative[_COUNTS, n_negative_counts] = np.int64(bits)
                        n_negative_counts += 1
                    elif field == 13:
                        positive[_COUNTS, n_counts] = np.int64(bits)
                        n_counts += 1
                    else:
                        bounds[end_bound] = bits_f64(bits)
                        end_bound += 1
            elif wire == 0:
                value, _ = varint(data, start, pos)
                if field == 1:
                    count = np.uint64(value)
                    is_float = False
                elif field == 4:
                    numbers[0, i] = _zigzag(np.uint64(value) & _LOW_32)
                elif field == 6:
                    zero_count = np.uint64(value)
                    zero_is_float = False
                elif field == 14:
                    numbers[1, i] = value if 0 <= value <= 3 else np.int64(0)
                elif field == 15:
                    t_ms[i] = value
                elif field == 17 and version == 2 and value != 0:
                    start_ms[i] = value
            elif wire == 1:
                bits = load_u64(data, start)
                if field == 2:
                    count = bits
                    is_float = True
                elif field == 3:
                    sum_bits = bits
                elif field == 5:
                    threshold = bits
                elif field == 7:
                    zero_count = bits
                    zero_is_float = True
        # A zero count of the other kind is as good as none.
        if is_float != zero_is_float:
            zero_count = np.uint64(0)
        values[1, i] = bits_f64(sum_bits)
        values[2, i] = bits_f64(threshold)
        if is_float:
            values[0, i] = bits_f64(count)
            values[3, i] = bits_f64(zero_count)
        else:
            n_counts = n_deltas
            n_negative_counts = n_negative_deltas
            values[0, i] = np.float64(count)
            values[3, i] = np.float64(zero_count)
        schema = numbers[0, i]
        n_custom = end_bound - first_bound
        status = _check_form(
            schema, values[2, i], values[3, i], positive, n_spans, n_counts, negative,
            n_negative_spans, n_negative_counts, bounds, first_bound, n_custom,
        )  # fmt: skip
        last = at
        if status == HISTOGRAM_OK:
            last, total, status = _buckets(
                negative, n_negative_spans, is_float, schema, keys, counts, at
            )
            _turn(keys, counts, at, last)
            total += zero_count
        if status == HISTOGRAM_OK:
            last, above, status = _buckets(positive, n_spans, is_float, schema, keys, counts, last)
            total += above
        if status == HISTOGRAM_OK:
            if is_float:
                if values[0, i] < 0 or values[3, i] < 0:
                    status = NEGATIVE_COUNT
            elif np.isnan(values[1, i]):
                if total > count:
                    status = COUNT_TOO_SMALL
            elif total != count:
                status = COUNT_MISMATCH
        statuses[i] = status
        if status != HISTOGRAM_OK or sum_bits == STALE_BITS:
            continue
        at = last
        offsets[i + 1] = at
        if schema > 8:
            numbers[0, i] = 8
        if schema == _CUSTOM:
            if not _is_last_row(bounds, bounds_offsets, n_bounds, end_bound):
                n_bounds += 1
                bounds_offsets[n_bounds] = end_bound
            numbers[2, i] = n_bounds - 1
    totals[N_KEYS] = at
    totals[N_BOUNDS_ROWS] = n_bounds
    return n


@device
def _zigzag(value):
    """A signed integer from the form in which protobuf writes it."""
    return np.int64(value >> _ONE) ^ -np.int64(value & _ONE)


@device
def _is_wire_type(field, wire, version):
    """Whether a field of a Histogram may have this wire type; unknown fields any."""
    if field == 1 or field == 4 or field == 6 or field == 14 or field == 15:
        return wire == 0
    if field == 2 or field == 3 or field == 5 or field == 7:
        return wire == 1
    if field == 8 or field == 11:
        return wire == 2
    if field == 9 or field == 12:
        return wire == 2 or wire == 0
    if field == 10 or field == 13 or field == 16:
        return wire == 2 or wire == 1
    if field == 17 and version == 2:
        return wire == 0
    return True


@device
def _span(data, pos, end, scratch, idx):
    """Offset and length of a BucketSpan into column ``idx`` of the scratch; whether it is one."""
    offset = np.int64(0)
    length = np.int64(0)
    while pos < end:
        tag, pos = varint(data, pos, end)
        if pos < 0 or tag < 8:
            return False
        if tag == 8 or tag == 16:
            value, pos = varint(data, pos, end)
            if pos < 0:
                return False
            if tag == 8:
                offset = _zigzag(np.uint64(value) & _LOW_32)
            else:
                length = np.int64(np.uint64(value) & _LOW_32)
        else:
            if tag >> np.int64(3) <= 2:
                return False
            pos = skip_value(data, pos, end, tag & np.int64(7))
            if pos < 0:
                return False
    scratch[_OFFSETS, idx] = offset
    scratch[_LENGTHS, idx] = length
    return True


@device
def _check_form(
    schema, threshold, zero_count, positive, n_spans, n_counts, negative, n_negative_spans,
    n_negative_counts, bounds, first_bound, n_custom,
):  # fmt: skip
    """Status of what can be told without the buckets' counts."""
    if schema == _CUSTOM:
        previous = -np.inf
        for k in range(first_bound, first_bound + n_custom):
            # Written so that NaN is refused too.
            if not (bounds[k] > previous):
                return BAD_BOUNDS
            previous = bounds[k]
        if previous == np.inf:
            return BAD_BOUNDS
        status, reach = _check_spans(positive, n_spans, n_counts, np.int64(0))
        if status != HISTOGRAM_OK:
            return status
        if n_custom + 1 < reach:
            return TOO_FEW_BOUNDS
        if zero_count != 0 or threshold != 0:
            return CUSTOM_ZERO_BUCKET
        if n_negative_spans > 0 or n_negative_counts > 0:
            return CUSTOM_NEGATIVE
        return HISTOGRAM_OK
    if schema < -4 or schema > 52:
        return BAD_SCHEMA
    status, _ = _check_spans(positive, n_spans, n_counts, np.int64(1))
    if status == HISTOGRAM_OK:
        status, _ = _check_spans(negative, n_negative_spans, n_negative_counts, np.int64(1))
    if status == HISTOGRAM_OK and n_custom > 0:
        status = UNWANTED_BOUNDS
    return status


@device
def _check_spans(scratch, n_spans, n_counts, first_checked):
    """Status, and how far the spans reach."""
    n_buckets = np.int64(0)
    reach = np.int64(0)
    for k in range(n_spans):
        if k >= first_checked and scratch[_OFFSETS, k] < 0:
            return NEGATIVE_OFFSET, reach
        n_buckets += scratch[_LENGTHS, k]
        reach += scratch[_OFFSETS, k] + scratch[_LENGTHS, k]
    if n_buckets != n_counts:
        return SPANS_MISMATCH, reach
    return HISTOGRAM_OK, reach


@device
def _buckets(scratch, n_spans, is_float, schema, keys, counts, at):
    """Write the buckets of one sign in order of their index, from position ``at`` on.

    Returns the position behind them, the sum of integer counts (modulo 2^64) and a status.
    """
    first = at
    idx = np.int64(0)
    bucket = 0
    current = np.int64(0)
    total = np.uint64(0)
    merged = np.uint64(0)
    shift = max(schema - 8, np.int64(0))
    for k in range(n_spans):
        idx += scratch[_OFFSETS, k]
        for _ in range(scratch[_LENGTHS, k]):
            if is_float:
                value = bits_f64(np.uint64(scratch[_COUNTS, bucket]))
            else:
                current += scratch[_DELTAS, bucket]
                value = np.float64(current)
            bucket += 1
            if value < 0:
                return at, total, NEGATIVE_BUCKET
            total += np.uint64(current)
            if value != 0:
                target = idx
                if shift > 0:
                    target = ((idx - 1) >> shift) + 1
                if not -_KEY_BIAS < target < _KEY_BIAS:
                    return at, total, INDEX_OUT_OF_RANGE
                key = target + _KEY_BIAS
                if at > first and keys[at - 1] == key:
                    if is_float or counts[at - 1] >= _EXACT_END:
                        counts[at - 1] += value
                    else:
                        merged += np.uint64(current)
                        counts[at - 1] = np.float64(merged)
                else:
                    merged = np.uint64(current)
                    keys[at] = key
                    counts[at] = value
                    at += 1
            idx += 1
    return at, total, HISTOGRAM_OK


@device
def _turn(keys, counts, start, end):
    """Buckets of negative values: their keys are negative and ascend the other way."""
    left = start
    right = end - 1
    while left < right:
        keys[left], keys[right] = keys[right], keys[left]
        counts[left], counts[right] = counts[right], counts[left]
        left += 1
        right -= 1
    for k in range(start, end):
        keys[k] = -keys[k]


@device
def _is_last_row(bounds, bounds_offsets, n_bounds, end):
    """Whether bounds behind the last row are those of the last row."""
    if n_bounds == 0:
        return False
    start = bounds_offsets[n_bounds]
    before = bounds_offsets[n_bounds - 1]
    if end - start != start - before:
        return False
    for k in range(end - start):
        if f64_bits(bounds[before + k]) != f64_bits(bounds[start + k]):
            return False
    return True
