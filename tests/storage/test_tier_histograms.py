"""Histograms in tiers: windows hold the first, the last, the sum and what counters lost."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.reference import rich_samples
from tests.reference.rich_samples import Histogram, Rich, bits, rows_of_table, table_of
from tests.reference.unsynced import UnsyncedFileSystem
from tests.reference.windowtiers import end_of
from tsengine.model.batch import SeriesColumns
from tsengine.model.frame import FrameBatch
from tsengine.model.histogram_pairs import is_reset
from tsengine.model.histogram_sums import combine
from tsengine.model.histograms import CUSTOM_SCHEMA, is_handle, rows_of
from tsengine.model.windows import HANDLE_COLUMNS, HISTOGRAM_COLUMNS, Column, WindowBatch
from tsengine.storage.part_reader import PartReader
from tsengine.storage.part_writer import write_part
from tsengine.storage.tier_format import STORED_COLUMNS
from tsengine.storage.tier_reader import TierReader
from tsengine.storage.tier_windows import join, wider_windows, windows_of_samples
from tsengine.storage.tier_writer import write_tier_part
from tsengine.storage.view import DatabaseView

FS = UnsyncedFileSystem()
REFS = np.arange(4, dtype=np.uint32)
FINE, WIDE = 10, 40
STALE = 0x7FF0000000000002
EVERY = (-39, 160)


@st.composite
def histograms(draw: st.DrawFn) -> Histogram:
    """Whole numbers, so that sums don't depend on their order."""
    schema, bounds = draw(st.sampled_from([(3, None), (0, None), (-53, (bits(1.0), bits(2.0)))]))
    keys = st.integers(2**20, 2**20 + 2)
    buckets = draw(st.dictionaries(keys, st.integers(1, 9), max_size=3))
    hint = draw(st.sampled_from([0, 0, 0, 1, 2, 3]))
    return Histogram(
        schema, hint, bits(float(sum(buckets.values()))), bits(float(draw(st.integers(-9, 9)))),
        0, 0, tuple((key, bits(float(n))) for key, n in sorted(buckets.items())), bounds,
    )  # fmt: skip


VALUES = histograms() | st.sampled_from([bits(1.0), bits(2.5), STALE])
MODELS = st.dictionaries(
    st.integers(0, 3),
    st.dictionaries(st.integers(-39, 160), VALUES.map(lambda v: (v, 0)), min_size=1, max_size=12),
    min_size=1,
    max_size=3,
)


def expected_of(model: Rich, width_ms: int) -> dict[int, dict[int, dict[Column, object]]]:
    found: dict[int, dict[int, dict[Column, object]]] = {}
    for ref, own in model.items():
        groups: dict[int, list[tuple[int, Histogram]]] = {}
        for t, (value, _) in sorted(own.items()):
            groups.setdefault(end_of(t, width_ms), [])
            if isinstance(value, Histogram):
                groups[end_of(t, width_ms)].append((t, value))
        found[ref] = {end: window_of(held) for end, held in groups.items()}
    return found


def window_of(held: list[tuple[int, Histogram]]) -> dict[Column, object]:
    window: dict[Column, object] = dict.fromkeys(HANDLE_COLUMNS)
    window[Column.H_COUNT] = len(held)
    window[Column.H_FIRST_T] = held[0][0] if held else 0
    window[Column.H_LAST_T] = held[-1][0] if held else 0
    if held:
        rows = [histogram for _, histogram in held]
        window[Column.H_FIRST], window[Column.H_LAST] = rows[0], rows[-1]
        window[Column.H_SUM] = sum_of(rows)
        at = np.arange(1, len(rows))
        lost = at[is_reset(table_of(rows), at - 1, at)] - 1
        if len(lost):
            window[Column.H_RESETS] = sum_of([rows[k] for k in lost])
    return window


def sum_of(rows: list[Histogram]) -> Histogram | None:
    n = len(rows)
    made = combine(table_of(rows), np.array([0, n]), np.arange(n), np.ones(n))
    return None if made.is_mixed[0] else without_hint(rows_of_table(made.table)[0])


def without_hint(histogram: Histogram) -> Histogram:
    """Hints of sums depend on the order of additions."""
    return histogram._replace(hint=0)


def histograms_in(batch: WindowBatch, columns) -> dict[int, dict[int, dict[Column, object]]]:
    rows = rows_of_table(batch.histograms) if batch.histograms is not None else []
    found: dict[int, dict[int, dict[Column, object]]] = {}
    for row in range(batch.n_rows):
        axis = int(batch.row_axis[row])
        ends = batch.end_ms[slice(*batch.axis_offsets[axis : axis + 2])].tolist()
        own: dict[int, dict[Column, object]] = {}
        for end, at in zip(ends, range(*batch.row_offsets[row : row + 2].tolist()), strict=True):
            window: dict[Column, object] = {}
            for column in columns:
                value = batch.columns[column][at]
                if column not in HANDLE_COLUMNS:
                    window[column] = int(value)
                    continue
                handle = np.array([value]).view(np.uint64)
                window[column] = None
                if is_handle(handle)[0]:
                    held = rows[rows_of(handle)[0]]
                    is_sum = column in (Column.H_SUM, Column.H_RESETS)
                    window[column] = without_hint(held) if is_sum else held
                else:
                    assert np.isnan(value)
            own[end] = window
        if own:
            found[row] = own
    return found


