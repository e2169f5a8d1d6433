"""Reading the head: sorted runs, snapshots, and the samples of wanted series.

A view is immutable and may be used by any thread; what it computes lazily may be computed twice by
two threads at once, with the same result.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from tsengine.kernels.axes import copy_rows
from tsengine.kernels.bits import STALE_BITS
from tsengine.kernels.merge import append_slices, slice_run
from tsengine.kernels.sorting import N_DIGITS, group_by_key, order_by_key
from tsengine.model.batch import SeriesColumns
from tsengine.model.histograms import Histograms, handles, is_handle, rows_of
from tsengine.model.times import MAXT, MINT
from tsengine.storage.head_histograms import HeadHistograms
from tsengine.storage.pieces import (
    I64Array,
    U32Array,
    U64Array,
    group_equal_runs,
    offsets_of,
    settle,
)
from tsengine.storage.run_memory import RunMemory
from tsengine.storage.spans import Span, spans_of, without_hidden

DAY_MS = 86_400_000
_FILTER_BITS = 16
_MARKS_A_REF = 8
"""Refs that are not rarer than this are found again by marking them, not by sorting."""
_NUMBER_BYTES = 12
"""Memory of a number of a histogram: key and count of a bucket."""

_NO_PATTERN = np.zeros(2, np.int64)
_NO_RUNS = np.zeros(0, np.int64)


@dataclass(frozen=True, slots=True)
class Run:
    """Rows sorted by (series, time), strictly ascending in both.

    ``refs: u32[K]``, ``offsets: i64[K + 1]``, ``t_ms: i64[N]``, ``bits: u64[N]``, handles being
    those of the head. ``start_ms: i64[N]`` are start timestamps (0 where unknown) or None.
    ``histogram_refs`` are the series with histograms, ascending; None if that was not looked at.
    """

    refs: U32Array
    offsets: I64Array
    t_ms: I64Array
    bits: U64Array
    mint: int
    maxt: int
    start_ms: I64Array | None = None
    histogram_refs: U32Array | None = None

    def with_histogram_refs(self) -> Run:
        """The same run, which knows its series with histograms."""
        return replace(self, histogram_refs=self.find_histogram_refs())

    def find_histogram_refs(self) -> U32Array:
        """Series with histograms, ascending; quick if the run knows them."""
        if self.histogram_refs is not None:
            return self.histogram_refs
        rows = np.flatnonzero(is_handle(self.bits))
        series = np.searchsorted(self.offsets, rows, side="right") - 1
        return self.refs[np.unique(series)]

    def slice(
        self, refs: U32Array, mint: int, maxt: int, starts: I64Array, lengths: I64Array
    ) -> int:
        """See `slice_run`; no times are looked at where they all lie in the range."""
        mint = mint if mint > self.mint else MINT
        maxt = maxt if maxt < self.maxt else MAXT
        found: int = slice_run(
            self.refs, self.offsets, self.t_ms, refs, mint, maxt, starts, lengths
        )
        return found

    @property
    def n_bytes(self) -> int:
        """Memory of the arrays."""
        columns = self.refs.nbytes + self.offsets.nbytes + self.t_ms.nbytes + self.bits.nbytes
        return columns + (0 if self.start_ms is None else self.start_ms.nbytes)


class RefCache:
    """Refs of the first runs and open rows of a head, so that its views need not start anew.

    ``known`` is ``(sealed runs, rows of the open run, refs)``; replaced as a whole by any thread,
    so one of two threads may lose its progress, never its result.
    """

    __slots__ = ("known",)

    def __init__(self) -> None:
        self.known: tuple[int, int, U32Array] = (0, 0, np.zeros(0, np.uint32))


def sort_run(
    refs: U32Array,
    t_ms: I64Array,
    bits: U64Array,
    start_ms: I64Array | None = None,
    *,
    memory: RunMemory | None = None,
) -> Run:
    """Copies of rows in any order as a run; of equal (series, time) the last row stays."""
    n = len(refs)
    assert n > 0, "runs have rows"
    lowest = int(refs.min())
    span = int(refs.max()) - lowest + 1
    if start_ms is None and span <= 2 * n:
        return _group_run(refs, t_ms, bits, lowest, span, memory)
    order = np.empty(n, np.uint32)
    order_by_key(refs, order, np.empty(n, np.uint32), np.empty(N_DIGITS, np.int64))
    sorted_refs = refs[order]
    starts = np.concatenate(([0], np.flatnonzero(sorted_refs[1:] != sorted_refs[:-1]) + 1))
    offsets = np.append(starts, n)
    starts_ms = None
    if start_ms is None:
        offsets, times, values = settle(offsets, t_ms[order], bits[order], drop_stale=False)
    else:
        rows = order.astype(np.uint64)
        offsets, times, rows = settle(offsets, t_ms[order], rows, drop_stale=False)
        values, starts_ms = bits[rows], start_ms[rows]
    mint, maxt = int(times.min()), int(times.max())
    return Run(sorted_refs[starts], offsets, times, values, mint, maxt, starts_ms)


def _group_run(
    refs: U32Array,
    t_ms: I64Array,
    bits: U64Array,
    lowest: int,
    span: int,
    memory: RunMemory | None,
) -> Run:
    """As `sort_run`, of refs that are few beside the rows."""
    n = len(refs)
    distinct, offsets = np.empty(min(n, span), np.uint32), np.empty(min(n, span) + 1, np.int64)
    block = np.empty(16 * n, np.uint8) if memory is None else memory.take(16 * n)
    times, values = block[: 8 * n].view(np.int64), block[8 * n :].view(np.uint64)
    n_falls = np.zeros(1, np.int64)
    n_refs = group_by_key(
        refs, t_ms, bits, lowest, np.empty(span, np.uint32), distinct, offsets, times, values,
        n_falls,
    )  # fmt: skip
    distinct, offsets = distinct[:n_refs].copy(), offsets[: n_refs + 1].copy()
    if n_falls[0]:
        offsets, times, values = settle(offsets, times, values, drop_stale=False)
    return Run(distinct, offsets, times, values, int(times.min()), int(times.max()))


def _with_refs(known: U32Array, added: list[U32Array]) -> U32Array:
    """The union of ascending ``known`` and several ascending arrays; often just ``known``."""
    every = [refs for refs in (known, *added) if len(refs)]
    if not every:
        return known
    lowest = min(int(refs[0]) for refs in every)
    span = max(int(refs[-1]) for refs in every) - lowest + 1
    if span <= _MARKS_A_REF * sum(len(refs) for refs in every):
        is_there = np.zeros(span, np.bool_)
        for refs in every:
            is_there[refs - np.uint32(lowest)] = True
        union = np.flatnonzero(is_there)
        if len(union) == len(known):
            return known
        return (union + lowest).astype(np.uint32)
    missing = [refs[~is_among(refs, known)] for refs in added]
    if not any(len(refs) for refs in missing):
        return known
    return sorted_unique(np.concatenate([known, *missing]))


def sorted_unique(refs: U32Array) -> U32Array:
    """Different refs, ascending: as np.unique, whose hash table is slower than a sort here."""
    refs = np.sort(refs)
    is_first = np.ones(len(refs), np.bool_)
    is_first[1:] = refs[1:] != refs[:-1]
    return refs[is_first]


def is_among(refs: U32Array, known: U32Array) -> npt.NDArray[np.bool_]:
    """Which of ``refs`` occur in ascending ``known``: bool[len(refs)]."""
    if len(known) == 0:
        return np.zeros(len(refs), np.bool_)
    at = np.searchsorted(known, refs)
    at[at == len(known)] = 0
    found: npt.NDArray[np.bool_] = known[at] == refs
    return found


def meet(refs: U32Array, others: U32Array) -> bool:
    """Whether two ascending arrays have a ref in common."""
    few, many = sorted((refs, others), key=len)
    return bool(is_among(few, many).any())


class HeadView:
    """An immutable snapshot of a head: sealed runs and the rows of the open one."""

    __slots__ = (
        "_bits", "_cache", "_histograms", "_open", "_refs", "_refs_union", "_sealed", "_start_ms",
        "_t_ms",
        "days", "maxt", "mint", "n_samples", "seq_max",
    )  # fmt: skip

    def __init__(
        self,
        sealed: tuple[Run, ...],
        refs: U32Array,
        t_ms: I64Array,
        bits: U64Array,
        start_ms: I64Array | None,
        *,
        mint: int,
        maxt: int,
        n_samples: int,
        seq_max: int,
        days: frozenset[int],
        histograms: HeadHistograms,
        cache: RefCache,
    ) -> None:
        self._sealed = sealed
        self._refs = refs
        self._t_ms = t_ms
        self._bits = bits
        self._start_ms = start_ms
        self._histograms = histograms
        self._cache = cache
        self._refs_union: U32Array | None = None
        self._open: tuple[U32Array, tuple[Run, ...]] | None = None
        self.mint = mint
        self.maxt = maxt
        self.n_samples = n_samples
        self.seq_max = seq_max
        self.days = days

    def touched_spans(self) -> list[tuple[int, int]]:
        """Closed ranges of time, ascending, outside of which it has no samples; whole days."""
        spans: list[tuple[int, int]] = []
        for day in sorted(self.days):
            first, last = day * DAY_MS + 1, (day + 1) * DAY_MS
            if spans and spans[-1][1] == first - 1:
                spans[-1] = (spans[-1][0], last)
            else:
                spans.append((first, last))
        return [(max(first, self.mint), min(last, self.maxt)) for first, last in spans]

    def refs(self) -> U32Array:
        """Series with samples: ``u32[S]`` ascending, shared, not to be written."""
        union = self._refs_union
        if union is None:
            mine = (len(self._sealed), len(self._refs))
            n_sealed, n_open, union = self._cache.known
            if (n_sealed, n_open) > mine:
                # The cache is ahead of this view, and may know series that came after it.
                n_sealed, n_open, union = 0, 0, union[:0]
            if n_sealed < mine[0]:
                # What was open then is in a sealed run now.
                n_open = 0
            new = [run.refs for run in self._sealed[n_sealed:]]
            union = _with_refs(union, [*new, sorted_unique(self._refs[n_open:])])
            if mine > self._cache.known[:2]:
                self._cache.known = (*mine, union)
            self._refs_union = union
        return union

    @property
    def has_histograms(self) -> bool:
        """Whether there are histograms, replaced ones included."""
        return len(self._histograms) > 0

    def has_histograms_of(self, refs: U32Array, mint: int, maxt: int) -> bool:
        """Whether a series of ``refs`` (ascending) has histograms near the closed range.

        Rough as to time, and never falsely False.
        """
        if not self.has_histograms:
            return False
        for run in self._sealed:
            is_near = run.mint <= maxt and run.maxt >= mint
            if is_near and meet(refs, run.find_histogram_refs()):
                return True
        recent = self._refs[is_handle(self._bits)]
        return bool(is_among(recent[_near(recent, refs)], refs).any())

    @property
    def histogram_bytes(self) -> int:
        """Memory of the histograms, replaced ones included."""
        return self._histograms.n_bytes

    @property
    def has_starts(self) -> bool:
        """Whether a start timestamp is known, replaced ones included."""
        return self._start_ms is not None or any(run.start_ms is not None for run in self._sealed)

    def collect(
        self, refs: U32Array | None, mint: int, maxt: int, *, with_starts: bool = False
    ) -> SeriesColumns:
        """Samples with mint <= t <= maxt of the series ``refs`` (ascending; None takes all).

        Times are strictly ascending per series, of equal times the last appended is kept. Series
        without samples in the range are left out. The arrays are copies. Start timestamps are
        given only if asked for and known.
        """
        columns = self.collect_bits(refs, mint, maxt)
        starts = self.start_times(refs, mint, maxt) if with_starts else None
        if not self.has_histograms and starts is None:
            return columns
        bits, histograms = columns.bits, None
        if self.has_histograms:
            at = np.flatnonzero(is_handle(bits))
            if len(at):
                histograms = self._histograms.take(rows_of(bits[at]))
                bits[at] = handles(np.arange(len(at)))
        start_ms = None if starts is None else starts.bits.view(np.int64)
        return replace(columns, histograms=histograms, start_ms=start_ms)

    def start_times(self, refs: U32Array | None, mint: int, maxt: int) -> SeriesColumns | None:
        """Start timestamps of the samples of `collect`, row by row: ``bits`` are i64 ms.

        They are 0 where unknown; None if this head knows none at all.
        """
        return self._gather(refs, mint, maxt, _starts_of) if self.has_starts else None

    def collect_bits(self, refs: U32Array | None, mint: int, maxt: int) -> SeriesColumns:
        """As `collect`, but handles are those of the head: see `histograms_of`."""
        return self._gather(refs, mint, maxt, lambda run: run.bits)

    def histograms_of(self, bits: U64Array) -> Histograms:
        """The histograms that handles of the head stand for, in the same order."""
        return self._histograms.take(rows_of(bits))

    def _gather(
        self, refs: U32Array | None, mint: int, maxt: int, column: Callable[[Run], U64Array]
    ) -> SeriesColumns:
        """A column of the runs' rows, later rows of equal series and time winning."""
        if refs is None:
            refs = self.refs()
        counts = np.zeros(len(refs), np.int64)
        slices: list[tuple[Run, I64Array, I64Array]] = []
        for run in self._runs(refs):
            if run.mint > maxt or run.maxt < mint:
                continue
            starts, lengths = np.empty((2, len(refs)), np.int64)
            if run.slice(refs, mint, maxt, starts, lengths):
                counts += lengths
                slices.append((run, starts, lengths))
        places = offsets_of(counts)
        t_ms = np.empty(places[-1], np.int64)
        bits = np.empty(places[-1], np.uint64)
        for run, starts, lengths in slices:
            append_slices(run.t_ms, column(run), starts, lengths, places[:-1], t_ms, bits)
        found = np.flatnonzero(counts)
        offsets = offsets_of(counts[found])
        if len(slices) > 1:
            offsets, t_ms, bits = settle(offsets, t_ms, bits, drop_stale=False)
        return SeriesColumns(refs[found], offsets, t_ms, bits)

    def count_samples(self, refs: U32Array, mint: int, maxt: int) -> int:
        """Rows of the series ``refs`` (ascending) in a closed range; replaced ones count too.

        Rows of series with histograms count as many times as a histogram here has numbers.
        """
        n_samples = 0
        starts, lengths = np.empty(len(refs), np.int64), np.empty(len(refs), np.int64)
        for run in self._runs(refs):
            if run.mint <= maxt and run.maxt >= mint:
                n_samples += run.slice(refs, mint, maxt, starts, lengths)
                if self.has_histograms:
                    rows = int(lengths[is_among(refs, run.find_histogram_refs())].sum())
                    n_samples += (
                        rows * self._histograms.n_bytes // (_NUMBER_BYTES * len(self._histograms))
                    )
        return n_samples

    def _runs(self, refs: U32Array) -> tuple[Run, ...]:
        """Sealed runs, then the open rows that may belong to ``refs`` as a run of their own."""
        if len(self._refs) == 0 or len(refs) == 0:
            return self._sealed
        # A query counts first, and then reads slices of the same refs.
        known = self._open
        if known is None or not _is_slice(refs, known[0]):
            known = self._open = (refs, self._open_runs(refs))
        return (*self._sealed, *known[1])

    def _open_runs(self, refs: U32Array) -> tuple[Run, ...]:
        # What slips through does no harm, slice_run compares whole refs.
        rows = np.flatnonzero(_near(self._refs, refs))
        if len(rows) == 0:
            return ()
        columns = (self._refs, self._t_ms, self._bits)
        start_ms = self._start_ms
        if len(rows) < len(self._refs):
            columns = (self._refs[rows], self._t_ms[rows], self._bits[rows])
            start_ms = None if start_ms is None else start_ms[rows]
        return (sort_run(*columns, start_ms),)


