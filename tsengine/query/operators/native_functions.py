"""Functions of native histograms; what they share with classic ones is in `histogram`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tsengine.promql import ast
from tsengine.query.context import QueryContext
from tsengine.query.histogram_math import fraction, quantile, variance
from tsengine.query.operators.histogram_cells import (
    for_metric,
    histogram_cells,
    metric_names,
    row_numbers,
)
from tsengine.query.stepmatrix import EvalValue, StepMatrix, remove_names, take_rows

_F64 = npt.NDArray[np.float64]
_I64 = npt.NDArray[np.int64]
_BOOL = npt.NDArray[np.bool_]

NATIVE_ONLY = (
    "histogram_count", "histogram_sum", "histogram_avg", "histogram_stddev", "histogram_stdvar",
)  # fmt: skip
"""Functions that look at native histograms only."""

_NAN_RESULT = "input to histogram_quantile has NaN observations, result is NaN"
_NAN_SKEW = "input to histogram_quantile has NaN observations, result is skewed higher"
_NAN_EXCLUDED = (
    "input to histogram_fraction has NaN observations, which are excluded from all fractions"
)


@dataclass(frozen=True, slots=True)
class Natives:
    """The native histograms of a vector, K in R rows.

    ``cells: bool[R, T]`` says where `vector` has one; numbers about them go row after row.
    """

    vector: StepMatrix
    cells: _BOOL

    def numbers(self) -> _I64:
        """Their rows in the arena's table: i64[K]."""
        return row_numbers(self.vector.values[self.cells])

    def steps(self) -> _I64:
        """Their steps: i64[K]."""
        return np.nonzero(self.cells)[1]

    def result(self, numbers: _F64) -> StepMatrix:
        """A number for each: ``numbers: f64[K]``."""
        values = np.full(self.cells.shape, np.nan)
        values[self.cells] = numbers
        valid = None if self.cells.all() else self.cells
        return StepMatrix(self.vector.labels, values, valid, self.vector.drop_name)


def find_natives(ctx: QueryContext, vector: StepMatrix) -> Natives | None:
    """The rows of a vector that have native histograms; None if there are none."""
    cells = histogram_cells(ctx, vector)
    if cells is None:
        return None
    rows = np.flatnonzero(cells.any(axis=1))
    return Natives(take_rows(ctx.space, vector, rows), cells[rows])


def of_native_histograms(ctx: QueryContext, node: ast.Call, args: Sequence[EvalValue]) -> EvalValue:
    """Count, sum, mean, variance or deviation of each native histogram; floats are ignored."""
    vector = args[0]
    assert isinstance(vector, StepMatrix), "the type check lets only a vector through"
    natives = find_natives(ctx, vector)
    if natives is None:
        return take_rows(ctx.space, vector, np.empty(0, np.int64))
    table, rows = ctx.histograms.table(), natives.numbers()
    with np.errstate(all="ignore"):
        match node.name:
            case "histogram_count":
                numbers = table.count[rows]
            case "histogram_sum":
                numbers = table.sum[rows]
            case "histogram_avg":
                numbers = table.sum[rows] / table.count[rows]
            case "histogram_stdvar":
                numbers = variance(table, rows)
            case "histogram_stddev":
                numbers = np.sqrt(variance(table, rows))
            case _:
                raise AssertionError(f"{node.name} is not a function of native histograms")
    return remove_names(ctx.space, natives.result(numbers), delayed=ctx.delayed_name_removal)


def native_quantiles(ctx: QueryContext, natives: Natives, q: _F64, span: ast.Span) -> StepMatrix:
    """Quantile ``q: f64[T]`` of each native histogram; names stay."""
    table, rows = ctx.histograms.table(), natives.numbers()
    numbers, has_nan = quantile(table, rows, q[natives.steps()])
    _inform(ctx, natives, has_nan & np.isnan(numbers), _NAN_RESULT, span)
    _inform(ctx, natives, has_nan & ~np.isnan(numbers), _NAN_SKEW, span)
    return natives.result(numbers)


def native_fractions(
    ctx: QueryContext, natives: Natives, lower: _F64, upper: _F64, span: ast.Span
) -> StepMatrix:
    """Share of observations between ``lower, upper: f64[T]``; names stay."""
    table, rows, steps = ctx.histograms.table(), natives.numbers(), natives.steps()
    numbers, has_nan = fraction(table, rows, lower[steps], upper[steps])
    _inform(ctx, natives, has_nan, _NAN_EXCLUDED, span)
    return natives.result(numbers)


def _inform(
    ctx: QueryContext, natives: Natives, concerned: _BOOL, text: str, span: ast.Span
) -> None:
    """Tell something of some histograms: ``concerned: bool[K]``."""
    if not concerned.any():
        return
    rows = np.unique(np.nonzero(natives.cells)[0][concerned])
    for name in told_names(ctx, natives.vector, rows):
        ctx.add_info(text + for_metric(name), span)


def told_names(ctx: QueryContext, vector: StepMatrix, rows: _I64) -> list[str]:
    """Metric names of rows for annotations of histograms: only under delayed name removal."""
    if not ctx.delayed_name_removal:
        return [""]
    return sorted(set(metric_names(ctx, vector.labels, rows)))
