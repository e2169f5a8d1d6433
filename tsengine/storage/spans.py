"""Rows with closed ranges of time: how a mask says what is hidden and what is left."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from tsengine.model.batch import SeriesColumns, taken_histograms
from tsengine.model.ragged import I64Array, expand_ranges, offsets_of
from tsengine.storage.pieces import U32Array


class Span(NamedTuple):
    """The closed range ``lo..hi`` of some rows of a request; ``rows: i64[R]`` ascend."""

    rows: I64Array
    lo: int
    hi: int

    def touches(self, mint: int, maxt: int) -> bool:
        """Whether it has times of a closed range."""
        return self.lo <= maxt and self.hi >= mint


def spans_of(own: U32Array, refs: U32Array, spans: Sequence[Span]) -> list[Span]:
    """Spans of the rows ``refs`` as spans of the rows ``own``; both ascend."""
    moved = []
    for rows, lo, hi in spans:
        at = np.searchsorted(own, refs[rows])
        is_there = at < len(own)
        at, wanted = at[is_there], refs[rows][is_there]
        moved.append(Span(at[own[at] == wanted], lo, hi))
    return moved


def without_hidden(columns: SeriesColumns, spans: Sequence[Span]) -> SeriesColumns:
    """The columns without what spans hide, rows being those of the columns.

    Series of which nothing is left are left out; histograms are numbered anew. Columns of which
    nothing is hidden are returned as they are.
    """
    is_hidden = np.zeros(len(columns.t_ms), np.bool_)
    sizes = np.diff(columns.offsets)
    for rows, lo, hi in spans:
        at = expand_ranges(columns.offsets[rows], sizes[rows])
        t_ms = columns.t_ms[at]
        is_hidden[at] |= (t_ms >= lo) & (t_ms <= hi)
    if not is_hidden.any():
        return columns
    kept = np.flatnonzero(~is_hidden)
    sizes = np.diff(offsets_of((~is_hidden).astype(np.int64))[columns.offsets])
    rows = np.flatnonzero(sizes)
    bits, histograms = taken_histograms(columns.bits[kept], columns.histograms)
    return SeriesColumns(
        columns.refs[rows],
        offsets_of(sizes[rows]),
        columns.t_ms[kept],
        bits,
        histograms,
        None if columns.start_ms is None else columns.start_ms[kept],
    )


def visible(spans: Sequence[Span], n_rows: int, mint: int, maxt: int) -> list[Span]:
    """The closed ranges that spans leave, rows that are touched by the same spans together."""
    group = np.zeros(n_rows, np.int64)
    members: list[tuple[int, ...]] = [()]
    spans = _joined(spans)
    for number, span in enumerate(spans):
        touched, where = np.unique(group[span.rows], return_inverse=True)
        group[span.rows] = len(members) + where
        members += [(*members[old], number) for old in touched.tolist()]
    order = np.argsort(group, kind="stable")
    borders = np.searchsorted(group[order], np.arange(len(members) + 1))
    windows: list[Span] = []
    for number, touching in enumerate(members):
        rows = order[borders[number] : borders[number + 1]]
        if len(rows):
            ranges = sorted((spans[k].lo, spans[k].hi) for k in touching)
            windows += [Span(rows, lo, hi) for lo, hi in _gaps(ranges, mint, maxt)]
    return windows


def _joined(spans: Sequence[Span]) -> list[Span]:
    """One span for each range: whoever deletes series one by one makes many of one range."""
    rows_of: dict[tuple[int, int], list[I64Array]] = {}
    for rows, lo, hi in spans:
        rows_of.setdefault((lo, hi), []).append(rows)
    return [
        Span(rows[0] if len(rows) == 1 else np.unique(np.concatenate(rows)), lo, hi)
        for (lo, hi), rows in rows_of.items()
    ]


def _gaps(ranges: Sequence[tuple[int, int]], mint: int, maxt: int) -> list[tuple[int, int]]:
    """What closed ranges, by their starts, leave of another one."""
    gaps = []
    for lo, hi in ranges:
        if lo > mint:
            gaps.append((mint, lo - 1))
        mint = max(mint, hi + 1)
    if mint <= maxt:
        gaps.append((mint, maxt))
    return gaps
