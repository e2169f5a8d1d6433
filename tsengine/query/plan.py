"""The logical plan: what will be computed, typed, with all times resolved. No data, no numbers.

`build` makes plans from syntax trees, `optimize` rewrites them, `explain` prints them, `evaluate`
runs them. A node keeps the piece of syntax it came from: operators read matching, grouping and
positions from there.
"""

from __future__ import annotations

from dataclasses import dataclass

from tsengine.model.matchers import Matcher
from tsengine.promql import ast
from tsengine.promql.functions import FUNCTIONS


@dataclass(frozen=True, slots=True)
class Shift:
    """Where a selector looks: T = (at_ms, or the step's time) - offset_ms."""

    offset_ms: int = 0
    at_ms: int | None = None


@dataclass(frozen=True, slots=True)
class NumberPlan:
    """A number literal."""

    node: ast.NumberLiteral


@dataclass(frozen=True, slots=True)
class StringPlan:
    """A string literal."""

    node: ast.StringLiteral


@dataclass(frozen=True, slots=True)
class SelectPlan:
    """An instant selector; `want_time` gives the samples' times (``timestamp(selector)``).

    `want_start` gives their start timestamps (``start_timestamp(selector)``). `totals_only`: of
    histograms nothing but count, sum and hint is of use.
    """

    node: ast.VectorSelector
    shift: Shift
    want_time: bool = False
    want_start: bool = False
    totals_only: bool = False


@dataclass(frozen=True, slots=True)
class MatrixPlan:
    """A range selector: the operand of a rollup, or the root of an instant query.

    `totals_only`: see `SelectPlan`.
    """

    node: ast.MatrixSelector
    shift: Shift
    range_ms: int
    totals_only: bool = False


@dataclass(frozen=True, slots=True)
class SubqueryPlan:
    """An expression on the grid of multiples of `step_ms`; stands where a MatrixPlan may."""

    node: ast.Subquery
    inner: Plan
    shift: Shift
    range_ms: int
    step_ms: int


@dataclass(frozen=True, slots=True)
class RollupPlan:
    """A function of a range vector; `params` are its other arguments, in order."""

    node: ast.Call
    source: MatrixPlan | SubqueryPlan
    params: tuple[Plan, ...] = ()


@dataclass(frozen=True, slots=True)
class CallPlan:
    """A function of instant vectors, scalars and strings."""

    node: ast.Call
    args: tuple[Plan, ...]


@dataclass(frozen=True, slots=True)
class InfoPlan:
    """``info(v, {...})``: `matchers` as written; info series are looked at as `shift` says."""

    node: ast.Call
    operand: Plan
    matchers: tuple[Matcher, ...]
    shift: Shift


@dataclass(frozen=True, slots=True)
class AggregatePlan:
    """An aggregation; `label` is the parameter of count_values."""

    node: ast.Aggregate
    operand: Plan
    param: Plan | None = None
    label: str | None = None


@dataclass(frozen=True, slots=True)
class SlicedAggregatePlan:
    """An aggregation that runs inside the slices of the selector or rollup under it."""

    node: ast.Aggregate
    operand: SelectPlan | RollupPlan


@dataclass(frozen=True, slots=True)
class BinaryPlan:
    """A binary operation."""

    node: ast.Binary
    lhs: Plan
    rhs: Plan


@dataclass(frozen=True, slots=True)
class UnaryPlan:
    """A sign in front of an expression."""

    node: ast.Unary
    operand: Plan


@dataclass(frozen=True, slots=True)
class InvariantPlan:
    """A part that is the same at every step: computed once, then repeated."""

    inner: Plan


Plan = (
    NumberPlan
    | StringPlan
    | SelectPlan
    | MatrixPlan
    | SubqueryPlan
    | RollupPlan
    | CallPlan
    | InfoPlan
    | AggregatePlan
    | SlicedAggregatePlan
    | BinaryPlan
    | UnaryPlan
    | InvariantPlan
)


def children(plan: Plan) -> tuple[Plan, ...]:
    """Direct operands of a node."""
    match plan:
        case SubqueryPlan(inner=inner) | InvariantPlan(inner=inner):
            return (inner,)
        case RollupPlan(source=source, params=params):
            return (source, *params)
        case CallPlan(args=args):
            return args
        case AggregatePlan(operand=operand, param=param):
            return (operand,) if param is None else (operand, param)
        case (
            SlicedAggregatePlan(operand=operand)
            | UnaryPlan(operand=operand)
            | InfoPlan(operand=operand)
        ):
            return (operand,)
        case BinaryPlan(lhs=lhs, rhs=rhs):
            return (lhs, rhs)
        case _:
            return ()


def value_type(plan: Plan) -> ast.ValueType:
    """What a plan evaluates to."""
    match plan:
        case InvariantPlan(inner=inner) | UnaryPlan(operand=inner):
            return value_type(inner)
        case NumberPlan():
            return ast.ValueType.SCALAR
        case StringPlan():
            return ast.ValueType.STRING
        case MatrixPlan() | SubqueryPlan():
            return ast.ValueType.MATRIX
        case BinaryPlan(lhs=lhs, rhs=rhs):
            scalar = ast.ValueType.SCALAR
            both = value_type(lhs) is scalar and value_type(rhs) is scalar
            return scalar if both else ast.ValueType.VECTOR
        case CallPlan(node=node):
            return FUNCTIONS[node.name].returns
        case _:
            return ast.ValueType.VECTOR
