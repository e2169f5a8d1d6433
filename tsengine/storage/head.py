"""The head: recent samples in append-only columns, not yet in a part.

Rows go to an open run of 256 Ki rows; a full run is sorted once by (series, time) and never
touched again. Memory follows the samples, not the series: nothing is kept per series. Histograms
are in tables of their own; the rows carry handles that are numbered through all tables of the head.
Runs have a column of start timestamps only if a sample of theirs came with one.

Threads: `append` and `freeze` belong to one writer (the log's); `view` and the counters may
be used by any thread. Publication is one attribute swap after the rows were written; a view sees
only rows that were there when it was taken, and its arrays are never written again.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from tsengine.model.batch import SampleBatch
from tsengine.model.histograms import handles, is_handle, rows_of
from tsengine.storage.head_histograms import HeadHistograms
from tsengine.storage.head_read import DAY_MS, HeadView, RefCache, Run, sort_run
from tsengine.storage.run_memory import RUN_ROWS_MAX, RunMemory

__all__ = ["RUN_ROWS_MAX", "Head", "HeadView"]

_ROW_SIZE_BYTES = 4 + 8 + 8
_NO_REFS = np.zeros(0, np.uint32)
_I64_MIN, _I64_MAX = -(2**63), 2**63 - 1


@dataclass(frozen=True, slots=True)
class _Published:
    """What readers may see."""

    sealed: tuple[Run, ...]
    histograms: HeadHistograms
    n_open: int
    n_samples: int
    mint: int
    maxt: int
    seq_min: int
    seq_max: int
    days: frozenset[int]


class Head:
    """Samples since the last freeze.

    ``n_samples`` counts rows as appended; rows that a later one of equal series and time replaced
    are not counted once their run was sorted. ``mint > maxt`` while it is empty.
    """

    def __init__(self, memory: RunMemory | None = None) -> None:
        self._memory = RunMemory() if memory is None else memory
        self._cache = RefCache()
        self._frozen = False
        empty = _Published((), HeadHistograms(), 0, 0, _I64_MAX, _I64_MIN, 0, 0, frozenset())
        self._publish(empty, _OpenRun(self._memory))

    def append(self, batch: SampleBatch, seq: int) -> None:
        """Add a batch's rows; they are visible to views taken afterwards.

        ``seq`` is the log sequence of the batch, never smaller than that of the batch before.
        """
        assert not self._frozen, "a frozen head takes no more samples"
        n = len(batch)
        if n == 0:
            return
        state = self._state
        histograms = state.histograms
        if batch.histograms is not None:
            table = batch.histograms
            batch = _renumbered(batch, len(histograms))
            histograms = histograms.with_table(table)
        mint, maxt = int(batch.t_ms.min()), int(batch.t_ms.max())
        sealed, n_open, open_run = state.sealed, state.n_open, self._open
        n_samples = state.n_samples + n
        done = 0
        while done < n:
            size = min(RUN_ROWS_MAX - n_open, n - done)
            open_run.put(batch, done, n_open, size)
            done += size
            n_open += size
            if n_open == RUN_ROWS_MAX:
                run = open_run.sort(n_open, has_histograms=len(histograms) > 0)
                n_samples -= n_open - len(run.t_ms)
                sealed = (*sealed, run)
                # A view may still hold the old columns: they stay as they are.
                open_run = _OpenRun(self._memory)
                n_open = 0
        self._publish(
            _Published(
                sealed,
                histograms,
                n_open,
                n_samples,
                min(state.mint, mint),
                max(state.maxt, maxt),
                state.seq_min if state.n_samples else seq,
                seq,
                state.days | _days_of(batch.t_ms, mint, maxt),
            ),
            open_run,
        )

    def freeze(self) -> None:
        """Take no more samples, and sort the open run so that reading it is cheap."""
        state = self._state
        self._memory.expect(len(state.sealed) + 1)
        if state.n_open == 0:
            self._frozen = True
            return
        run = self._open.sort(state.n_open, has_histograms=len(state.histograms) > 0)
        n_samples = state.n_samples - (state.n_open - len(run.t_ms))
        self._publish(
            _Published(
                (*state.sealed, run),
                state.histograms,
                0,
                n_samples,
                state.mint,
                state.maxt,
                state.seq_min,
                state.seq_max,
                state.days,
            ),
            _OpenRun(None),
        )
        # Only now: if memory was short, the head goes on taking samples.
        self._frozen = True

    def successor(self) -> Head:
        """An empty head that uses this one's memory again when it is free."""
        return Head(self._memory)

    def view(self) -> HeadView:
        """An immutable snapshot of everything appended so far."""
        return self._view

    @property
    def n_samples(self) -> int:
        """Rows held."""
        return self._state.n_samples

    @property
    def load_samples(self) -> int:
        """Rows held, and histograms as so many rows as would take their memory."""
        state = self._state
        return state.n_samples + state.histograms.n_bytes // _ROW_SIZE_BYTES

    @property
    def n_series(self) -> int:
        """Different series seen; costs a look at all runs, for metrics and limits."""
        return len(self.view().refs())

    @property
    def mint(self) -> int:
        """Earliest time, ms."""
        return self._state.mint

    @property
    def maxt(self) -> int:
        """Latest time, ms."""
        return self._state.maxt

    @property
    def seq_min(self) -> int:
        """Sequence of the first batch; 0 while empty."""
        return self._state.seq_min

    @property
    def seq_max(self) -> int:
        """Sequence of the last batch; 0 while empty."""
        return self._state.seq_max

    @property
    def n_bytes(self) -> int:
        """Memory held by columns and tables of histograms, and free for more of them."""
        state = self._state
        sealed = sum(run.n_bytes for run in state.sealed)
        free = 0 if self._frozen else self._memory.n_free_bytes
        return self._open.n_bytes + sealed + state.histograms.n_bytes + free

    def _publish(self, state: _Published, open_run: _OpenRun) -> None:
        """Replace all at once: whoever fails before this has changed nothing."""
        n = state.n_open
        start_ms = open_run.start_ms
        view = HeadView(
            state.sealed,
            open_run.refs[:n],
            open_run.t_ms[:n],
            open_run.bits[:n],
            None if start_ms is None else start_ms[:n],
            mint=state.mint,
            maxt=state.maxt,
            n_samples=state.n_samples,
            seq_max=state.seq_max,
            days=state.days,
            histograms=state.histograms,
            cache=self._cache,
        )
        self._open = open_run
        self._view = view
        self._state = state