def _is_slice(refs: U32Array, whole: U32Array) -> bool:
    """Whether refs are known to be some of others, as the same array or a slice of it."""
    if refs is whole or refs.base is whole:
        return True
    if refs.base is None or refs.base is not whole.base:
        return False
    # Slices of one array: postings of many pairs lie in one, so that values tell nothing.
    first, begin = refs.ctypes.data, whole.ctypes.data
    is_contiguous = refs.flags.c_contiguous and whole.flags.c_contiguous
    return bool(is_contiguous and begin <= first and first + refs.nbytes <= begin + whole.nbytes)


def _near(refs: U32Array, wanted: U32Array) -> npt.NDArray[np.bool_]:
    """Which of ``refs`` may be among the wanted ones: bool[len(refs)].

    A small table of low bits passes over most other series at the speed of memory.
    """
    table = np.zeros(1 << _FILTER_BITS, np.bool_)
    table[wanted & (2**_FILTER_BITS - 1)] = True
    near: npt.NDArray[np.bool_] = table[refs & (2**_FILTER_BITS - 1)]
    return near


def _starts_of(run: Run) -> U64Array:
    if run.start_ms is None:
        return np.zeros(len(run.t_ms), np.uint64)
    return run.start_ms.view(np.uint64)


def copy_plain(
    source: I64Array, starts: I64Array, sizes: I64Array, positions: I64Array, out: I64Array
) -> None:
    """Copy ranges of ``source`` to positions of ``out``; the caller proves the bounds."""
    zeros = np.zeros(len(starts), np.int64)
    copy_rows(source, starts, zeros, sizes, zeros, _NO_PATTERN, _NO_RUNS, _NO_RUNS, positions, out)


