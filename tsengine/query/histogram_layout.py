"""Buckets of native histograms as others write them: bounds, spans, what they cost."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tsengine.kernels import histogram_values
from tsengine.kernels.histogram_buckets import columns_of
from tsengine.model.histograms import CUSTOM_SCHEMA, KEY_BIAS, Histograms
from tsengine.model.ragged import offsets_of

I64Array = npt.NDArray[np.int64]
F64Array = npt.NDArray[np.float64]

OPEN_LEFT, OPEN_RIGHT, OPEN_BOTH, CLOSED_BOTH = 0, 1, 2, 3
"""Which bounds belong to a bucket, numbered as in Prometheus's JSON."""

_STRUCT_SIZE = 168
_SAMPLE_SIZE = 16


@dataclass(frozen=True, slots=True)
class BucketSpans:
    """Buckets of N histograms in Prometheus's form, one column set for each sign.

    The spans of row i are ``offset, length`` at ``span_offsets[i]:span_offsets[i + 1]``: the first
    offset is the index of a bucket, the others are gaps after the previous span. Their buckets are
    ``counts[count_offsets[i]:count_offsets[i + 1]]``, index ascending (away from zero).
    Shapes: ``span_offsets, count_offsets: i64[N + 1]``, ``offset: i32``, ``length: u32``.
    """

    span_offsets: I64Array
    offset: npt.NDArray[np.int32]
    length: npt.NDArray[np.uint32]
    count_offsets: I64Array
    counts: F64Array


def bucket_bounds(table: Histograms) -> tuple[F64Array, F64Array]:
    """Lower and upper bound of each of the M buckets, cut where the zero bucket begins."""
    lower, upper = np.empty((2, len(table.keys)))
    histogram_values.bucket_bounds(columns_of(table), lower, upper)
    return lower, upper


def zero_bounds(table: Histograms) -> tuple[F64Array, F64Array]:
    """Lower and upper bound of each of the N zero buckets."""
    return -table.zero_threshold, table.zero_threshold


def bucket_rules(table: Histograms) -> npt.NDArray[np.uint8]:
    """Which bounds belong to each of the M buckets; zero buckets are CLOSED_BOTH."""
    is_custom = np.repeat(table.schema == CUSTOM_SCHEMA, np.diff(table.offsets))
    rules = np.where(table.keys > 0, OPEN_LEFT, OPEN_RIGHT)
    rules[is_custom & (table.keys == KEY_BIAS)] = CLOSED_BOTH
    return rules.astype(np.uint8)


def costs_of(table: Histograms) -> I64Array:
    """How many float samples each histogram counts for in a query's budget: i64[N], at least 1.

    As in Prometheus: the size of its structure in memory in units of 16 bytes.
    """
    n_spans = sum(np.diff(spans.span_offsets) for spans in spans_of(table))
    n_bounds = np.append(np.diff(table.bounds_offsets), 0)[table.bounds_id]
    words = n_spans + np.diff(table.offsets) + n_bounds
    costs: I64Array = (_STRUCT_SIZE + 8 + 8 * words) // _SAMPLE_SIZE
    return costs


def cost_of(table: Histograms) -> int:
    """How many float samples the table counts for in a query's budget."""
    return int(costs_of(table).sum())


def spans_of(table: Histograms) -> tuple[BucketSpans, BucketSpans]:
    """Spans of the buckets of positive and of negative values."""
    rows = np.repeat(np.arange(len(table)), np.diff(table.offsets))
    is_positive = table.keys > 0
    positive, negative = np.flatnonzero(is_positive), np.flatnonzero(~is_positive)
    n_negative = offsets_of((~is_positive).view(np.int8))[table.offsets]
    # Keys of negative values ascend towards zero: turn each row around.
    turned = n_negative[rows[negative]] + n_negative[rows[negative] + 1] - 1
    negative = negative[turned - np.arange(len(negative))]
    return _spans(table, rows, positive), _spans(table, rows, negative)


def _spans(table: Histograms, rows: I64Array, at: I64Array) -> BucketSpans:
    """Spans of the buckets at these positions, in order of rows and indexes."""
    row = rows[at]
    index = np.abs(table.keys[at]).astype(np.int64) - KEY_BIAS
    is_first_of_row = np.append(True, row[1:] != row[:-1])[: len(at)]
    gap = np.diff(index, prepend=index[:1]) - 1
    starts = np.flatnonzero(is_first_of_row | (gap != 0))
    offset = np.where(is_first_of_row, index, gap)[starts]
    return BucketSpans(
        span_offsets=offsets_of(np.bincount(row[starts], minlength=len(table))),
        offset=offset.astype(np.int32),
        length=np.diff(np.append(starts, len(at))).astype(np.uint32),
        count_offsets=offsets_of(np.bincount(row, minlength=len(table))),
        counts=table.counts[at],
    )
