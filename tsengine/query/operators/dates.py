"""Parts of the date (UTC) of values that are seconds since the epoch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from tsengine.promql import ast
from tsengine.query.context import QueryContext
from tsengine.query.operators.histogram_cells import floats_only
from tsengine.query.stepmatrix import EvalValue, StepMatrix, remove_names

_F64 = npt.NDArray[np.float64]
_I64 = npt.NDArray[np.int64]

_CELLS_PER_BLOCK = 1 << 14
_S_PER_DAY = 86400
_DAYS_PER_ERA = 146_097  # 400 years
_INT64_MIN = np.iinfo(np.int64).min

# Go counts seconds in 64 bits without sign from a day 106,751,990,353,932 days before the epoch;
# what does not fit wraps around. Only numbers that are no dates show it.
_DAYS_BEFORE_EPOCH = 106_751_990_353_932


@dataclass(frozen=True, slots=True)
class _Moment:
    """Days since the epoch and second of the day, ``i64`` arrays of one shape."""

    days: _I64
    second: _I64

    def civil(self) -> tuple[_I64, _I64, _I64]:
        """Year, month 1..12 and day 1..31 of the Gregorian calendar.

        Source: Howard Hinnant, "chrono-compatible low-level date algorithms", civil_from_days.
        """
        shifted = self.days + 719_468  # days since 0000-03-01: leap days come last in a year
        era = shifted // _DAYS_PER_ERA
        day_of_era = shifted - era * _DAYS_PER_ERA
        year_of_era = (
            day_of_era - day_of_era // 1460 + day_of_era // 36_524 - day_of_era // 146_096
        ) // 365
        day_of_year = day_of_era - (365 * year_of_era + year_of_era // 4 - year_of_era // 100)
        month = (5 * day_of_year + 2) // 153
        day = day_of_year - (153 * month + 2) // 5 + 1
        is_next_year = month >= 10
        return year_of_era + era * 400 + is_next_year, month + np.where(is_next_year, -9, 3), day


def _moment(seconds: _F64) -> _Moment:
    """Instants of values, truncated toward zero to seconds."""
    with np.errstate(invalid="ignore"):
        fits = np.abs(seconds) < 2.0**63
        whole = np.where(fits, seconds, 0.0).astype(np.int64)
    whole[~fits] = _INT64_MIN
    since_start = whole.view(np.uint64) + np.uint64(_DAYS_BEFORE_EPOCH * _S_PER_DAY)
    days = (since_start // np.uint64(_S_PER_DAY)).astype(np.int64) - _DAYS_BEFORE_EPOCH
    return _Moment(days, (since_start % np.uint64(_S_PER_DAY)).astype(np.int64))


def _is_leap(year: _I64) -> npt.NDArray[np.bool_]:
    leaps: npt.NDArray[np.bool_] = (year % 4 == 0) & ((year % 100 != 0) | (year % 400 == 0))
    return leaps


_DAYS_IN_MONTH = np.array([0, 31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31])
_DAYS_BEFORE_MONTH = np.cumsum(_DAYS_IN_MONTH) - _DAYS_IN_MONTH


def _days_in_month(moment: _Moment) -> _I64:
    year, month, _ = moment.civil()
    days: _I64 = _DAYS_IN_MONTH[month] + (_is_leap(year) & (month == 2))
    return days


def _day_of_year(moment: _Moment) -> _I64:
    year, month, day = moment.civil()
    days: _I64 = _DAYS_BEFORE_MONTH[month] + day + (_is_leap(year) & (month > 2))
    return days


PARTS: dict[str, Callable[[_Moment], _I64]] = {
    "minute": lambda moment: moment.second // 60 % 60,
    "hour": lambda moment: moment.second // 3600,
    "day_of_week": lambda moment: (moment.days + 4) % 7,  # the epoch was a Thursday, Sunday is 0
    "day_of_month": lambda moment: moment.civil()[2],
    "day_of_year": _day_of_year,
    "days_in_month": _days_in_month,
    "month": lambda moment: moment.civil()[1],
    "year": lambda moment: moment.civil()[0],
}
"""Functions by name."""


def date_part(ctx: QueryContext, node: ast.Call, args: Sequence[EvalValue]) -> EvalValue:
    """`year(v)` and its like; without argument of the evaluation time, as one unlabelled series."""
    if args:
        operand = args[0]
        assert isinstance(operand, StepMatrix), "the type check lets only a vector through"
        operand = floats_only(ctx, operand)
    else:
        seconds = (ctx.steps_ms // 1000).astype(np.float64)
        operand = StepMatrix(ctx.space.empty_rows(1), seconds[None, :])
    values = np.empty(operand.values.shape)
    cells, out = operand.values.reshape(-1), values.reshape(-1)
    for start in range(0, len(cells), _CELLS_PER_BLOCK):
        part = slice(start, start + _CELLS_PER_BLOCK)
        out[part] = PARTS[node.name](_moment(cells[part]))
    result = replace(operand, values=values)
    return remove_names(ctx.space, result, delayed=ctx.delayed_name_removal)
