"""Fill modifiers of vector matching: rows that stand in where a partner is missing.

For every matching label set that one side has and the other lacks at some step, the other side gets
one more row: with the matching labels as its labels, the fill value everywhere, present exactly at
those steps. Joined with these rows, vectors match by the ordinary rules.

With `group_right` the sides are swapped before they are filled, and Prometheus does not swap the
values: `fill_left` always stands in for the "many" side.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tsengine.promql.ast import VectorMatching
from tsengine.query.context import QueryContext
from tsengine.query.operators import matching
from tsengine.query.operators.room import require_room
from tsengine.query.operators.rows import stack_rows
from tsengine.query.stepmatrix import StepMatrix

_BOOL = npt.NDArray[np.bool_]
_I64 = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class _Side:
    """A vector, the matching group of each row, and where groups are present: bool[n, T]."""

    vector: StepMatrix
    groups: _I64
    present: _BOOL


def with_fills(
    ctx: QueryContext, many: StepMatrix, one: StepMatrix, rules: VectorMatching
) -> tuple[StepMatrix, StepMatrix]:
    """Both sides with the rows that `fill_left` and `fill_right` ask for."""
    groups = matching.match_groups(ctx.space, many.labels, one.labels, rules)
    many_side = _side(many, groups.left, groups.n)
    one_side = _side(one, groups.right, groups.n)
    return (
        _filled(ctx, many_side, one_side, rules, rules.fill_left),
        _filled(ctx, one_side, many_side, rules, rules.fill_right),
    )


def _side(vector: StepMatrix, groups: _I64, n_groups: int) -> _Side:
    present = matching.present_groups(vector.valid, groups, n_groups, vector.n_steps)
    return _Side(vector, groups, np.broadcast_to(present, (n_groups, vector.n_steps)))


def _filled(
    ctx: QueryContext, side: _Side, other: _Side, rules: VectorMatching, fill: float | None
) -> StepMatrix:
    if fill is None:
        return side.vector
    missing = other.present & ~side.present
    lacking = np.flatnonzero(np.any(missing, axis=1))
    if len(lacking) == 0:
        return side.vector
    n_steps = side.vector.n_steps
    require_room(ctx, len(lacking) * n_steps)
    # Any row of the group has its labels.
    row_of_group = np.zeros(len(missing), np.int64)
    row_of_group[other.groups] = np.arange(len(other.groups))
    rows = ctx.space.take(other.vector.labels, row_of_group[lacking])
    stand_ins = StepMatrix(
        matching.matching_labels(ctx.space, rows, rules),
        np.full((len(lacking), n_steps), fill),
        missing[lacking],
    )
    return stack_rows(ctx.space, [side.vector, stand_ins])
