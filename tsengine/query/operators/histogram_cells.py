"""Cells that hold native histograms: finding them, taking them out, putting new ones in.

Operators that only move cells need nothing of this. One that computes takes the histograms' cells
out first (`floats_only`), or treats them apart; a handle is never a number.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt

from tsengine.model.histograms import Histograms, rows_of
from tsengine.model.labels import NO_ID, LabelRows
from tsengine.model.matchers import METRIC_NAME
from tsengine.promql.lexer import quote
from tsengine.query.context import QueryContext
from tsengine.query.histogram_layout import cost_of
from tsengine.query.operators.room import require_room
from tsengine.query.stepmatrix import BYTES_PER_SAMPLE, StepMatrix

_F64 = npt.NDArray[np.float64]
_I64 = npt.NDArray[np.int64]
_BOOL = npt.NDArray[np.bool_]

_BUCKET_SIZE, _ROW_SIZE = 12, 46
"""Bytes in the columns of `Histograms`."""


def histogram_cells(ctx: QueryContext, matrix: StepMatrix) -> _BOOL | None:
    """Present cells that hold a histogram: bool[S, T], fresh; None if there is none."""
    if len(ctx.histograms) == 0:
        return None
    cells = ctx.histograms.which(matrix.values)
    if matrix.valid is not None:
        cells &= matrix.valid
    return cells if cells.any() else None


def without_cells(matrix: StepMatrix, cells: _BOOL) -> StepMatrix:
    """The matrix with some of its cells absent: ``cells: bool[S, T]``."""
    return replace(matrix, valid=matrix.present() & ~cells)


def floats_only(ctx: QueryContext, matrix: StepMatrix) -> StepMatrix:
    """The matrix without its histograms; rows stay where they are."""
    cells = histogram_cells(ctx, matrix)
    return matrix if cells is None else without_cells(matrix, cells)


def row_numbers(values: _F64) -> _I64:
    """Rows of the arena's table that handles stand for: i64 of the same shape."""
    return rows_of(values.view(np.uint64))


def require_room_for(ctx: QueryContext, table: Histograms, rows: _I64) -> None:
    """Raise QueryLimitExceeded if there is no room for one more histogram per row of a table.

    What operators make is put on the account when it is there; a join may make much of little.
    """
    n_buckets = int((table.offsets[rows + 1] - table.offsets[rows]).sum())
    require_room(ctx, (n_buckets * _BUCKET_SIZE + len(rows) * _ROW_SIZE) // BYTES_PER_SAMPLE)


def keep(ctx: QueryContext, table: Histograms) -> _F64:
    """Handles of histograms that an operator has made, on the query's account: f64[len(table)].

    Raises
    ------
    QueryLimitExceeded
        The query holds too much.

    """
    ctx.account(cost_of(table))
    return ctx.histograms.add(table)


# --- what annotations say of metrics ----------------------------------------------------------


def metric_names(ctx: QueryContext, labels: LabelRows, rows: _I64) -> list[str]:
    """Metric names of rows, for messages; empty where the name is gone already."""
    pairs = ctx.space.column(labels, METRIC_NAME)[rows]
    return ["" if pair == NO_ID else ctx.space.value_of(pair) for pair in pairs.tolist()]


def for_metric(name: str) -> str:
    """The end of a message about one metric; empty without a name."""
    return f" for metric name {quote(name)}" if name else ""
