"""Batches on their way into the log: checked, then as records."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from tsengine.kernels.bits import STALE_BITS
from tsengine.model.batch import SampleBatch
from tsengine.model.histogram_bounds import with_own_bounds
from tsengine.model.histogram_checks import check_histograms
from tsengine.model.histograms import is_handle, rows_of, without_handles
from tsengine.storage import wal_records
from tsengine.storage.wal_histograms import encode_histograms, pieces_of


def checked_batch(batch: SampleBatch) -> SampleBatch:
    """A caller's batch as storage keeps it; the table is a copy.

    Floats lose bits of handles, histograms whose sum is the staleness marker become that marker,
    and of a float and a histogram with the same series and time only the later row stays.

    Raises
    ------
    ValueError
        The table of histograms is not in normal form, or a handle names none of its rows.

    """
    if batch.histograms is None:
        if is_handle(batch.bits).any():
            return replace(batch, bits=without_handles(batch.bits))
        return batch
    table = batch.histograms
    check_histograms(table)
    at = np.flatnonzero(is_handle(batch.bits))
    rows = rows_of(batch.bits[at])
    if len(rows) and int(rows.max()) >= len(table):
        raise ValueError(f"there is no histogram {int(rows.max())}, only {len(table)}")
    is_marker = table.sum[rows].view(np.uint64) == STALE_BITS
    bits = batch.bits.copy()
    bits[at[is_marker]] = STALE_BITS
    own = with_own_bounds(table.take(np.arange(len(table))))
    own = replace(own, bounds=own.bounds.copy(), bounds_offsets=own.bounds_offsets.copy())
    batch = replace(batch, bits=bits, histograms=own)
    return batch if len(at) == len(bits) else _without_replaced(batch)


def sample_records(batch: SampleBatch) -> list[tuple[int, bytes]]:
    """Records of a batch: floats, then histograms.

    So no histogram may stand before a float of the same series and time: replay would turn them.
    """
    if batch.histograms is None:
        return [(wal_records.FLOATS, wal_records.encode_floats(batch))] if len(batch) else []
    is_histogram = is_handle(batch.bits)
    floats = batch.take(np.flatnonzero(~is_histogram))
    histograms = batch.take(np.flatnonzero(is_histogram))
    records = sample_records(floats)
    if len(histograms):
        records += [(wal_records.HISTOGRAMS, encode_histograms(p)) for p in pieces_of(histograms)]
    return records


def _without_replaced(batch: SampleBatch) -> SampleBatch:
    """Of rows with equal series and time the last one."""
    order = np.lexsort((batch.t_ms, batch.refs))
    refs, t_ms = batch.refs[order], batch.t_ms[order]
    is_replaced = np.zeros(len(order), np.bool_)
    is_replaced[:-1] = (refs[1:] == refs[:-1]) & (t_ms[1:] == t_ms[:-1])
    if not is_replaced.any():
        return batch
    return batch.take(np.sort(order[~is_replaced]))
