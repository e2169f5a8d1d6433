"""What queries may use, by the categories of Prometheus's ``/features``."""

from __future__ import annotations

from typing import Final

from tsengine.options import TYPE_AND_UNIT_LABELS
from tsengine.promql import functions as fn
from tsengine.promql import lexer as lx

_ALWAYS: Final = (
    "at_modifier", "bool", "by", "duration_expr", "group_left", "group_right", "ignoring",
    "negative_offset", "offset", "on", "per_query_lookback_delta", "subqueries", "without",
)  # fmt: skip
_SYMBOLS: Final = (
    "!=", "!~", "%", "*", "+", "-", "/", "<", "</", "<=", "==", "=~", ">", ">/", ">=", "@", "^",
)  # fmt: skip


def promql_features(features: frozenset[str]) -> dict[str, dict[str, bool]]:
    """Category to name to whether it is usable with these feature switches."""
    experimental = fn.EXPERIMENTAL_FUNCTIONS in features
    has_ranges = fn.EXTENDED_RANGE_SELECTORS in features
    has_fills = fn.BINOP_FILL_MODIFIERS in features
    promql = dict.fromkeys(_ALWAYS, True)
    promql |= {"per_step_stats": False, "type_and_unit_labels": TYPE_AND_UNIT_LABELS in features}
    promql |= {"anchored": has_ranges, "smoothed": has_ranges}
    promql |= dict.fromkeys(lx.FILLS, has_fills)
    operators = dict.fromkeys((*_SYMBOLS, *lx.WORD_OPERATORS), True)
    for name in lx.AGGREGATORS:
        operators[name] = experimental or name not in fn.EXPERIMENTAL_AGGREGATORS
    return {
        "promql": promql,
        "promql_functions": {
            name: signature.feature is None or signature.feature in features
            for name, signature in fn.FUNCTIONS.items()
        },
        "promql_operators": operators,
    }
