"""Samples as chunks of Prometheus's TSDB: what remote read streams."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from tsengine.kernels.xorchunk import (
    CELL_SIZE_MAX,
    CHUNK_SIZE_MAX,
    HISTOGRAM_CHUNK_SIZE_MAX,
    HISTOGRAM_SAMPLE_SIZE_MAX,
    LAYOUT_SIZE_MAX,
    SAMPLE_SIZE_MAX,
    cut_histogram_chunks,
    encode_histogram_chunks,
    encode_xor_chunks,
)
from tsengine.model.histograms import Histograms, is_handle, rows_of
from tsengine.model.ragged import expand_ranges, offsets_of

CHUNK_SAMPLES: Final = 120
"""Samples of a chunk at most, as in Prometheus."""
XOR: Final = 1
FLOAT_HISTOGRAM: Final = 3
"""Encodings, numbered as in ``prometheus.Chunk``."""
_BUFFER_SIZE = 4 * 1024 * 1024

_I64 = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Chunks:
    """C chunks in the order of their samples.

    Chunk c holds the samples ``starts[c]:ends[c]``, its bytes are
    ``data[begins[c]:begins[c] + sizes[c]]``, its encoding is ``types[c]``. All ``i64[C]`` but
    ``data: u8[...]``.
    """

    starts: _I64
    ends: _I64
    types: _I64
    data: npt.NDArray[np.uint8]
    begins: _I64
    sizes: _I64


def make_chunks(
    t_ms: _I64,
    values: npt.NDArray[np.float64],
    row_offsets: _I64,
    histograms: Histograms | None,
) -> Chunks:
    """Chunks of S rows of samples, none of which reaches over the end of a row.

    Parameters
    ----------
    t_ms, values
        i64[N], f64[N] of all rows, ascending in each row; `values` may hold handles.
    row_offsets
        i64[S + 1].
    histograms
        The table of the handles; None if there are none.

    """
    bits = np.ascontiguousarray(values).view(np.uint64)
    if histograms is None:
        starts, ends = _cut(row_offsets[:-1], row_offsets[1:])
        return _float_chunks(t_ms, bits, starts, ends)
    held = is_handle(bits)
    is_first = np.zeros(len(bits) + 1, np.bool_)
    is_first[row_offsets] = True
    is_first[1:-1] |= held[1:] != held[:-1]
    bounds = np.flatnonzero(is_first[:-1])
    run_ends = np.append(bounds[1:], len(bits))[: len(bounds)]
    is_run = held[bounds]
    floats = _float_chunks(t_ms, bits, *_cut(bounds[~is_run], run_ends[~is_run]))
    rows = np.where(held, rows_of(bits), 0)
    others = _histogram_chunks(t_ms, rows, bounds[is_run], run_ends[is_run], histograms)
    return _merged(floats, others)


def _cut(starts: _I64, ends: _I64) -> tuple[_I64, _I64]:
    """Ranges of at most CHUNK_SAMPLES in the place of longer ones."""
    n_chunks = -(-(ends - starts) // CHUNK_SAMPLES)
    run = np.repeat(np.arange(len(starts)), n_chunks)
    place = expand_ranges(np.zeros(len(starts), np.int64), n_chunks)
    first = starts[run] + place * CHUNK_SAMPLES
    return first, np.minimum(first + CHUNK_SAMPLES, ends[run])


def _float_chunks(t_ms: _I64, bits: npt.NDArray[np.uint64], starts: _I64, ends: _I64) -> Chunks:
    n_samples = int((ends - starts).sum())
    out = np.zeros(CHUNK_SIZE_MAX * len(starts) + SAMPLE_SIZE_MAX * n_samples, np.uint8)
    bounds = np.empty(len(starts) + 1, np.int64)
    size = encode_xor_chunks(t_ms, bits, starts, ends, out, bounds)
    types = np.full(len(starts), XOR)
    return Chunks(starts, ends, types, out[:size], bounds[:-1], np.diff(bounds))


def _histogram_chunks(
    t_ms: _I64, rows: _I64, run_starts: _I64, run_ends: _I64, table: Histograms
) -> Chunks:
    n_samples = int((run_ends - run_starts).sum())
    starts, ends = np.empty(n_samples, np.int64), np.empty(n_samples, np.int64)
    flags = np.empty(n_samples, np.uint8)
    schema = table.schema.astype(np.int64)
    n = cut_histogram_chunks(
        run_starts, run_ends, rows, CHUNK_SAMPLES, schema, table.hint, table.count,
        table.zero_threshold, table.zero_count, table.offsets, table.keys, table.counts,
        table.bounds_id, table.bounds_offsets, table.bounds, starts, ends, flags,
    )  # fmt: skip
    starts, ends = starts[:n].copy(), ends[:n].copy()
    # Of the buckets of all samples of a chunk, as if no two had one in common.
    before = np.concatenate((np.zeros(1, np.int64), np.cumsum(np.diff(table.offsets)[rows])))
    n_buckets = before[ends] - before[starts]
    n_bounds = int(np.diff(table.bounds_offsets).max(initial=0))
    n_samples_of = ends - starts
    room = (
        HISTOGRAM_CHUNK_SIZE_MAX
        + (LAYOUT_SIZE_MAX + CELL_SIZE_MAX * n_samples_of) * n_buckets
        + HISTOGRAM_SAMPLE_SIZE_MAX * n_samples_of
        + CELL_SIZE_MAX * n_bounds
    )
    buffer_size = max(_BUFFER_SIZE, int(room.max(initial=0)))
    parts = [np.empty(0, np.uint8)]
    sizes = np.empty(n, np.int64)
    done = 0
    while done < n:
        out = np.zeros(buffer_size, np.uint8)
        bounds = np.empty(n - done + 1, np.int64)
        n_fit = encode_histogram_chunks(
            t_ms, rows, starts[done:], ends[done:], flags[done:], schema, table.count, table.sum,
            table.zero_threshold, table.zero_count, table.offsets, table.keys, table.counts,
            table.bounds_id, table.bounds_offsets, table.bounds, int(n_buckets.max()), out, bounds,
        )  # fmt: skip
        assert n_fit > 0, "the buffer holds the largest chunk"
        sizes[done : done + n_fit] = np.diff(bounds[: n_fit + 1])
        parts.append(out[: bounds[n_fit]].copy())
        done += n_fit
    types = np.full(n, FLOAT_HISTOGRAM)
    return Chunks(starts, ends, types, np.concatenate(parts), offsets_of(sizes)[:-1], sizes)


def _merged(a: Chunks, b: Chunks) -> Chunks:
    """Chunks of two kinds in the order of their samples."""
    order = np.argsort(np.concatenate((a.starts, b.starts)))
    return Chunks(
        np.concatenate((a.starts, b.starts))[order],
        np.concatenate((a.ends, b.ends))[order],
        np.concatenate((a.types, b.types))[order],
        np.concatenate((a.data, b.data)),
        np.concatenate((a.begins, b.begins + len(a.data)))[order],
        np.concatenate((a.sizes, b.sizes))[order],
    )
