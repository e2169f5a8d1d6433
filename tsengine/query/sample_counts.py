"""Samples that a query looked at, step by step, as Prometheus counts them for ``stats=all``.

Two counts: `total` has every sample of every window, as if each step were a query of its own;
`read` has a sample once where consecutive windows share it. Only kept for queries that ask, since
counting costs about as much as a simple rollup. A native histogram counts as one sample.
"""

from __future__ import annotations

import threading

import numpy as np
import numpy.typing as npt

from tsengine.model.frame import FrameBatch
from tsengine.model.windows import WindowBatch

_I64 = npt.NDArray[np.int64]
_BOOL = npt.NDArray[np.bool_]


class SampleCounts:
    """Counts at the steps of one context. Thread-safe.

    Parameters
    ----------
    steps_ms
        i64[T], ascending.

    """

    def __init__(self, steps_ms: _I64) -> None:
        self.steps_ms = steps_ms
        self.total = np.zeros(len(steps_ms), np.int64)
        self.read = np.zeros(len(steps_ms), np.int64)
        self._lock = threading.Lock()

    def at_steps(self, steps: slice) -> SampleCounts:
        """The counts of some of the steps: what is added there is added here."""
        part = SampleCounts(self.steps_ms[steps])
        part.total, part.read = self.total[steps], self.read[steps]
        part._lock = self._lock
        return part

    def add(self, total: _I64, read: _I64) -> None:
        """Add to all steps: i64[T] each."""
        with self._lock:
            self.total += total
            self.read += read

    def add_cells(self, valid: _BOOL) -> None:
        """An instant selector's results: one sample for each present cell of bool[S, T]."""
        counts = np.count_nonzero(valid, axis=0)
        self.add(counts, counts)

    def add_windows(
        self,
        batch: FrameBatch | WindowBatch,
        lefts_ms: _I64,
        ends_ms: _I64,
        *,
        is_stored: bool = True,
    ) -> None:
        """A range selector's samples in the windows (left, end] of all steps.

        Parameters
        ----------
        batch
            What was read; a window of a tier counts as a sample at its end.
        lefts_ms, ends_ms
            i64[T] each, ascending.
        is_stored
            Whether the samples were read from storage; those of a subquery were not.

        """
        sizes = np.diff(batch.axis_offsets)
        n_rows = np.bincount(batch.row_axis, minlength=len(sizes))
        weights = np.repeat(n_rows, sizes)
        t_ms = batch.t_ms if isinstance(batch, FrameBatch) else batch.end_ms
        total = _in_windows(t_ms, weights, lefts_ms, ends_ms)
        read = np.zeros_like(total)
        if is_stored:
            new_ms = lefts_ms.copy()
            np.maximum(lefts_ms[1:], ends_ms[:-1], out=new_ms[1:])
            read = _in_windows(t_ms, weights, new_ms, ends_ms)
        self.add(total, read)

    def add_at(self, step: int, n_total: int, n_read: int) -> None:
        """Add to one step."""
        with self._lock:
            self.total[step] += n_total
            self.read[step] += n_read

    def add_repeated(self, once: SampleCounts) -> None:
        """A part that was computed once for all steps."""
        read = np.zeros_like(self.read)
        read[0] = once.read.sum()
        self.add(np.full_like(self.total, once.total.sum()), read)

    def add_subquery(self, inner: SampleCounts, offset_ms: int, range_ms: int) -> None:
        """What a subquery read, at the first step whose window needs it; gaps are left out.

        A range of 0 takes all steps of the subquery.
        """
        if len(self.steps_ms) == 1:
            self.add_at(0, 0, int(inner.read.sum()))
            return
        times = inner.steps_ms + offset_ms
        step = np.minimum(np.searchsorted(self.steps_ms, times), len(self.steps_ms) - 1)
        counts = inner.read
        if range_ms:
            counts = np.where(times > self.steps_ms[step] - range_ms, counts, 0)
        read = np.zeros_like(self.read)
        np.add.at(read, step, counts)
        self.add(np.zeros_like(read), read)

    def since(self, total: _I64, read: _I64) -> tuple[_I64, _I64]:
        """What was added since the counts were these."""
        with self._lock:
            return self.total - total, self.read - read

    def copy(self) -> tuple[_I64, _I64]:
        """`total` and `read` as they are now."""
        with self._lock:
            return self.total.copy(), self.read.copy()


def _in_windows(t_ms: _I64, weights: _I64, lefts_ms: _I64, ends_ms: _I64) -> _I64:
    """Weights of the samples in each window: a sample is in a run of consecutive ones."""
    first = np.searchsorted(ends_ms, t_ms)
    behind = np.searchsorted(lefts_ms, t_ms)
    inside = behind > first
    n_steps = len(ends_ms)
    changes = np.bincount(first[inside], weights[inside], n_steps + 1)
    changes -= np.bincount(behind[inside], weights[inside], n_steps + 1)
    return np.cumsum(changes)[:n_steps].round().astype(np.int64)
