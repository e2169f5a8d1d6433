"""The algebra of native histograms on whole tables: checked calls of the kernels.

`table: Histograms` holds operands, `rows: i64[R]` number them; results are new tables (which may
share the table of custom bounds) or columns. Row numbers out of range raise IndexError, lengths
that don't fit ValueError. Everything here is pure: any thread.
Sums are in `model.histogram_sums`, comparisons in `model.histogram_pairs`, bounds and spans in
`histogram_layout`; all of them can be imported from here.
Semantics: Prometheus 3.14, `model/histogram/float_histogram.go` and `promql/quantile.go`.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt

from tsengine.kernels import histogram_trim, histogram_values
from tsengine.kernels.histogram_buckets import columns_of
from tsengine.model.histogram_pairs import (
    check_length,
    checked_rows,
    derive_hints,
    equal,
    is_reset,
)
from tsengine.model.histogram_sums import Combined, Increase, average, combine, increase, subtract
from tsengine.model.histograms import HINT_GAUGE, Histograms
from tsengine.model.ragged import offsets_of
from tsengine.query.histogram_layout import (
    BucketSpans,
    bucket_bounds,
    bucket_rules,
    cost_of,
    costs_of,
    spans_of,
    zero_bounds,
)

__all__ = [
    "BucketSpans",
    "Combined",
    "Increase",
    "average",
    "bucket_bounds",
    "bucket_rules",
    "combine",
    "cost_of",
    "costs_of",
    "derive_hints",
    "equal",
    "fraction",
    "increase",
    "is_reset",
    "quantile",
    "scale",
    "spans_of",
    "subtract",
    "trim",
    "variance",
    "zero_bounds",
]

I64Array = npt.NDArray[np.int64]
F64Array = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]


def scale(table: Histograms, factors: F64Array, *, divide: bool = False) -> Histograms:
    """Every row times its factor (f64[N]), or divided by it; negative ones make it a gauge.

    A histogram divided by zero loses its buckets, as does one times zero.
    """
    check_length("factors", factors, len(table))
    factors = np.asarray(factors, np.float64)
    sizes = np.diff(table.offsets)
    of_buckets = np.repeat(factors, sizes)
    with np.errstate(all="ignore"):
        operate = np.divide if divide else np.multiply
        counts = operate(table.counts, of_buckets)
        keep = counts != 0.0
        if divide:
            keep &= of_buckets != 0.0
        n_kept = offsets_of(keep.view(np.int8))[table.offsets]
        return replace(
            table,
            hint=np.where(factors < 0.0, HINT_GAUGE, table.hint).astype(np.uint8),
            count=operate(table.count, factors),
            sum=operate(table.sum, factors),
            zero_count=operate(table.zero_count, factors),
            offsets=n_kept,
            keys=table.keys[keep],
            counts=counts[keep],
        )


def quantile(table: Histograms, rows: I64Array, q: F64Array) -> tuple[F64Array, BoolArray]:
    """histogram_quantile of rows: values f64[R] for ``q: f64[R]``, and where NaNs matter.

    Where the second is True, observations of NaN made the value NaN, or a number too high.
    """
    rows = checked_rows(table, rows)
    check_length("q", q, len(rows))
    out, has_nans = np.empty(len(rows)), np.empty(len(rows), np.bool_)
    q = np.ascontiguousarray(q, np.float64)
    histogram_values.histogram_quantiles(columns_of(table), rows, q, out, has_nans)
    return out, has_nans


def fraction(
    table: Histograms, rows: I64Array, lower: F64Array, upper: F64Array
) -> tuple[F64Array, BoolArray]:
    """histogram_fraction of rows between ``lower, upper: f64[R]``: f64[R], and where NaNs are.

    Where the second is True, observations of NaN are in no bucket, so not in the fraction.
    """
    rows = checked_rows(table, rows)
    check_length("lower", lower, len(rows))
    check_length("upper", upper, len(rows))
    out, has_nans = np.empty(len(rows)), np.empty(len(rows), np.bool_)
    histogram_values.histogram_fractions(
        columns_of(table),
        rows,
        np.ascontiguousarray(lower, np.float64),
        np.ascontiguousarray(upper, np.float64),
        out,
        has_nans,
    )
    return out, has_nans


def variance(table: Histograms, rows: I64Array) -> F64Array:
    """histogram_stdvar of rows: f64[R]."""
    rows = checked_rows(table, rows)
    out = np.empty(len(rows))
    histogram_values.histogram_variances(columns_of(table), rows, out)
    return out


def trim(table: Histograms, rows: I64Array, thresholds: F64Array, *, upper: bool) -> Histograms:
    """Rows without observations above (`upper`: the operator ``</``) or below the thresholds.

    ``thresholds: f64[R]``. Buckets that the threshold cuts are interpolated; sum and count are
    estimated anew if any bucket changed.
    """
    rows = checked_rows(table, rows)
    check_length("thresholds", thresholds, len(rows))
    capacity = int((table.offsets[rows + 1] - table.offsets[rows]).sum())
    out = histogram_trim.Trimmed(
        total=np.empty(len(rows)),
        sum=np.empty(len(rows)),
        zero_count=np.empty(len(rows)),
        offsets=np.empty(len(rows) + 1, np.int64),
        keys=np.empty(capacity, np.int32),
        counts=np.empty(capacity),
    )
    used = histogram_trim.trim_histograms(
        columns_of(table), rows, np.ascontiguousarray(thresholds, np.float64), upper, out
    )
    return replace(
        table,
        schema=table.schema[rows],
        hint=table.hint[rows],
        count=out.total,
        sum=out.sum,
        zero_threshold=table.zero_threshold[rows],
        zero_count=out.zero_count,
        offsets=out.offsets,
        keys=out.keys[:used],
        counts=out.counts[:used],
        bounds_id=table.bounds_id[rows],
    )
