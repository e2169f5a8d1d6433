"""Series refs and the rows of the catalog's arrays.

Rows are dense; refs are given out once and never again. Until series are dropped both are the same
numbers. After that the rows of refs that are left keep their order, and behind them both go on
without holes. So rows and refs ascend together, and what works on rows knows nothing of refs.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

NONE = 0xFFFFFFFF
"""Stands for a ref or a row that does not exist."""

U32Array = npt.NDArray[np.uint32]
I64Array = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class RefMap:
    """Row r has ref ``sparse[r]``, from row K on ref ``dense_from + r - K``. Immutable.

    ``sparse: u32[K]`` ascends, and its refs lie below ``dense_from``.
    """

    sparse: U32Array
    dense_from: int

    @property
    def is_identity(self) -> bool:
        """Whether every row has its own number as ref."""
        return len(self.sparse) == self.dense_from

    def next_ref(self, n_rows: int) -> int:
        """The ref that follows those of ``n_rows`` rows."""
        return self.dense_from + n_rows - len(self.sparse)

    def refs_of(self, rows: npt.NDArray[np.integer]) -> U32Array:
        """Refs of rows, NONE for NONE: u32[N]; the argument itself where both are the same."""
        if self.is_identity:
            return rows.astype(np.uint32, copy=False)
        n_sparse = len(self.sparse)
        refs = (rows.astype(np.int64) + (self.dense_from - n_sparse)).astype(np.uint32)
        is_sparse = rows < n_sparse
        refs[is_sparse] = self.sparse[rows[is_sparse]]
        refs[rows == NONE] = NONE
        return refs

    def rows_of(self, refs: npt.NDArray[np.integer], n_rows: int) -> I64Array:
        """Rows of refs, -1 where there is none below ``n_rows``: i64[N]."""
        rows: I64Array = refs.astype(np.int64)
        if not self.is_identity:
            is_sparse = rows < self.dense_from
            wanted = rows[is_sparse]
            rows -= self.dense_from - len(self.sparse)
            places = np.searchsorted(self.sparse, wanted.astype(np.uint32))
            found = np.append(self.sparse, np.uint32(NONE))[places] == wanted
            rows[is_sparse] = np.where(found, places, -1)
        rows[rows >= n_rows] = -1
        return rows

    def has(self, refs: npt.NDArray[np.integer], n_rows: int) -> npt.NDArray[np.bool_]:
        """Which of the refs a row below ``n_rows`` has: bool[N]."""
        if self.is_identity:
            return refs < n_rows
        return self.rows_of(refs, n_rows) >= 0

    def extended(self, n_rows: int, new_refs: npt.NDArray[np.integer], next_ref: int) -> RefMap:
        """The map when rows behind ``n_rows`` get these refs (ascending), and ``next_ref`` follows.

        All lie at or above ``self.next_ref(n_rows)``.
        """
        first = self.next_ref(n_rows)
        if next_ref - first == len(new_refs):
            return self
        known = self.refs_of(np.arange(n_rows, dtype=np.uint32))
        return RefMap(np.concatenate((known, new_refs.astype(np.uint32))), next_ref)


NO_HOLES = RefMap(np.empty(0, np.uint32), 0)
"""The map of a catalog that has dropped nothing."""
