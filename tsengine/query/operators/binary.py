"""Binary and unary operators: arithmetic, comparisons and set operators, scalars and vectors.

Labels are joined first (`matching`), then blocks of numbers go through numpy's operators, which
follow C (`fmod`, `pow`, `atan2`) and IEEE 754.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from tsengine.promql import ast
from tsengine.query.context import QueryContext
from tsengine.query.operators import matching
from tsengine.query.operators.fill import with_fills
from tsengine.query.operators.histogram_binary import TRIMS, Side, apply_to_histograms, negated
from tsengine.query.operators.histogram_cells import histogram_cells
from tsengine.query.operators.rows import stack_rows
from tsengine.query.stepmatrix import (
    EvalValue,
    ScalarSteps,
    StepMatrix,
    merge_same_labels,
    remove_names,
    take_rows,
)

_F64 = npt.NDArray[np.float64]
_I64 = npt.NDArray[np.int64]
_BOOL = npt.NDArray[np.bool_]
_Ufunc = Callable[..., Any]


def _power(x: _F64, y: _F64, out: _F64 | None = None) -> _F64:
    """C's pow; numpy takes the square root for 0.5, which has other answers for -Inf and -0."""
    result: _F64 = np.power(x, y, out=out)
    is_root = (y == 0.5) & ((x == -np.inf) | (x == 0.0))
    if np.any(is_root):
        result = np.where(is_root, np.abs(x), result)
        if out is not None:
            out[...] = result
    return result


_ARITHMETIC: dict[str, _Ufunc] = {
    "+": np.add, "-": np.subtract, "*": np.multiply, "/": np.divide, "%": np.fmod,
    "^": _power, "atan2": np.arctan2,
}  # fmt: skip
_COMPARISON: dict[str, _Ufunc] = {
    "==": np.equal, "!=": np.not_equal, ">": np.greater, "<": np.less, ">=": np.greater_equal,
    "<=": np.less_equal,
}  # fmt: skip
_SET = frozenset({"and", "or", "unless"})

_CELLS_PER_BLOCK = 1 << 15
"""Temporaries of this many doubles stay in the cache."""


def binary(
    ctx: QueryContext, node: ast.Binary, lhs: EvalValue, rhs: EvalValue
) -> StepMatrix | ScalarSteps:
    """Evaluate a binary operator on scalars and vectors.

    Raises
    ------
    QueryError
        Vectors don't match as they have to.

    """
    ctx.check()
    if isinstance(lhs, ScalarSteps) and isinstance(rhs, ScalarSteps):
        ufunc = _ARITHMETIC.get(node.op) or _COMPARISON[node.op]
        with np.errstate(all="ignore"):
            return ScalarSteps(ufunc(lhs.values, rhs.values).astype(np.float64))
    if isinstance(lhs, StepMatrix) and isinstance(rhs, StepMatrix):
        assert node.matching is not None, "two vectors always have a matching"
        if node.op in _SET:
            return _set_operator(ctx, node.op, node.matching, lhs, rhs)
        return _vectors(ctx, node, node.matching, lhs, rhs)
    if isinstance(lhs, StepMatrix):
        assert isinstance(rhs, ScalarSteps), "the type check refuses strings"
        return _vector_and_scalar(ctx, node, lhs, rhs, swapped=False)
    assert isinstance(rhs, StepMatrix), "the type check refuses strings"
    assert isinstance(lhs, ScalarSteps), "the type check refuses strings"
    return _vector_and_scalar(ctx, node, rhs, lhs, swapped=True)


def unary(ctx: QueryContext, node: ast.Unary, operand: EvalValue) -> StepMatrix | ScalarSteps:
    """Evaluate a sign; a minus drops the name."""
    assert isinstance(operand, StepMatrix | ScalarSteps), "the type check refuses strings"
    if node.op == "+":
        return operand
    if isinstance(operand, ScalarSteps):
        return ScalarSteps(-operand.values)
    cells = histogram_cells(ctx, operand)
    values = -operand.values if cells is None else negated(ctx, operand.values, cells)
    result = replace(operand, values=values)
    return remove_names(ctx.space, result, delayed=ctx.delayed_name_removal)


# --- vector and scalar ------------------------------------------------------------------------


