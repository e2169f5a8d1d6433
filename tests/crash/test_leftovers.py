"""Half-written files and damaged logs, made on purpose: the database starts and reports them."""

from __future__ import annotations

import shutil

import numpy as np
import pytest

import tsengine
from tsengine import errors

T0 = 1_700_000_000_000


def fill(path, n_rounds=4, *, flush_at=()):
    """`n_rounds` appends of 10 samples and a new series each."""
    with tsengine.open(path) as db:
        for i in range(n_rounds):
            t = T0 + 1000 * np.arange(10 * i, 10 * i + 10)
            db.append({"__name__": "x", "round": str(i)}, t, np.arange(10.0))
            if i in flush_at:
                db.flush()


def count(path, **options):
    with tsengine.open(path, **options) as db:
        result = db.query('count_over_time({__name__=~"x|y"}[30d])', time=T0 + 10_000_000)
        return dict(
            zip((found["round"] for found in result.labels), result.to_numpy()[:, 0], strict=True)
        )


def newest_segment(path):
    return max((path / "wal").glob("*.wal"))


@pytest.mark.parametrize("keep", [0.1, 0.5, 0.9, 0.999])
def test_a_torn_tail_is_cut(tmp_path, keep):
    path = tmp_path / "db"
    fill(path, flush_at=(1,))
    segment = newest_segment(path)
    data = segment.read_bytes()
    segment.write_bytes(data[: int(len(data) * keep)])
    found = count(path)
    assert found["0"] == found["1"] == 10
    assert set(found.values()) == {10.0}
    assert tsengine.check(path).problems == []


def test_zeros_at_the_end_are_a_torn_tail(tmp_path):
    path = tmp_path / "db"
    fill(path)
    segment = newest_segment(path)
    segment.write_bytes(segment.read_bytes() + bytes(5000))
    report = tsengine.check(path)
    assert report.problems == []
    assert any("unfinished write of 5000 bytes" in note for note in report.notes)
    assert count(path) == dict.fromkeys("0123", 10.0)


def test_a_damaged_log_is_reported_and_kept_aside(tmp_path):
    path = tmp_path / "db"
    fill(path)
    segment = newest_segment(path)
    data = bytearray(segment.read_bytes())
    data[len(data) // 2] ^= 1
    segment.write_bytes(data)
    report = tsengine.check(path)
    assert len(report.problems) == 1
    assert report.problems[0].file == str(segment)
    assert report.problems[0].offset is not None
    with tsengine.open(path) as db:
        assert db.recovery_problems[0].startswith(f"{segment}: damaged at byte ")
        assert db.stats()["damaged_files"] == 1
        # A new series must not inherit samples that were written for a lost one.
        db.append({"__name__": "y", "round": "new"}, [T0], [1.0])
    assert segment.with_name(segment.name + ".damaged").read_bytes() == data
    found = count(path)
    assert found.pop("new") == 1.0
    assert found["0"] == 10.0
    assert len(found) < 4
    assert set(found.values()) == {10.0}
    assert tsengine.check(path).problems == []


def test_series_made_after_a_damaged_piece_keep_their_names(tmp_path):
    path = tmp_path / "db"
    fill(path, 3)
    (damaged,) = (path / "wal").glob("*.wal")
    with tsengine.open(path) as db:  # a start begins a new segment
        db.append({"__name__": "y", "round": "later"}, [T0], [7.0])
        db.append({"__name__": "x", "round": "2"}, [T0 + 99_000], [8.0])
    data = bytearray(damaged.read_bytes())
    data[len(data) // 2] ^= 1
    damaged.write_bytes(data)
    texts = [problem.text for problem in tsengine.check(path).problems]
    assert "the labels of 2 series were lost with damage" in texts
    for start in range(2):
        with tsengine.open(path) as db:
            assert any("2 series are lost" in line for line in db.recovery_problems) == (start == 0)
            assert db.query("y", time=T0).to_numpy().tolist() == [[7.0]]
            lost = db.query("tsengine_lost_series", time=T0 + 99_000)
            # The sample of a series whose labels are lost is kept, and not under another's name.
            assert lost.to_numpy()[:, 0].tolist() == [8.0]
            assert [found["ref"] for found in lost.labels] == ["2"]
    assert tsengine.check(path).problems == []


def test_leftovers_of_an_unfinished_flush_are_removed(tmp_path):
    path = tmp_path / "db"
    fill(path, flush_at=(1,))
    (path / "parts" / "0000009999").mkdir()
    (path / "parts" / "0000009999" / "values").write_bytes(b"half a part")
    (path / "catalog" / "0000009998.cat").write_bytes(b"half a segment")
    (path / "manifest.tmp").write_bytes(b"half a manifest")
    (path / "parts" / "a note of the admin").write_text("keep me")
    report = tsengine.check(path)
    assert report.problems == []
    assert len(report.notes) == 3
    assert count(path) == dict.fromkeys("0123", 10.0)
    assert not (path / "parts" / "0000009999").exists()
    assert not (path / "manifest.tmp").exists()
    assert (path / "parts" / "a note of the admin").exists()
    assert tsengine.check(path).notes == []


@pytest.mark.parametrize("name", ["axes", "values", "index"])
def test_a_cut_part_is_corruption_with_its_name(tmp_path, name):
    path = tmp_path / "db"
    fill(path, flush_at=(3,))
    (part,) = [p for p in (path / "parts").iterdir() if p.is_dir()]
    (file,) = [p for p in part.iterdir() if p.name.startswith(name)]
    data = file.read_bytes()
    file.write_bytes(data[: len(data) - 3])
    with tsengine.open(path) as db:
        (problem,) = db.recovery_problems
        assert problem.startswith(f"{file}: damaged")
        assert "left out" in problem
    report = tsengine.check(path)
    assert [problem.file for problem in report.problems] == [str(file)]


def test_a_damaged_manifest_is_named(tmp_path):
    path = tmp_path / "db"
    fill(path)
    manifest = path / "manifest"
    manifest.write_bytes(manifest.read_bytes().replace(b"wal_floor", b"wal_flOOr"))
    with pytest.raises(errors.CorruptionError, match="manifest"):
        tsengine.open(path)


def test_read_only_changes_nothing(tmp_path):
    path = tmp_path / "db"
    fill(path, flush_at=(0,))
    segment = newest_segment(path)
    segment.write_bytes(segment.read_bytes()[:-3])
    (path / "parts" / "0000009999").mkdir()
    before = sorted((p, p.read_bytes()) for p in path.rglob("*") if p.is_file())
    copy = tmp_path / "copy"
    shutil.copytree(path, copy)
    assert len(count(path, read_only=True)) == 3
    assert sorted((p, p.read_bytes()) for p in path.rglob("*") if p.is_file()) == before
    assert (path / "parts" / "0000009999").exists()
    assert len(count(copy)) == 3