class HeadPieces:
    """A head's samples as pieces, one per series; see `pieces.Pieces`."""

    __slots__ = (
        "_columns", "_view", "first_t", "keys", "last_t", "may_be_stale", "rows", "sizes"
    )  # fmt: skip

    def __init__(
        self,
        view: HeadView,
        refs: U32Array,
        mint: int,
        maxt: int,
        hidden: Sequence[Span] | None = None,
    ) -> None:
        columns = view.collect_bits(refs, mint, maxt)
        if hidden is not None:
            columns = without_hidden(columns, spans_of(columns.refs, refs, hidden))
        self._view = view
        self._columns = columns
        starts, ends = columns.offsets[:-1], columns.offsets[1:]
        self.rows = np.searchsorted(refs, columns.refs).astype(np.int64)
        self.sizes = ends - starts
        self.first_t = columns.t_ms[starts]
        self.last_t = columns.t_ms[ends - 1]
        is_stale = columns.bits == STALE_BITS
        if is_stale.any():
            self.may_be_stale = np.logical_or.reduceat(is_stale, starts)
        else:
            self.may_be_stale = np.zeros(len(starts), np.bool_)
        self.keys = np.zeros((len(starts), 3), np.int64)
        self.keys[:, 0] = group_equal_runs(columns.t_ms, columns.offsets)[0]

    def copy_times(self, which: I64Array, out: I64Array, positions: I64Array) -> None:
        """See `pieces.Pieces.copy_times`."""
        starts = self._columns.offsets[which]
        copy_plain(self._columns.t_ms, starts, self.sizes[which], positions, out)

    def times_in_place(self, which: I64Array) -> I64Array | None:
        """See `pieces.Pieces.times_in_place`."""
        return None

    def copy_values(self, which: I64Array, out: U64Array, positions: I64Array) -> None:
        """See `pieces.Pieces.copy_values`."""
        starts = self._columns.offsets[which]
        source = self._columns.bits.view(np.int64)
        copy_plain(source, starts, self.sizes[which], positions, out.view(np.int64))

    def histograms_of(self, refs: U32Array, t_ms: I64Array, bits: U64Array) -> Histograms:
        """See `pieces.Pieces.histograms_of`."""
        return self._view.histograms_of(bits)
