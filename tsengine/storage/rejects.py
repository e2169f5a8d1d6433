"""Why series of a request were refused, in words."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tsengine.kernels import catalog as kernels
from tsengine.kernels import protowire
from tsengine.options import LabelLimits
from tsengine.storage.label_sets import LabelSets
from tsengine.storage.remote_write import BAD_SYMBOL_TABLE, Rows

REJECTS_NAMED_MAX = 1000
"""Refusals of one request told one by one; the rest become one line."""

HISTOGRAMS_REASON = "native histograms are not supported yet"

# Reasons: 0 none, then the statuses of `check_labels`, then these.
SERIES_LIMIT = 100
_ROW_STATUS = 200


@dataclass(frozen=True, slots=True)
class Reject:
    """A series that was refused: ``name{a="b"}`` as far as readable, why, and what it carried."""

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
    """Refusals of the rows ``asked``, whose labels are ``given``; reasons i64[n] of all rows."""
    refused = np.flatnonzero((reasons[asked] != 0) | (rows.n_histograms[asked] > 0))
    counts = rows.sample_counts()
    found = []
    for position in refused[:REJECTS_NAMED_MAX].tolist():
        row = int(asked[position])
        series = given.text(position)
        reason = int(reasons[row])
        if reason:
            text = _reason(reason, limits, max_series)
            found.append(Reject(series, text, int(counts[row])))
        if rows.n_histograms[row]:
            found.append(Reject(series, HISTOGRAMS_REASON, int(rows.n_histograms[row])))
    more = asked[refused[REJECTS_NAMED_MAX:]]
    if len(more):
        lost = np.where(reasons[more] != 0, counts[more], 0) + rows.n_histograms[more]
        found.append(Reject(f"{len(more)} more series", "not listed", int(lost.sum())))
    return tuple(found)


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
    if reason < _ROW_STATUS:
        return label_reason(reason, limits)
    return {
        protowire.ROW_BAD_REFERENCE: "a symbol reference is out of range",
        protowire.ROW_ODD_REFERENCES: "the number of label references is odd",
        protowire.ROW_EMPTY: "there are neither samples nor histograms",
        BAD_SYMBOL_TABLE: "the first symbol is not the empty text",
    }[reason - _ROW_STATUS]
