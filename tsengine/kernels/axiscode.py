"""Axes: strictly ascending timestamps, one kernel to encode many axes and one to decode them.

The stored form is described in docs/format/axis.md; its constants are defined here. A scrape's
jitter lies around a straight line and does not add up, so the distance from a line is often smaller
than any difference. All arithmetic is modulo 2**64, which is exact over all of int64.
"""

from __future__ import annotations

import numpy as np

from tsengine.kernels.bits import bit_length, unowned
from tsengine.kernels.jit import (
    ERR_CORRUPT,
    ERR_TRUNCATED,
    I64_IN,
    I64_OUT,
    OK,
    U8_IN,
    U8_OUT,
    device,
    i64,
    kernel,
)
from tsengine.kernels.packing import (
    PLAN_COUNTS,
    PLAN_IS_QUICK,
    PLAN_SIZE,
    VECTOR_ROWS,
    WORK_ROWS,
    hold,
    is_sealed,
    read_stream,
    read_varint,
    seal,
    sort_u64,
    unzigzag,
    write_stream,
    write_varint,
    zigzag,
)

# Kinds of an axis: its first byte. 0 is reserved, unknown kinds are refused.
REGULAR = 1
VECTORS = 2
# Kinds of a vector: low four bits of its tag; the order of differences stands in the upper four.
DIFFERENCES = 1
LINE = 2

LINE_FRACTION_BITS = 12
"""Binary places of a line's slope: over 1024 rows it stays within a quarter of a unit."""
CHECKSUM_BYTES = 4
AXIS_BYTES_MAX = 64
VECTOR_BYTES_MAX = 10 * VECTOR_ROWS + 128
SCRATCH_BYTES = 4 * VECTOR_BYTES_MAX

_ZERO = np.uint64(0)
_ONE = np.uint64(1)


@device
def line_at(slope, i):
    """Rounded height of the line at row i of its vector, modulo 2**64."""
    half = _ONE << np.uint64(LINE_FRACTION_BITS - 1)
    return (slope * np.uint64(i) + half) >> np.uint64(LINE_FRACTION_BITS)


@device
def step_divisor(t_ms, start, n):
    """Largest g that divides all distances from the first timestamp; 1 for a single one."""
    g = _ZERO
    for i in range(start + 1, start + n):
        rest = np.uint64(t_ms[i]) - np.uint64(t_ms[i - 1])
        while rest != _ZERO:
            g, rest = rest, g % rest
        if g == _ONE:
            return g
    return g if g != _ZERO else _ONE


@device
def fit_slope(q, n):
    """Least-squares slope of ``q[0:n]`` in 2**-12 units; 0 if there is none that fits."""
    distance = q[n - 1] - q[0]
    if n < 4 or bit_length(distance) > 50:
        return _ZERO
    middle = 0.5 * (n - 1)
    by_row = 0.0
    squares = 0.0
    for i in range(n):
        row = i - middle
        by_row += row * np.float64(np.int64(q[i] - q[0]))
        squares += row * row
    return np.uint64(np.int64(np.rint(by_row / squares * (1 << LINE_FRACTION_BITS))))


@device
def median_slope(q, n, steps, scratch, plan):
    """Median step in 2**-12 units: the interval that a scraper was told. n >= 2.

    steps, scratch: u64[1024].
    """
    largest = _ZERO
    for i in range(n - 1):
        steps[i] = q[i + 1] - q[i]
        largest = max(largest, steps[i])
    sort_u64(steps, n - 1, largest, scratch, plan[PLAN_COUNTS:])
    return steps[(n - 1) >> 1] << np.uint64(LINE_FRACTION_BITS)


@device
def write_line(q, n, slope, out, pos, best, work, plan):
    """Write ``q[0:n]`` as distances from a line behind `best`; keep the shorter, return its end.

    ``out[pos:best]`` is the vector's best form so far.
    """
    r = work[1]
    for i in range(n):
        r[i] = q[i] - line_at(slope, i)
    end = write_varint(out, best + 1, slope)
    end, order = write_stream(r, n, 1, out, end, work, plan)
    out[best] = np.uint8(LINE | (order << 4))
    size = end - best
    if size >= best - pos:
        return best
    for i in range(size):
        out[pos + i] = out[best + i]
    return pos + size


@device
def write_axis_vector(q, n, out, pos, work, plan):
    """Write ``q[0:n]`` as differences or as distances from a line; return the position behind.

    Two lines are tried: least squares is best where the clock drifts, the median step where most
    timestamps are exact.
    """
    end, order = write_stream(q, n, 2, out, pos + 1, work, plan)
    out[pos] = np.uint8(DIFFERENCES | (order << 4))
    fitted = fit_slope(q, n)
    if fitted == _ZERO:
        return end
    end = write_line(q, n, fitted, out, pos, end, work, plan)
    usual = median_slope(q, n, work[1], work[2], plan)
    return end if usual == fitted else write_line(q, n, usual, out, pos, end, work, plan)


