"""Where a query keeps the native histograms that its matrices hold handles of.

One arena for a whole query: a handle means the same in all its matrices, so operators that only
move samples need not care. What is in it stays until the query ends, on the query's account.
"""

from __future__ import annotations

import threading
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from tsengine.model.histograms import Histograms, concatenate, handles, is_handle, rows_of


class HistogramArena:
    """A growing table of histograms; any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._tables: list[Histograms] = []  # without bounds
        self._n = 0
        self._bounds = _Bounds()

    def __len__(self) -> int:
        """Number of histograms; 0 means that no matrix of the query holds one."""
        return self._n

    def add(self, table: Histograms) -> npt.NDArray[np.float64]:
        """Take over histograms; returns their handles as floats: f64[len(table)]."""
        with self._lock:
            first = self._n
            if len(table):
                self._tables.append(self._bounds.shared_by(table))
                self._n += len(table)
        return handles(first + np.arange(len(table))).view(np.float64)

    def table(self) -> Histograms:
        """All histograms so far; row i is that of handle i."""
        with self._lock:
            if len(self._tables) != 1:
                self._tables = [concatenate(self._tables)]
            return self._bounds.given_to(self._tables[0])

    def which(self, values: npt.NDArray[np.float64]) -> npt.NDArray[np.bool_]:
        """Cells that hold a handle (whether they are valid or not): bool of the same shape."""
        if self._n == 0:
            return np.zeros(values.shape, np.bool_)
        return is_handle(values.view(np.uint64))

    def take(self, values: npt.NDArray[np.float64]) -> Histograms:
        """The histograms that handles (f64[n]) stand for, in their order."""
        return self.table().take(rows_of(values.view(np.uint64)))

    def extract(
        self, values: npt.NDArray[np.float64], valid: npt.NDArray[np.bool_] | None
    ) -> tuple[npt.NDArray[np.float64], Histograms | None]:
        """Make an answer's values stand alone.

        Parameters
        ----------
        values, valid
            f64 and bool of the same shape; all cells count if `valid` is None.

        Returns
        -------
        tuple
            The values with handles of a table that holds just their histograms, and that table.
            The values themselves and None if none is a handle.

        """
        if self._n == 0:
            return values, None
        held = self.which(values)
        if valid is not None:
            held &= valid
        if not held.any():
            return values, None
        rows, local = np.unique(rows_of(values[held].view(np.uint64)), return_inverse=True)
        values = values.copy()
        values[held] = handles(local).view(np.float64)
        return values, self.table().take(rows)


class _Bounds:
    """Custom bounds of all histograms of an arena, every set of bounds once.

    What operators make of histograms shares their table of bounds, or has it with new ones behind;
    without this it would be doubled by each operator.
    """

    def __init__(self) -> None:
        self._numbers: dict[bytes, int] = {}
        self._flat = np.empty(0)
        self._offsets = np.zeros(1, np.int64)

    def shared_by(self, table: Histograms) -> Histograms:
        """A table whose ``bounds_id`` are numbers here, without bounds itself."""
        bounds_id = table.bounds_id
        if table.bounds_offsets is not self._offsets:
            used = np.unique(bounds_id[bounds_id >= 0])
            if len(used):
                numbers = np.empty(int(used[-1]) + 1, np.int32)
                numbers[used] = self._numbers_of(table, used)
                bounds_id = np.where(bounds_id >= 0, numbers[bounds_id], -1).astype(np.int32)
        return replace(
            table, bounds_id=bounds_id, bounds_offsets=np.zeros(1, np.int64), bounds=np.empty(0)
        )

    def given_to(self, table: Histograms) -> Histograms:
        """A table that `shared_by` has made, with all bounds."""
        return replace(table, bounds_offsets=self._offsets, bounds=self._flat)

    def _numbers_of(self, table: Histograms, used: npt.NDArray[np.int32]) -> list[int]:
        numbers, added = [], []
        for start, end in zip(
            table.bounds_offsets[used].tolist(),
            table.bounds_offsets[used + 1].tolist(),
            strict=True,
        ):
            bounds = table.bounds[start:end]
            key = bounds.tobytes()
            if key not in self._numbers:
                self._numbers[key] = len(self._numbers)
                added.append(bounds)
            numbers.append(self._numbers[key])
        if added:
            sizes = np.array([len(bounds) for bounds in added])
            self._offsets = np.concatenate((self._offsets, self._offsets[-1] + np.cumsum(sizes)))
            self._flat = np.concatenate([self._flat, *added])
        return numbers
