"""Where a query keeps the native histograms that its matrices hold handles of.

One arena for a whole query: a handle means the same in all its matrices, so operators that only
move samples need not care. What is in it stays until the query ends, on the query's account.
"""

from __future__ import annotations

import threading

import numpy as np
import numpy.typing as npt

from tsengine.model.histograms import Histograms, concatenate, handles, is_handle, rows_of


class HistogramArena:
    """A growing table of histograms; any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._tables: list[Histograms] = []
        self._n = 0

    def __len__(self) -> int:
        """Number of histograms; 0 means that no matrix of the query holds one."""
        return self._n

    def add(self, table: Histograms) -> npt.NDArray[np.float64]:
        """Take over histograms; returns their handles as floats: f64[len(table)]."""
        with self._lock:
            first = self._n
            if len(table):
                self._tables.append(table)
                self._n += len(table)
        return handles(first + np.arange(len(table))).view(np.float64)

    def table(self) -> Histograms:
        """All histograms so far; row i is that of handle i."""
        with self._lock:
            if len(self._tables) != 1:
                self._tables = [concatenate(self._tables)]
            return self._tables[0]

    def which(self, values: npt.NDArray[np.float64]) -> npt.NDArray[np.bool_]:
        """Cells that hold a handle (whether they are valid or not): bool of the same shape."""
        if self._n == 0:
            return np.zeros(values.shape, np.bool_)
        return is_handle(values.view(np.uint64))

    def take(self, values: npt.NDArray[np.float64]) -> Histograms:
        """The histograms that handles (f64[n]) stand for, in their order."""
        return self.table().take(rows_of(values.view(np.uint64)))
