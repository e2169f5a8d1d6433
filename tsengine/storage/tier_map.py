"""Which part of which tier answers for a time: pure, no I/O, made once for a state.

A time belongs to the live part of a tier that covers it and has the highest ``seq_max``; it is
**clean** there if nothing newer touches the window: no raw part with a higher sequence that has an
axis there, no tombstone with a higher sequence that cuts it, no head.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from tsengine.storage.manifest import PartEntry, TierEntry
from tsengine.storage.part_index import PartIndex
from tsengine.storage.pieces import I64Array

Span = tuple[int, int]
"""Closed range of times, ms."""


class _Tier(Protocol):
    @property
    def entry(self) -> TierEntry: ...


class _Part(Protocol):
    @property
    def entry(self) -> PartEntry: ...

    @property
    def index(self) -> PartIndex: ...


class _Deleted(Protocol):
    @property
    def seq(self) -> int: ...

    @property
    def mint(self) -> int: ...

    @property
    def maxt(self) -> int: ...


@dataclass(frozen=True, slots=True)
class Owned:
    """Whole windows, a closed range of time, that one part of a tier answers for.

    ``tier`` is its number among those the map was made of.
    """

    mint: int
    maxt: int
    tier: int


class TierMap:
    """Owners and clean ranges of all tiers.

    Parameters
    ----------
    tiers, parts, tombstones
        What a state has, in any order; only their entries and the axes of the parts are looked at.
    before
        The map of an earlier state, which knows the axes of the parts that are still there.

    """

    __slots__ = ("_clean", "_owned", "_touched", "widths_ms")

    def __init__(
        self,
        tiers: Sequence[_Tier],
        parts: Sequence[_Part],
        tombstones: Sequence[_Deleted] = (),
        before: TierMap | None = None,
    ) -> None:
        self.widths_ms: tuple[int, ...] = tuple(sorted({t.entry.width_ms for t in tiers}))
        self._owned: dict[int, list[Owned]] = {}
        self._clean: dict[int, list[Owned]] = {}
        self._touched: dict[int, tuple[_Part, I64Array]] = {}
        if not tiers:
            return
        for part in parts:
            known = None if before is None else before._touched.get(id(part))
            self._touched[id(part)] = known or (part, touched_spans(part))
        touched = [(part.entry.seq_max, spans) for part, spans in self._touched.values()]
        for width_ms in self.widths_ms:
            cut = [(t.seq, cut_by(t, width_ms)) for t in tombstones]
            own = [(k, t.entry) for k, t in enumerate(tiers) if t.entry.width_ms == width_ms]
            self._owned[width_ms], self._clean[width_ms] = _settle(width_ms, own, touched + cut)

    def owned(self, width_ms: int) -> list[Owned]:
        """Ranges covered by parts of the tier, clean or not, ascending and disjoint."""
        return self._owned.get(width_ms, [])

    def clean(self, width_ms: int, unsettled: Sequence[Span] = ()) -> list[Owned]:
        """Clean ranges of the tier, ascending and disjoint.

        ``unsettled`` are closed ranges in which heads may have samples.
        """
        clean = self._clean.get(width_ms, [])
        for mint, maxt in unsettled:
            clean = [kept for owned in clean for kept in _without(owned, width_ms, mint, maxt)]
        return clean

    def touched(self, part: _Part) -> I64Array:
        """See `touched_spans`; of parts that the map was made of it is known."""
        known = self._touched.get(id(part))
        return touched_spans(part) if known is None else known[1]

    def missing(
        self, width_ms: int, mint: int, maxt: int, unsettled: Sequence[Span] = ()
    ) -> list[Span]:
        """What of a closed range (whole windows) is not clean: closed ranges, ascending."""
        gaps: list[Span] = []
        for owned in self.clean(width_ms, unsettled):
            if owned.maxt < mint or owned.mint > maxt:
                continue
            if owned.mint > mint:
                gaps.append((mint, owned.mint - 1))
            mint = owned.maxt + 1
        if mint <= maxt:
            gaps.append((mint, maxt))
        return gaps


def touched_spans(part: _Part) -> I64Array:
    """Closed ranges that the axes of a part lie in, overlapping ones joined: i64[K, 2]."""
    mint, maxt = part.index.axis_mint, part.index.axis_maxt
    if len(mint) == 0:
        return np.empty((0, 2), np.int64)
    order = np.argsort(mint, kind="stable")
    mint, maxt = mint[order], np.maximum.accumulate(maxt[order])
    starts = np.flatnonzero(np.append(True, mint[1:] > maxt[:-1]))
    ends = np.append(starts[1:], len(mint)) - 1
    return np.stack([mint[starts], maxt[ends]], axis=1)


def cut_by(deleted: _Deleted, width_ms: int) -> I64Array:
    """Times in the windows that a delete cuts, as closed ranges: i64[K, 2].

    Windows that it covers are not dirty: a mask hides those of its series, which is exact.
    """
    cut = [deleted.mint] if (deleted.mint - 1) % width_ms else []
    cut += [deleted.maxt] if deleted.maxt % width_ms else []
    return np.array([(t_ms, t_ms) for t_ms in cut], np.int64).reshape(-1, 2)


def _without(owned: Owned, width_ms: int, mint: int, maxt: int) -> list[Owned]:
    """What is left of a range without the windows that a closed range touches."""
    first = (mint - 1) // width_ms * width_ms + 1
    last = -(-maxt // width_ms) * width_ms
    if last < owned.mint or first > owned.maxt:
        return [owned]
    kept = []
    if first > owned.mint:
        kept.append(Owned(owned.mint, first - 1, owned.tier))
    if last < owned.maxt:
        kept.append(Owned(last + 1, owned.maxt, owned.tier))
    return kept


def _settle(
    width_ms: int, own: list[tuple[int, TierEntry]], touched: list[tuple[int, I64Array]]
) -> tuple[list[Owned], list[Owned]]:
    """``(owned, clean)`` of one tier.

    Time is cut at the borders of everything; each piece then has one owner and one newest
    sequence that touches it.
    """
    low = min(entry.cover_min for _, entry in own)
    high = max(entry.cover_max for _, entry in own)
    spans = [(seq, _widened(span, width_ms, low, high)) for seq, span in touched]
    borders = [np.array([[e.cover_min - 1, e.cover_max] for _, e in own], np.int64)]
    borders += [span for _, span in spans]
    edges = np.unique(np.concatenate([border.reshape(-1) for border in borders]))
    owner = np.full(len(edges) - 1, -1, np.int64)
    owner_seq = np.full(len(edges) - 1, -1, np.int64)
    for number, entry in sorted(own, key=lambda item: (item[1].seq_max, item[1].name)):
        piece = slice(*np.searchsorted(edges, [entry.cover_min - 1, entry.cover_max]))
        owner[piece], owner_seq[piece] = number, entry.seq_max
    newest = np.full(len(edges) - 1, -1, np.int64)
    for seq, span in sorted(spans, key=lambda item: item[0]):
        for first, last in np.searchsorted(edges, span).tolist():
            newest[first:last] = seq
    owned = _joined(edges, owner)
    return owned, _joined(edges, np.where(newest <= owner_seq, owner, -1))


def _widened(spans: I64Array, width_ms: int, low: int, high: int) -> I64Array:
    """The windows that closed ranges touch as half-open (start, end], those outside left out."""
    spans = spans[(spans[:, 0] <= high) & (spans[:, 1] >= low)]
    first = (np.maximum(spans[:, 0], low) - 1) // width_ms * width_ms
    last = -(-np.minimum(spans[:, 1], high) // width_ms) * width_ms
    return np.stack([first, last], axis=1)


def _joined(edges: I64Array, owner: I64Array) -> list[Owned]:
    """Neighbouring pieces of one owner as one range."""
    starts = np.flatnonzero(np.append(True, owner[1:] != owner[:-1]))
    ends = np.append(starts[1:], len(owner))
    return [
        Owned(int(edges[start]) + 1, int(edges[end]), int(owner[start]))
        for start, end in zip(starts.tolist(), ends.tolist(), strict=True)
        if owner[start] >= 0
    ]
