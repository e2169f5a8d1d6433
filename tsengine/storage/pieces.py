"""What a source (part or head) offers to a read: pieces of series inside a time range.

A piece is a run of samples of one series with strictly ascending times. Sources list their pieces
by columns; times and values are written straight to where the reader wants them.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
import numpy.typing as npt

from tsengine.kernels.axes import group_runs
from tsengine.kernels.merge import settle_rows
from tsengine.model.histograms import Histograms
from tsengine.model.ragged import I64Array, expand_ranges, offsets_of

U64Array = npt.NDArray[np.uint64]
U32Array = npt.NDArray[np.uint32]

__all__ = [
    "I64Array", "Pieces", "U32Array", "U64Array", "expand_ranges", "group_equal_runs", "offsets_of",
    "settle",
]  # fmt: skip


class Pieces(Protocol):
    """Pieces of one source, ordered by (row, time). All columns have length P.

    ``rows: i64`` index of the series in the request; ``sizes: i64`` samples, at least 1;
    ``first_t, last_t: i64`` ms; ``may_be_stale: bool`` whether a staleness marker may be inside;
    ``keys: i64[P, 3]`` are equal only for pieces with identical times (within one source).
    """

    rows: I64Array
    sizes: I64Array
    first_t: I64Array
    last_t: I64Array
    may_be_stale: npt.NDArray[np.bool_]
    keys: I64Array

    def copy_times(self, which: I64Array, out: I64Array, positions: I64Array) -> None:
        """Write the times of pieces ``which`` to ``out`` at ``positions``."""
        ...

    def times_in_place(self, which: I64Array) -> I64Array | None:
        """A view of the times of pieces ``which`` if they happen to lie one after the other."""
        ...

    def copy_values(self, which: I64Array, out: U64Array, positions: I64Array) -> None:
        """Write the value bits of pieces ``which`` to ``out`` at ``positions``.

        Rows that handles number are below 2^32.
        """
        ...

    def histograms_of(self, refs: U32Array, t_ms: I64Array, bits: U64Array) -> Histograms:
        """The histograms of some samples, in their order.

        ``refs: u32[R]`` and ``t_ms: i64[R]`` ascend by (ref, time); ``bits: u64[R]`` are the
        handles that `copy_values` gave. R is at least 1.
        """
        ...


def group_equal_runs(data: I64Array, offsets: I64Array) -> tuple[I64Array, I64Array]:
    """Number equal runs alike: ``(groups: i64[R], heads: i64[G])``, heads = first run of each."""
    n_runs = len(offsets) - 1
    table = np.full(1 << max(1, (2 * n_runs - 1).bit_length()), -1, np.int64)
    hashes = np.empty(n_runs, np.uint64)
    heads = np.empty(n_runs, np.int64)
    groups = np.empty(n_runs, np.int64)
    n_groups = group_runs(data, offsets, table, hashes, heads, groups)
    return groups, heads[:n_groups]


def settle(
    offsets: I64Array, t_ms: I64Array, bits: U64Array, *, drop_stale: bool
) -> tuple[I64Array, I64Array, U64Array]:
    """Make rows strictly ascending in place, the later sample winning; see `settle_rows`.

    Returns the new offsets and the used fronts of ``t_ms`` and ``bits`` (views).
    """
    longest = int(np.diff(offsets).max(initial=0))
    settled = np.empty(len(offsets), np.int64)
    n_samples = settle_rows(
        offsets,
        t_ms,
        bits,
        int(drop_stale),
        np.empty(longest, np.int64),
        np.empty(longest, np.uint64),
        settled,
    )
    return settled, t_ms[:n_samples], bits[:n_samples]
