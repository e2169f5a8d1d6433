"""Functions of instant vectors and scalars; families with rules of their own have own modules.

A function that makes new values drops the metric name (at once, or as a mark when removal is
delayed); series that become equal are merged if they never meet at a step.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from tsengine.kernels.elementwise import clamp_cells
from tsengine.promql import ast
from tsengine.query.context import QueryContext
from tsengine.query.operators import dates, histogram, labelfuncs, native_functions, sorting
from tsengine.query.operators.histogram_cells import floats_only
from tsengine.query.stepmatrix import (
    EvalValue,
    ScalarSteps,
    StepMatrix,
    remove_names,
    take_rows,
)

_F64 = npt.NDArray[np.float64]
_Function = Callable[[QueryContext, ast.Call, Sequence[EvalValue]], EvalValue]

_CELLS_PER_BLOCK = 1 << 16
_MS_PER_S = 1000.0


def call_function(ctx: QueryContext, node: ast.Call, args: Sequence[EvalValue]) -> EvalValue:
    """Call the function `node.name` with evaluated arguments.

    Raises
    ------
    QueryError
        An argument is not acceptable, or two series of the result are one.

    """
    ctx.check()
    function = _FUNCTIONS.get(node.name)
    assert function is not None, f"{node.name} is no function of instant vectors and scalars"
    return function(ctx, node, args)


def _vector(value: EvalValue) -> StepMatrix:
    assert isinstance(value, StepMatrix), "the type check lets only a vector through"
    return value


def _scalar(value: EvalValue) -> _F64:
    assert isinstance(value, ScalarSteps), "the type check lets only a scalar through"
    return value.values


def without_name(ctx: QueryContext, matrix: StepMatrix) -> StepMatrix:
    """The matrix without metric names, or with their marks."""
    return remove_names(ctx.space, matrix, delayed=ctx.delayed_name_removal)


# --- element-wise -----------------------------------------------------------------------------


def _sgn(cells: _F64, out: _F64) -> None:
    np.copyto(out, cells)  # keeps -0 and NaN
    out[cells > 0] = 1.0
    out[cells < 0] = -1.0


def _deg(cells: _F64, out: _F64) -> None:
    np.multiply(cells, 180.0, out=out)
    np.divide(out, math.pi, out=out)


def _rad(cells: _F64, out: _F64) -> None:
    np.multiply(cells, math.pi, out=out)
    np.divide(out, 180.0, out=out)


_ELEMENTWISE: dict[str, Callable[[_F64, _F64], Any]] = {
    "abs": np.absolute, "ceil": np.ceil, "floor": np.floor, "exp": np.exp, "sqrt": np.sqrt,
    "ln": np.log, "log2": np.log2, "log10": np.log10, "sgn": _sgn, "deg": _deg, "rad": _rad,
    "sin": np.sin, "cos": np.cos, "tan": np.tan, "asin": np.arcsin, "acos": np.arccos,
    "atan": np.arctan, "sinh": np.sinh, "cosh": np.cosh, "tanh": np.tanh, "asinh": np.arcsinh,
    "acosh": np.arccosh, "atanh": np.arctanh,
}  # fmt: skip


def _elementwise(ctx: QueryContext, node: ast.Call, args: Sequence[EvalValue]) -> EvalValue:
    operand = floats_only(ctx, _vector(args[0]))
    values = np.empty_like(operand.values)
    cells, out = operand.values.reshape(-1), values.reshape(-1)
    with np.errstate(all="ignore"):
        for start in range(0, len(cells), _CELLS_PER_BLOCK):
            part = slice(start, start + _CELLS_PER_BLOCK)
            _ELEMENTWISE[node.name](cells[part], out[part])
    return without_name(ctx, replace(operand, values=values))


def _round(ctx: QueryContext, node: ast.Call, args: Sequence[EvalValue]) -> EvalValue:
    operand = floats_only(ctx, _vector(args[0]))
    with np.errstate(all="ignore"):
        # The inverse is what Prometheus multiplies with; dividing rounds other values differently.
        inverse = 1.0 / (_scalar(args[1]) if len(args) > 1 else np.ones(operand.n_steps))
        values = operand.values * inverse
        values += 0.5
        np.floor(values, out=values)
        values /= inverse
    return without_name(ctx, replace(operand, values=values))


def _clamp(ctx: QueryContext, node: ast.Call, args: Sequence[EvalValue]) -> EvalValue:
    operand = floats_only(ctx, _vector(args[0]))
    low, high = np.full(operand.n_steps, -np.inf), np.full(operand.n_steps, np.inf)
    if node.name == "clamp":
        low, high = _scalar(args[1]), _scalar(args[2])
    elif node.name == "clamp_min":
        low = _scalar(args[1])
    else:
        high = _scalar(args[1])
    values = np.empty_like(operand.values)
    clamp_cells(operand.values, low, high, values)
    is_empty = high < low
    valid = operand.valid
    if is_empty.any():
        valid = operand.present() & ~is_empty
    return without_name(ctx, replace(operand, values=values, valid=valid))


# --- scalars and time -------------------------------------------------------------------------


def _to_scalar(ctx: QueryContext, node: ast.Call, args: Sequence[EvalValue]) -> EvalValue:
    operand = floats_only(ctx, _vector(args[0]))
    values = np.full(operand.n_steps, np.nan)
    if operand.valid is None:
        if operand.n_series == 1:
            values[:] = operand.values[0]
    elif operand.n_series:
        single = np.flatnonzero(np.count_nonzero(operand.valid, axis=0) == 1)
        values[single] = operand.values[operand.valid[:, single].argmax(axis=0), single]
    return ScalarSteps(values)


def _to_vector(ctx: QueryContext, node: ast.Call, args: Sequence[EvalValue]) -> EvalValue:
    return StepMatrix(ctx.space.empty_rows(1), _scalar(args[0])[None, :].copy())


def _constant(ctx: QueryContext, node: ast.Call, args: Sequence[EvalValue]) -> EvalValue:
    match node.name:
        case "pi":
            value = math.pi
        case "start":
            value = ctx.query_start_ms / _MS_PER_S
        case "end":
            value = ctx.query_end_ms / _MS_PER_S
        case "range":
            value = (ctx.query_end_ms - ctx.query_start_ms) / _MS_PER_S
        case "step":
            value = ctx.query_step_ms / _MS_PER_S
        case _:
            raise AssertionError(f"{node.name} is no constant")
    return ScalarSteps(np.full(ctx.n_steps, value))


def _time(ctx: QueryContext, node: ast.Call, args: Sequence[EvalValue]) -> EvalValue:
    return ScalarSteps(ctx.steps_s())


def _timestamp(ctx: QueryContext, node: ast.Call, args: Sequence[EvalValue]) -> EvalValue:
    """Evaluation time of each element; the planner has taken care of plain selectors."""
    operand = _vector(args[0])
    values = np.broadcast_to(ctx.steps_s(), operand.values.shape).copy()
    return without_name(ctx, replace(operand, values=values))


def _start_timestamp(ctx: QueryContext, node: ast.Call, args: Sequence[EvalValue]) -> EvalValue:
    """Nothing: results have no start timestamps; the planner has taken care of selectors."""
    return take_rows(ctx.space, _vector(args[0]), np.empty(0, np.int64))


def _extreme_of(ctx: QueryContext, node: ast.Call, args: Sequence[EvalValue]) -> EvalValue:
    first, second = _scalar(args[0]), _scalar(args[1])
    unbounded = np.full(len(first), -np.inf if node.name == "max_of" else np.inf)
    # One row, clamped by the other argument: the same rules for NaN and infinities.
    low, high = (second, -unbounded) if node.name == "max_of" else (-unbounded, second)
    values = np.empty((1, len(first)))
    clamp_cells(first[None, :], low, high, values)
    return ScalarSteps(values[0])


# --- presence ---------------------------------------------------------------------------------


def _absent(ctx: QueryContext, node: ast.Call, args: Sequence[EvalValue]) -> EvalValue:
    operand = _vector(args[0])
    if operand.valid is None:
        is_absent = np.full(ctx.n_steps, operand.n_series == 0)
    else:
        is_absent = ~np.any(operand.valid, axis=0)
    labels = ctx.space.from_dicts([labelfuncs.labels_of_absent(node.args[0])])
    result = StepMatrix(labels, np.ones((1, ctx.n_steps)), is_absent[None, :])
    return result if is_absent.any() else take_rows(ctx.space, result, np.empty(0, np.int64))


_FUNCTIONS: dict[str, _Function] = {
    **dict.fromkeys(_ELEMENTWISE, _elementwise),
    "round": _round,
    "clamp": _clamp,
    "clamp_min": _clamp,
    "clamp_max": _clamp,
    "scalar": _to_scalar,
    "vector": _to_vector,
    "time": _time,
    "timestamp": _timestamp,
    "start_timestamp": _start_timestamp,
    "pi": _constant,
    "start": _constant,
    "end": _constant,
    "range": _constant,
    "step": _constant,
    "min_of": _extreme_of,
    "max_of": _extreme_of,
    "absent": _absent,
    **dict.fromkeys(dates.PARTS, dates.date_part),
    "label_replace": labelfuncs.label_replace,
    "label_join": labelfuncs.label_join,
    "sort": sorting.sort_by_value,
    "sort_desc": sorting.sort_by_value,
    "sort_by_label": sorting.sort_by_label,
    "sort_by_label_desc": sorting.sort_by_label,
    "histogram_quantile": histogram.histogram_quantile,
    "histogram_quantiles": histogram.histogram_quantiles,
    "histogram_fraction": histogram.histogram_fraction,
    **dict.fromkeys(native_functions.NATIVE_ONLY, native_functions.of_native_histograms),
}
