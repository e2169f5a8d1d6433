"""Custom bounds of a table: only those in use, each once."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt

from tsengine.model.histograms import Histograms
from tsengine.model.ragged import offsets_of


def with_own_bounds(table: Histograms) -> Histograms:
    """The same histograms with only the rows of bounds that they use, equal ones kept once."""
    used = np.unique(table.bounds_id[table.bounds_id >= 0])
    cuts = table.bounds_offsets.tolist()
    if len(used) == len(cuts) - 1 <= 1:
        return table
    numbers: dict[bytes, int] = {}
    renumbered = np.full(len(cuts), -1, np.int32)
    kept: list[npt.NDArray[np.float64]] = []
    for row in used.tolist():
        bounds = table.bounds[cuts[row] : cuts[row + 1]]
        renumbered[row] = number = numbers.setdefault(bounds.tobytes(), len(numbers))
        if number == len(kept):
            kept.append(bounds)
    # A row of -1 reads the last cell, which is -1.
    return replace(
        table,
        bounds_id=renumbered[table.bounds_id],
        bounds_offsets=offsets_of(np.array([len(bounds) for bounds in kept], np.int64)),
        bounds=np.concatenate([np.empty(0), *kept]),
    )
