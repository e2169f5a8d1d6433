"""Vector matching: which rows of two vectors belong together, decided from labels alone.

Rows whose matching labels are equal share a *group*. Everything that depends on which of them are
present at a step (duplicates, errors) is looked at only for groups that have several rows.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tsengine.errors import QueryError
from tsengine.kernels.aggregate import count_valid
from tsengine.model.labels import NO_ID, LabelRows
from tsengine.model.matchers import METRIC_NAME
from tsengine.promql.ast import Cardinality, VectorMatching
from tsengine.query.context import QueryContext
from tsengine.query.labelspace import NAME_LABELS, LabelSpace
from tsengine.query.operators import gotext
from tsengine.query.operators.room import require_room
from tsengine.query.stepmatrix import SAME_LABELSET, StepMatrix

_I64 = npt.NDArray[np.int64]
_BOOL = npt.NDArray[np.bool_]

_CELLS_PER_BLOCK = 1 << 20

_ONE_SIDE_NOT_UNIQUE = (
    "many-to-many matching not allowed: matching labels must be unique on one side"
)
_NEEDS_GROUPING = (
    "multiple matches for labels: many-to-one matching must be explicit (group_left/group_right)"
)
_NOT_UNIQUE_MATCHES = "multiple matches for labels: grouping labels must ensure unique matches"


def matching_labels(space: LabelSpace, rows: LabelRows, matching: VectorMatching) -> LabelRows:
    """The part of the labels that has to be equal."""
    if matching.is_on:
        return space.keep(rows, matching.labels)
    return space.drop(rows, (*matching.labels, METRIC_NAME))


@dataclass(frozen=True, slots=True)
class Groups:
    """Matching groups of two vectors: ``left: i64[L]``, ``right: i64[R]``, numbered 0..n - 1."""

    left: _I64
    right: _I64
    n: int


def match_groups(
    space: LabelSpace, left: LabelRows, right: LabelRows, matching: VectorMatching
) -> Groups:
    """Number the matching label sets of both sides."""
    both = space.concat(
        [matching_labels(space, left, matching), matching_labels(space, right, matching)]
    )
    group_of_row, first_row = space.group(both)
    return Groups(group_of_row[: len(left)], group_of_row[len(left) :], len(first_row))


def present_groups(valid: _BOOL | None, groups: _I64, n_groups: int, n_steps: int) -> _BOOL:
    """Whether any row of a group is present: bool[n, T], or bool[n, 1] if all cells are."""
    if valid is None:
        return (np.bincount(groups, minlength=n_groups) > 0)[:, None]
    count = np.zeros((n_groups, n_steps))
    count_valid(np.ascontiguousarray(valid), groups, count)
    return count > 0


@dataclass(frozen=True, slots=True)
class Join:
    """Pairs of rows: ``many: i64[P]`` and ``one: i64[P]``, with the result's labels.

    ``valid: bool[P, T]``, None if all cells are present: both rows are. ``group: i64[P]``, below
    `n_groups`.
    """

    many: _I64
    one: _I64
    valid: _BOOL | None
    labels: LabelRows
    group: _I64
    n_groups: int


def join(
    ctx: QueryContext,
    many: StepMatrix,
    one: StepMatrix,
    matching: VectorMatching,
    *,
    drops_name: bool,
) -> Join:
    """Pair the rows of the "many" side (the left one in one-to-one) with those of the "one" side.

    `drops_name` says whether the result loses the metric name at once.

    Raises
    ------
    QueryError
        A matching label set is not unique on the "one" side, at a step where it matters.

    """
    space = ctx.space
    groups = match_groups(space, many.labels, one.labels, matching)
    _refuse_duplicates(ctx, many, one, groups, matching)
    many_rows, one_rows = _pairs(ctx, many, one, groups)
    require_room(ctx, len(many_rows) * many.n_steps)
    labels = _result_labels(space, many, one, matching, many_rows, one_rows, drops_name)
    valid = _both_present(many, one, many_rows, one_rows)
    return Join(many_rows, one_rows, valid, labels, groups.left[many_rows], groups.n)


def refuse_several_matches(made: Join, valid: _BOOL | None, matching: VectorMatching) -> None:
    """Refuse two pairs of a one-to-one matching that share a row of the "one" side at a step.

    ``valid: bool[P, T]``: where the operator has a result for the pair, also one that a comparison
    will filter out; None for everywhere. Types that don't go together have none.
    """
    if matching.cardinality is Cardinality.ONE_TO_ONE:
        _refuse_overlap(made, valid, made.group, made.n_groups, _NEEDS_GROUPING, same_group=True)


def refuse_equal_results(
    space: LabelSpace, made: Join, valid: _BOOL | None, matching: VectorMatching
) -> None:
    """Refuse two pairs of a grouped matching that give one label set at a step.

    ``valid: bool[P, T]``: where pairs have a result, None for everywhere. What a comparison has
    filtered out is none, unlike in `refuse_several_matches`.
    """
    if matching.cardinality is not Cardinality.ONE_TO_ONE:
        group, first_row = space.group(made.labels)
        _refuse_overlap(made, valid, group, len(first_row), _NOT_UNIQUE_MATCHES, same_group=False)


def _refuse_duplicates(
    ctx: QueryContext, many: StepMatrix, one: StepMatrix, groups: Groups, matching: VectorMatching
) -> None:
    """Two rows of the "one" side with equal matching labels, at a step where both sides exist."""
    rows_per_group = np.bincount(groups.right, minlength=groups.n)
    rows = np.flatnonzero(rows_per_group[groups.right] > 1)
    if len(rows) == 0:
        return
    has_fill = matching.fill_left is not None or matching.fill_right is not None
    if has_fill or (many.valid is None and many.n_series):
        matters = np.ones(one.n_steps, np.bool_)
    else:
        matters = np.any(many.present(), axis=0)
    present = one.present()[rows]
    dense, dense_group = np.unique(groups.right[rows], return_inverse=True)
    count = np.zeros((len(dense), one.n_steps))
    count_valid(np.ascontiguousarray(present & matters), dense_group.astype(np.int64), count)
    bad_steps = np.flatnonzero((count > 1).any(axis=0))
    if len(bad_steps) == 0:
        return
    step = bad_steps[0]
    seen: dict[int, int] = {}
    for row, group, is_present in zip(rows, dense_group, present[:, step], strict=True):
        if is_present and group in seen:
            _raise_duplicate(ctx.space, one, matching, seen[group], int(row))
        if is_present:
            seen[group] = int(row)


def _raise_duplicate(
    space: LabelSpace, one: StepMatrix, matching: VectorMatching, first: int, second: int
) -> None:
    rows = space.take(one.labels, np.array([first, second]))
    texts = sorted(gotext.label_set(labels) for labels in space.materialise(rows))
    group = space.materialise(matching_labels(space, space.take(rows, np.array([0])), matching))[0]
    side = "left" if matching.cardinality is Cardinality.ONE_TO_MANY else "right"
    raise QueryError(
        f"found duplicate series for the match group {gotext.label_set(group)} on the {side} "
        f"hand-side of the operation: [{', '.join(texts)}];{_ONE_SIDE_NOT_UNIQUE}"
    )


def _pairs(
    ctx: QueryContext, many: StepMatrix, one: StepMatrix, groups: Groups
) -> tuple[_I64, _I64]:
    """All pairs of rows of one group; those that never meet are left out where it matters."""
    order = np.argsort(groups.right, kind="stable")
    sizes = np.bincount(groups.right, minlength=groups.n)
    starts = np.cumsum(sizes) - sizes
    n_partners = sizes[groups.left]
    require_room(ctx, int(n_partners.sum()))
    many_rows = np.repeat(np.arange(many.n_series), n_partners)
    first_of_row = np.cumsum(n_partners) - n_partners
    place = np.arange(len(many_rows)) - first_of_row[many_rows]
    one_rows = order[starts[groups.left[many_rows]] + place]
    if not (sizes > 1).any():
        return many_rows, one_rows
    # The "one" side of some groups changes hands over time: only pairs that meet are of interest.
    may_meet = _life_spans_overlap(many, one, many_rows, one_rows)
    several = np.flatnonzero(may_meet & (sizes[groups.left[many_rows]] > 1))
    meets = may_meet
    for chunk in _chunks(len(several), many.n_steps):
        at = several[chunk]
        both = _both_present(many, one, many_rows[at], one_rows[at])
        meets[at] = True if both is None else both.any(axis=1)
    return many_rows[meets], one_rows[meets]


def _life_spans_overlap(
    many: StepMatrix, one: StepMatrix, many_rows: _I64, one_rows: _I64
) -> _BOOL:
    """Whether the spans from first to last present step of two rows meet: bool[P]."""
    many_first, many_last = _life_span(many)
    one_first, one_last = _life_span(one)
    return (many_first[many_rows] <= one_last[one_rows]) & (
        one_first[one_rows] <= many_last[many_rows]
    )


def _life_span(matrix: StepMatrix) -> tuple[_I64, _I64]:
    """First and last present step of each row; of an empty row a span that meets none."""
    n_rows, n_steps = matrix.values.shape
    if matrix.valid is None:
        return np.zeros(n_rows, np.int64), np.full(n_rows, n_steps - 1)
    first = matrix.valid.argmax(axis=1)
    last = n_steps - 1 - matrix.valid[:, ::-1].argmax(axis=1)
    is_empty = ~np.any(matrix.valid, axis=1)
    first[is_empty], last[is_empty] = n_steps, -1
    return first, last


def _chunks(n_rows: int, n_steps: int) -> list[slice]:
    """Slices of rows of about `_CELLS_PER_BLOCK` cells."""
    height = max(1, _CELLS_PER_BLOCK // max(1, n_steps))
    return [slice(start, start + height) for start in range(0, n_rows, height)]


def _both_present(
    many: StepMatrix, one: StepMatrix, many_rows: _I64, one_rows: _I64
) -> _BOOL | None:
    if many.valid is None and one.valid is None:
        return None
    if many.valid is None:
        assert one.valid is not None, "one of the two is a mask here"
        return one.valid[one_rows]
    valid = many.valid[many_rows]
    if one.valid is not None:
        valid &= one.valid[one_rows]
    return valid


def _result_labels(
    space: LabelSpace,
    many: StepMatrix,
    one: StepMatrix,
    matching: VectorMatching,
    many_rows: _I64,
    one_rows: _I64,
    drops_name: bool,
) -> LabelRows:
    labels = space.take(many.labels, many_rows)
    if drops_name:
        labels = space.drop(labels, NAME_LABELS)
    if matching.cardinality is Cardinality.ONE_TO_ONE:
        if matching.is_on:
            labels = space.keep(labels, matching.labels)
        else:
            labels = space.drop(labels, matching.labels)
    for name in matching.include:
        column = space.column(one.labels, name)
        pairs = column[one_rows] if len(column) else np.full(len(one_rows), NO_ID, np.int64)
        labels = space.set_column(labels, name, pairs)
    return labels


def _refuse_overlap(
    made: Join,
    valid: _BOOL | None,
    result_group: _I64,
    n_groups: int,
    text: str,
    *,
    same_group: bool,
) -> None:
    """Two pairs that would give one result at one step.

    Unless `same_group` says that result groups are matching groups, `text` holds for pairs of one
    matching group; for others the result would have a label set twice.
    """
    sizes = np.bincount(result_group, minlength=n_groups)
    rows = np.flatnonzero(sizes[result_group] > 1)
    if len(rows) == 0:
        return
    dense, dense_group = np.unique(result_group[rows], return_inverse=True)
    if valid is None:
        crowded = np.ones((len(dense), 1), np.bool_)
        present = np.ones((len(rows), 1), np.bool_)
    else:
        present = np.ascontiguousarray(valid[rows])
        count = np.zeros((len(dense), present.shape[1]))
        count_valid(present, dense_group.astype(np.int64), count)
        crowded = count > 1
    steps = np.flatnonzero(crowded.any(axis=0))
    if len(steps) == 0:
        return
    bad = int(np.flatnonzero(crowded[:, steps[0]])[0])
    pairs = rows[(dense_group == bad) & present[:, steps[0]]]
    if same_group or len(np.unique(made.group[pairs])) < len(pairs):
        raise QueryError(text)
    raise QueryError(SAME_LABELSET)
