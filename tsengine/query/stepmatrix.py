"""What an expression evaluates to: values at the steps of a query, as columns.

Absence is validity, never a NaN in band: NaN is a legal value of a sample. What an absent cell of
`values` holds means nothing, and every reader has to look at `valid` first.
All types here are values: an operator never writes into an operand it was given.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from tsengine.errors import QueryError
from tsengine.model.labels import LabelRows

if TYPE_CHECKING:
    from tsengine.query.labelspace import LabelSpace

SAME_LABELSET = "vector cannot contain metrics with the same labelset"
"""Prometheus's text for a result that would hold one label set twice at one time."""


@dataclass(slots=True)
class StepMatrix:
    """An instant vector at every step.

    Parameters
    ----------
    labels
        Label sets of the S series.
    values
        f64[S, T], C-contiguous. A cell is a float, or the handle of a native histogram in the
        query's arena (`QueryContext.histograms`).
    valid
        bool[S, T], or None if every cell is present.
    drop_name
        bool[S]: the series has lost its name but still carries it, because delayed name removal is
        on. None if no series is marked.

    """

    labels: LabelRows
    values: npt.NDArray[np.float64]
    valid: npt.NDArray[np.bool_] | None = None
    drop_name: npt.NDArray[np.bool_] | None = None

    @property
    def n_series(self) -> int:
        """Rows, whether they hold a value or not."""
        return int(self.values.shape[0])

    @property
    def n_steps(self) -> int:
        """Columns."""
        return int(self.values.shape[1])

    def present(self) -> npt.NDArray[np.bool_]:
        """`valid` as an array in any case: bool[S, T]. Made fresh if everything is present."""
        if self.valid is not None:
            return self.valid
        return np.ones(self.values.shape, np.bool_)

    def n_samples(self) -> int:
        """Number of present cells."""
        return int(self.values.size if self.valid is None else np.count_nonzero(self.valid))


@dataclass(slots=True)
class ScalarSteps:
    """A scalar at every step: ``values: f64[T]``; a scalar is never absent."""

    values: npt.NDArray[np.float64]


@dataclass(slots=True)
class StringValue:
    """A string; the same at every step."""

    text: str


@dataclass(slots=True)
class RangeVector:
    """A range vector as the answer of an instant query.

    Series s owns samples ``offsets[s]:offsets[s + 1]`` of ``t_ms: i64[N]`` and ``values: f64[N]``.
    """

    labels: LabelRows
    offsets: npt.NDArray[np.int64]
    t_ms: npt.NDArray[np.int64]
    values: npt.NDArray[np.float64]
    drop_name: npt.NDArray[np.bool_] | None = None


EvalValue = StepMatrix | ScalarSteps | StringValue
"""What operators take and give."""


BYTES_PER_SAMPLE = 16
"""What a sample weighs in the budget of a query, as Prometheus counts."""


def cost_of_cells(n_cells: int) -> int:
    """Samples that stand for the memory of so many cells, values and validity."""
    return n_cells * 9 // BYTES_PER_SAMPLE


def cost(*values: EvalValue) -> int:
    """Samples that stand for the memory of results."""
    return sum(cost_of_cells(v.values.size) for v in values if not isinstance(v, StringValue))


def take_rows(space: LabelSpace, matrix: StepMatrix, rows: npt.NDArray[np.int64]) -> StepMatrix:
    """Rows of a matrix in the order given, as copies: ``rows: i64[R]``."""
    return StepMatrix(
        labels=space.take(matrix.labels, rows),
        values=np.ascontiguousarray(matrix.values[rows]),
        valid=None if matrix.valid is None else np.ascontiguousarray(matrix.valid[rows]),
        drop_name=None if matrix.drop_name is None else matrix.drop_name[rows],
    )


def remove_names(
    space: LabelSpace, matrix: StepMatrix, *, delayed: bool, merge: bool = True
) -> StepMatrix:
    """Take the metric name from all series: now, or as a mark if removal is delayed.

    Parameters
    ----------
    space, matrix
        Labels of the query, and what loses its names.
    delayed
        The option `delayed_name_removal`.
    merge
        Without delay, series that became equal are merged if they never meet at a step (as
        Prometheus does for functions of instant vectors). False refuses any two equal series.

    Raises
    ------
    QueryError
        Two series became equal.

    """
    if delayed:
        return replace(matrix, drop_name=np.ones(matrix.n_series, np.bool_))
    labels = space.drop_name(matrix.labels)
    bare = StepMatrix(labels, matrix.values, matrix.valid, None)
    return merge_same_labels(space, bare, merge=merge)


def merge_same_labels(space: LabelSpace, matrix: StepMatrix, *, merge: bool = True) -> StepMatrix:
    """Unite rows of equal label sets; rows keep the order of first appearance.

    Raises
    ------
    QueryError
        Two rows of one label set have a value at the same step, or `merge` is False.

    """
    group_of_row, first_row = space.group(matrix.labels)
    n_groups = len(first_row)
    if n_groups == matrix.n_series:
        return matrix
    if not merge:
        raise QueryError(SAME_LABELSET)
    present = matrix.present()
    values = matrix.values[first_row].copy()
    valid = present[first_row].copy()
    # Second rows of all groups, then third rows, ...: equal labels are few or never meet.
    order = np.argsort(group_of_row, kind="stable")
    starts = np.searchsorted(group_of_row[order], np.arange(n_groups))
    place = np.arange(len(order)) - starts[group_of_row[order]]
    for k in range(1, int(place.max()) + 1):
        rows = order[place == k]
        groups = group_of_row[rows]
        if np.any(valid[groups] & present[rows]):
            raise QueryError(SAME_LABELSET)
        values[groups] = np.where(present[rows], matrix.values[rows], values[groups])
        valid[groups] |= present[rows]
    drop_name = None
    if matrix.drop_name is not None:
        drop_name = np.bincount(group_of_row, weights=matrix.drop_name, minlength=n_groups) > 0
    return StepMatrix(
        space.take(matrix.labels, first_row), values, None if valid.all() else valid, drop_name
    )
