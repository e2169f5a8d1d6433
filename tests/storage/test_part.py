"""Parts: what is written is read back, and damage is never taken for data."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.golden import make_part
from tests.reference import samples
from tests.reference.samples import STALE, Model
from tests.reference.unsynced import UnsyncedFileSystem
from tsengine.errors import CorruptionError, StorageError, TsengineError, UnsupportedFormat
from tsengine.model.batch import SeriesColumns
from tsengine.storage import filesystem, part_format, part_select
from tsengine.storage.filesystem import LocalFileSystem
from tsengine.storage.manifest import PartEntry
from tsengine.storage.part_format import FILES, LADDER_MS
from tsengine.storage.part_reader import PartReader
from tsengine.storage.part_writer import write_part

DAY = 86_400_000
ALL = (-(2**63), 2**63 - 1)
FS = UnsyncedFileSystem()
GOLDEN = Path(__file__).parent.parent / "golden"


def write(folder: Path, chunks: list[SeriesColumns], targets=None) -> PartEntry:
    entry = write_part(
        FS, str(folder), "0000000001", chunks,
        targets=targets or (lambda refs: np.full(len(refs), -1)), seq_min=3, seq_max=9, level=2,
    )  # fmt: skip
    assert entry is not None
    return entry


def open_part(folder: Path, entry: PartEntry) -> PartReader:
    return PartReader.open(FS, str(folder / entry.name), entry)


def scrape(n_series: int, n_steps: int, *, start=0, step=15_000) -> Model:
    rng = np.random.default_rng(n_series * n_steps)
    return {
        7 * ref: {
            start + k * step: int(np.float64(ref + k * (ref % 5)).view(np.uint64))
            for k in range(n_steps)
            if ref % 4 or rng.random() < 0.8
        }
        for ref in range(n_series)
    }


@settings(max_examples=60, deadline=None)
@given(
    st.dictionaries(
        st.integers(0, 8) | st.integers(0, 2**32 - 1),
        st.dictionaries(
            st.integers(0, 30) | st.integers(-DAY, DAY) | st.integers(*ALL),
            st.integers(0, 2**64 - 1) | st.sampled_from([0, 1, STALE]),
            min_size=1,
            max_size=30,
        ),
        min_size=1,
        max_size=8,
    ),
    st.integers(0, 4),
    st.tuples(st.integers(-5, 30), st.integers(-5, 30)) | st.just(ALL),
)
def test_what_is_written_is_read(tmp_path_factory, model, n_targets, span):
    folder = tmp_path_factory.mktemp("part")
    columns = samples.columns_of(model)
    entry = write(
        folder, [columns], lambda refs: (refs % (n_targets + 1)).astype(np.int64) * 2**61 - 1
    )
    assert (entry.n_samples, entry.n_series) == (len(columns.t_ms), len(columns))
    assert (entry.mint, entry.maxt) == (columns.t_ms.min(), columns.t_ms.max())
    assert (entry.seq_min, entry.seq_max, entry.level) == (3, 9, 2)
    assert entry.size_bytes == sum((folder / entry.name / file).stat().st_size for file in FILES)
    reader = open_part(folder, entry)
    assert reader.refs.tolist() == sorted(model)
    assert samples.model_of(reader.collect(None, *ALL)) == model
    some = columns.refs[::2]
    assert samples.model_of(reader.collect(some, *span)) == samples.clipped(
        model, some.tolist(), *span
    )
    assert reader.count_samples(some, *span) == sum(
        len(own) for own in samples.clipped(model, some.tolist(), *span).values()
    )
    reader.verify()
    reader.close()


def test_blocks_are_cut_at_the_widest_rung_that_fits(tmp_path):
    # Every 15 s: a day has 5760 rows. Every second: only an hour's 3600 rows fit into 8192.
    for step, rung, n_steps in (
        (15_000, DAY, 6000),
        (1_000, 3_600_000, 9000),
        (50, 900_000, 40_000),
    ):
        times = DAY - 40 * step + np.arange(n_steps) * step
        columns = SeriesColumns(
            np.array([4], np.uint32), np.array([0, n_steps]), times,
            np.arange(n_steps, dtype=np.float64).view(np.uint64),
        )  # fmt: skip
        folder = tmp_path / str(step)
        folder.mkdir()
        reader = open_part(folder, write(folder, [columns]))
        index = reader.index
        mint, maxt = index.axis_mint, index.axis_maxt
        assert ((mint - 1) // rung == (maxt - 1) // rung).all()
        assert index.axis_rows.max() <= 8192
        if step != 50:
            expected = np.unique((times - 1) // rung, return_counts=True)[1]
            assert index.axis_rows.tolist() == expected.tolist()
        reader.close()


def test_series_of_a_target_share_the_union_of_their_times(tmp_path):
    grid = list(range(10, 1010, 10))
    model = {
        1: dict.fromkeys(grid, 1),
        2: {t: 2 for t in grid if t not in (310, 320, 710)},  # two gaps
        3: {t: 3 for t in grid if t > 500},  # came later
        4: dict.fromkeys(grid, 4),
        5: dict.fromkeys(range(5, 1000, 10), 5),  # another target's clock
    }
    reader = open_part(
        tmp_path, write(tmp_path, [samples.columns_of(model)], lambda refs: np.int64(refs) // 5)
    )
    index = reader.index
    assert index.block_axis.tolist() == [0, 0, 0, 0, 1]
    assert index.block_first_row.tolist() == [0, 0, 50, 0, 0]
    assert index.block_pattern.tolist() == [0, 1, 0, 0, 0]
    assert index.run_first.tolist() == [0, 32, 71]
    assert index.run_length.tolist() == [30, 38, 29]
    assert samples.model_of(reader.collect(None, *ALL)) == model
    reader.close()


def test_clocks_that_differ_too_much_keep_their_own_axes(tmp_path):
    model = {ref: dict.fromkeys(range(ref + 1, 1000, 10), ref) for ref in range(4)}
    reader = open_part(
        tmp_path,
        write(tmp_path, [samples.columns_of(model)], lambda refs: np.zeros(len(refs), int)),
    )
    assert reader.index.block_axis.tolist() == [0, 1, 2, 3]
    reader.close()


def test_chunks_share_axes_and_equal_values_are_stored_once(tmp_path):
    model = {ref: dict.fromkeys(range(1, 500), ref % 3) for ref in range(9)}
    chunks = [
        samples.columns_of({ref: model[ref] for ref in some})
        for some in ((0, 1, 2, 3, 4), (5, 6, 7, 8))
    ]
    reader = open_part(tmp_path, write(tmp_path, chunks))
    assert len(reader.index.axis_rows) == 1
    assert reader.index.block_payload.tolist() == [0, 1, 2, 0, 1, 3, 4, 5, 3]
    assert samples.model_of(reader.collect(None, *ALL)) == model
    reader.close()


def test_statistics_are_those_of_the_values(tmp_path):
    values = np.array([3.0, 5.0, 1.0, 2.5])
    bits = [*values.view(np.uint64).tolist(), STALE]
    model = {1: dict(enumerate(bits, 1)), 2: {1: bits[0]}, 3: dict(enumerate(bits, 1))}
    reader = open_part(tmp_path, write(tmp_path, [samples.columns_of(model)]))
    stats = reader.stats
    assert reader.index.block_payload.tolist() == [0, 1, 0]
    assert stats.count.tolist() == [4, 1]
    assert stats.first.tolist() == [3.0, 3.0]
    assert stats.last.tolist() == [2.5, 3.0]
    assert stats.vmin.tolist() == [1.0, 3.0]
    assert stats.vmax.tolist() == [5.0, 3.0]
    assert stats.vsum.tolist() == [11.5, 3.0]
    assert stats.reset_sum.tolist() == [5.0, 0.0]
    assert stats.flags.tolist()[0] & 1 == 1
    assert reader.index.block_flags.tolist() == [1, 0, 1]
    reader.close()


def test_nothing_to_write_makes_no_part(tmp_path):
    entry = write_part(
        FS, str(tmp_path), "0000000001", [], targets=lambda refs: refs.astype(np.int64),
        seq_min=0, seq_max=0, level=0,
    )  # fmt: skip
    assert entry is None
    assert list(tmp_path.iterdir()) == []


def test_a_part_is_fsynced_before_it_is_named(tmp_path):
    calls: list[str] = []

    class Recording(LocalFileSystem):
        def open_append(self, path: str):
            file = super().open_append(path)
            sync = file.datasync

            def datasync() -> None:
                calls.append(f"datasync {Path(path).name}")
                sync()

            file.datasync = datasync  # type: ignore[method-assign]
            return file

        def write_file(self, path: str, data: bytes) -> None:
            calls.append(f"write_file {Path(path).name}")
            super().write_file(path, data)

        def sync_dir(self, path: str) -> None:
            calls.append(f"sync_dir {Path(path).name}")
            super().sync_dir(path)

    write_part(
        Recording(), str(tmp_path), "0000000001", [samples.columns_of({1: {1: 1}})],
        targets=lambda refs: refs.astype(np.int64), seq_min=0, seq_max=0, level=0,
    )  # fmt: skip
    assert calls == [
        "datasync axes", "datasync values", "write_file index",
        "sync_dir 0000000001", f"sync_dir {tmp_path.name}",
    ]  # fmt: skip


def read_everything(folder: Path, entry: PartEntry) -> Model:
    reader = open_part(folder, entry)
    try:
        assert reader.stats.count.sum() > 0
        return samples.model_of(reader.collect(None, *ALL))
    finally:
        reader.close()


@pytest.fixture(scope="module")
def sound(tmp_path_factory) -> tuple[Path, PartEntry, Model]:
    folder = tmp_path_factory.mktemp("sound")
    model = scrape(12, 60) | {500: {5: STALE, 9: 1}}
    entry = write(folder, [samples.columns_of(model)], lambda refs: np.zeros(len(refs), np.int64))
    return folder, entry, model


@settings(max_examples=250, deadline=None)
@given(st.data())
def test_a_flipped_bit_anywhere_is_an_error_with_the_file(sound, tmp_path_factory, data):
    folder, entry, _ = sound
    damaged = tmp_path_factory.mktemp("damaged")
    shutil.copytree(folder / entry.name, damaged / entry.name)
    name = data.draw(st.sampled_from(FILES))
    file = damaged / entry.name / name
    content = bytearray(file.read_bytes())
    position = data.draw(st.integers(0, len(content) - 1))
    content[position] ^= 1 << data.draw(st.integers(0, 7))
    file.write_bytes(content)
    with pytest.raises((CorruptionError, UnsupportedFormat)) as caught:
        read_everything(damaged, entry)
    assert f"/{name}" in str(caught.value)
    if name != "index" and isinstance(caught.value, CorruptionError):
        # The offset is that of the damaged payload, at or before the flipped byte.
        assert caught.value.offset is None or caught.value.offset <= position


@pytest.mark.parametrize("name", FILES)
def test_a_shorter_or_longer_file_is_an_error(sound, tmp_path, name):
    folder, entry, _ = sound
    size = (folder / entry.name / name).stat().st_size
    for cut in sorted({0, 1, 15, 16, size // 4, size // 2, size - 1}):
        damaged = tmp_path / f"cut-{cut}"
        shutil.copytree(folder / entry.name, damaged / entry.name)
        content = (damaged / entry.name / name).read_bytes()
        (damaged / entry.name / name).write_bytes(content[:cut])
        with pytest.raises(CorruptionError, match=f"/{name}"):
            read_everything(damaged, entry)
    longer = tmp_path / "longer"
    shutil.copytree(folder / entry.name, longer / entry.name)
    (longer / entry.name / name).write_bytes(content + b"\0")
    with pytest.raises(CorruptionError, match=f"/{name}"):
        read_everything(longer, entry)


def test_an_index_whose_checksums_hold_is_still_not_believed(tmp_path):
    model = scrape(8, 40)
    entry = write(tmp_path, [samples.columns_of(model)], lambda refs: np.zeros(len(refs), np.int64))
    path = tmp_path / entry.name / "index"
    original = path.read_bytes()
    header, sections = part_format.decode_index_table(original, "index")
    columns = {
        number: part_format.decode_section(original, section, "index")
        for number, section in sections.items()
    }
    rng = np.random.default_rng(11)
    n_refused = 0
    for _ in range(400):
        changed = {number: column.copy() for number, column in columns.items()}
        number = rng.choice([n for n in changed if len(changed[n])])
        row = rng.integers(len(changed[number]))
        changed[number][row] = rng.choice([-1, 0, 1, 2, 3, 8192, 8193, 2**32, 2**62, -(2**62)])
        path.write_bytes(part_format.encode_index(header, changed))
        try:
            reader = open_part(tmp_path, entry)
        except CorruptionError:
            n_refused += 1
            continue
        # What still fits together must either be refused by payload checksums or do no harm.
        try:
            samples.model_of(reader.collect(None, *ALL))
            assert len(reader.stats.count)
        except TsengineError:
            n_refused += 1
        finally:
            reader.close()
    assert n_refused > 200


def test_counting_guesses_where_too_many_axes_are_cut(tmp_path, monkeypatch):
    model = {ref: dict.fromkeys(range(1 + ref, 40_000, 40), ref) for ref in range(5)}
    reader = open_part(tmp_path, write(tmp_path, [samples.columns_of(model)]))
    for span in ((1, 50_000), (1_000, 9_000), (39_990, 39_999), (7, 7), (50_000, 60_000)):
        exact = sum(len(own) for own in samples.clipped(model, sorted(model), *span).values())
        assert reader.count_samples(reader.refs, *span) == exact
        with monkeypatch.context() as patch:
            patch.setattr(part_select, "COUNTED_ROWS_MAX", 0)
            assert exact <= reader.count_samples(reader.refs, *span) <= exact + 2 * len(model)
    reader.close()


def test_a_disk_that_fails_is_a_storage_error(sound):
    folder, entry, _ = sound

    class Failing(UnsyncedFileSystem):
        def open_read(self, path: str):
            file = super().open_read(path)
            pread = file.pread

            def fail_behind_header(offset: int, size: int) -> bytes:
                if offset >= part_format.FILE_HEADER_SIZE:
                    raise OSError(5, "Input/output error")
                return pread(offset, size)

            file.pread = fail_behind_header  # type: ignore[method-assign]
            return file

    reader = PartReader.open(Failing(), str(folder / entry.name), entry)
    with pytest.raises(StorageError, match="axes: Input/output error"):
        reader.collect(None, *ALL)
    reader.close()


def test_only_what_is_near_is_read_together(sound, tmp_path, monkeypatch):
    monkeypatch.setattr(filesystem._LocalReadFile, "fileno", None)
    rng = np.random.default_rng(8)
    n, size = 200, 500
    columns = SeriesColumns(
        np.arange(n, dtype=np.uint32),
        np.arange(n + 1) * size,
        np.tile(np.arange(1, size + 1), n),
        rng.integers(0, 2**63, n * size).astype(np.uint64),
    )
    entry = write(tmp_path, [columns])
    reads: list[tuple[int, int]] = []

    class Counting(UnsyncedFileSystem):
        def open_read(self, path: str):
            file = super().open_read(path)
            pread = file.pread

            def count(offset: int, size: int) -> bytes:
                if path.endswith("values"):
                    reads.append((offset, size))
                return pread(offset, size)

            file.pread = count  # type: ignore[method-assign]
            return file

    reader = PartReader.open(Counting(), str(tmp_path / entry.name), entry)
    reads.clear()
    near = reader.collect(columns.refs[10:20], *ALL)
    assert len(reads) == 1
    far = reader.collect(columns.refs[[3, 4, 150]], *ALL)
    assert len(reads) == 3
    assert sum(size for _, size in reads) < 20 * size * 8
    assert (near.bits == columns.bits[10 * size : 20 * size]).all()
    assert (far.bits[2 * size :] == columns.bits[150 * size : 151 * size]).all()
    reader.close()


def test_a_part_of_another_name_is_refused(sound):
    folder, entry, _ = sound
    for change in ({"n_samples": 1}, {"seq_max": 10}, {"level": 0}, {"mint": -1}):
        with pytest.raises(CorruptionError, match="manifest"):
            open_part(folder, dataclasses.replace(entry, **change))


def test_a_newer_version_is_refused(sound, tmp_path, monkeypatch):
    monkeypatch.setattr(part_format, "VERSION", 3)
    entry = write(tmp_path, [samples.columns_of({1: {1: 1}})])
    monkeypatch.undo()
    with pytest.raises(UnsupportedFormat, match="version 3"):
        open_part(tmp_path, entry)


def test_the_golden_part_is_read():
    """Written once by version 1; every later version must read it."""
    reader = PartReader.open(FS, str(GOLDEN / make_part.NAME), make_part.golden_entry())
    assert samples.model_of(reader.collect(None, *ALL)) == make_part.golden_model()
    reader.verify()
    reader.close()


def test_the_ladder_is_that_of_the_format():
    assert LADDER_MS == (DAY, 6 * 3_600_000, 3_600_000, 900_000)
