"""Reads over random stacks of parts and heads behave like a dictionary of samples."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.reference import samples
from tests.reference.samples import STALE, Model
from tests.reference.unsynced import UnsyncedFileSystem
from tsengine.model.batch import SampleBatch
from tsengine.storage import select
from tsengine.storage.head import Head
from tsengine.storage.part_reader import PartReader
from tsengine.storage.part_writer import write_part

N_SERIES = 12
DAY = 86_400_000
FS = UnsyncedFileSystem()


def batch_of(rows: list[tuple[int, int, int]]) -> SampleBatch:
    refs, t_ms, bits = zip(*rows, strict=True) if rows else ((), (), ())
    return SampleBatch(
        np.array(refs, np.uint32), np.array(t_ms, np.int64), np.array(bits, np.uint64)
    )


@st.composite
def source_rows(draw: st.DrawFn) -> list[tuple[int, int, int]]:
    """A scrape-like source: grids of times, with gaps, jitter, markers and a few strays."""
    rows: list[tuple[int, int, int]] = []
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    start = draw(st.sampled_from([0, 10, DAY - 40, 3_600_000 - 7, -25]))
    step = draw(st.sampled_from([1, 5, 900_000, 20_000_000]))
    n_steps = draw(st.integers(0, 30))
    gap = draw(st.sampled_from([0.0, 0.0, 0.1, 0.6]))
    stale = draw(st.sampled_from([0.0, 0.0, 0.05]))
    jitter = draw(st.booleans())
    for k in range(n_steps):
        for ref in range(draw(st.integers(1, N_SERIES)) if k == 0 else N_SERIES):
            if rng.random() < gap:
                continue
            t = start + k * step + (int(rng.integers(0, 3)) * (ref % 2) if jitter else 0)
            value = (
                STALE if rng.random() < stale else int(np.float64(rng.integers(9)).view(np.uint64))
            )
            rows.append((ref * 3, t, value))
    if draw(st.booleans()):
        rng.shuffle(rows)
        rows = [tuple(int(x) for x in row) for row in rows]  # type: ignore[misc]
    return rows


@contextmanager
def stack(
    parts: list[list[tuple[int, int, int]]], heads: list[list[list[tuple[int, int, int]]]]
) -> Iterator[tuple[list[PartReader], list, list[Model]]]:
    models: list[Model] = []
    readers: list[PartReader] = []
    views = []
    with tempfile.TemporaryDirectory() as folder:
        for number, rows in enumerate(parts):
            model: Model = {}
            samples.add(model, batch_of(rows))
            entry = write_part(
                FS, folder, f"{number:010d}", halves(model),
                targets=lambda refs: np.where(refs > 24, -1, refs // 12),
                seq_min=number, seq_max=number, level=0,
            )  # fmt: skip
            if entry is not None:
                readers.append(PartReader.open(FS, f"{folder}/{number:010d}", entry))
                models.append(model)
        for batches in heads:
            head, model = Head(), {}
            for seq, rows in enumerate(batches):
                head.append(batch_of(rows), seq)
                samples.add(model, batch_of(rows))
            views.append(head.view())
            models.append(model)
        try:
            yield readers, views, models
        finally:
            for reader in readers:
                reader.close()


def halves(model: Model) -> Iterator:
    """A model as two chunks, so that chunk borders are part of every test."""
    refs = sorted(model)
    for some in (refs[: len(refs) // 2], refs[len(refs) // 2 :]):
        columns = samples.columns_of({ref: model[ref] for ref in some})
        if len(columns):
            yield columns


@settings(max_examples=150, deadline=None)
@given(
    st.lists(source_rows(), max_size=4),
    st.lists(st.lists(source_rows(), max_size=3), max_size=2),
    st.lists(st.integers(0, N_SERIES * 3), unique=True),
    st.sampled_from([(-(2**62), 2**62), (0, 30), (11, 11), (DAY, DAY * 3), (5, 4_000_000)]),
    st.booleans(),
)
def test_reads_are_those_of_a_dictionary(parts, heads, refs, span, drop_stale):
    mint, maxt = span
    wanted = np.array(sorted(refs), np.uint32)
    with stack(parts, heads) as (readers, views, models):
        whole = samples.merged(models)
        expected = samples.clipped(whole, wanted.tolist(), mint, maxt)
        columns = select.read_columns(readers, views, wanted, mint, maxt)
        assert samples.model_of(columns) == expected

        frames = select.read_frames(readers, views, wanted, mint, maxt, drop_stale=drop_stale)
        assert frames.n_rows == len(wanted)
        kept = {
            ref: {t: b for t, b in own.items() if not (drop_stale and b == STALE)}
            for ref, own in expected.items()
        }
        assert samples.rows_of_frames(frames) == [kept.get(ref, {}) for ref in wanted.tolist()]

        n_stored = sum(
            len(own) for model in models
            for own in samples.clipped(model, wanted.tolist(), mint, maxt).values()
        )  # fmt: skip
        assert select.count_samples(readers, views, wanted, mint, maxt) >= n_stored
        assert n_stored >= len(columns.t_ms)
        for reader, model in zip(readers, models[: len(readers)], strict=True):
            own = reader.collect(None, mint, maxt)
            assert samples.model_of(own) == samples.clipped(model, sorted(model), mint, maxt)


def test_series_of_one_scrape_share_an_axis_over_parts_and_head():
    rows = [
        [(ref, t, ref) for t in range(start, start + 50) for ref in range(6)]
        for start in (0, 50, 100)
    ]
    with stack(rows[:2], [[rows[2]]]) as (readers, views, _):
        refs = np.arange(7, dtype=np.uint32)
        frames = select.read_frames(readers, views, refs, 10, 120, drop_stale=True)
        # One axis for all six, one without rows for the series that does not exist.
        assert len(frames.axis_offsets) == 3
        assert frames.row_axis.tolist() == [0, 0, 0, 0, 0, 0, 1]
        assert frames.t_ms.tolist() == list(range(10, 121))
        assert np.diff(frames.row_offsets).tolist() == [111] * 6 + [0]


def test_equal_axes_are_found_again_after_dropping_markers():
    rows = [(ref, t, STALE if t == 20 else 7) for t in range(40) for ref in range(5)]
    with stack([rows], []) as (readers, views, _):
        refs = np.arange(5, dtype=np.uint32)
        frames = select.read_frames(readers, views, refs, 0, 100, drop_stale=True)
        assert len(frames.axis_offsets) == 2
        assert 20 not in frames.t_ms.tolist()
        frames = select.read_frames(readers, views, refs, 0, 100, drop_stale=False)
        assert len(frames.axis_offsets) == 2
        assert 20 in frames.t_ms.tolist()


def test_markers_outside_the_range_change_nothing():
    rows = [(ref, t, STALE if t == 20 and ref < 2 else 7) for t in range(1, 40) for ref in range(5)]
    with stack([rows], []) as (readers, views, _):
        refs = np.arange(5, dtype=np.uint32)
        frames = select.read_frames(readers, views, refs, 21, 100, drop_stale=True)
        assert frames.row_axis.tolist() == [0] * 5
        frames = select.read_frames(readers, views, refs, 10, 100, drop_stale=True)
        assert frames.row_axis.tolist() == [1, 1, 0, 0, 0]
        assert np.diff(frames.row_offsets).tolist() == [29, 29, 30, 30, 30]


def test_a_replaced_sample_does_not_come_back_when_its_replacement_is_a_marker():
    with stack([[(1, 5, 11)]], [[[(1, 5, STALE)]]]) as (readers, views, _):
        refs = np.array([1], np.uint32)
        frames = select.read_frames(readers, views, refs, 0, 9, drop_stale=True)
        assert frames.row_offsets.tolist() == [0, 0]
        frames = select.read_frames(readers, views, refs, 0, 9, drop_stale=False)
        assert frames.values.view(np.uint64).tolist() == [STALE]


@pytest.mark.parametrize("drop_stale", [True, False])
def test_nothing_stored_gives_rows_without_samples(drop_stale):
    refs = np.arange(3, dtype=np.uint32)
    frames = select.read_frames([], [], refs, 0, 9, drop_stale=drop_stale)
    assert samples.rows_of_frames(frames) == [{}, {}, {}]
    assert select.read_frames([], [], refs[:0], 0, 9, drop_stale=drop_stale).n_rows == 0
    assert len(select.read_columns([], [], refs, 0, 9)) == 0
    assert select.count_samples([], [Head().view()], refs, 0, 9) == 0


def test_refs_may_come_from_read_only_memory(tmp_path: Path):
    with stack([[(1, 5, 11)]], [[[(1, 6, 12)]]]) as (readers, views, _):
        refs = np.frombuffer(np.array([1], np.uint32).tobytes(), np.uint32)
        frames = select.read_frames(readers, views, refs, 0, 9, drop_stale=True)
        assert frames.t_ms.tolist() == [5, 6]
