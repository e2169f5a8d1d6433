"""Slow twins of tsengine/kernels/axes.py: axes are lists of times, patterns sets of rows."""

from __future__ import annotations


def group_runs(runs: list[list[int]]) -> tuple[list[int], list[int]]:
    """Group of each run and first run of each group."""
    seen: dict[tuple[int, ...], int] = {}
    heads = []
    groups = []
    for number, run in enumerate(runs):
        key = tuple(run)
        if key not in seen:
            seen[key] = len(seen)
            heads.append(number)
        groups.append(seen[key])
    return groups, heads


def cut_axes(axis: list[int], widths: list[int], n_rows_max: int) -> list[list[int]]:
    """The pieces of one axis."""
    for width in sorted(widths, reverse=True):
        buckets: dict[int, list[int]] = {}
        for t in axis:
            buckets.setdefault((t - 1) // width, []).append(t)
        if all(len(bucket) <= n_rows_max for bucket in buckets.values()):
            return list(buckets.values())
    return [
        bucket[k : k + n_rows_max]
        for bucket in buckets.values()
        for k in range(0, len(bucket), n_rows_max)
    ]


def place_series(
    series: list[int], pieces: list[list[int]]
) -> list[tuple[int, int, int, list[bool]]]:
    """Blocks ``(piece, first row, samples, presence from the first row to the last)``."""
    wanted = set(series)
    blocks = []
    for number, piece in enumerate(pieces):
        rows = [row for row, t in enumerate(piece) if t in wanted]
        if rows:
            presence = [piece[row] in wanted for row in range(rows[0], rows[-1] + 1)]
            blocks.append((number, rows[0], len(rows), presence))
    return blocks


def present_times(axis: list[int], start: int, presence: list[bool]) -> list[int]:
    """Times of a block's samples."""
    return [axis[start + row] for row, is_there in enumerate(presence) if is_there]


def clip_blocks(times: list[int], mint: int, maxt: int) -> tuple[int, int] | None:
    """Closed positions (first, last) of the samples in a closed range, None without any."""
    inside = [k for k, t in enumerate(times) if mint <= t <= maxt]
    return (inside[0], inside[-1]) if inside else None


def copy_rows(source: list[int], start: int, presence: list[bool], lo: int, size: int) -> list[int]:
    """The present rows lo:lo + size of a block."""
    return present_times(source, start, presence)[lo : lo + size]


def find_pieces(
    series: dict[int, list[tuple[int, int, list[bool]]]], axes: list[list[int]],
    refs: list[int], mint: int, maxt: int,
) -> list[tuple[int, int, int, int, int, int]]:  # fmt: skip
    """``(row, block, first value, values, first time, last time)`` of what is in a closed range.

    ``series`` has the blocks ``(axis, first row, presence)`` of each ref, numbered in their order.
    """
    numbered = {}
    for ref, blocks in sorted(series.items()):
        for own in blocks:
            numbered.setdefault(ref, []).append((sum(map(len, numbered.values())), own))
    found = []
    for row, ref in enumerate(refs):
        for block, (axis, first_row, presence) in numbered.get(ref, []):
            times = present_times(axes[axis], first_row, presence)
            inside = clip_blocks(times, mint, maxt)
            if inside is not None:
                low, high = inside
                found.append((row, block, low, high - low + 1, times[low], times[high]))
    return found
