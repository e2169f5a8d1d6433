"""Which windows are not known to be those of all samples that ever were. Pure, no I/O.

Samples that came after others of their window were erased can't always be added exactly, and a
delete takes a window whole. Such windows are **in doubt**, series by series, for as long as their
tier's part is there: the part lists them (docs/format/tiers.md).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tsengine.kernels.bits import STALE_BITS
from tsengine.model.histograms import is_handle
from tsengine.model.windows import Column, WindowBatch
from tsengine.storage.mask import rows_of_refs
from tsengine.storage.pieces import I64Array, U32Array
from tsengine.storage.tier_columns import ends_of
from tsengine.storage.tier_last import SampleRows
from tsengine.storage.tier_late import are_whole, cells_of
from tsengine.storage.tier_map import Span

BoolArray = npt.NDArray[np.bool_]

DOUBT_COLUMNS = frozenset(
    {
        Column.COUNT,
        Column.FIRST,
        Column.LAST,
        Column.FIRST_T,
        Column.LAST_T,
        Column.STALE,
        Column.H_COUNT,
        Column.H_FIRST_T,
        Column.H_LAST_T,
    }
)
"""Columns that `after_late` looks at."""
_KINDS = (
    (Column.COUNT, Column.FIRST_T, Column.LAST_T),
    (Column.H_COUNT, Column.H_FIRST_T, Column.H_LAST_T),
)


@dataclass(frozen=True, slots=True, eq=False)
class Doubts:
    """Closed ranges of time of series, or of rows of a request, that are in doubt.

    ``owners, mint, maxt: i64[N]``, whole windows, in no order.
    """

    owners: I64Array
    mint: I64Array
    maxt: I64Array

    @classmethod
    def none(cls) -> Doubts:
        """No doubt at all."""
        return cls(*np.empty((3, 0), np.int64))

    @classmethod
    def of_all(cls, owners: I64Array, mint: int, maxt: int) -> Doubts:
        """One range of several series."""
        return cls(owners, np.full(len(owners), mint), np.full(len(owners), maxt))

    @classmethod
    def joined(cls, pieces: Sequence[Doubts]) -> Doubts:
        """All that any of them has."""
        if not pieces:
            return cls.none()
        return cls(
            np.concatenate([piece.owners for piece in pieces]),
            np.concatenate([piece.mint for piece in pieces]),
            np.concatenate([piece.maxt for piece in pieces]),
        )

    def __len__(self) -> int:
        return len(self.owners)

    def renamed(self, names: npt.NDArray[np.generic]) -> Doubts:
        """The same, with rows replaced by what they stand for."""
        return Doubts(names[self.owners].astype(np.int64), self.mint, self.maxt)

    def of_refs(self, refs: U32Array) -> Doubts:
        """Those of some series (ascending), by their rows."""
        if len(self.owners) == 0 or len(refs) == 0:
            return Doubts.none()
        at = np.minimum(np.searchsorted(refs, self.owners), len(refs) - 1)
        kept = np.flatnonzero(refs[at] == self.owners)
        return Doubts(at[kept].astype(np.int64), self.mint[kept], self.maxt[kept])

    def within(self, mint: int, maxt: int) -> Doubts:
        """What lies in a closed range of whole windows."""
        kept = np.flatnonzero((self.mint <= maxt) & (self.maxt >= mint))
        return Doubts(
            self.owners[kept],
            np.maximum(self.mint[kept], mint),
            np.minimum(self.maxt[kept], maxt),
        )

    def widened(self, width_ms: int) -> Doubts:
        """The whole windows of a width that hold any of it."""
        return Doubts(
            self.owners,
            (self.mint - 1) // width_ms * width_ms + 1,
            -(-self.maxt // width_ms) * width_ms,
        )

    def settled(self) -> Doubts:
        """The same in the order of (series, time), ranges that overlap or follow joined."""
        if len(self.owners) == 0:
            return self
        order = np.lexsort((self.mint, self.owners))
        owners, mint, maxt = self.owners[order], self.mint[order], self.maxt[order]
        # How far what came before reaches: the ends of earlier series rank below for sure.
        ends, rank = np.unique(maxt, return_inverse=True)
        below = len(ends) * np.concatenate(([0], np.cumsum(np.diff(owners) != 0)))
        reach = ends[np.maximum.accumulate(rank + below) - below]
        is_new = np.append(True, (np.diff(owners) != 0) | (mint[1:] > reach[:-1] + 1))
        starts = np.flatnonzero(is_new)
        last = np.append(starts[1:], len(owners)) - 1
        return Doubts(owners[starts], mint[starts], reach[last])

    def spans(self) -> list[Span]:
        """The ranges of any series, ascending and disjoint."""
        together = Doubts(np.zeros_like(self.owners), self.mint, self.maxt).settled()
        return list(zip(together.mint.tolist(), together.maxt.tolist(), strict=True))


def windows_touched(spans: I64Array, width_ms: int, mint: int, maxt: int) -> list[Span]:
    """Windows of a closed range that closed ranges touch: ``spans: i64[K, 2]``."""
    spans = spans[(spans[:, 0] <= maxt) & (spans[:, 1] >= mint)]
    first = (np.maximum(spans[:, 0], mint) - 1) // width_ms * width_ms + 1
    last = -(-np.minimum(spans[:, 1], maxt) // width_ms) * width_ms
    return list(zip(first.tolist(), last.tolist(), strict=True))


def of_spans(refs: U32Array, own: U32Array, spans: Sequence[Span]) -> list[Doubts]:
    """Rows of the series ``refs`` that are among ``own`` (both ascend), in each of some ranges."""
    rows = rows_of_refs(refs, own) if spans else np.empty(0, np.int64)
    return [Doubts.of_all(rows, *span) for span in spans] if len(rows) else []


def after_late(known: WindowBatch, old: SampleRows, new: SampleRows) -> Doubts:
    """Windows of a tier that are in doubt once samples that it has not seen are in them.

    Parameters
    ----------
    known
        The tier's, with `DOUBT_COLUMNS`.
    old
        Samples of the same rows that the tier has seen.
    new
        Those that it has not seen.

    Returns
    -------
        By rows; windows that have all their samples among ``old`` are made anew, so exact.

    """
    new = new.take(np.flatnonzero(~_are_copies(new, old)))
    cell = cells_of(known, new)
    there = np.flatnonzero(cell >= 0)
    new, cell = new.take(there), cell[there]
    is_bad = _is_hazard(known, new, cell)
    hit = np.zeros(known.n_windows, np.bool_)
    hit[cell[is_bad]] = True
    hit &= ~are_whole(known, old)
    at = np.flatnonzero(hit)
    rows = np.repeat(np.arange(known.n_rows), np.diff(known.row_offsets))[at]
    ends = ends_of(known)[at]
    return Doubts(rows, ends - known.width_ms + 1, ends)


def _is_hazard(known: WindowBatch, new: SampleRows, cell: I64Array) -> BoolArray:
    """Which samples may stand among or in the place of others that are gone: bool[N]."""
    columns = known.columns
    is_marker = new.bits == STALE_BITS
    is_histogram = is_handle(new.bits)
    is_bad = np.zeros(len(cell), np.bool_)
    last_of_all = np.full(len(cell), -(2**63))
    for kind, (n_column, first_column, last_column) in enumerate(_KINDS):
        n = columns[n_column][cell]
        first, last = columns[first_column][cell], columns[last_column][cell]
        is_inside = (n > 0) & (new.t_ms >= first) & (new.t_ms <= last)
        last_of_all = np.where(n > 0, np.maximum(last_of_all, last), last_of_all)
        if kind == 0:
            values = [columns[c].view(np.uint64)[cell] for c in (Column.FIRST, Column.LAST)]
            is_end = (new.t_ms == first) & (new.bits == values[0])
            is_inside &= ~(is_end | ((new.t_ms == last) & (new.bits == values[1])))
            is_bad |= is_histogram & (n > 0)
        else:
            is_bad |= ~is_histogram & ~is_marker & (n > 0)
        is_bad |= is_inside
    # Where the marker at the end of a window stood is not known.
    is_bad |= (columns[Column.STALE][cell] > 0) & ~is_marker & (new.t_ms > last_of_all)
    return is_bad


def _are_copies(samples: SampleRows, others: SampleRows) -> BoolArray:
    """Which samples (floats) have the row, the time and the value of one of others: bool[N]."""
    keys = np.stack([samples.rows, samples.t_ms, samples.bits.view(np.int64)], axis=1)
    known = np.stack([others.rows, others.t_ms, others.bits.view(np.int64)], axis=1)
    if len(known) == 0 or len(keys) == 0:
        return np.zeros(len(keys), np.bool_)
    kind = np.dtype([("row", np.int64), ("t", np.int64), ("bits", np.int64)])
    found = np.isin(
        np.ascontiguousarray(keys).view(kind).reshape(-1),
        np.ascontiguousarray(known).view(kind).reshape(-1),
    )
    # Handles of two tables that are equal say nothing.
    copies: BoolArray = found & ~is_handle(samples.bits)
    return copies
