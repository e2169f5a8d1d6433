"""Parts of tiers: windows that are written are read back to the bit, and damage is found."""

from __future__ import annotations

import dataclasses
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.golden import make_tier
from tests.reference import rich_samples, tiers
from tests.reference.samples import STALE, Model
from tests.reference.tiers import FLOATS
from tests.reference.unsynced import UnsyncedFileSystem
from tsengine.errors import CorruptionError, TsengineError, UnsupportedFormat
from tsengine.model.histograms import is_handle, rows_of
from tsengine.model.windows import HANDLE_COLUMNS, Column
from tsengine.storage import part_format
from tsengine.storage.manifest import TierEntry
from tsengine.storage.part_format import FILES
from tsengine.storage.tier_format import STORED_COLUMNS
from tsengine.storage.tier_reader import TierReader
from tsengine.storage.tier_windows import windows_of_samples
from tsengine.storage.tier_writer import write_tier_part

FS = UnsyncedFileSystem()
WIDTH = 10
COVER = (-999, 1000)
NAME = "0000000001"
GOLDEN = Path(__file__).parents[1] / "golden"


def write(folder: Path, chunks: list[tuple[list[int], Model]], width_ms=WIDTH) -> TierEntry:
    batches = [
        (
            np.array(refs, np.uint32),
            windows_of_samples(tiers.frames_of(model, refs), width_ms, FLOATS),
        )
        for refs, model in chunks
    ]
    return write_tier_part(
        FS, str(folder), NAME, batches, width_ms=width_ms, cover=COVER,
        targets=lambda refs: refs.astype(np.int64) % 3 - 1, seq_max=7, level=1,
    )  # fmt: skip


def open_tier(folder: Path, entry: TierEntry) -> TierReader:
    return TierReader.open(FS, str(folder / entry.name), entry)


@settings(max_examples=50, deadline=None)
@given(
    tiers.models(st.integers(-60, 60) | st.integers(-999, 1000), n_refs=8),
    st.integers(0, 8),
    st.tuples(st.integers(-70, 70), st.integers(-70, 70)) | st.just((-1000, 1000)),
    st.sets(st.sampled_from(FLOATS)),
    st.sets(st.integers(0, 9)),
)
def test_what_is_written_is_read(tmp_path_factory, model, border, span, columns, refs):
    folder = tmp_path_factory.mktemp("tier")
    halves = [[ref for ref in range(8) if (ref < border) == low] for low in (True, False)]
    entry = write(folder, [(half, model) for half in halves])
    expected = tiers.windows_of(model, WIDTH)
    reader = open_tier(folder, entry)
    try:
        reader.verify()
        assert reader.refs.tolist() == sorted(expected)
        ends = [end for windows in expected.values() for end in windows]
        if ends:
            assert (entry.mint, entry.maxt) == (min(ends), max(ends))
        else:
            assert entry.mint > entry.maxt
        wanted = sorted(refs)
        found = reader.read(np.array(wanted, np.uint32), *span, columns)
        chosen = {ref: expected[ref] for ref in wanted if ref in expected}
        assert tiers.windows_in(found, wanted, columns) == tiers.clipped(chosen, *span, columns)
    finally:
        reader.close()


def stored_columns(folder: Path, entry: TierEntry) -> list[set[Column]]:
    reader = open_tier(folder, entry)
    try:
        rows = np.arange(len(reader.refs))
        table = reader._table
        stored = [{c for c in Column if table.has(rows[s : s + 1], c)[0]} for s in rows.tolist()]
    finally:
        reader.close()
    return stored


def scraped(values, step=2):
    return {step * (k + 1): int(np.float64(x).view(np.uint64)) for k, x in enumerate(values)}


def test_columns_that_follow_from_others_are_not_stored(tmp_path):
    times = {Column.FIRST_T, Column.LAST_T}
    model = {
        0: scraped([5.0] * 50),
        1: scraped(range(50)),
        2: scraped(-x for x in range(50)),
        3: scraped([1, 3, 2] * 20),
        4: scraped([0.5] * 4, step=10),
        5: {3: STALE},
    }
    entry = write(tmp_path, [(list(model), model)])
    assert stored_columns(tmp_path, entry) == [
        {Column.COUNT, Column.FIRST, *times},
        {Column.COUNT, Column.FIRST, Column.LAST, Column.SUM, *times},
        {Column.COUNT, Column.FIRST, Column.LAST, Column.SUM, Column.RESETS, *times},
        {Column.COUNT, Column.FIRST, Column.LAST, Column.SUM, Column.RESETS, Column.MIN,
         Column.MAX, *times},
        {Column.COUNT, Column.FIRST, Column.FIRST_T},
        {Column.COUNT, Column.STALE},
    ]  # fmt: skip


