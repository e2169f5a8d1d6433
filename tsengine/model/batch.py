"""Samples on their way in, as columns."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tsengine.model.histograms import Histograms, handles, is_handle, rows_of


@dataclass(frozen=True, slots=True)
class SampleBatch:
    """Samples of any series in any order; later rows win over earlier ones of equal time.

    ``refs: u32[N]``, ``t_ms: i64[N]``, ``bits: u64[N]`` (the float64's bits). ``histograms`` is the
    table of the handles in ``bits``, None if there are none. ``start_ms: i64[N]`` are the samples'
    start timestamps (0 where unknown), None if none is known.
    """

    refs: npt.NDArray[np.uint32]
    t_ms: npt.NDArray[np.int64]
    bits: npt.NDArray[np.uint64]
    histograms: Histograms | None = None
    start_ms: npt.NDArray[np.int64] | None = None

    def __len__(self) -> int:
        return len(self.refs)

    def take(self, rows: npt.NDArray[np.integer] | slice) -> SampleBatch:
        """Rows in the order given with only their own histograms, numbered anew.

        Columns are copies, or views for a slice.
        """
        bits, histograms = taken_histograms(self.bits[rows], self.histograms)
        return SampleBatch(
            self.refs[rows],
            self.t_ms[rows],
            bits,
            histograms,
            None if self.start_ms is None else self.start_ms[rows],
        )


def taken_histograms(
    bits: npt.NDArray[np.uint64], table: Histograms | None
) -> tuple[npt.NDArray[np.uint64], Histograms | None]:
    """Bits whose handles are numbered from 0 in their order, and the table of these histograms.

    The table is None if there is no handle. ``bits`` of which something changes are a copy.
    """
    if table is None:
        return bits, None
    at = np.flatnonzero(is_handle(bits))
    if not len(at):
        return bits, None
    taken = table.take(rows_of(bits[at]))
    bits = bits.copy()
    bits[at] = handles(np.arange(len(at)))
    return bits, taken


@dataclass(frozen=True, slots=True)
class SeriesColumns:
    """Samples grouped by series: strictly ascending refs, strictly ascending times inside each.

    ``refs: u32[S]``, ``offsets: i64[S + 1]``, ``t_ms: i64[N]``, ``bits: u64[N]``; row s owns
    samples ``offsets[s]:offsets[s + 1]``. ``histograms`` is the table of the handles in ``bits``,
    None if there are none. ``start_ms: i64[N]`` are the samples' start timestamps (0 where
    unknown), None if none is known or they were not asked for.
    """

    refs: npt.NDArray[np.uint32]
    offsets: npt.NDArray[np.int64]
    t_ms: npt.NDArray[np.int64]
    bits: npt.NDArray[np.uint64]
    histograms: Histograms | None = None
    start_ms: npt.NDArray[np.int64] | None = None

    def __len__(self) -> int:
        return len(self.refs)
