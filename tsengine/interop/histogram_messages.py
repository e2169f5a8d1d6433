"""Native histograms as fields of remote-read messages."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from tsengine.kernels.histogramwire import (
    BOUND_SIZE_MAX,
    BUCKET_SIZE_MAX,
    MESSAGE_SIZE_MAX,
    write_histograms,
)
from tsengine.model.histograms import Histograms


def histogram_fields(
    table: Histograms, rows: npt.NDArray[np.int64], t_ms: npt.NDArray[np.int64]
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    """``histograms`` fields of N samples behind each other, and where each ends: i64[N].

    Sample i is row ``rows[i]`` of the table at ``t_ms[i]``.
    """
    n_buckets = int((table.offsets[rows + 1] - table.offsets[rows]).sum())
    which = table.bounds_id[rows].astype(np.int64)
    which = which[which >= 0]
    n_bounds = int((table.bounds_offsets[which + 1] - table.bounds_offsets[which]).sum())
    size_max = (
        MESSAGE_SIZE_MAX * len(rows) + BUCKET_SIZE_MAX * n_buckets + BOUND_SIZE_MAX * n_bounds
    )
    out = np.empty(size_max, np.uint8)
    ends = np.empty(len(rows), np.int64)
    size = write_histograms(
        np.ascontiguousarray(t_ms, np.int64),
        np.ascontiguousarray(rows, np.int64),
        table.schema.astype(np.int64),
        table.hint,
        table.count,
        table.sum,
        table.zero_threshold,
        table.zero_count,
        table.offsets,
        table.keys,
        table.counts,
        table.bounds_id,
        table.bounds_offsets,
        table.bounds,
        out,
        ends,
    )
    return out[:size], ends