def _vector_and_scalar(
    ctx: QueryContext, node: ast.Binary, vector: StepMatrix, scalar: ScalarSteps, *, swapped: bool
) -> StepMatrix:
    cells = histogram_cells(ctx, vector)
    sides = [Side(vector.values, cells), Side(scalar.values[None, :], None)]
    if swapped:
        sides.reverse()
    left, right = sides
    out = _of_floats(node.op, left.values, right.values, vector.values.shape)
    result = vector
    if cells is not None or node.op in TRIMS:
        has_result = apply_to_histograms(ctx, node, left, right, valid=vector.valid, out=out)
        result = _filtered(vector, has_result)
    if node.op in _COMPARISON:
        if not node.returns_bool:
            return _filtered(result, out)
        out = out.astype(np.float64)
    result = replace(result, values=out)
    if node.op in TRIMS:
        return _used_rows(ctx, result)
    return remove_names(ctx.space, result, delayed=ctx.delayed_name_removal)


def _of_floats(op: str, left: _F64, right: _F64, shape: tuple[int, ...]) -> npt.NDArray[Any]:
    """What an operator makes of floats: f64, or bool for a comparison; trims make nothing."""
    if op in TRIMS:
        return np.full(shape, np.nan)
    with np.errstate(all="ignore"):
        made: npt.NDArray[Any] = (_ARITHMETIC.get(op) or _COMPARISON[op])(left, right)
    return made


def _used_rows(ctx: QueryContext, matrix: StepMatrix) -> StepMatrix:
    """Rows that hold anything."""
    used = matrix.present().any(axis=1)
    return matrix if used.all() else take_rows(ctx.space, matrix, np.flatnonzero(used))


def _filtered(vector: StepMatrix, holds: _BOOL) -> StepMatrix:
    """The vector where a comparison holds; rows stay where they are."""
    if vector.valid is None:
        return vector if holds.all() else replace(vector, valid=holds)
    return replace(vector, valid=holds & vector.valid)


# --- two vectors ------------------------------------------------------------------------------


def _vectors(
    ctx: QueryContext, node: ast.Binary, rules: ast.VectorMatching, lhs: StepMatrix, rhs: StepMatrix
) -> StepMatrix:
    is_swapped = rules.cardinality is ast.Cardinality.ONE_TO_MANY
    many, one = (rhs, lhs) if is_swapped else (lhs, rhs)
    if rules.fill_left is not None or rules.fill_right is not None:
        many, one = with_fills(ctx, many, one, rules)
        lhs, rhs = (one, many) if is_swapped else (many, one)
    is_arithmetic = node.op in _ARITHMETIC
    drops_name = is_arithmetic or (node.returns_bool and not ctx.delayed_name_removal)
    made = matching.join(ctx, many, one, rules, drops_name=drops_name)
    lhs_rows, rhs_rows = (made.one, made.many) if is_swapped else (made.many, made.one)
    shape = (len(made.many), many.n_steps)
    out: npt.NDArray[Any] = np.empty(shape, np.bool_ if node.op in _COMPARISON else np.float64)
    if node.op not in TRIMS:
        ufunc = _ARITHMETIC.get(node.op) or _COMPARISON[node.op]
        _apply(ufunc, lhs.values, lhs_rows, rhs.values, rhs_rows, out)
    valid = _with_histograms(ctx, node, (lhs, lhs_rows), (rhs, rhs_rows), made.valid, out)
    matching.refuse_several_matches(made, valid, rules)
    if node.op in _COMPARISON and not node.returns_bool:
        values = _rows(lhs.values, lhs_rows)
        valid = out if valid is None else out & valid
    else:
        values = out.astype(np.float64, copy=False)
    if valid is not None and valid.all():
        valid = None
    matching.refuse_equal_results(ctx.space, made, valid, rules)
    marks = _marks(ctx, node, many, made.many)
    result = StepMatrix(made.labels, values, valid, marks)
    if node.op in TRIMS:
        result = _used_rows(ctx, result)
    return merge_same_labels(ctx.space, result)


def _with_histograms(
    ctx: QueryContext,
    node: ast.Binary,
    left: tuple[StepMatrix, _I64],
    right: tuple[StepMatrix, _I64],
    valid: _BOOL | None,
    out: npt.NDArray[Any],
) -> _BOOL | None:
    """Results of pairs with histograms, put into `out`; returns which pairs have a result.

    `left` and `right` are vectors and their rows in the P pairs; ``valid: bool[P, T]``.
    """
    cells = [histogram_cells(ctx, vector) for vector, _ in (left, right)]
    if node.op not in TRIMS and all(found is None for found in cells):
        return valid
    sides = (_side(*left, cells[0], valid), _side(*right, cells[1], valid))
    return apply_to_histograms(ctx, node, *sides, valid=valid, out=out)


def _side(vector: StepMatrix, rows: _I64, cells: _BOOL | None, valid: _BOOL | None) -> Side:
    """Rows of a vector as a side of pairs; histograms count where both sides are present."""
    of_pairs = None if cells is None else cells[rows]
    if of_pairs is not None and valid is not None:
        of_pairs &= valid
    return Side(_rows(vector.values, rows), of_pairs)


