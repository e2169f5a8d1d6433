"""Slow twins of tsengine/kernels/histogramcolumns.py."""

from __future__ import annotations

FIRST_SPECIAL = -(2**22)

Buckets = list[tuple[int, int]]
"""(key, bits of the count) of one histogram, ascending."""


def match_times(run: list[int], other: list[int]) -> list[int]:
    """Index in ``other`` of each time, -1 where it is not there."""
    return [other.index(t) if t in other else -1 for t in run]


def list_buckets(group: list[Buckets]) -> list[tuple[int, int, int]]:
    """(key, first histogram, last histogram) of each bucket of a group, ascending."""
    keys = sorted({key for own in group for key, _ in own})
    found = []
    for key in keys:
        having = [i for i, own in enumerate(group) if key in dict(own)]
        found.append((key, having[0], having[-1]))
    return found


def fill_buckets(group: list[Buckets]) -> list[list[int]]:
    """The column of each bucket of a group, from its first to its last histogram."""
    return [
        [dict(group[i]).get(key, 0) for i in range(first, last + 1)]
        for key, first, last in list_buckets(group)
    ]


def place_components(times: list[int], piece: list[int]) -> int | None:
    """Row of a piece's first time if its first and last time stand on consecutive rows."""
    if piece[0] in times:
        row = times.index(piece[0])
        if times[row : row + len(piece)][-1:] == piece[-1:] and row + len(piece) <= len(times):
            return row
    return None


def gather_components(
    n_rows: int, columns: list[tuple[int, int, list[int]]]
) -> tuple[list[list[int]], list[Buckets]]:
    """``(numbers of each row, buckets of each row)`` of columns (key, first row, values)."""
    numbers = [[0] * 4 for _ in range(n_rows)]
    buckets: list[Buckets] = [[] for _ in range(n_rows)]
    for key, first, values in columns:
        for i, value in enumerate(values):
            if key < FIRST_SPECIAL + 4:
                numbers[first + i][key - FIRST_SPECIAL] = value
            elif value:
                buckets[first + i].append((key, value))
    return numbers, buckets
