"""What selectors, rollups, subqueries and slices are made of."""

import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.reference.memory_source import STALE, MemoryDictionary, MemorySource
from tsengine.errors import QueryError, QueryLimitExceeded
from tsengine.model.frame import FrameBatch
from tsengine.options import Options
from tsengine.promql.ast import Span
from tsengine.promql.functions import ALL_ON
from tsengine.query.annotations import Annotations, line_and_column
from tsengine.query.context import Limits
from tsengine.query.engine import Engine
from tsengine.query.labelspace import LabelSpace
from tsengine.query.operators import sliced as sliced_module
from tsengine.query.operators.select import axis_order
from tsengine.query.operators.subquery import as_frames, grid
from tsengine.query.scheduler import plan_slices
from tsengine.query.stepmatrix import StepMatrix, merge_same_labels

# --- slices ------------------------------------------------------------------------------------


@given(st.integers(0, 5000), st.integers(0, 10**8), st.integers(1, 11000), st.integers(1, 8))
def test_slices_cover_all_rows_once(n_rows, n_samples, n_steps, n_threads):
    slices = plan_slices(n_rows, n_samples=n_samples, n_steps=n_steps, n_threads=n_threads)
    assert [row for part in slices for row in part] == list(range(n_rows))
    assert all(len(part) for part in slices) or n_rows == 0
    sizes = [len(part) for part in slices]
    assert max(sizes) - min(sizes) <= 1


def test_little_work_is_one_slice():
    assert plan_slices(1000, n_samples=20_000, n_steps=1, n_threads=8) == [range(1000)]


AGGREGATES = ("sum", "avg", "min", "max", "count", "group")


def random_source(seed, n_series):
    rng = np.random.default_rng(seed)
    source = MemorySource(share_axes=bool(seed % 2))
    specials = np.array([np.nan, np.inf, -np.inf, STALE, 0.0])
    for k in range(n_series):
        values = rng.normal(0, 100, rng.integers(1, 5))
        odd = rng.random(len(values)) < 0.1
        values[odd] = rng.choice(specials, odd.sum())
        labels = {"__name__": "m_total", "g": str(k % 2), "k": str(k)}
        times = sorted(rng.choice(13, len(values), replace=False) * 10_000)
        source.append(labels, [int(t) for t in times], list(values))
    return source


def filled(result):
    return result.values if result.valid is None else np.where(result.valid, result.values, 0)


@pytest.mark.parametrize("delayed", [False, True])
@pytest.mark.parametrize("op", AGGREGATES)
def test_aggregation_in_slices_is_aggregation(op, delayed, monkeypatch):
    monkeypatch.setattr("tsengine.query.scheduler.SLICE_SAMPLES", 40)
    options = Options(query_threads=2, features=ALL_ON, delayed_name_removal=delayed)
    n_partials = 0
    made = sliced_module.make_partial

    def counted(*args):
        nonlocal n_partials
        n_partials += 1
        return made(*args)

    monkeypatch.setattr(sliced_module, "make_partial", counted)
    with ThreadPoolExecutor(1) as pool, np.errstate(all="ignore"):
        for seed in range(6):
            engine = Engine(random_source(seed, 20 + 15 * seed), options, pool=pool)
            for operand in ("m_total", "increase(m_total[25s])", "last_over_time(m_total[25s])"):
                for clause in ("", "by (g)", "by (__name__)", "by (k)", "without (k)"):
                    text = f"{op} {clause} ({operand})"
                    sliced = engine.query_range(text, 0, 130_000, 10_000)
                    with monkeypatch.context() as patch:
                        patch.setattr("tsengine.query.optimize.MERGEABLE_AGGREGATES", frozenset())
                        whole = engine.query_range(text, 0, 130_000, 10_000)
                    assert sliced.labels == whole.labels
                    assert (sliced.valid is None) == (whole.valid is None)
                    np.testing.assert_allclose(filled(sliced), filled(whole), rtol=1e-9, atol=1e-9)
    assert n_partials > 100


def test_aggregation_in_slices_refuses_equal_series(monkeypatch):
    monkeypatch.setattr("tsengine.query.scheduler.SLICE_SAMPLES", 4)
    source = MemorySource()
    for name in ("a_total", "b_total"):
        for k in range(8):
            source.append({"__name__": name, "k": str(k)}, [0, 10_000], [1.0, 2.0])
    engine = Engine(source, Options(query_threads=1))
    with pytest.raises(QueryError, match="same labelset"):
        engine.query('sum(rate({__name__=~".*_total"}[1m]))', 10_000)
    assert engine.query('sum({__name__=~".*_total"})', 10_000).values.tolist() == [[32.0]]


# --- subqueries --------------------------------------------------------------------------------


