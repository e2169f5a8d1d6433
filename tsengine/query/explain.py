"""A plan as text, one node per line, operands indented."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tsengine.model.matchers import METRIC_NAME, Matcher, MatchOp
from tsengine.promql import ast
from tsengine.query import plan as p


def explain(plan: p.Plan, choices: Mapping[int, str] | None = None) -> str:
    """The whole tree, ready to print; `choices`: see `QueryContext.choices`."""
    choices = choices or {}
    lines: list[str] = []
    pending = [(plan, 0)]
    while pending:
        part, depth = pending.pop()
        choice = choices.get(id(part))
        read = "" if choice is None else f" from {choice}"
        lines.append("  " * depth + _describe(part) + read)
        pending.extend((child, depth + 1) for child in reversed(p.children(part)))
    return "\n".join(lines)


def _describe(plan: p.Plan) -> str:
    match plan:
        case p.NumberPlan(node=node):
            return f"number {node.value!r}"
        case p.StringPlan(node=node):
            return f"string {node.value!r}"
        case p.SelectPlan(node=node, shift=shift, want_time=want_time, want_start=want_start):
            what = "sample times" if want_time else "latest samples"
            if want_start:
                what = "start timestamps"
            return f"{what} of {_selector(node)}{_shift(shift)}"
        case p.MatrixPlan(node=node, shift=shift, range_ms=range_ms):
            return f"samples of {_selector(node.selector)} over {range_ms} ms{_shift(shift)}"
        case p.SubqueryPlan(shift=shift, range_ms=range_ms, step_ms=step_ms):
            return f"subquery over {range_ms} ms every {step_ms} ms{_shift(shift)}"
        case p.RollupPlan(node=node):
            return f"rollup {node.name}"
        case p.CallPlan(node=node):
            return f"call {node.name}"
        case p.InfoPlan(matchers=matchers, shift=shift):
            return f"labels of info series {{{_matchers(matchers)}}}{_shift(shift)}"
        case p.AggregatePlan(node=node):
            return f"aggregate {_grouping(node)}"
        case p.SlicedAggregatePlan(node=node):
            return f"aggregate in slices {_grouping(node)}"
        case p.BinaryPlan(node=node):
            return f"binary {node.op}"
        case p.UnaryPlan(node=node):
            return f"unary {node.op}"
        case p.InvariantPlan():
            return "once for all steps"


def _selector(node: ast.VectorSelector) -> str:
    others = [m for m in node.matchers if m.name != METRIC_NAME or m.op is not MatchOp.EQUAL]
    modifier = " anchored" if node.anchored else " smoothed" if node.smoothed else ""
    return f"{node.name or ''}{{{_matchers(others)}}}{modifier}"


def _matchers(matchers: Sequence[Matcher]) -> str:
    return ", ".join(f"{m.name}{m.op.value}{m.value!r}" for m in matchers)


def _shift(shift: p.Shift) -> str:
    at = "" if shift.at_ms is None else f" at {shift.at_ms}"
    offset = "" if shift.offset_ms == 0 else f" offset {shift.offset_ms} ms"
    return at + offset


def _grouping(node: ast.Aggregate) -> str:
    if not node.grouping and not node.without:
        return node.op
    return f"{node.op} {'without' if node.without else 'by'} ({', '.join(node.grouping)})"
