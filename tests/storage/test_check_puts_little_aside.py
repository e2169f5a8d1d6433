"""`check --quarantine` takes what is damaged itself, not what other damage makes look so."""

import errno
import os

import pytest

import tsengine
from server import cli
from tests.storage.test_check import flip
from tsengine import inspection
from tsengine.options import Options
from tsengine.storage import manifest
from tsengine.storage.filesystem import LocalFileSystem

T0 = 1_700_000_000_000


@pytest.fixture
def path(tmp_path):
    """Three parts and two of tiers, and as many segments of the catalog."""
    path = tmp_path / "db"
    with tsengine.open(path, Options()) as db:
        db.pause_background()
        for k in range(3):
            times = [T0 + i * 15_000 for i in range(1000)]
            db.append({"__name__": "m", "k": str(k)}, times, [1.0] * 1000)
            db.flush()
        db.build_tiers()
    current = manifest.load(LocalFileSystem(), str(path))
    assert (len(current.parts), len(current.catalog_segments)) == (3, 3)
    assert current.tiers
    return path


def answer(path):
    with tsengine.open(path, read_only=True) as db:
        assert db.recovery_problems == []
        return db.query("count_over_time(m[1d])", T0 + 15_000_000).to_numpy().tolist()


@pytest.mark.parametrize("which", [0, 1])
def test_a_damaged_catalog_takes_no_parts_along(path, which):
    segment = sorted((path / "catalog").iterdir())[which]
    flip(segment, segment.stat().st_size // 2)
    report = tsengine.check(path, quarantine=True)
    (problem,) = report.problems
    assert problem.file == str(segment)
    assert report.quarantined == []
    flip(segment, segment.stat().st_size // 2)
    assert tsengine.check(path).problems == []
    assert answer(path) == [[1000.0]] * 3


def test_damaged_parts_wait_for_the_catalog(path, capsys):
    segment = sorted((path / "catalog").iterdir())[0]
    part = sorted((path / "parts").iterdir())[0] / "values"
    flip(segment, segment.stat().st_size // 2)
    flip(part, part.stat().st_size // 2)
    assert cli.main(["check", "--data-dir", str(path), "--quarantine"]) == 1
    said = capsys.readouterr().out
    assert "note: 1 damaged parts are not put aside while the catalog is damaged" in said
    assert said.count("damage: ") == 2
    assert not (path / "quarantine").exists()
    flip(segment, segment.stat().st_size // 2)
    assert len(tsengine.check(path, quarantine=True).quarantined) == 1


@pytest.mark.parametrize("error", [errno.EMFILE, errno.EACCES, errno.EIO])
def test_only_what_the_disk_can_not_read_is_damaged(path, monkeypatch, error, capsys):
    class Refusing(LocalFileSystem):
        def open_read(self, name):
            if f"{os.sep}parts{os.sep}" in name:
                raise OSError(error, os.strerror(error), name)
            return super().open_read(name)

    monkeypatch.setattr(inspection, "LocalFileSystem", Refusing)
    report = tsengine.check(path, quarantine=True)
    if error == errno.EIO:
        assert {problem.kind for problem in report.problems} == {"damage"}
        assert len(report.quarantined) == 3
        return
    assert {problem.kind for problem in report.problems} == {"unreadable"}
    assert len(report.problems) == 3
    assert report.quarantined == []
    assert cli.main(["check", "--data-dir", str(path)]) == 3
    assert f"unreadable: {path}/parts/" in capsys.readouterr().out
    monkeypatch.undo()
    assert tsengine.check(path).problems == []


def test_a_part_that_only_its_surroundings_contradict_stays(path):
    current = manifest.load(LocalFileSystem(), str(path))
    (path / "parts" / current.parts[0].name / "values.bak").write_bytes(b"a copy by hand")
    report = tsengine.check(path, quarantine=True)
    assert "the manifest says" in report.problems[0].text
    assert report.quarantined == []
    assert any("its own bytes are fine" in note for note in report.notes)
