"""A whole database with histograms: flush, merge, reopen, check, inspect, crash."""

from __future__ import annotations

import random
import shutil

import numpy as np
import pytest

import tsengine
from tests.faults.filesystem import Crash, FaultyFileSystem
from tests.reference import rich_samples
from tests.reference.rich_samples import Histogram, Rich, bits
from tsengine.errors import CorruptionError
from tsengine.model.batch import SeriesColumns
from tsengine.storage import checkpoint, component_writer, select
from tsengine.storage.part_reader import PartReader
from tsengine.storage.part_writer import write_part

T0 = 1_700_000_000_000
BIAS = 2**20


def histogram(k: int) -> Histogram:
    buckets = tuple((BIAS + i, bits(float(k + i))) for i in range(1, 4))
    return Histogram(3, 0, bits(3.0 * k + 6), bits(k / 3), bits(2.0**-128), 0, buckets, None)


def model_of_rounds(n_rounds: int) -> Rich:
    """Ref 0: histograms, every seventh later overwritten by a float; ref 1: floats."""
    model: Rich = {0: {}, 1: {}}
    for k in range(20 * n_rounds):
        model[0][T0 + 1000 * k] = (histogram(k), T0 - 5)
        model[1][T0 + 1000 * k] = (bits(float(k)), 0)
    return model


def append(db, model: Rich) -> None:
    columns = rich_samples.columns_of(model)
    db._storage.append_columns(
        np.repeat(columns.refs, np.diff(columns.offsets)), columns.t_ms, columns.bits,
        histograms=columns.histograms, start_ms=columns.start_ms,
    )  # fmt: skip


def stored(db) -> Rich:
    view = db._storage.view()
    columns = select.read_columns(
        view._parts, view._heads, view.all_refs(), -(2**62), 2**62, with_start=True
    )
    return rich_samples.model_of(columns)


def fill(path, n_rounds: int = 3) -> Rich:
    whole = model_of_rounds(n_rounds)
    with tsengine.open(path) as db:
        assert db.series_refs([{"__name__": "h"}, {"__name__": "f"}]).tolist() == [0, 1]
        for start in range(0, 20 * n_rounds, 20):
            times = range(T0 + 1000 * start, T0 + 1000 * (start + 20), 1000)
            append(db, {ref: {t: whole[ref][t] for t in times} for ref in whole})
            db.flush()
        changes = {0: {t: (bits(-1.0), 0) for t in sorted(whole[0])[::7]}}
        append(db, changes)
        whole[0].update(changes[0])
        assert stored(db) == whole
    return whole


def test_flushed_merged_and_reopened_it_is_the_same(tmp_path):
    whole = fill(tmp_path / "db")
    with tsengine.open(tmp_path / "db") as db:
        assert stored(db) == whole
        assert len(db._storage.view().entries) == 3
        db.compact()
        assert len(db._storage.view().entries) == 1
        assert stored(db) == whole
    report = tsengine.check(tmp_path / "db")
    assert (report.problems, report.notes) == ([], [])
    [part] = tsengine.inspect(tmp_path / "db")["parts"]
    folder = tmp_path / "db" / "parts" / part["name"]
    assert list(folder.parent.iterdir()) == [folder], "merged parts are removed whole"
    own = sum(p.stat().st_size for p in (folder / "components").iterdir())
    assert part["component_bytes"] == own
    assert part["size_bytes"] == own + sum(
        p.stat().st_size for p in folder.iterdir() if p.is_file()
    )


def test_check_finds_every_damaged_file_of_the_components(tmp_path):
    fill(tmp_path / "db")
    rng = np.random.default_rng(4)
    for file in sorted((tmp_path / "db").glob("parts/*/components/*"))[:4]:
        for _ in range(6):
            damaged = tmp_path / "damaged"
            shutil.copytree(tmp_path / "db", damaged)
            path = damaged / file.relative_to(tmp_path / "db")
            content = bytearray(path.read_bytes())
            content[rng.integers(len(content))] ^= 1 << int(rng.integers(8))
            path.write_bytes(content)
            problems = tsengine.check(damaged).problems
            assert [problem.file for problem in problems] == [str(path)]
            shutil.rmtree(damaged)