def open_raw(folder: Path, model: Rich) -> PartReader:
    entry = write_part(
        FS, str(folder), "0000000001", [rich_samples.columns_of(model)],
        targets=lambda refs: np.zeros(len(refs), np.int64), seq_min=1, seq_max=1, level=0,
    )  # fmt: skip
    assert entry is not None
    return PartReader.open(FS, str(folder / entry.name), entry)


def open_tier(folder: Path, name: str, windows: WindowBatch, cover) -> TierReader:
    entry = write_tier_part(
        FS, str(folder), name, [(REFS, windows)], width_ms=windows.width_ms, cover=cover,
        targets=lambda refs: np.zeros(len(refs), np.int64), seq_max=1, level=1,
    )  # fmt: skip
    return TierReader.open(FS, str(folder / entry.name), entry)


@settings(max_examples=60, deadline=None)
@given(MODELS, st.sets(st.sampled_from(sorted(HISTOGRAM_COLUMNS)), min_size=1))
def test_histograms_of_windows(tmp_path_factory, model, columns):
    folder = tmp_path_factory.mktemp("tiers")
    part = open_raw(folder, model)
    raw = DatabaseView(None, [part], [], None)
    tiers = []
    try:
        fine = raw.read_windows(REFS, FINE, *EVERY, STORED_COLUMNS)
        assert histograms_in(fine, HISTOGRAM_COLUMNS) == expected_of(model, FINE)
        # Most of the time is in a tier, the rest is made of samples.
        some = raw.read_windows(REFS, FINE, -39, 120, STORED_COLUMNS)
        tiers.append(open_tier(folder, "0000000002", some, (-39, 120)))
        view = DatabaseView(None, [part], [], None, tiers=tiers)
        for width_ms in (FINE, WIDE):
            found = view.read_windows(REFS, width_ms, *EVERY, columns)
            assert set(found.columns) == columns
            expected = expected_of(model, width_ms)
            for own in expected.values():
                for end, window in own.items():
                    own[end] = {column: window[column] for column in columns}
            assert histograms_in(found, columns) == expected
        tiers[0].verify()
    finally:
        for reader in (part, *tiers):
            reader.close()


def test_resets_that_have_no_sum_stay_without_in_wider_windows(tmp_path):
    """Exponential, custom, exponential: the histograms before resets have no sum together."""
    schemas = {81: 3, 82: CUSTOM_SCHEMA, 83: 0, 91: 3}
    bounds = (bits(1.0), bits(2.0))
    model = {
        0: {
            t: (
                Histogram(schema, 0, 0, 0, 0, 0, (), bounds if schema == CUSTOM_SCHEMA else None),
                0,
            )
            for t, schema in schemas.items()
        }
    }
    part = open_raw(tmp_path, model)
    try:
        fine = DatabaseView(None, [part], [], None).read_windows(REFS, FINE, *EVERY, STORED_COLUMNS)
        wide = wider_windows(fine, WIDE, STORED_COLUMNS)
        assert histograms_in(fine, HISTOGRAM_COLUMNS) == expected_of(model, FINE)
        assert histograms_in(wide, HISTOGRAM_COLUMNS) == expected_of(model, WIDE)
    finally:
        part.close()


def test_handles_are_numbered_anew_when_ranges_are_joined():
    def batch(t: int, total: float) -> WindowBatch:
        histogram = Histogram(0, 0, bits(total), bits(1.0), 0, 0, ((2**20, bits(total)),), None)
        frames = rich_samples.columns_of({0: {t: (histogram, 0)}})
        return windows_of_samples(
            rich_frames(frames), FINE, [Column.H_FIRST, Column.H_LAST, Column.COUNT]
        )

    joined = join([batch(5, 2.0), batch(15, 3.0)], [Column.H_LAST, Column.H_FIRST])
    found = histograms_in(joined, [Column.H_LAST, Column.H_FIRST])[0]
    assert [found[end][Column.H_LAST].count for end in (10, 20)] == [bits(2.0), bits(3.0)]
    assert [found[end][Column.H_FIRST].count for end in (10, 20)] == [bits(2.0), bits(3.0)]


def rich_frames(columns: SeriesColumns) -> FrameBatch:
    return FrameBatch(
        columns.t_ms, columns.offsets, np.arange(len(columns)), columns.bits.view(np.float64),
        columns.offsets, columns.histograms,
    )  # fmt: skip


def test_last_histograms_stand_for_samples_that_are_gone(tmp_path):
    def histogram(total: float) -> Histogram:
        return Histogram(0, 0, bits(total), bits(1.0), 0, 0, ((2**20, bits(total)),), None)

    model: Rich = {0: {t: (histogram(float(t)), 0) for t in range(1, 41)}, 1: {7: (STALE, 0)}}
    part = open_raw(tmp_path, model)
    raw = DatabaseView(None, [part], [], None)
    windows = raw.read_windows(REFS, FINE, 1, 40, STORED_COLUMNS)
    tier = open_tier(tmp_path, "0000000002", windows, (1, 40))
    view = DatabaseView(None, [part], [], 28, tiers=[tier])
    assert view.has_histograms(REFS[:1], 1, 20)
    assert not view.has_histograms(REFS[1:], 1, 20)
    first, second, *_ = rich_samples.values_of_frames(view.read(REFS, 1, 40, drop_stale=False))
    times = [10, 20, *range(28, 41)]
    assert first == {t: histogram(float(t)) for t in times}
    assert second == {10: STALE}
    for reader in (part, tier):
        reader.close()
