"""Literals, and parts of a query that are the same at every step."""

from __future__ import annotations

import numpy as np

from tsengine.promql import ast
from tsengine.query.context import QueryContext
from tsengine.query.stepmatrix import EvalValue, ScalarSteps, StepMatrix, StringValue


def evaluate_number(node: ast.NumberLiteral, ctx: QueryContext) -> ScalarSteps:
    """A number at every step."""
    return ScalarSteps(np.full(ctx.n_steps, node.value))


def evaluate_string(node: ast.StringLiteral) -> StringValue:
    """A string."""
    return StringValue(node.value)


def repeat(value: EvalValue, ctx: QueryContext) -> EvalValue:
    """What was computed at one step, at every step of `ctx`; rows absent there are left out."""
    if isinstance(value, StringValue):
        return value
    if isinstance(value, ScalarSteps):
        return ScalarSteps(np.repeat(value.values, ctx.n_steps))
    if value.valid is not None:
        rows = np.flatnonzero(value.valid[:, 0])
        value = StepMatrix(
            ctx.space.take(value.labels, rows),
            value.values[rows],
            None,
            None if value.drop_name is None else value.drop_name[rows],
        )
    repeated = np.repeat(value.values, ctx.n_steps, axis=1)
    return StepMatrix(value.labels, repeated, None, value.drop_name)
