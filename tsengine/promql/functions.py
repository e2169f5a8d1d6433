"""The functions of PromQL: names, argument types, results. What they compute is not here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from tsengine.promql.ast import ValueType

EXPERIMENTAL_FUNCTIONS: Final = "promql-experimental-functions"
EXTENDED_RANGE_SELECTORS: Final = "promql-extended-range-selectors"
BINOP_FILL_MODIFIERS: Final = "promql-binop-fill-modifiers"
USE_START_TIMESTAMPS: Final = "use-start-timestamps"

ALL_OFF: Final[frozenset[str]] = frozenset()
ALL_ON: Final = frozenset(
    (EXPERIMENTAL_FUNCTIONS, EXTENDED_RANGE_SELECTORS, BINOP_FILL_MODIFIERS, USE_START_TIMESTAMPS)
)

UNLIMITED: Final = -1
PARAMETER_AGGREGATORS: Final = frozenset(
    ("bottomk", "count_values", "limit_ratio", "limitk", "quantile", "topk")
)
EXPERIMENTAL_AGGREGATORS: Final = frozenset(("limit_ratio", "limitk"))


@dataclass(frozen=True, slots=True)
class Signature:
    """What a function takes and gives.

    Parameters
    ----------
    args
        Types of the arguments; the last one may repeat or be left out, see `variadic`.
    returns
        Type of the result.
    variadic
        0: exactly ``args``. n > 0: all but the last, then up to n of the last type. UNLIMITED:
        all but the last, then any number of the last type.
    feature
        Feature switch that must be on, or None.

    """

    args: tuple[ValueType, ...]
    returns: ValueType = ValueType.VECTOR
    variadic: int = 0
    feature: str | None = None

    @property
    def n_args_min(self) -> int:
        """Fewest arguments accepted."""
        return len(self.args) - 1 if self.variadic else len(self.args)

    @property
    def n_args_max(self) -> int | None:
        """Most arguments accepted; None if there is no limit."""
        if self.variadic == UNLIMITED:
            return None
        return self.n_args_min + self.variadic


_TYPES: Final = {
    "v": ValueType.VECTOR,
    "m": ValueType.MATRIX,
    "s": ValueType.SCALAR,
    "t": ValueType.STRING,
}

# One line per shape: argument types, result, repetitions of the last argument, names.
# v instant vector, m range vector, s scalar, t string.
_SHAPES: Final[tuple[tuple[str, str, int, str], ...]] = (
    ("m", "v", 0,
     "absent_over_time avg_over_time changes count_over_time delta deriv first_over_time idelta"
     " increase irate last_over_time max_over_time min_over_time present_over_time rate resets"
     " stddev_over_time stdvar_over_time sum_over_time"),
    ("ms", "v", 0, "predict_linear"),
    ("sm", "v", 0, "quantile_over_time"),
    ("v", "v", 0,
     "abs absent acos acosh asin asinh atan atanh ceil cos cosh deg exp floor histogram_avg"
     " histogram_count histogram_stddev histogram_stdvar histogram_sum ln log10 log2 rad sgn sin"
     " sinh sort sort_desc sqrt tan tanh timestamp"),
    ("v", "v", 1,
     "day_of_month day_of_week day_of_year days_in_month hour minute month year"),
    ("vs", "v", 0, "clamp_max clamp_min"),
    ("vs", "v", 1, "round"),
    ("vss", "v", 0, "clamp"),
    ("sv", "v", 0, "histogram_quantile"),
    ("ssv", "v", 0, "histogram_fraction"),
    ("vtttt", "v", 0, "label_replace"),
    ("vttt", "v", UNLIMITED, "label_join"),
    ("v", "s", 0, "scalar"),
    ("s", "v", 0, "vector"),
    ("", "s", 0, "pi time"),
)  # fmt: skip
_EXPERIMENTAL_SHAPES: Final[tuple[tuple[str, str, int, str], ...]] = (
    ("m", "v", 0,
     "mad_over_time ts_of_first_over_time ts_of_last_over_time ts_of_max_over_time"
     " ts_of_min_over_time"),
    ("mss", "v", 0, "double_exponential_smoothing"),
    ("v", "v", 0, "start_timestamp"),
    ("vv", "v", 1, "info"),
    ("vt", "v", UNLIMITED, "sort_by_label sort_by_label_desc"),
    ("vtss", "v", 9, "histogram_quantiles"),
    ("ss", "s", 0, "max_of min_of"),
    ("", "s", 0, "end range start step"),
)  # fmt: skip


def _table() -> dict[str, Signature]:
    table = {}
    for shapes, feature in ((_SHAPES, None), (_EXPERIMENTAL_SHAPES, EXPERIMENTAL_FUNCTIONS)):
        for args, returns, variadic, names in shapes:
            signature = Signature(
                tuple(_TYPES[letter] for letter in args), _TYPES[returns], variadic, feature
            )
            table.update(dict.fromkeys(names.split(), signature))
    return table


FUNCTIONS: Final[Mapping[str, Signature]] = MappingProxyType(_table())
