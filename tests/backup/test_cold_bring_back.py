"""Parts that are in an object store go aside and come back: with their objects, and verified."""

import shutil

import numpy as np
import pytest

import tsengine
from server import cli
from tests.backup.cold_case import keys, let_go, local, move, opened
from tests.backup.test_cold_faults import largest_stubs, stub_of
from tests.faults import rich_database as rich
from tsengine.backup.store import open_store
from tsengine.errors import CorruptionError
from tsengine.storage import manifest
from tsengine.storage.cold import HEAD_BYTES
from tsengine.storage.filesystem import LocalFileSystem
from tsengine.storage.quarantine import Damaged, put_aside


def changed(s3, stub):
    """Flip a bit of an object; returns its bytes before."""
    store = open_store(s3.url, s3.options)
    whole = store.read(stub.key)
    broken = bytearray(whole)
    broken[len(broken) // 2] ^= 1
    store.replace(stub.key, bytes(broken))
    return whole


def mend(s3, stub, whole):
    open_store(s3.url, s3.options).replace(stub.key, whole)


def part_of(stub):
    return stub.key.split("/")[1].partition("-")[0]


@pytest.fixture
def broken(cold_database, s3):
    """A cold database one of whose parts is aside, its stub and the object's right bytes."""
    path, truth = cold_database
    stub = largest_stubs(path)[0]
    whole = changed(s3, stub)
    report = tsengine.check(path, quarantine=True)
    assert [folder.rpartition("/")[2] for folder in report.quarantined] == [
        f"parts-{part_of(stub)}"
    ]
    return path, truth, stub, whole


def test_it_comes_back_with_its_objects(broken, s3):
    path, truth, stub, whole = broken
    before = keys(s3)
    (found,) = tsengine.bring_back(path)
    assert found.refused.startswith("it is damaged: ")
    mend(s3, stub, whole)
    (found,) = tsengine.bring_back(path)
    assert (found.refused, found.merged_with) == (None, 0)
    assert not (path / "quarantine" / found.name).exists()
    assert keys(s3) == before
    assert local(path, "/values") == []
    assert rich.content(path) == truth
    assert tsengine.check(path).problems == []


def test_what_the_cache_has_of_it_counts_for_nothing(cold_database, cold_options, s3):
    path, truth = cold_database
    shutil.rmtree(path / "cold-cache", ignore_errors=True)
    names = [name for name in local(path, "/values.cold") if "components" not in name]
    stub = max((stub_of(path, name) for name in names), key=lambda stub: stub.size)
    whole = changed(s3, stub)
    with opened(path, cold_options) as db, pytest.raises(CorruptionError):
        rich.content(db)
    assert any((path / "cold-cache").iterdir())
    tsengine.check(path, quarantine=True)
    mend(s3, stub, whole)
    assert [one.refused for one in tsengine.bring_back(path)] == [None]
    with opened(path, cold_options) as db:
        assert rich.content(db) == truth


def test_one_that_was_merged_over_is_here_and_its_objects_go(tmp_path, cold_options, s3):
    path = tmp_path / "db"
    truth = {}
    with opened(path, cold_options) as db:
        for first, n in ((0, 300), (100, 300), (380, 300)):
            times = [rich.T0 + k * 60_000 for k in range(first, first + n)]
            own = np.random.default_rng(first).random(n).tolist()
            db.append({"__name__": "m"}, times, own)
            db.flush()
            truth |= dict(zip(times, own, strict=True))
        move(db)
    fs = LocalFileSystem()
    current = manifest.load(fs, str(path))
    entry = current.parts[1]
    put_aside(fs, str(path), current, [Damaged("parts", entry.name, ("x",))], rich.T0)
    with opened(path, cold_options) as db:
        db.compact()
        let_go(db)
    assert {key.split("/")[1].partition("-")[0] for key in keys(s3)} == {entry.name}
    (found,) = tsengine.bring_back(path)
    assert (found.refused, found.merged_with) == (None, 1)
    assert keys(s3) == []
    with tsengine.open(path, read_only=True) as db:
        table = db.select("m").read_all()
    times = table.column("timestamp").cast("int64").to_pylist()
    own = dict(zip(times, table.column("value").to_pylist(), strict=True))
    # Where the others have the time too, theirs stays.
    beside = {rich.T0 + k * 60_000 for k in range(100, 300)}
    assert own.keys() == truth.keys()
    assert all(own[t] == truth[t] for t in truth.keys() - beside)
    assert tsengine.check(path).problems == []


def test_a_store_that_is_away_leaves_it_aside(broken, s3, capsys):
    path, truth, stub, whole = broken
    mend(s3, stub, whole)
    s3.fail("GET", times=10_000, status=503, code="SlowDown")
    (found,) = tsengine.bring_back(path)
    assert found.refused.startswith("it can't be read: ")
    assert manifest.load(LocalFileSystem(), str(path)).aside == (found.name,)
    s3.orders.clear()
    # Another address is given by the flag.
    base = ["check", "--data-dir", str(path), "--bring-back", "--cold-endpoint-url"]
    assert cli.main([*base, "http://127.0.0.1:9"]) == 1
    assert "it can't be read" in capsys.readouterr().out
    assert cli.main([*base, s3.endpoint]) == 0
    assert rich.content(path) == truth


def test_good_files_take_the_place_of_stubs(broken, s3):
    path, truth, stub, whole = broken
    folder = path / "quarantine" / f"parts-{part_of(stub)}"
    name = "/".join(stub.key.split("/")[2:])
    (folder / name).write_bytes(whole)
    (folder / f"{name}.cold").unlink()
    assert [one.refused for one in tsengine.bring_back(path)] == [None]
    assert rich.content(path) == truth
    assert tsengine.check(path).problems == []


@pytest.mark.parametrize("kind", ["axes", "values", "components"])
def test_a_bad_answer_of_the_store_does_not_stay_in_the_cache(
    cold_database, cold_options, s3, kind
):
    """What was cached is asked for once more before it counts as damage."""
    path, _ = cold_database
    with opened(path, cold_options) as db:
        steps = np.random.default_rng(1).integers(1, 1000, 500)
        db.append({"__name__": "uneven"}, (rich.T0 + np.cumsum(steps)).tolist(), [1.0] * 500)
        db.flush()
        move(db)
    truth = rich.content(path)
    shutil.rmtree(path / "cold-cache", ignore_errors=True)
    names = [name for name in local(path, ".cold") if kind in name]
    if kind != "components":
        names = [name for name in names if "components" not in name]
    stub = max((stub_of(path, name) for name in names), key=lambda stub: stub.size)
    assert stub.size > HEAD_BYTES
    whole = changed(s3, stub)
    with opened(path, cold_options) as db:
        for _ in range(2):
            with pytest.raises(CorruptionError):
                rich.content(db)
        assert any(file.name.startswith(stub.sha256) for file in (path / "cold-cache").iterdir())
        mend(s3, stub, whole)
        assert rich.content(db) == truth
    s3.fail("GET", times=10_000, status=503, code="SlowDown")
    with opened(path, cold_options) as db:
        assert rich.content(db) == truth, "from the cache"