@device
def write_axis(t_ms, start, n, out, pos, work, plan):
    """Encode ``t_ms[start:start+n]``; return the position behind."""
    begin = pos
    first = np.uint64(t_ms[start])
    step = step_divisor(t_ms, start, n)
    steps = (np.uint64(t_ms[start + n - 1]) - first) // step
    regular = steps == np.uint64(n - 1)
    out[pos] = np.uint8(REGULAR if regular else VECTORS)
    pos = write_varint(out, pos + 1, zigzag(first))
    pos = write_varint(out, pos, step)
    if not regular:
        q = work[0]
        for at in range(0, n, VECTOR_ROWS):
            count = min(n - at, VECTOR_ROWS)
            for i in range(count):
                q[i] = (np.uint64(t_ms[start + at + i]) - first) // step
            pos = write_axis_vector(q, count, out, pos, work, plan)
    return seal(out, begin, pos, np.uint64(n))


@kernel(i64(I64_IN, I64_IN, U8_OUT, I64_OUT))
def encode_axes(t_ms, offsets, out, out_offsets):
    """Encode the axes ``t_ms[offsets[a]:offsets[a+1]]``; return the bytes used in `out`.

    Shapes: i64[M], i64[A+1], u8[C], i64[A+1]. Returns -1 - a if axis a is not strictly ascending.
    The wrapper proves C >= AXIS_BYTES_MAX an axis, VECTOR_BYTES_MAX a vector, plus SCRATCH_BYTES.
    """
    scratch = np.empty((WORK_ROWS, VECTOR_ROWS), np.uint64)
    plans = np.empty(PLAN_SIZE, np.int64)
    plans[PLAN_IS_QUICK] = 0
    work = unowned(scratch)
    plan = unowned(plans)
    t_ms = unowned(t_ms)
    out = unowned(out)
    pos = np.int64(0)
    out_offsets[0] = 0
    for a in range(offsets.shape[0] - 1):
        for i in range(offsets[a] + 1, offsets[a + 1]):
            if t_ms[i] <= t_ms[i - 1]:
                pos = np.int64(-1 - a)
                break
        if pos < 0:
            break
        pos = write_axis(t_ms, offsets[a], offsets[a + 1] - offsets[a], out, pos, work, plan)
        out_offsets[a + 1] = pos
    hold(scratch)
    hold(plans)
    return pos


@device
def read_axis_vector(data, pos, end, n, first, step, out, out_pos, x):
    """Decode n timestamps into ``out[out_pos:]``; return the position behind or an error."""
    if pos >= end:
        return np.int64(ERR_TRUNCATED)
    tag = np.int64(data[pos])
    kind = tag & 15
    pos += 1
    slope = _ZERO
    if kind == LINE:
        slope, pos = read_varint(data, pos, end)
        if pos < 0:
            return pos
    elif kind != DIFFERENCES:
        return np.int64(ERR_CORRUPT)
    pos = read_stream(data, pos, end, n, tag >> 4, x, np.int64(0), np.int64(n))
    if pos < 0:
        return pos
    if kind == LINE:
        for i in range(n):
            x[i] += line_at(slope, i)
    for i in range(n):
        out[out_pos + i] = np.int64(x[i] * step + first)
    return pos


@device
def read_axis(data, begin, end, n, out, out_pos, x):
    """Decode one axis of n timestamps; return OK or an error."""
    pos = begin
    if end - pos < 3 + CHECKSUM_BYTES:
        return np.int64(ERR_TRUNCATED)
    end -= CHECKSUM_BYTES
    if not is_sealed(data, pos, end, np.uint64(n)):
        return np.int64(ERR_CORRUPT)
    kind = data[pos]
    first, pos = read_varint(data, pos + 1, end)
    if pos < 0:
        return pos
    first = unzigzag(first)
    step, pos = read_varint(data, pos, end)
    if pos < 0:
        return pos
    if kind == REGULAR:
        for i in range(n):
            out[out_pos + i] = np.int64(first + step * np.uint64(i))
    elif kind == VECTORS:
        for at in range(0, n, VECTOR_ROWS):
            count = min(n - at, VECTOR_ROWS)
            pos = read_axis_vector(data, pos, end, count, first, step, out, out_pos + at, x)
            if pos < 0:
                return pos
    else:
        return np.int64(ERR_CORRUPT)
    ascending = True
    for i in range(1, n):
        ascending &= out[out_pos + i] > out[out_pos + i - 1]
    return np.int64(OK) if ascending and pos == end else np.int64(ERR_CORRUPT)


@kernel(i64(U8_IN, I64_IN, I64_IN, I64_IN, I64_OUT, I64_IN, I64_OUT))
def decode_axes(data, positions, sizes, lengths, out, out_positions, error):
    """Decode whole axes into ``out[out_positions[a]:]``.

    Shapes: u8[P], i64[A] three times, i64[M], i64[A], error: i64[1]. Returns OK, or a negative
    status with the axis in `error`. The wrapper proves that axes lie inside `data` and fit into
    `out`.
    """
    scratch = np.empty(VECTOR_ROWS, np.uint64)
    x = unowned(scratch)
    data = unowned(data)
    out = unowned(out)
    status = np.int64(OK)
    for a in range(positions.shape[0]):
        end = positions[a] + sizes[a]
        status = read_axis(data, positions[a], end, lengths[a], out, out_positions[a], x)
        if status < 0:
            error[0] = a
            break
    hold(scratch)
    return status
