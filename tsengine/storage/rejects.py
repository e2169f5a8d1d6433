"""Why series of a request were refused, in words."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tsengine.kernels import catalog as kernels
from tsengine.kernels import histogramscan, nestedwire, protowire
from tsengine.options import LabelLimits
from tsengine.storage import nested_messages
from tsengine.storage.label_sets import LabelSets
from tsengine.storage.remote_write import BAD_SYMBOL_TABLE, Rows

REJECTS_NAMED_MAX = 1000
"""Refusals of one request told one by one; the rest become one line."""

# Reasons: 0 none, then the statuses of `check_labels`, then these.
SERIES_LIMIT = 100
MEMORY_LIMIT = 101
_ROW_STATUS = 200
_HISTOGRAM_STATUS = 300
_EXEMPLAR_STATUS = 400
_REASONS_MAX = 500

_ROW_TEXTS = {
    protowire.ROW_BAD_REFERENCE: "a symbol reference is out of range",
    protowire.ROW_ODD_REFERENCES: "the number of label references is odd",
    protowire.ROW_EMPTY: "there are neither samples nor histograms",
    BAD_SYMBOL_TABLE: "the first symbol is not the empty text",
}
_HISTOGRAM_TEXTS = {
    histogramscan.BAD_SCHEMA: "its schema is not -53 or -4 to 52",
    histogramscan.SPANS_MISMATCH: "its spans and its buckets differ in number",
    histogramscan.NEGATIVE_OFFSET: "a span has a negative offset",
    histogramscan.NEGATIVE_BUCKET: "a bucket has a negative count",
    histogramscan.NEGATIVE_COUNT: "its count is negative",
    histogramscan.COUNT_TOO_SMALL: "its count is less than the sum of its buckets",
    histogramscan.COUNT_MISMATCH: "its count is not the sum of its buckets",
    histogramscan.BAD_BOUNDS: "its custom bounds do not ascend or are not finite",
    histogramscan.TOO_FEW_BOUNDS: "it has fewer custom bounds than buckets",
    histogramscan.CUSTOM_ZERO_BUCKET: "it has custom buckets and a zero bucket",
    histogramscan.CUSTOM_NEGATIVE: "it has custom buckets and buckets of negative values",
    histogramscan.UNWANTED_BOUNDS: "it has custom bounds and another schema",
    histogramscan.INDEX_OUT_OF_RANGE: "the index of a bucket is out of range",
    histogramscan.TOO_LARGE: f"it is larger than {histogramscan.MESSAGE_SIZE_MAX} bytes",
}
_EXEMPLAR_TEXTS = {
    nestedwire.EXEMPLAR_BAD_REFERENCE: "a symbol reference is out of range",
    nestedwire.EXEMPLAR_ODD_REFERENCES: "the number of label references is odd",
    nested_messages.LABELS_TOO_LONG: (
        f"its labels have more than {nested_messages.EXEMPLAR_LABELS_LENGTH_MAX} characters"
    ),
    nested_messages.LABEL_TWICE: "a label name occurs twice",
    nested_messages.NOT_UTF8: "a label is not UTF-8",
    nested_messages.TOO_MANY: (
        f"the request has more than {nested_messages.EXEMPLARS_PER_REQUEST_MAX}"
    ),
}


@dataclass(frozen=True, slots=True)
class Reject:
    """What was refused of a series: ``name{a="b"}`` as far as readable, why, and how much.

    ``n_samples`` counts float samples and histograms.
    """

    series: str
    reason: str
    n_samples: int


def of_row_statuses(statuses: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Reasons i64[n] of rows whose own form is broken, 0 for the others."""
    return np.where(statuses == protowire.ROW_OK, 0, statuses + _ROW_STATUS)