def test_a_column_that_follows_but_for_a_few_windows_is_stored_with_gaps(tmp_path):
    counter = [*range(103), *range(87)]
    nans = [*range(40), *([float("nan")] * 5), *range(40, 300)]
    model = {0: scraped(counter), 1: scraped([1, 3, 2] * 60), 2: scraped(nans), 3: scraped([1])}
    entry = write(tmp_path, [(list(model), model)])
    reader = open_tier(tmp_path, entry)
    rows = np.arange(4)
    assert reader._table.has_gaps(rows, Column.MIN).tolist() == [True, False, False, False]
    assert reader._table.has_gaps(rows, Column.MAX).tolist() == [True, False, False, False]
    assert reader._table.has(rows, Column.MIN).tolist() == [True, True, False, False]
    index = reader._part.index
    virtual = reader._table.virtual(rows[:1], Column.MIN)
    payload = index.block_payload[index.series_blocks[virtual]]
    sizes = np.diff(index.payload_offsets)
    assert sizes[payload].tolist()[0] < 60
    for columns in (FLOATS, [Column.MIN], [Column.MAX]):
        found = reader.read(rows.astype(np.uint32), *COVER, columns)
        expected = tiers.clipped(tiers.windows_of(model, WIDTH), *COVER, columns)
        assert tiers.windows_in(found, rows.tolist(), columns) == expected
    reader.close()


def test_series_of_one_target_share_counts_and_times(tmp_path):
    values = np.random.default_rng(1).integers(0, 1000, (30, 4000)).cumsum(axis=1)
    entry = write(tmp_path, [(list(range(30)), {r: scraped(v) for r, v in enumerate(values)})])
    reader = open_tier(tmp_path, entry)
    index = reader._part.index
    reader.close()
    # Three stored once for all; sums, first and last values are each series' own.
    assert len(index.payload_offsets) - 1 == 3 + 3 * 30
    assert len(index.axis_rows) == 1


def test_an_empty_part_states_that_there_is_nothing(tmp_path):
    entry = write(tmp_path, [])
    assert entry.mint > entry.maxt
    assert (entry.n_samples, entry.n_series) == (0, 0)
    reader = open_tier(tmp_path, entry)
    reader.verify()
    assert reader.refs.tolist() == []
    assert reader.read(np.arange(3, dtype=np.uint32), -100, 100, FLOATS).n_windows == 0
    reader.close()


@pytest.mark.parametrize(
    "changes",
    [{"cover_min": -989}, {"cover_max": 990}, {"width_ms": 20}, {"seq_max": 8}, {"n_series": 1}],
)
def test_a_part_that_the_manifest_does_not_describe_is_refused(tmp_path, changes):
    entry = write(tmp_path, [([0], {0: scraped(range(9))})])
    with pytest.raises(CorruptionError):
        open_tier(tmp_path, dataclasses.replace(entry, **changes))


def test_columns_of_a_newer_version_are_refused(tmp_path, monkeypatch):
    entry = write(tmp_path, [([0], {0: scraped(range(9))})])
    monkeypatch.setattr("tsengine.storage.tier_format._KNOWN_MASK", 0xFF)
    with pytest.raises(UnsupportedFormat):
        open_tier(tmp_path, entry)


