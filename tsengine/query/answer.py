"""The answer to a query: its columns, what it cost, and how it is made of an operator's value."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import numpy.typing as npt

from tsengine.errors import QueryError
from tsengine.model.histograms import Histograms
from tsengine.model.labels import LabelRows
from tsengine.query import plan as p
from tsengine.query.context import QueryContext
from tsengine.query.labelspace import LabelSpace
from tsengine.query.stepmatrix import (
    SAME_LABELSET,
    RangeVector,
    ScalarSteps,
    StepMatrix,
    StringValue,
    merge_same_labels,
    take_rows,
)

ResultType = Literal["vector", "matrix", "scalar", "string"]


@dataclass(frozen=True, slots=True)
class QueryStats:
    """What a query cost. Times in seconds; peaks are what was held at once.

    `tiers` names what was read, sorted: ``raw`` for samples, and tiers like ``5m`` for windows.

    The counts by step, and the steps, are i64[T], None unless asked for; see `query.sample_counts`.
    """

    plan_s: float = 0.0
    evaluate_s: float = 0.0
    finish_s: float = 0.0
    n_samples_read: int = 0
    n_samples_peak: int = 0
    memory_peak_bytes: int = 0
    memory_estimated_bytes: int = 0
    tiers: tuple[str, ...] = ()
    steps_ms: npt.NDArray[np.int64] | None = None
    samples_total_per_step: npt.NDArray[np.int64] | None = None
    samples_read_per_step: npt.NDArray[np.int64] | None = None


_NO_STATS = QueryStats()


@dataclass(slots=True)
class QueryResult:
    """The answer to a query.

    Parameters
    ----------
    type
        ``vector`` (one step), ``matrix``, ``scalar`` (one step, one row) or ``string``.
    rows, space
        Label sets of the S series, and what their ids mean; `labels` makes dicts of them.
    timestamps
        i64[T], ms.
    values
        f64[S, T], C-contiguous.
    valid
        bool[S, T], or None if every cell is present.
    samples
        The answer if it is a range vector; then `values` is empty and T is 0.
    text
        The answer if it is a string.
    histograms
        The table of the handles in `values` or `samples`; None if they hold none.
    warnings, infos
        All that were collected.
    plan, choices
        How it was made; `choices` are `QueryContext.choices`.

    """

    type: ResultType
    rows: LabelRows
    space: LabelSpace
    timestamps: npt.NDArray[np.int64]
    values: npt.NDArray[np.float64]
    valid: npt.NDArray[np.bool_] | None = None
    samples: RangeVector | None = None
    text: str | None = None
    histograms: Histograms | None = None
    warnings: list[str] = field(default_factory=list)
    infos: list[str] = field(default_factory=list)
    stats: QueryStats = _NO_STATS
    plan: p.Plan | None = None
    choices: dict[int, str] = field(default_factory=dict)
    _labels: list[dict[str, str]] | None = None

    @property
    def labels(self) -> list[dict[str, str]]:
        """One dict per series, in the order of the rows; made when first asked for."""
        if self._labels is None:
            self._labels = self.space.materialise(self.rows)
        return self._labels

    @property
    def size_bytes(self) -> int:
        """Memory of the arrays, histograms included."""
        n_bytes = self.values.nbytes + self.rows.offsets.nbytes + self.rows.pairs.nbytes
        if self.valid is not None:
            n_bytes += self.valid.nbytes
        if self.samples is not None:
            n_bytes += self.samples.t_ms.nbytes + self.samples.values.nbytes
        if self.histograms is not None:
            n_bytes += self.histograms.n_bytes
        return n_bytes

    @property
    def n_samples(self) -> int:
        """Samples in the answer."""
        if self.samples is not None:
            return len(self.samples.values)
        return int(self.values.size if self.valid is None else np.count_nonzero(self.valid))


def finish(
    value: StepMatrix | ScalarSteps | StringValue | RangeVector,
    ctx: QueryContext,
    *,
    is_instant: bool,
) -> QueryResult:
    """Remove the names that were marked, unite or refuse equal series, sort."""
    space, steps_ms = ctx.space, ctx.steps_ms
    if isinstance(value, StringValue):
        nothing = np.empty((0, len(steps_ms)))
        rows = space.empty_rows(0)
        return QueryResult("string", rows, space, steps_ms, nothing, text=value.text)
    if isinstance(value, ScalarSteps):
        rows = space.empty_rows(1)
        values = np.ascontiguousarray(value.values)[np.newaxis, :]
        return QueryResult("scalar" if is_instant else "matrix", rows, space, steps_ms, values)
    if isinstance(value, RangeVector):
        samples = _sorted_samples(space, value)
        samples.values, table = ctx.histograms.extract(samples.values, None)
        no_steps, no_values = np.empty(0, np.int64), np.empty((len(samples.labels), 0))
        return QueryResult(
            "matrix", samples.labels, space, no_steps, no_values, samples=samples, histograms=table
        )
    matrix = _present_rows(space, value)
    if matrix.drop_name is not None or not ctx.has_labels_of_series(matrix.labels):
        matrix = _without_marked_names(space, matrix)
    if not is_instant:
        matrix = _reordered(space, matrix, space.sort_order(matrix.labels))
    values, table = ctx.histograms.extract(np.ascontiguousarray(matrix.values), matrix.valid)
    return QueryResult(
        "vector" if is_instant else "matrix",
        matrix.labels,
        space,
        steps_ms,
        values,
        matrix.valid,
        histograms=table,
    )


def _present_rows(space: LabelSpace, matrix: StepMatrix) -> StepMatrix:
    """Without rows that hold nothing, and without validity if nothing is absent."""
    if matrix.valid is None:
        return matrix
    n_present = np.count_nonzero(matrix.valid, axis=1)
    if not n_present.all():
        matrix = _reordered(space, matrix, np.flatnonzero(n_present))
    if int(n_present.sum()) == matrix.values.size:
        return StepMatrix(matrix.labels, matrix.values, None, matrix.drop_name)
    return matrix


def _reordered(space: LabelSpace, matrix: StepMatrix, order: npt.NDArray[np.int64]) -> StepMatrix:
    n_rows = matrix.n_series
    if len(order) == n_rows and bool((order == np.arange(n_rows)).all()):
        return matrix
    return take_rows(space, matrix, order)


def _without_marked_names(space: LabelSpace, matrix: StepMatrix) -> StepMatrix:
    marks = matrix.drop_name
    if marks is not None and marks.any():
        labels = _drop_marked(space, matrix.labels, marks)
        matrix = StepMatrix(labels, matrix.values, matrix.valid, None)
    return merge_same_labels(space, matrix)


def _drop_marked(space: LabelSpace, labels: LabelRows, marks: npt.NDArray[np.bool_]) -> LabelRows:
    bare = space.drop_name(labels)
    if marks.all():
        return bare
    both = space.concat([labels, bare])
    return space.take(both, np.arange(len(labels)) + len(labels) * marks)


def _sorted_samples(space: LabelSpace, vector: RangeVector) -> RangeVector:
    labels = vector.labels
    if vector.drop_name is not None:
        labels = _drop_marked(space, labels, vector.drop_name)
        if len(space.group(labels)[1]) < len(labels):
            raise QueryError(SAME_LABELSET)
    order = space.sort_order(labels)
    lengths = np.diff(vector.offsets)[order]
    offsets = np.concatenate((np.zeros(1, np.int64), np.cumsum(lengths)))
    at = np.repeat(vector.offsets[:-1][order] - offsets[:-1], lengths) + np.arange(offsets[-1])
    return RangeVector(space.take(labels, order), offsets, vector.t_ms[at], vector.values[at])