def _marks(
    ctx: QueryContext, node: ast.Binary, many: StepMatrix, rows: _I64
) -> npt.NDArray[np.bool_] | None:
    """Marks of lost names: kept by filters, set by `bool`; arithmetic has dropped the name."""
    if not ctx.delayed_name_removal or node.op in _ARITHMETIC:
        return None
    if node.returns_bool:
        return np.ones(len(rows), np.bool_)
    return None if many.drop_name is None else many.drop_name[rows]


def _is_identity(rows: _I64, n_rows: int) -> bool:
    return len(rows) == n_rows and bool((rows == np.arange(n_rows)).all())


def _rows(values: _F64, rows: _I64) -> _F64:
    """Rows of a matrix; the matrix itself if that is the same."""
    return values if _is_identity(rows, len(values)) else values[rows]


def _apply(
    ufunc: _Ufunc,
    left: _F64,
    left_rows: _I64,
    right: _F64,
    right_rows: _I64,
    out: npt.NDArray[Any],
) -> None:
    """``out[p] = ufunc(left[left_rows[p]], right[right_rows[p]])``, block by block."""
    n_rows, n_steps = out.shape
    left_as_is = _is_identity(left_rows, len(left))
    right_as_is = _is_identity(right_rows, len(right))
    height = max(1, _CELLS_PER_BLOCK // max(1, n_steps))
    with np.errstate(all="ignore"):
        for start in range(0, n_rows, height):
            part = slice(start, start + height)
            a = left[part] if left_as_is else left[left_rows[part]]
            b = right[part] if right_as_is else right[right_rows[part]]
            ufunc(a, b, out=out[part])


# --- set operators ----------------------------------------------------------------------------


def _set_operator(
    ctx: QueryContext, op: str, rules: ast.VectorMatching, lhs: StepMatrix, rhs: StepMatrix
) -> StepMatrix:
    groups = matching.match_groups(ctx.space, lhs.labels, rhs.labels, rules)
    if op == "or":
        here = matching.present_groups(lhs.valid, groups.left, groups.n, lhs.n_steps)
        return _union(ctx, lhs, _restricted(ctx, rhs, ~here, groups.right))
    here = matching.present_groups(rhs.valid, groups.right, groups.n, rhs.n_steps)
    return _restricted(ctx, lhs, here if op == "and" else ~here, groups.left)


def _restricted(ctx: QueryContext, matrix: StepMatrix, allowed: _BOOL, groups: _I64) -> StepMatrix:
    """The matrix where its group is allowed: ``allowed: bool[n, T]`` or ``bool[n, 1]``.

    Rows without any allowed step are left out.
    """
    rows = np.flatnonzero(np.any(allowed, axis=1)[groups])
    kept = matrix if len(rows) == matrix.n_series else take_rows(ctx.space, matrix, rows)
    if allowed.shape[1] == 1:
        return kept
    valid = allowed[groups[rows]]
    if kept.valid is not None:
        valid &= kept.valid
    return replace(kept, valid=None if valid.all() else valid)


def _first_step(valid: _BOOL) -> _I64:
    """First present step of each row, T if there is none."""
    first: _I64 = np.where(np.any(valid, axis=1), valid.argmax(axis=1), valid.shape[1])
    return first


def _union(ctx: QueryContext, lhs: StepMatrix, rhs: StepMatrix) -> StepMatrix:
    """Rows of both; a label set that both have becomes one row (they never meet at a step)."""
    if rhs.n_series == 0:
        return lhs
    if lhs.n_series == 0:
        return rhs
    space = ctx.space
    united = stack_rows(space, [lhs, rhs])
    group_of_row, first_row = space.group(united.labels)
    n_left = lhs.n_series
    if len(first_row) == united.n_series:
        return united
    values, valid = united.values, united.valid
    assert valid is not None, "equal label sets on both sides share a group, so a side is masked"
    partner = first_row[group_of_row[n_left:]]
    shared = np.flatnonzero(partner < n_left)
    target = partner[shared]
    fill = valid[n_left + shared]
    if united.drop_name is not None:
        # The mark is that of the earliest sample.
        is_later = _first_step(valid[target]) > _first_step(fill)
        marks = united.drop_name
        marks[target] = np.where(is_later, marks[n_left + shared], marks[target])
    rows = values[target]
    rows[fill] = values[n_left + shared][fill]
    values[target] = rows
    valid[target] |= fill
    kept = np.concatenate([np.arange(n_left), n_left + np.flatnonzero(partner >= n_left)])
    return merge_same_labels(space, take_rows(space, united, kept))
