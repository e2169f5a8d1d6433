"""Ragged columns: rows of different lengths, one after the other, with offsets."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

I64Array = npt.NDArray[np.int64]


def offsets_of(sizes: npt.NDArray[np.integer]) -> I64Array:
    """Running sum of sizes from 0: ``i64[len(sizes) + 1]``."""
    offsets = np.zeros(len(sizes) + 1, np.int64)
    sizes.cumsum(out=offsets[1:])
    return offsets


def expand_ranges(starts: I64Array, counts: I64Array) -> I64Array:
    """``starts[0], starts[0] + 1, ...`` for ``counts[0]`` items, then the next range."""
    offsets = offsets_of(counts)
    return (starts - offsets[:-1]).repeat(counts) + np.arange(offsets[-1])