def test_samples_that_speak_of_histograms_the_components_lack_are_damage(tmp_path):
    fs = FaultyFileSystem()
    early, late = model_of_rounds(1), model_of_rounds(1)
    late[0] = {t + 1: sample for t, sample in late[0].items()}
    readers = []
    for name, model in (("0000000001", early), ("0000000002", late)):
        entry = write_part(
            fs, str(tmp_path), name, [rich_samples.columns_of(model)],
            targets=lambda refs: np.zeros(len(refs), np.int64), seq_min=1, seq_max=1, level=0,
        )  # fmt: skip
        assert entry is not None
        readers.append(PartReader.open(fs, str(tmp_path / name), entry))
    own, other = readers
    own.components, other.components = other.components, own.components
    with pytest.raises(CorruptionError, match="table: histograms are missing"):
        own.collect(None, -(2**62), 2**62)
    for reader in readers:
        reader.close()


@pytest.mark.parametrize("kind", ["open_append", "write", "datasync", "write_file", "sync_dir"])
def test_a_crash_while_components_are_written_leaves_orphans_only(tmp_path, kind):
    fill(tmp_path / "db", 1)
    before = set((tmp_path / "db" / "parts").iterdir())
    fs = FaultyFileSystem()
    fs.fail(kind, crash=True, path_contains="components")
    columns = rich_samples.columns_of(model_of_rounds(1))
    with pytest.raises(Crash):
        write_part(
            fs, str(tmp_path / "db" / "parts"), "0000000077", [columns],
            targets=lambda refs: np.zeros(len(refs), np.int64), seq_min=9, seq_max=9, level=0,
        )  # fmt: skip
    assert (tmp_path / "db" / "parts" / "0000000077").exists()
    notes = tsengine.check(tmp_path / "db").notes
    assert any("0000000077: left over from a crash" in note for note in notes)
    with tsengine.open(tmp_path / "db"):
        assert not (tmp_path / "db" / "parts" / "0000000077").exists()
    assert before <= set((tmp_path / "db" / "parts").iterdir())


def test_a_written_part_survives_a_power_cut(tmp_path):
    model = model_of_rounds(1)
    for seed in range(20):
        fs = FaultyFileSystem()
        name = f"{seed:010d}"
        entry = write_part(
            fs, str(tmp_path), name, [rich_samples.columns_of(model)],
            targets=lambda refs: np.zeros(len(refs), np.int64), seq_min=1, seq_max=1, level=0,
        )  # fmt: skip
        assert entry is not None
        fs.lose_unsynced(random.Random(seed))
        reader = PartReader.open(fs, str(tmp_path / name), entry)
        refs = np.array([0, 1], np.uint32)
        columns = select.read_columns([reader], [], refs, -(2**62), 2**62, with_start=True)
        assert rich_samples.model_of(columns) == model
        reader.close()


def test_memory_of_a_flush_is_bounded_by_chunks(tmp_path, monkeypatch):
    sizes: list[int] = []
    add = component_writer.PartEncoder.add

    def recorded(self, chunk: SeriesColumns, targets) -> None:
        sizes.append(len(chunk.t_ms))
        add(self, chunk, targets)

    monkeypatch.setattr(component_writer.PartEncoder, "add", recorded)
    monkeypatch.setattr(component_writer, "CHUNK_VALUES", 100)
    monkeypatch.setattr(checkpoint, "_CHUNK_HISTOGRAM_BYTES", 1000)
    whole = fill(tmp_path / "db")
    assert max(sizes) <= 200
    with tsengine.open(tmp_path / "db") as db:
        assert stored(db) == whole
