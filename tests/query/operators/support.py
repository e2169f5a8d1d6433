"""Random vectors as matrices, contexts without an engine, and comparison with the reference."""

import numpy as np
import pytest
from hypothesis import strategies as st

from tests.reference.memory_source import MemoryDictionary
from tests.reference.vectors import Element, FailedError
from tsengine.errors import QueryError
from tsengine.options import Options
from tsengine.promql import ast
from tsengine.query.annotations import Annotations
from tsengine.query.context import Limits, QueryContext
from tsengine.query.labelspace import LabelSpace
from tsengine.query.stepmatrix import StepMatrix

SPAN = ast.Span(0, 0)
NUMBERS = st.one_of(
    st.integers(-3, 3).map(float),
    st.sampled_from([0.0, -0.0, np.nan, np.inf, -np.inf, 0.5]),
    st.floats(-1e3, 1e3),
)


def make_context(n_steps=1, *, delayed=False, text="x", start_ms=0):
    """A context over an empty dictionary, steps a minute apart."""
    steps = start_ms + np.arange(n_steps, dtype=np.int64) * 60_000
    end = int(steps[-1])
    return QueryContext(
        steps_ms=steps,
        start_ms=start_ms,
        end_ms=end,
        step_ms=60_000 if n_steps > 1 else 0,
        is_instant=n_steps == 1,
        space=LabelSpace(MemoryDictionary()),
        view=None,
        options=Options(delayed_name_removal=delayed),
        limits=Limits(max_samples=10**9),
        annotations=Annotations(text),
        lookback_ms=300_000,
        query_start_ms=start_ms,
        query_end_ms=end,
        query_step_ms=60_000 if n_steps > 1 else 0,
        delayed_name_removal=delayed,
    )


def vectors(n_steps, *, names=("m", "n"), marks=False, max_rows=6):
    """Strategy of rows (labels, cells, mark); a cell is None where the row is absent."""
    label_sets = st.dictionaries(
        st.sampled_from(["a", "b"]), st.sampled_from(["1", "2"]), max_size=2
    )
    named = st.tuples(label_sets, st.sampled_from(names)).map(
        lambda pair: tuple(sorted({**pair[0], "__name__": pair[1]}.items()))
    )
    cells = st.lists(st.one_of(NUMBERS, st.none()), min_size=n_steps, max_size=n_steps)
    mark = st.booleans() if marks else st.just(False)
    return st.lists(st.tuples(named, cells, mark), max_size=max_rows, unique_by=lambda row: row[0])


def to_matrix(ctx, rows):
    """Rows as a matrix; absent cells hold rubbish."""
    n_steps = ctx.n_steps
    values = np.array(
        [[-77.0 if v is None else v for v in cells] for _, cells, _ in rows], np.float64
    ).reshape(len(rows), n_steps)
    valid = np.array([[v is not None for v in cells] for _, cells, _ in rows], np.bool_)
    marks = np.array([mark for _, _, mark in rows], np.bool_)
    return StepMatrix(
        ctx.space.from_dicts([dict(labels) for labels, _, _ in rows]),
        values,
        None if valid.all() else valid.reshape(len(rows), n_steps),
        marks if marks.any() else None,
    )


def at_step(rows, t):
    """The vector of the reference at one step."""
    return [Element(labels, cells[t], mark) for labels, cells, mark in rows if cells[t] is not None]


def read_step(ctx, matrix, t):
    """The vector of a matrix at one step, as elements."""
    labels = ctx.space.materialise(matrix.labels)
    return [
        Element(
            tuple(sorted(labels[s].items())),
            float(matrix.values[s, t]),
            bool(matrix.drop_name is not None and matrix.drop_name[s]),
        )
        for s in range(matrix.n_series)
        if matrix.valid is None or matrix.valid[s, t]
    ]


def sketch(elements, *, with_marks=True):
    """Comparable form: labels to (value, mark); fails for a label set that comes twice."""
    made = {e.labels: (e.value, e.drop and with_marks) for e in elements}
    assert len(made) == len(elements), "a label set comes twice"
    return made


def assert_same_vectors(got, want, *, tolerance=0.0, with_marks=True):
    got, want = (sketch(e, with_marks=with_marks) for e in (got, want))
    assert set(got) == set(want)
    for labels, (value, mark) in want.items():
        found, found_mark = got[labels]
        assert found_mark == mark, labels
        if np.isnan(value) or np.isinf(value):
            np.testing.assert_equal(found, value, err_msg=str(labels))
        else:
            assert abs(found - value) <= tolerance * max(1.0, abs(value)), labels


def compare(ctx, rows_list, evaluate, reference, *, tolerance=0.0, with_marks=True):
    """Evaluate on matrices, and with the reference at each step, and compare.

    Both fail, or both give the same; of several errors any step's may be told.
    """
    expected, errors = [], []
    for t in range(ctx.n_steps):
        try:
            expected.append(reference(t, *(at_step(rows, t) for rows in rows_list)))
        except FailedError as error:
            errors.append(str(error))
            expected.append([])
    matrices = [to_matrix(ctx, rows) for rows in rows_list]
    if errors:
        with pytest.raises(QueryError) as failed:
            evaluate(*matrices)
        found = str(failed.value)
        assert any(_is_same_error(text, found) for text in errors), (found, errors)
        return None
    result = evaluate(*matrices)
    for t in range(ctx.n_steps):
        assert_same_vectors(
            read_step(ctx, result, t), expected[t], tolerance=tolerance, with_marks=with_marks
        )
    return result


def _is_same_error(short, text):
    if short.startswith("found duplicate series"):
        side = "left" if "left" in short else "right"
        return text.startswith("found duplicate series") and f"on the {side} hand-side" in text
    return short in text