def test_a_newer_version_is_refused(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr("tsengine.storage.tier_format.VERSION", 2)
        entry = write(tmp_path, [([0], {0: scraped(range(9))})])
    with pytest.raises(UnsupportedFormat):
        open_tier(tmp_path, entry)


def test_a_raw_part_is_no_part_of_a_tier(tmp_path):
    entry = write(tmp_path, [([0], {0: scraped(range(9))})])
    path = tmp_path / NAME / part_format.INDEX_FILE
    header, sections = part_format.decode_index_table(path.read_bytes(), str(path))
    columns = {
        number: part_format.decode_section(path.read_bytes(), section, str(path))
        for number, section in sections.items()
        if number < part_format.Section.TIER
    }
    path.write_bytes(part_format.encode_index(header, columns))
    with pytest.raises(CorruptionError, match="missing"):
        open_tier(tmp_path, entry)


def check(folder: Path, entry: TierEntry, expected: tiers.Windows) -> None:
    """A read gives the right windows or fails; `verify` fails for any damage."""
    reader = open_tier(folder, entry)
    try:
        found = reader.read(np.array(sorted(expected), np.uint32), *COVER, FLOATS)
        assert tiers.windows_in(found, sorted(expected)) == expected
        reader.verify()
    finally:
        reader.close()


@pytest.mark.parametrize("is_golden", [True, False])
def test_the_golden_part_and_what_is_written_now_are_read_alike(tmp_path, is_golden):
    """Bytes may differ: which of a block's forms is smallest is guessed, better at times."""
    make_tier.main(str(tmp_path))
    folder = (GOLDEN if is_golden else tmp_path) / make_tier.NAME
    sizes = [(place / make_tier.NAME / "values").stat().st_size for place in (GOLDEN, tmp_path)]
    assert abs(sizes[0] - sizes[1]) <= sizes[0] // 50
    expected = make_tier.golden_windows()
    reader = TierReader.open(FS, str(folder), make_tier.golden_entry())
    found = reader.read(make_tier.REFS, *make_tier.COVER, STORED_COLUMNS)
    reader.verify()
    reader.close()
    np.testing.assert_array_equal(found.row_offsets, expected.row_offsets)
    for column in STORED_COLUMNS - HANDLE_COLUMNS:
        np.testing.assert_array_equal(
            found.columns[column].view(np.uint64), expected.columns[column].view(np.uint64)
        )
    for column in HANDLE_COLUMNS:
        assert held(found, column) == held(expected, column)


def test_flipped_bits_of_histograms_are_found(tmp_path):
    folder = tmp_path / make_tier.NAME
    shutil.copytree(GOLDEN / make_tier.NAME, folder)
    expected = make_tier.golden_windows()

    def read() -> None:
        reader = TierReader.open(FS, str(folder), make_tier.golden_entry())
        try:
            found = reader.read(make_tier.REFS, *make_tier.COVER, HANDLE_COLUMNS)
            assert all(held(found, c) == held(expected, c) for c in HANDLE_COLUMNS)
            reader.verify()
        finally:
            reader.close()

    read()
    for path in sorted((folder / "components").iterdir()):
        whole = path.read_bytes()
        for at in range(0, len(whole), 23):
            damaged = bytearray(whole)
            damaged[at] ^= 1 << (at % 8)
            path.write_bytes(damaged)
            with pytest.raises(TsengineError):
                read()
        path.write_bytes(whole)


def held(windows, column):
    """Rows of histograms by window."""
    bits = windows.columns[column].view(np.uint64)
    rows = [] if windows.histograms is None else rich_samples.rows_of_table(windows.histograms)
    numbers = rows_of(bits).tolist()
    return [rows[n] if is_one else None for n, is_one in zip(numbers, is_handle(bits), strict=True)]


def test_the_example_in_the_document_is_real():
    text = (GOLDEN.parents[1] / "docs" / "format" / "tiers.md").read_text()
    index = (GOLDEN / make_tier.NAME / "index").read_bytes()
    lines = re.findall(r"^    ((?:[0-9a-f]{2} +)*[0-9a-f]{2})(?:  |$)", text, re.MULTILINE)
    assert len(lines) >= 5
    for line in lines:
        assert bytes.fromhex(line.replace(" ", "")) in index, line


def test_flipped_bits_are_found(tmp_path):
    rng = np.random.default_rng(5)
    model = {r: scraped(rng.integers(0, 50, 60).cumsum() + r) for r in range(3)}
    model[2] |= dict.fromkeys((40, 44), STALE)
    entry = write(tmp_path, [([0, 1, 2], model)])
    expected = tiers.windows_of(model, WIDTH)
    check(tmp_path, entry, expected)
    for name in FILES:
        path = tmp_path / NAME / name
        whole = path.read_bytes()
        # Every byte of the headers, then some.
        for at in [*range(min(96, len(whole))), *range(96, len(whole), 23)]:
            damaged = bytearray(whole)
            damaged[at] ^= 1 << (at % 8)
            path.write_bytes(damaged)
            with pytest.raises(TsengineError):
                check(tmp_path, entry, expected)
        path.write_bytes(whole)
