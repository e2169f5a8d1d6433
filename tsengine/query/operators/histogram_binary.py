"""Binary operators where a side holds native histograms.

Floats are computed for a whole block, whatever it holds; here the cells with histograms get their
own results, or none where an operator does not go with the types.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Any

import numpy as np
import numpy.typing as npt

from tsengine.promql import ast
from tsengine.query.context import QueryContext
from tsengine.query.histogram_math import combine, equal, scale, trim
from tsengine.query.operators.histogram_cells import keep, require_room_for, row_numbers

_F64 = npt.NDArray[np.float64]
_I64 = npt.NDArray[np.int64]
_BOOL = npt.NDArray[np.bool_]

TRIMS = frozenset({"</", ">/"})
"""Operators that have results for histograms only."""


class _Note(IntEnum):
    """What there is to tell of a pair; the first four are types without a result."""

    NOTHING = 0
    FLOAT_FLOAT = 1
    FLOAT_HISTOGRAM = 2
    HISTOGRAM_FLOAT = 3
    HISTOGRAM_HISTOGRAM = 4
    MIXED_LAYOUT = 5
    HINT_CLASH = 6
    RECONCILED = 7


_TYPES = {
    _Note.FLOAT_FLOAT: ("float", "float"),
    _Note.FLOAT_HISTOGRAM: ("float", "histogram"),
    _Note.HISTOGRAM_FLOAT: ("histogram", "float"),
    _Note.HISTOGRAM_HISTOGRAM: ("histogram", "histogram"),
}
_OPERATIONS = {"+": "addition", "-": "subtraction"}


@dataclass(frozen=True, slots=True)
class Side:
    """One operand of R by T cells: its numbers, and which present ones are histograms.

    ``values: f64`` of a shape that broadcasts to [R, T]; ``cells: bool[R, T]``, or None for none.
    """

    values: _F64
    cells: _BOOL | None

    def is_histogram(self, shape: tuple[int, ...]) -> _BOOL:
        """``cells`` as an array in any case."""
        return np.zeros(shape, np.bool_) if self.cells is None else self.cells

    def at(self, where: _BOOL) -> _F64:
        """The numbers or handles of some cells."""
        return np.broadcast_to(self.values, where.shape)[where]


def apply_to_histograms(
    ctx: QueryContext,
    node: ast.Binary,
    left: Side,
    right: Side,
    *,
    valid: _BOOL | None,
    out: npt.NDArray[Any],
) -> _BOOL:
    """Give cells that have a histogram on a side their results; returns where there is a result.

    Annotates the query with what does not go together.

    Parameters
    ----------
    ctx, node
        The query, the operator.
    left, right
        The operands.
    valid
        bool[R, T]: where both operands are present; None for everywhere.
    out
        What the operator has made of floats, changed in place: f64[R, T], or for a comparison
        bool[R, T].

    Returns
    -------
    bool[R, T], fresh.

    """
    shape = out.shape
    in_left, in_right = left.is_histogram(shape), right.is_histogram(shape)
    present = np.ones(shape, np.bool_) if valid is None else valid
    notes = np.zeros(shape, np.uint8)
    if node.op in TRIMS:
        notes[present & ~in_left & ~in_right] = _Note.FLOAT_FLOAT
    for cells, types in (
        (in_left & in_right, _Note.HISTOGRAM_HISTOGRAM),
        (in_left & ~in_right, _Note.HISTOGRAM_FLOAT),
        (in_right & ~in_left, _Note.FLOAT_HISTOGRAM),
    ):
        if cells.any():
            _apply(ctx, node.op, types, left, right, cells, out, notes)
    _annotate(ctx, node, notes)
    has_result: _BOOL = present & ((notes == 0) | (notes == _Note.RECONCILED))
    return has_result


def _apply(
    ctx: QueryContext,
    op: str,
    types: _Note,
    left: Side,
    right: Side,
    cells: _BOOL,
    out: npt.NDArray[Any],
    notes: npt.NDArray[np.uint8],
) -> None:
    """Results and notes of all cells that have one pair of types."""
    match op, types:
        case ("+" | "-", _Note.HISTOGRAM_HISTOGRAM):
            _add(ctx, op, left, right, cells, out, notes)
        case ("==" | "!=", _Note.HISTOGRAM_HISTOGRAM):
            table = ctx.histograms.table()
            same = equal(table, row_numbers(left.at(cells)), row_numbers(right.at(cells)))
            out[cells] = same if op == "==" else ~same
        case ("*" | "/", _Note.HISTOGRAM_FLOAT):
            out[cells] = _scaled(ctx, left.at(cells), right.at(cells), divide=op == "/")
        case ("*", _Note.FLOAT_HISTOGRAM):
            out[cells] = _scaled(ctx, right.at(cells), left.at(cells))
        case ("</" | ">/", _Note.HISTOGRAM_FLOAT):
            table, rows = ctx.histograms.table(), row_numbers(left.at(cells))
            require_room_for(ctx, table, rows)
            out[cells] = keep(ctx, trim(table, rows, right.at(cells), upper=op == "</"))
        case _:
            notes[cells] = types


def _add(
    ctx: QueryContext,
    op: str,
    left: Side,
    right: Side,
    cells: _BOOL,
    out: npt.NDArray[Any],
    notes: npt.NDArray[np.uint8],
) -> None:
    pairs = np.stack((row_numbers(left.at(cells)), row_numbers(right.at(cells))), axis=1)
    n_pairs = len(pairs)
    factors = np.tile([1.0, 1.0 if op == "+" else -1.0], n_pairs)
    offsets = np.arange(0, 2 * n_pairs + 1, 2)
    table = ctx.histograms.table()
    require_room_for(ctx, table, pairs.reshape(-1))
    made = combine(table, offsets, pairs.reshape(-1), factors, as_gauge=op == "-")
    found = np.zeros(n_pairs, np.uint8)
    found[made.reconciled] = _Note.RECONCILED
    # Prometheus warns of contradicting hints as of an error: the pair has no result.
    found[made.hint_clash] = _Note.HINT_CLASH
    found[made.is_mixed] = _Note.MIXED_LAYOUT
    notes[cells] = found
    fits = (found == 0) | (found == _Note.RECONCILED)
    result = made.table if fits.all() else made.table.take(np.flatnonzero(fits))
    results = np.full(n_pairs, np.nan)
    results[fits] = keep(ctx, result)
    out[cells] = results


def _annotate(ctx: QueryContext, node: ast.Binary, notes: npt.NDArray[np.uint8]) -> None:
    """Tell of the last row of each step that has something to tell, as Prometheus does."""
    has_note = notes != 0
    steps = np.flatnonzero(has_note.any(axis=0))
    if len(steps) == 0:
        return
    last = len(notes) - 1 - has_note[::-1, steps].argmax(axis=0)
    for number in np.unique(notes[last, steps]).tolist():
        note = _Note(number)
        if note in _TYPES:
            left, right = _TYPES[note]
            ctx.add_info(
                "incompatible sample types encountered for binary operator "
                f'"{node.op}": {left} {node.op} {right}',
                node.span,
            )
        elif note == _Note.RECONCILED:
            ctx.add_info(
                f"mismatched custom buckets were reconciled during {_OPERATIONS[node.op]}",
                node.span,
            )
        elif note == _Note.HINT_CLASH:
            ctx.add_warning(
                f"conflicting counter resets during histogram {_OPERATIONS[node.op]}", node.span
            )
        else:
            ctx.add_warning(
                f"incompatible bucket layout encountered for binary operator {node.op}", node.span
            )


def _scaled(ctx: QueryContext, handles: _F64, factors: _F64, *, divide: bool = False) -> _F64:
    """Handles of histograms times numbers, or divided by them: f64[K] of f64[K]."""
    table, rows = ctx.histograms.table(), row_numbers(handles)
    require_room_for(ctx, table, rows)
    return keep(ctx, scale(table.take(rows), factors, divide=divide))


def negated(ctx: QueryContext, values: _F64, cells: _BOOL) -> _F64:
    """Unary minus: ``values: f64[S, T]`` with histograms at ``cells: bool[S, T]``, as a copy."""
    result = -values
    handles = values[cells]
    result[cells] = _scaled(ctx, handles, np.full(len(handles), -1.0))
    return result