@given(st.integers(-200, 200), st.integers(0, 100), st.integers(1, 100), st.integers(1, 30))
def test_grid_is_all_multiples_in_the_range(first_end, length, range_ms, step_ms):
    last_end = first_end + length
    wanted = [t for t in range(first_end - range_ms + 1, last_end + 1) if t % step_ms == 0]
    assert list(grid(first_end, last_end, range_ms, step_ms)) == wanted


@settings(deadline=None)
@given(st.lists(st.lists(st.booleans(), min_size=3, max_size=3), min_size=1, max_size=5))
def test_frames_hold_exactly_the_present_cells(valid):
    valid = np.array(valid)
    values = np.arange(valid.size, dtype=float).reshape(valid.shape)
    steps = np.array([10, 20, 30])
    rows = LabelSpace(MemoryDictionary()).empty_rows(len(valid))
    batch = as_frames(StepMatrix(rows, values, None if valid.all() else valid), steps)
    assert batch.n_rows == len(valid)
    for s in range(len(valid)):
        axis = batch.row_axis[s]
        t_ms = batch.t_ms[batch.axis_offsets[axis] : batch.axis_offsets[axis + 1]]
        row = batch.values[batch.row_offsets[s] : batch.row_offsets[s + 1]]
        assert t_ms.tolist() == steps[valid[s]].tolist()
        assert row.tolist() == values[s][valid[s]].tolist()


def test_rows_of_one_axis_stand_side_by_side():
    def batch(row_axis):
        nothing = np.empty(0, np.int64)
        return FrameBatch(nothing, nothing, np.array(row_axis), np.empty(0), nothing)

    assert axis_order(batch([1, 0, 1, 0])).tolist() == [1, 3, 0, 2]
    assert axis_order(batch([0, 0, 1])).tolist() == [0, 1, 2]
    assert axis_order(batch([])).tolist() == []


# --- merging -----------------------------------------------------------------------------------


@given(
    st.lists(
        st.tuples(st.integers(0, 2), st.lists(st.booleans(), min_size=4, max_size=4)), max_size=6
    )
)
def test_equal_rows_are_merged_or_refused(rows):
    space = LabelSpace(MemoryDictionary())
    labels = space.from_dicts([{"k": str(k)} for k, _ in rows])
    valid = np.array([v for _, v in rows], np.bool_).reshape(len(rows), 4)
    values = np.arange(valid.size, dtype=float).reshape(valid.shape)
    matrix = StepMatrix(labels, values, valid)
    merged: dict[int, dict[int, float]] = {}
    for s, (k, present) in enumerate(rows):
        cells = {t: values[s, t] for t in range(4) if present[t]}
        if merged.setdefault(k, {}).keys() & cells.keys():
            with pytest.raises(QueryError, match="same labelset"):
                merge_same_labels(space, matrix)
            return
        merged[k].update(cells)
    result = merge_same_labels(space, matrix)
    got = result.present()
    assert space.materialise(result.labels) == [{"k": str(k)} for k in merged]
    for g, cells in enumerate(merged.values()):
        assert {t: result.values[g, t] for t in range(4) if got[g, t]} == cells


def test_merging_keeps_a_mark_that_any_row_has():
    space = LabelSpace(MemoryDictionary())
    labels = space.from_dicts([{"k": "1"}, {"k": "1"}, {"k": "2"}])
    valid = np.array([[True, False], [False, True], [True, True]])
    marks = np.array([False, True, False])
    merged = merge_same_labels(space, StepMatrix(labels, np.ones((3, 2)), valid, marks))
    assert merged.valid is None
    assert merged.drop_name.tolist() == [True, False]
    with pytest.raises(QueryError):
        merge_same_labels(space, StepMatrix(labels, np.ones((3, 2)), valid), merge=False)


# --- annotations and limits --------------------------------------------------------------------


def test_positions_are_lines_and_byte_columns():
    text = "ü + b\n+ c".encode()
    assert line_and_column(text, 0) == (1, 1)
    assert line_and_column(text, text.index(b"b")) == (1, 6)
    assert line_and_column(text, text.index(b"c")) == (2, 3)


def test_annotations_come_once_per_text_with_the_last_place():
    notes = Annotations("a + a")
    for _ in range(2):
        notes.add_warning("bad", Span(0, 1))
        notes.add_info("odd", Span(4, 5))
    notes.add_warning("bad", Span(4, 5))
    assert notes.warnings == ["PromQL warning: bad (1:5)"]
    assert notes.infos == ["PromQL info: odd (1:5)"]


def test_the_budget_counts_what_is_held_at_once():
    limits = Limits(max_samples=10)
    limits.account(10)
    limits.account(-5)
    with pytest.raises(QueryLimitExceeded):
        limits.account(6)
    assert limits.n_peak == 11


def test_the_budget_is_exact_from_many_threads():
    limits = Limits(max_samples=10**9)

    def work():
        for _ in range(500):
            limits.account(3)
            limits.account(-2)
            limits.note_read(1)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert limits.n_read == 2000
    limits.account(-2000)
    assert Limits(max_samples=1).n_peak == 0
