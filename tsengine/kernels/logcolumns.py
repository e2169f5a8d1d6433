"""Columns of log records: offsets from the lowest value, or differences, in the fewest bytes.

The form is that of docs/format/wal.md; `storage.wal_records` has the general code and the reader.
"""

from __future__ import annotations

import numpy as np

from tsengine.kernels.jit import I64_IN, I64_OUT, U8_OUT, U32_IN, device, i64, kernel

DELTAS = 0x80
"""Added to the width of a column that is written as differences."""

_HALF = np.int64(1 << 31)
_LOW_32 = np.int64((1 << 32) - 1)


@kernel(i64(I64_IN, U32_IN, U8_OUT, I64_OUT))
def write_columns(t_ms, refs, out, layout):
    """Write times, then refs, at the start of ``out``; returns how many bytes that took.

    ``t_ms: i64[N]``, ``refs: u32[N]``, ``out: u8[>= 12 N]``. ``layout: i64[6]`` becomes kind, base
    and step of the times, then those of the refs; bases and steps of refs are below 2**32.
    """
    size = _write_column(t_ms, False, out, 0, layout, 0)
    return _write_column(refs, True, out, size, layout, 3)


@device
def _write_column(values, is_narrow, out, pos, layout, at):
    """Kind, base and step into ``layout[at:at + 3]``, what remains into ``out``; where it ends."""
    n = values.shape[0]
    layout[at] = 0
    layout[at + 1] = 0
    layout[at + 2] = 0
    if n == 0:
        return pos
    first = _signed(np.int64(values[0]), is_narrow)
    lowest = first
    highest = first
    for i in range(1, n):
        value = _signed(np.int64(values[i]), is_narrow)
        lowest = min(lowest, value)
        highest = max(highest, value)
    width = _width(lowest, highest)
    if width > 1 and n > 1:
        step = _signed(np.int64(values[1]) - np.int64(values[0]), is_narrow)
        largest = step
        for i in range(2, n):
            delta = _signed(np.int64(values[i]) - np.int64(values[i - 1]), is_narrow)
            step = min(step, delta)
            largest = max(largest, delta)
        delta_width = _width(step, largest)
        if delta_width < width:
            layout[at] = DELTAS | delta_width
            layout[at + 1] = _unsigned(first, is_narrow)
            layout[at + 2] = _unsigned(step, is_narrow)
            for i in range(1, n):
                rest = np.int64(values[i]) - np.int64(values[i - 1]) - step
                pos = _put(out, pos, rest, delta_width)
            return pos
    layout[at] = width
    layout[at + 1] = _unsigned(lowest, is_narrow)
    for i in range(n):
        pos = _put(out, pos, np.int64(values[i]) - lowest, width)
    return pos


@device
def _signed(value, is_narrow):
    """The value, or that of its lower 32 bits read as a signed number."""
    return ((value + _HALF) & _LOW_32) - _HALF if is_narrow else value


@device
def _unsigned(value, is_narrow):
    """The inverse, as the bits of an i64."""
    return value & _LOW_32 if is_narrow else value


@device
def _width(lowest, highest):
    """Bytes for offsets from the lowest value."""
    span = np.uint64(highest) - np.uint64(lowest)
    if span == np.uint64(0):
        return 0
    if span <= np.uint64(0xFF):
        return 1
    if span <= np.uint64(0xFFFF):
        return 2
    if span <= np.uint64(0xFFFFFFFF):
        return 4
    return 8


@device
def _put(out, pos, value, width):
    """The lower bytes of a number, little endian; where they end."""
    rest = np.uint64(value)
    for _ in range(width):
        out[pos] = np.uint8(rest & np.uint64(0xFF))
        rest >>= np.uint64(8)
        pos += 1
    return pos
