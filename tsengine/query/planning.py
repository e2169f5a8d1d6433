"""A query's text to its plan. Dashboards ask the same again and again, so plans are kept.

Not those of texts whose plan depends on the query's times: ``@ start()``, ``[step()]`` and the
like. Plans are immutable and belong to no query; any thread.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from functools import lru_cache

from tsengine.promql import ast
from tsengine.promql.durations import resolve_durations
from tsengine.promql.parser import parse
from tsengine.query import plan as p
from tsengine.query.build import QueryTimes, build
from tsengine.query.optimize import optimize, shared_keys

_KEPT_SIZE_MAX = 1024
_N_KEPT = 256


@dataclass(frozen=True, slots=True)
class Planned:
    """A plan, and what `QueryContext.shared_keys` are for it."""

    plan: p.Plan
    shared_keys: frozenset[Hashable]


def make_plan(
    text: str,
    *,
    start_ms: int,
    end_ms: int,
    step_ms: int,
    n_steps: int,
    features: frozenset[str],
    max_depth: int,
) -> Planned:
    """Parse, build and optimize; the times are those of the query.

    Raises
    ------
    ParseError, QueryError

    """
    if len(text) <= _KEPT_SIZE_MAX:
        kept = _timeless_plan(text, n_steps > 1, features, max_depth)
        if kept is not None:
            return kept
    expr = parse(text, features=features, max_depth=max_depth)
    expr = resolve_durations(expr, start_ms=start_ms, end_ms=end_ms, step_ms=step_ms)
    return _planned(expr, QueryTimes(start_ms, end_ms), n_steps)


@lru_cache(maxsize=_N_KEPT)
def _timeless_plan(
    text: str, has_steps: bool, features: frozenset[str], max_depth: int
) -> Planned | None:
    """The plan for all times; None if there is none."""
    expr = parse(text, features=features, max_depth=max_depth)
    if any(map(_depends_on_times, ast.walk(expr))):
        return None
    return _planned(expr, QueryTimes(0, 0), 2 if has_steps else 1)


def _depends_on_times(node: ast.Expr) -> bool:
    match node:
        case ast.VectorSelector(shift=shift):
            return _shift_depends(shift)
        case ast.MatrixSelector(range_expr=range_expr):
            return range_expr is not None
        case ast.Subquery(range_expr=range_expr, step_expr=step_expr, shift=shift):
            return range_expr is not None or step_expr is not None or _shift_depends(shift)
        case _:
            return False


def _shift_depends(shift: ast.TimeShift) -> bool:
    return shift.offset_expr is not None or shift.at_edge is not None


def _planned(expr: ast.Expr, times: QueryTimes, n_steps: int) -> Planned:
    plan = optimize(build(expr, times), n_steps=n_steps)
    return Planned(plan, shared_keys(plan))
