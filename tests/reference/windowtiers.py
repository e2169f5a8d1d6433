"""Slow twins of tsengine/kernels/windowtiers.py, written from the meaning of the columns."""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence

STALE = 0x7FF0000000000002
VALUES = ("count", "sum", "min", "max", "first", "last", "resets", "stale")

Window = dict[str, float]
"""Columns of a window by name, with ``end``, ``first_t`` and ``last_t``."""
Samples = Sequence[tuple[int, int]]
"""(t_ms, bits), ascending."""


def number_of(bits: int) -> float:
    return struct.unpack("<d", struct.pack("<Q", bits))[0]


def bits_of(number: float) -> int:
    return struct.unpack("<Q", struct.pack("<d", number))[0]


def add(total: float, error: float, x: float) -> tuple[float, float]:
    """Neumaier's step; an infinite sum has no error."""
    after = total + x
    if math.isinf(after):
        return after, 0.0
    if abs(total) >= abs(x):
        return after, error + ((total - after) + x)
    return after, error + ((x - after) + total)


def sum_of(numbers: Sequence[float], start: float) -> float:
    total, error = start, 0.0
    for x in numbers:
        total, error = add(total, error, x)
    total += error
    return math.nan if math.isnan(total) else total


def least(numbers: Sequence[float]) -> float:
    best = numbers[0]
    for x in numbers[1:]:
        if x < best or math.isnan(best):
            best = x
    return best


def greatest(numbers: Sequence[float]) -> float:
    best = numbers[0]
    for x in numbers[1:]:
        if x > best or math.isnan(best):
            best = x
    return best


def end_of(t_ms: int, width_ms: int) -> int:
    return ((t_ms - 1) // width_ms + 1) * width_ms


def cut_windows(axes: Sequence[Sequence[int]], width_ms: int) -> list[list[tuple[int, list[int]]]]:
    """Of each axis (end, times) of its windows."""
    cut = []
    for axis in axes:
        windows: dict[int, list[int]] = {}
        for t in axis:
            windows.setdefault(end_of(t, width_ms), []).append(t)
        cut.append(sorted(windows.items()))
    return cut


def nothing(end: int, is_stale: bool) -> Window:
    window = dict.fromkeys(VALUES, math.nan)
    return window | {"end": end, "count": 0, "stale": float(is_stale), "first_t": 0, "last_t": 0}


def sum_up_samples(samples: Samples, width_ms: int) -> list[Window]:
    """Windows of one series."""
    grouped: dict[int, list[tuple[int, int]]] = {}
    for t, bits in samples:
        grouped.setdefault(end_of(t, width_ms), []).append((t, bits))
    windows = []
    for end, inside in sorted(grouped.items()):
        is_stale = inside[-1][1] == STALE
        floats = [
            (t, number_of(bits)) for t, bits in inside if bits != STALE and bits >> 48 != 0x7FFC
        ]
        if not floats:
            windows.append(nothing(end, is_stale))
            continue
        numbers = [x for _, x in floats]
        lost = [a for a, b in zip(numbers, numbers[1:], strict=False) if b < a]
        windows.append(
            {
                "end": end,
                "count": len(numbers),
                "sum": sum_of(numbers[1:], numbers[0]),
                "min": least(numbers),
                "max": greatest(numbers),
                "first": numbers[0],
                "last": numbers[-1],
                "first_t": floats[0][0],
                "last_t": floats[-1][0],
                "resets": sum_of(lost, 0.0),
                "stale": float(is_stale),
            }
        )
    return windows


def merge_windows(windows: Sequence[Window], width_ms: int) -> list[Window]:
    """Wider windows of one series from its windows."""
    grouped: dict[int, list[Window]] = {}
    for window in windows:
        grouped.setdefault(end_of(int(window["end"]), width_ms), []).append(window)
    wider = []
    for end, inside in sorted(grouped.items()):
        full = [window for window in inside if window["count"]]
        if not full:
            wider.append(nothing(end, bool(inside[-1]["stale"])))
            continue
        lost = []
        for before, after in zip(full, full[1:], strict=False):
            if after["first"] < before["last"]:
                lost.append(before["last"])
            lost.append(after["resets"])
        wider.append(
            {
                "end": end,
                "count": sum(window["count"] for window in full),
                "sum": sum_of([window["sum"] for window in full[1:]], full[0]["sum"]),
                "min": least([window["min"] for window in full]),
                "max": greatest([window["max"] for window in full]),
                "first": full[0]["first"],
                "last": full[-1]["last"],
                "first_t": full[0]["first_t"],
                "last_t": full[-1]["last_t"],
                "resets": sum_of(lost, full[0]["resets"]),
                "stale": inside[-1]["stale"],
            }
        )
    return wider


def add_window_starts(end: int, width_ms: int, since: float) -> int:
    """The time of a window that is so many ms after its begin; 0 for none."""
    assert 0 <= since <= width_ms
    assert since == int(since)
    return end - width_ms + int(since) if since else 0


def derive_column(column: str, count: float, first: float, last: float) -> float:
    """What a column is if it follows from others."""
    if count == 0:
        return math.nan
    if column == "resets":
        return 0.0
    if column == "sum":
        return math.nan if math.isnan(count * first) else count * first
    return least([first, last]) if column == "min" else greatest([first, last])
