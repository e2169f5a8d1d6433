"""Opening beside a writer that replaces files: tried again after pauses, and not for ever."""

from __future__ import annotations

import shutil
from dataclasses import replace

import pytest

import tsengine
from tsengine.errors import StorageError
from tsengine.options import Options
from tsengine.storage import manifest, recovery
from tsengine.storage.database import StorageDatabase
from tsengine.storage.filesystem import LocalFileSystem

T0 = 1_700_000_000_000


class Replacing(LocalFileSystem):
    """Each look at the manifest finds a new one, and the parts of the first ones are gone."""

    def __init__(self, n_times):
        self.n_left = n_times
        self.n_manifests = 0
        self.generation = 100

    def read_file(self, path):
        data = super().read_file(path)
        if path.endswith("/manifest"):
            self.n_manifests += 1
            self.generation += min(self.n_left, 1)
            return replace(manifest.decode(data), generation=self.generation).encode()
        if path.endswith("/index") and self.n_left:
            self.n_left -= 1
            raise FileNotFoundError(2, "No such file or directory", path)
        return data


@pytest.fixture
def path(tmp_path):
    with tsengine.open(tmp_path / "db") as db:
        for k in range(2):
            db.append({"__name__": "m"}, [T0 + 1000 * k], [1.0])
            db.flush()
    return tmp_path / "db"


@pytest.fixture
def pauses(monkeypatch):
    slept = []
    monkeypatch.setattr(recovery, "_sleep", slept.append)
    return slept


def opened(path, fs):
    return StorageDatabase(str(path), Options(), read_only=True, fs=fs)


def samples_of(db):
    view = db.view()
    return len(view.read(view.all_refs(), 0, 2**62, drop_stale=False).values)


def test_it_is_tried_again_after_a_pause(path, pauses):
    db = opened(path, Replacing(3))
    assert samples_of(db) == 2
    assert not db.recovery.has_lost_parts
    db.close()
    assert len(pauses) == 3
    assert pauses == sorted(pauses)
    assert 0 < pauses[0] < 0.1


def test_it_ends_with_a_clear_error(path, pauses):
    fs = Replacing(10**9)
    with pytest.raises(StorageError, match=r"db: .*replaces files faster .*10 times.*try again"):
        opened(path, fs)
    assert len(pauses) == 9
    assert 1 < sum(pauses) < 10
    assert fs.n_manifests <= 30


@pytest.mark.parametrize("file", ["index", "values"])
def test_a_part_that_is_gone_for_good_is_damage(path, pauses, file):
    next(iter(sorted((path / "parts").iterdir()))).joinpath(file).unlink()
    db = opened(path, LocalFileSystem())
    assert db.recovery.has_lost_parts
    assert samples_of(db) == 1
    db.close()
    assert len(pauses) == 1


def test_a_file_that_nothing_goes_without_is_named_at_once(path, pauses):
    (segment,) = (path / "catalog").iterdir()
    segment.unlink()
    with pytest.raises(StorageError, match=segment.name):
        opened(path, LocalFileSystem())
    assert len(pauses) == 1
    shutil.rmtree(path)
    with pytest.raises(StorageError, match="is not a tsengine database"):
        opened(path, LocalFileSystem())
    assert len(pauses) == 1


def test_a_part_that_is_missed_just_when_the_manifest_changes_is_no_damage(path, pauses):
    """The manifest stays the same for two looks, then names others."""

    class Late(Replacing):
        def read_file(self, path):
            data = super(Replacing, self).read_file(path)
            if path.endswith("/manifest"):
                self.n_manifests += 1
                generation = 10 + (self.n_manifests > 2)
                return replace(manifest.decode(data), generation=generation).encode()
            if path.endswith("/index") and self.n_manifests <= 2:
                raise FileNotFoundError(2, "No such file or directory", path)
            return data

    db = opened(path, Late(0))
    assert not db.recovery.has_lost_parts
    assert samples_of(db) == 2
    db.close()