def describe(
    rows: Rows,
    asked: npt.NDArray[np.int64],
    given: LabelSets,
    reasons: npt.NDArray[np.int64],
    *,
    limits: LabelLimits,
    max_series: int,
) -> tuple[Reject, ...]:
    """Refusals of the rows ``asked``, whose labels are ``given``; reasons i64[n] of all rows.

    Rows with histograms or exemplars that are refused are among ``asked``.
    """
    found_rows, found_reasons, found_counts = _refusals(rows, asked, reasons)
    found = []
    shown = slice(0, REJECTS_NAMED_MAX)
    for row, reason, count in zip(
        found_rows[shown].tolist(), found_reasons[shown].tolist(), found_counts[shown].tolist(),
        strict=True,
    ):  # fmt: skip
        series = given.text(int(np.searchsorted(asked, row)))
        found.append(Reject(series, _reason(reason, limits, max_series), count))
    n_more = len(found_rows) - len(found)
    if n_more:
        lost = int(found_counts[REJECTS_NAMED_MAX:].sum())
        found.append(Reject(f"{n_more} more series", "not listed", lost))
    return tuple(found)


def _refusals(
    rows: Rows, asked: npt.NDArray[np.int64], reasons: npt.NDArray[np.int64]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Rows, reasons and how much was lost, by row; what a refused row holds is not told apart."""
    refused = asked[reasons[asked] != 0]
    counts = rows.sample_counts()[refused] + rows.n_histograms[refused]
    if rows.nested is None:
        return refused, reasons[refused], counts
    nested = rows.nested
    keys = []
    for found, base in (
        (nested.histograms, _HISTOGRAM_STATUS),
        (nested.exemplars, _EXEMPLAR_STATUS),
    ):
        is_told = (found.statuses != 0) & (reasons[found.rows] == 0)
        keys.append(found.rows[is_told] * _REASONS_MAX + base + found.statuses[is_told])
    told, n_told = np.unique(np.concatenate(keys), return_counts=True)
    told_reasons = told % _REASONS_MAX
    n_told[told_reasons >= _EXEMPLAR_STATUS] = 0
    all_rows = np.concatenate([refused, told // _REASONS_MAX])
    order = np.argsort(all_rows, kind="stable")
    all_reasons = np.concatenate([reasons[refused], told_reasons])[order]
    return all_rows[order], all_reasons, np.concatenate([counts, n_told])[order]


def label_reason(status: int, limits: LabelLimits) -> str:
    """A status of `check_labels` in words."""
    return {
        kernels.EMPTY_NAME: "a label name is empty",
        kernels.BAD_NAME: "a label name is not UTF-8",
        kernels.BAD_VALUE: "a label value is not UTF-8",
        kernels.DUPLICATE_NAME: "a label name occurs twice",
        kernels.NO_METRIC_NAME: "there is no metric name",
        kernels.TOO_MANY_LABELS: f"there are more than {limits.n_labels_max} labels",
        kernels.NAME_TOO_LONG: f"a label name is longer than {limits.name_size_max} bytes",
        kernels.VALUE_TOO_LONG: f"a label value is longer than {limits.value_size_max} bytes",
        kernels.SERIES_TOO_LARGE: f"the labels are longer than {limits.series_size_max} bytes",
    }[status]


def _reason(reason: int, limits: LabelLimits, max_series: int) -> str:
    if reason == SERIES_LIMIT:
        return f"the limit of {max_series} series is reached"
    if reason == MEMORY_LIMIT:
        return "there is no memory for new series"
    if reason < _ROW_STATUS:
        return label_reason(reason, limits)
    if reason < _HISTOGRAM_STATUS:
        return _ROW_TEXTS[reason - _ROW_STATUS]
    if reason < _EXEMPLAR_STATUS:
        return f"a native histogram is refused: {_HISTOGRAM_TEXTS[reason - _HISTOGRAM_STATUS]}"
    return f"an exemplar is refused: {_EXEMPLAR_TEXTS[reason - _EXEMPLAR_STATUS]}"
