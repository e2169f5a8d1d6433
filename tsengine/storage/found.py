"""The pieces that a read found in all its sources, as one table.

Handles of histograms mean something only to the source that they come from. While samples are
merged, a handle carries the number of its source; when it is settled which samples stay, each
source gives the histograms of its own.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from tsengine.kernels.histogramcolumns import match_times
from tsengine.kernels.sorting import N_DIGITS, order_by_key
from tsengine.model.histograms import (
    Histograms,
    concatenate,
    handles,
    is_handle,
    rows_of,
    without_handles,
)
from tsengine.storage.head_read import HeadPieces, HeadView
from tsengine.storage.mask import Mask
from tsengine.storage.part_reader import PartReader
from tsengine.storage.pieces import (
    I64Array,
    Pieces,
    U32Array,
    U64Array,
    expand_ranges,
    offsets_of,
)

BoolArray = npt.NDArray[np.bool_]

_SOURCE_SHIFT = np.uint64(32)
"""Bits 32 to 47 of a handle are its source while a read is under way."""
_ROW_MASK = (1 << 32) - 1
_SOURCES_MAX = 1 << 16


class Found:
    """The pieces of all sources, in the order of sources (later ones win).

    Columns of length P: ``rows, sizes, first_t, last_t: i64``, ``may_be_stale, has_histogram:
    bool`` (what may be inside), ``source: u16`` and ``local: i64``, the piece's number in its
    source. ``owners`` are the parts and heads that the pieces are of, ``span`` is the closed range.
    """

    __slots__ = (
        "_order", "first_t", "has_histogram", "last_t", "local", "may_be_stale", "owners", "refs",
        "rows", "sizes", "source", "sources", "span",
    )  # fmt: skip

    def __init__(
        self,
        refs: U32Array,
        span: tuple[int, int],
        owners: Sequence[PartReader | HeadView],
        sources: Sequence[Pieces],
        has_histogram: Sequence[BoolArray],
    ) -> None:
        assert len(sources) <= _SOURCES_MAX, "handles have 16 bits for the number of the source"
        self.refs = refs
        self.span = span
        self.owners = owners
        self.sources = sources
        self._order: I64Array | None = None
        if len(sources) == 1:
            (only,) = sources
            self.rows, self.sizes = only.rows, only.sizes
            self.first_t, self.last_t = only.first_t, only.last_t
            self.may_be_stale, self.has_histogram = only.may_be_stale, has_histogram[0]
            self.source = np.zeros(len(only.rows), np.uint16)
            self.local = np.arange(len(only.rows))
            return
        self.rows = _concatenate([s.rows for s in sources])
        self.sizes = _concatenate([s.sizes for s in sources])
        self.first_t = _concatenate([s.first_t for s in sources])
        self.last_t = _concatenate([s.last_t for s in sources])
        counts = np.array([len(s.rows) for s in sources], np.int64)
        # Sixteen bits: a stable sort of such numbers is a few passes of counting.
        self.source = np.repeat(np.arange(len(sources), dtype=np.uint16), counts)
        self.local = expand_ranges(np.zeros(len(sources), np.int64), counts)
        self.may_be_stale = _concatenate([s.may_be_stale for s in sources]).astype(np.bool_)
        self.has_histogram = _concatenate(list(has_histogram)).astype(np.bool_)

    @property
    def by_time(self) -> I64Array:
        """Pieces ordered by (row, time)."""
        if self._order is None:
            order = self._by_row(self.rows)
            # Later sources mostly have later times.
            if self._meeting(order).any():
                order = np.lexsort((self.first_t, self.rows))
            self._order = order
        return self._order

    def by_source(self, is_wanted: BoolArray) -> I64Array:
        """Pieces of wanted rows ordered by (row, source, time)."""
        pieces = np.flatnonzero(is_wanted[self.rows])
        return pieces[self._by_row(self.rows[pieces])]

    def _by_row(self, rows: I64Array) -> I64Array:
        """Stable order by row; the pieces of each source have it already."""
        n = len(rows)
        if len(self.sources) == 1:
            return np.arange(n)
        order = np.empty(n, np.uint32)
        order_by_key(
            rows.astype(np.uint32), order, np.empty(n, np.uint32), np.empty(N_DIGITS, np.int64)
        )
        return order.astype(np.int64)

    def _meeting(self, order: I64Array) -> BoolArray:
        """Which pieces in an order by row do not follow the one before in time: bool[P - 1]."""
        rows = self.rows[order]
        found: BoolArray = (rows[1:] == rows[:-1]) & (
            self.last_t[order][:-1] >= self.first_t[order][1:]
        )
        return found

    def overlapping_rows(self, n_rows: int) -> BoolArray:
        """Which rows have pieces that do not follow each other in time."""
        overlapping = np.zeros(n_rows, np.bool_)
        if len(self.sources) > 1:
            order = self.by_time
            overlapping[self.rows[order][1:][self._meeting(order)]] = True
        return overlapping

    def copy_times(self, which: I64Array, out: I64Array, positions: I64Array) -> None:
        """Write the times of pieces to their places."""
        for number, mine in self._by_number(which):
            self.sources[number].copy_times(self.local[which[mine]], out, positions[mine])

    def times_in_place(self, which: I64Array) -> I64Array | None:
        """The times of pieces if they are all of one source and lie one after the other."""
        if len(self.sources) != 1:
            return None
        return self.sources[0].times_in_place(self.local[which])

    def copy_values(self, which: I64Array, out: U64Array, positions: I64Array) -> None:
        """Write the value bits of pieces to their places; handles carry their source."""
        has_histograms = bool(self.has_histogram.any())
        for number, mine in self._by_number(which):
            self.sources[number].copy_values(self.local[which[mine]], out, positions[mine])
            if has_histograms:
                self._mark(number, which[mine], out, positions[mine])

    def keys(self, which: I64Array) -> I64Array:
        """``i64[4 * len(which)]``: four words per piece, equal for pieces with the same times."""
        keys = np.empty((len(which), 4), np.int64)
        keys[:, 0] = self.source[which]
        for number, mine in self._by_number(which):
            keys[mine, 1:] = self.sources[number].keys[self.local[which[mine]]]
        return keys.reshape(-1)

    def resolve(
        self, bits: U64Array, rows: I64Array, at: I64Array, t_ms: I64Array
    ) -> Histograms | None:
        """The histograms of the handles ``bits[at]``, which are numbered from 0 in place.

        ``rows, t_ms: i64[len(at)]`` are row and time of each; they ascend by (row, time). None if
        there are none.
        """
        if len(at) == 0:
            return None
        numbers = rows_of(bits[at])
        source = numbers >> int(_SOURCE_SHIFT)
        own = handles(numbers & _ROW_MASK)
        refs = self.refs[rows]
        tables, places = [], []
        for number in np.unique(source).tolist():
            mine = np.flatnonzero(source == number)
            tables.append(self.sources[number].histograms_of(refs[mine], t_ms[mine], own[mine]))
            places.append(mine)
        rank = np.empty(len(at), np.int64)
        rank[np.concatenate(places)] = np.arange(len(at))
        bits[at] = handles(rank)
        return concatenate(tables)

    @property
    def has_starts(self) -> bool:
        """Whether a source knows start timestamps, of whatever series."""
        return any(owner.has_starts for owner in self.owners)

    def starts(self, which: I64Array, t_ms: I64Array, positions: I64Array) -> I64Array:
        """Start timestamps of the samples of pieces, 0 where unknown: i64[N].

        ``t_ms: i64[N]`` are their times, those of a piece from its position on.
        """
        start_ms = np.zeros(len(t_ms), np.int64)
        where = np.empty(len(t_ms), np.int64)
        for number, owner in enumerate(self.owners):
            known = owner.start_times(self.refs, *self.span)
            if known is None or len(known) == 0:
                continue
            mine = np.flatnonzero(self.source[which] == number)
            refs, starts = self.refs[self.rows[which[mine]]], positions[mine]
            sizes = self.sizes[which[mine]]
            row = np.searchsorted(known.refs, refs)
            row[row == len(known)] = 0
            is_known = known.refs[row] == refs
            match_times(
                starts, sizes, t_ms, np.where(is_known, known.offsets[row], 0),
                np.where(is_known, known.offsets[row + 1], 0), known.t_ms, where,
            )  # fmt: skip
            at = expand_ranges(starts, sizes)
            at = at[where[at] >= 0]
            start_ms[at] = known.bits[where[at]].view(np.int64)
        return start_ms

    def _mark(self, number: int, which: I64Array, out: U64Array, positions: I64Array) -> None:
        """Put the source into handles; floats of old parts that look like one become plain."""
        has_histogram = self.has_histogram[which]
        sizes = self.sizes[which]
        at = expand_ranges(positions[has_histogram], sizes[has_histogram])
        at = at[is_handle(out[at])]
        out[at] |= np.uint64(number) << _SOURCE_SHIFT
        at = expand_ranges(positions[~has_histogram], sizes[~has_histogram])
        out[at] = without_handles(out[at])

    def _by_number(self, which: I64Array) -> Iterator[tuple[int, I64Array | slice]]:
        """Sources that have any of the pieces, and where in ``which`` those of each stand."""
        if len(self.sources) == 1:
            if len(which):
                yield 0, slice(None)
            return
        numbers = self.source[which]
        order = np.argsort(numbers, kind="stable")
        bounds = offsets_of(np.bincount(numbers, minlength=len(self.sources)))
        for number in np.flatnonzero(np.diff(bounds)).tolist():
            yield number, order[bounds[number] : bounds[number + 1]]


def find(
    parts: Sequence[PartReader],
    heads: Sequence[HeadView],
    refs: U32Array,
    mint: int,
    maxt: int,
    mask: Mask | None = None,
) -> Found:
    """Pieces of the series ``refs`` (ascending) that have samples in the closed range.

    What a mask hides is not among them.
    """
    hidden = None if mask is None else mask.touching(refs, mint, maxt)
    assert (refs[1:] > refs[:-1]).all(), "refs ascend; rows are found by binary search"
    owners: list[PartReader | HeadView] = []
    sources: list[Pieces] = []
    has_histogram: list[BoolArray] = []
    for part in parts:
        if part.entry.mint <= maxt and part.entry.maxt >= mint:
            windows = None if hidden is None else hidden.windows(part.entry.seq_max)
            if windows is not None:
                windows = [w for w in windows if w.touches(part.entry.mint, part.entry.maxt)]
                if not windows:
                    continue
            pieces = part.pieces(refs, mint, maxt, windows)
            if len(pieces.rows):
                owners.append(part)
                sources.append(pieces)
                has_histogram.append(pieces.has_histogram)
    for head in heads:
        if head.mint <= maxt and head.maxt >= mint:
            spans = None if hidden is None else hidden.spans(head.seq_max)
            recent = HeadPieces(head, refs, mint, maxt, spans)
            if len(recent.rows):
                owners.append(head)
                sources.append(recent)
                may_have = head.has_histograms_of(refs, mint, maxt)
                has_histogram.append(np.full(len(recent.rows), may_have))
    return Found(refs, (mint, maxt), owners, sources, has_histogram)


def _concatenate(columns: list[I64Array] | list[BoolArray]) -> I64Array:
    return np.concatenate(columns) if columns else np.empty(0, np.int64)
