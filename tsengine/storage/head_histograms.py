"""The histograms of a head: tables of its batches, numbered through.

Immutable; any thread. Appending makes a new value that shares the old tables. Small tables are
joined as in a binary counter, so that there are few of them and each histogram is copied rarely.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tsengine.model.histogram_bounds import with_own_bounds
from tsengine.model.histograms import Histograms, concatenate, no_histograms
from tsengine.model.ragged import I64Array, offsets_of

_TABLE_ROWS_MAX = 16 * 1024


@dataclass(frozen=True, slots=True)
class HeadHistograms:
    """Histogram i of the head is in the last table whose first row is not above i.

    ``first_rows`` has one number more than there are tables: that of all histograms.
    """

    tables: tuple[Histograms, ...] = ()
    first_rows: tuple[int, ...] = (0,)

    def __len__(self) -> int:
        return self.first_rows[-1]

    @property
    def n_bytes(self) -> int:
        """Memory of the tables."""
        return sum(table.n_bytes for table in self.tables)

    def with_table(self, table: Histograms) -> HeadHistograms:
        """These and those of a table behind them; the table is the receiver's."""
        tables = [*self.tables, table]
        while len(tables) > 1 and len(tables[-2]) <= len(tables[-1]) < _TABLE_ROWS_MAX:
            right = tables.pop()
            tables[-1] = with_own_bounds(concatenate([tables[-1], right]))
        first_rows = offsets_of(np.array([len(t) for t in tables], np.int64))
        return HeadHistograms(tuple(tables), tuple(first_rows.tolist()))

    def take(self, rows: I64Array) -> Histograms:
        """Histograms in the order of ``rows`` (i64[R], each below the length)."""
        if not len(rows):
            return no_histograms()
        at = np.searchsorted(np.array(self.first_rows), rows, side="right") - 1
        order = np.argsort(at, kind="stable")
        used, starts = np.unique(at[order], return_index=True)
        ends = np.append(starts[1:], len(rows)).tolist()
        found = concatenate(
            [
                self.tables[number].take(rows[order[start:end]] - self.first_rows[number])
                for number, start, end in zip(used.tolist(), starts.tolist(), ends, strict=True)
            ]
        )
        if len(used) == 1 or (order[1:] > order[:-1]).all():
            return found
        back = np.empty(len(order), np.int64)
        back[order] = np.arange(len(order))
        return found.take(back)
