"""Closed ranges of time in which samples are missing because their part was put aside. Pure.

Holes of one list ascend and are disjoint. Unlike what retention erased (`retention_marks`) they say
nothing of what is older.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from tsengine.storage.retention_marks import COMMON, NOTHING_MS, window_start
from tsengine.storage.tier_map import Span


def joined(spans: Iterable[Sequence[int]]) -> tuple[Span, ...]:
    """Closed ranges in any order as holes; empty ones are left out."""
    holes: list[Span] = []
    for low, high in sorted((span[0], span[1]) for span in spans if span[0] <= span[1]):
        if holes and low <= holes[-1][1] + 1:
            holes[-1] = (holes[-1][0], max(high, holes[-1][1]))
        else:
            holes.append((low, high))
    return tuple(holes)


def not_passed(
    holes: Mapping[str, tuple[int, int]], erased: Mapping[str, int]
) -> dict[str, tuple[int, int]]:
    """Holes, by folder, but for those that marks make needless: before all of them.

    No mark is ever lowered, and one that is new begins at the common one.
    """
    first_ms = min(erased.values()) if COMMON in erased else NOTHING_MS
    return {name: span for name, span in holes.items() if span[1] >= first_ms}


def widened(holes: Sequence[Span], width_ms: int) -> tuple[Span, ...]:
    """The whole windows of a width that holes touch."""
    return joined(
        (window_start(mint, width_ms), -(-maxt // width_ms) * width_ms) for mint, maxt in holes
    )


def inside(mint: int, maxt: int, holes: Sequence[Span]) -> list[Span]:
    """What of a closed range lies in holes, ascending."""
    return [(max(low, mint), min(high, maxt)) for low, high in holes if low <= maxt >= mint <= high]


def outside(mint: int, maxt: int, holes: Sequence[Span]) -> list[Span]:
    """The rest of it, ascending."""
    left = []
    for low, high in inside(mint, maxt, holes):
        if low > mint:
            left.append((mint, low - 1))
        mint = high + 1
    return [*left, (mint, maxt)] if mint <= maxt else left
