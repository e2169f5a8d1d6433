"""Slow twins of tsengine/kernels/merge.py."""

from __future__ import annotations

STALE = 0x7FF0000000000002

Row = list[tuple[int, int]]


def settle_rows(rows: list[Row], *, drop_stale: bool) -> list[Row]:
    """Rows of (t, bits): of equal times the last stays, markers may go, times ascend."""
    settled = []
    for row in rows:
        last: dict[int, int] = {}
        for t, bits in row:
            last[t] = bits
        settled.append(
            [(t, last[t]) for t in sorted(last) if not (drop_stale and last[t] == STALE)]
        )
    return settled


def slice_run(
    run: list[tuple[int, list[int]]], refs: list[int], mint: int, maxt: int
) -> list[tuple[int, int] | None]:
    """For each ref the (start, length) of its times in the closed range, None without any."""
    found = []
    for ref in refs:
        position = 0
        result = None
        for own, times in run:
            if own == ref:
                inside = [k for k, t in enumerate(times) if mint <= t <= maxt]
                if inside:
                    result = (position + inside[0], len(inside))
            position += len(times)
        found.append(result)
    return found


def append_slices(
    run: list[tuple[int, int]],
    slices: list[tuple[int, int]],
    rows: list[list[tuple[int, int]]],
) -> list[list[tuple[int, int]]]:
    """Each row with a slice (start, length) of the run behind it."""
    return [
        held + run[start : start + length]
        for held, (start, length) in zip(rows, slices, strict=True)
    ]