class _OpenRun:
    """Columns that still take rows."""

    __slots__ = ("_memory", "bits", "refs", "start_ms", "t_ms")

    def __init__(self, memory: RunMemory | None) -> None:
        """Columns in one piece of memory, for which NumPy asks for huge pages; None for no rows."""
        n = 0 if memory is None else RUN_ROWS_MAX
        block = np.empty(0, np.uint8) if memory is None else memory.take(_ROW_SIZE_BYTES * n)
        self._memory = memory
        self.bits: npt.NDArray[np.uint64] = block[: 8 * n].view(np.uint64)
        self.t_ms: npt.NDArray[np.int64] = block[8 * n : 16 * n].view(np.int64)
        self.refs: npt.NDArray[np.uint32] = block[16 * n :].view(np.uint32)
        self.start_ms: npt.NDArray[np.int64] | None = None

    @property
    def n_bytes(self) -> int:
        """Memory of the columns."""
        columns = self.refs.nbytes + self.t_ms.nbytes + self.bits.nbytes
        return columns + (0 if self.start_ms is None else self.start_ms.nbytes)

    def put(self, batch: SampleBatch, start: int, at: int, size: int) -> None:
        """Copy rows start:start + size of the batch to position ``at``."""
        self.refs[at : at + size] = batch.refs[start : start + size]
        self.t_ms[at : at + size] = batch.t_ms[start : start + size]
        self.bits[at : at + size] = batch.bits[start : start + size]
        if batch.start_ms is not None:
            if self.start_ms is None:
                self.start_ms = np.zeros(RUN_ROWS_MAX, np.int64)
            self.start_ms[at : at + size] = batch.start_ms[start : start + size]
        elif self.start_ms is not None:
            # A batch that failed may have left its own here.
            self.start_ms[at : at + size] = 0

    def sort(self, n: int, *, has_histograms: bool) -> Run:
        """The first ``n`` rows as a sorted run of its own arrays."""
        start_ms = None if self.start_ms is None else self.start_ms[:n]
        columns = (self.refs[:n], self.t_ms[:n], self.bits[:n])
        run = sort_run(*columns, start_ms, memory=self._memory)
        if has_histograms:
            return run.with_histogram_refs()
        return replace(run, histogram_refs=_NO_REFS)


def _days_of(t_ms: npt.NDArray[np.int64], mint: int, maxt: int) -> frozenset[int]:
    """UTC days of some times between two, left-open and right-closed; at least one time."""
    first, last = _day_of(mint), _day_of(maxt)
    if last - first <= 1:
        return frozenset((first, last))
    days = (np.maximum(t_ms, _I64_MIN + 1) - 1) // DAY_MS
    return frozenset(days[np.flatnonzero(np.diff(days, prepend=days[0] - 1))].tolist())


def _day_of(t_ms: int) -> int:
    return (max(t_ms, _I64_MIN + 1) - 1) // DAY_MS


def _renumbered(batch: SampleBatch, first_row: int) -> SampleBatch:
    """The batch with its handles counted from ``first_row``."""
    at = np.flatnonzero(is_handle(batch.bits))
    bits = batch.bits.copy()
    bits[at] = handles(rows_of(bits[at]) + first_row)
    return replace(batch, bits=bits)
