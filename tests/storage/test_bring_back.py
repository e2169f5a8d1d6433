"""Parts come back from the quarantine with all that they had, and with nothing that was deleted."""

import json
import shutil
from collections import namedtuple

import pytest

import tsengine
from server import cli
from tests.faults import rich_database as rich
from tests.faults.filesystem import FaultyFileSystem
from tests.reference.background import paused
from tests.storage.test_check import flip
from tsengine import errors
from tsengine.options import Options
from tsengine.storage import manifest
from tsengine.storage.bring_back import Returning
from tsengine.storage.bring_back_plan import in_order, jumped_over
from tsengine.storage.database import StorageDatabase
from tsengine.storage.filesystem import LocalFileSystem
from tsengine.storage.manifest import PartEntry
from tsengine.storage.quarantine import Damaged, put_aside

T0 = rich.T0 + 60_000
"""A day ends with its last millisecond."""
DAY_MS = rich.DAY_MS


def opened(path, **options):
    with paused():
        return tsengine.open(path, Options(**{"tiers": (), **options}))


def loaded(path):
    return manifest.load(LocalFileSystem(), str(path))


def fill(db, day, value, name="m", n=200):
    times = [T0 + day * DAY_MS + i * 60_000 for i in range(n)]
    db.append({"__name__": name}, times, [float(value)] * n)
    db.flush()


def spoil(file):
    """Flip a bit in the middle; once more and it is as it was."""
    flip(file, file.stat().st_size // 2)


def take(path, number, damage=None):
    """Put the part of a position aside; returns its folder's name."""
    current = loaded(path)
    name = current.parts[number].name
    if damage:
        spoil(path / "parts" / name / damage)
    put_aside(LocalFileSystem(), str(path), current, [Damaged("parts", name, ("x",))], T0)
    return f"parts-{name}"


def samples(path, selector="m"):
    with tsengine.open(path, read_only=True) as db:
        table = db.select(selector).read_all()
        times = table.column("timestamp").cast("int64").to_pylist()
        return dict(zip(times, table.column("value").to_pylist(), strict=True))


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "db"
    with opened(path) as db:
        for day in range(3):
            fill(db, day, day)
    return path


def refusals(path, **how):
    return [one.refused for one in tsengine.bring_back(path, **how)]


@pytest.mark.parametrize("number", [0, 1, 2])
def test_a_part_comes_back_as_it_was(path, number):
    before, whole = samples(path), loaded(path)
    folder = take(path, number)
    assert len(samples(path)) == 400
    assert loaded(path).aside == (folder,)
    (back,) = tsengine.bring_back(path)
    assert (back.name, back.n_samples, back.merged_with, back.refused) == (folder, 200, 0, None)
    assert samples(path) == before
    current = loaded(path)
    assert sorted(p.name for p in current.parts) == sorted(p.name for p in whole.parts)
    assert (current.aside, dict(current.holes), current.erased) == ((), {}, whole.erased)
    assert not (path / "quarantine" / folder).exists()
    assert tsengine.check(path).problems == []
    with opened(path) as db:
        db.compact()
    assert samples(path) == before


def test_all_of_a_rich_database_comes_back(tmp_path):
    path = tmp_path / "db"
    rich.make(path)
    truth, whole = rich.content(path), loaded(path)
    damaged = [Damaged("parts", e.name, ("x",)) for e in whole.parts]
    damaged += [Damaged("tiers", e.name, ("x",)) for e in whole.tiers]
    put_aside(LocalFileSystem(), str(path), whole, damaged, T0)
    assert loaded(path).parts == ()
    assert refusals(path) == [None] * len(damaged)
    current = loaded(path)
    assert {e.name for e in current.tiers} == {e.name for e in whole.tiers}
    assert rich.content(path) == truth
    assert tsengine.check(path).problems == []


def test_what_is_damaged_still_stays(path):
    before = samples(path)
    folder = take(path, 1, damage="values")
    (refused,) = refusals(path)
    assert refused.startswith("it is damaged: ")
    assert loaded(path).aside == (folder,)
    spoil(path / "quarantine" / folder / "values")  # good files from a backup
    assert refusals(path) == [None]
    assert samples(path) == before


@pytest.mark.parametrize("clean", [False, True])
def test_deletes_made_meanwhile_hide_its_samples(path, clean):
    before = samples(path)
    take(path, 1)
    start = T0 + DAY_MS
    with opened(path) as db:
        assert db.delete_series("m", start, start + 60_000 * 49) == 1
        db.delete_series("m", T0, T0 + 60_000)
        db.flush()
        if clean:
            db.clean_tombstones()
    assert len(loaded(path).tombstones) == (1 if clean else 2), "what may hide something stays"
    assert refusals(path) == [None]
    expected = {
        t: v for t, v in before.items()
        if not start <= t <= start + 60_000 * 49 and t > T0 + 60_000
    }  # fmt: skip
    assert samples(path) == expected
    with opened(path) as db:
        db.clean_tombstones()
    assert loaded(path).tombstones == ()
    assert samples(path) == expected


def test_its_series_stay_in_the_catalog(tmp_path):
    path = tmp_path / "db"
    with opened(path) as db:
        fill(db, 0, 1, "gone")
        fill(db, 1, 2, "kept")
    take(path, 0)
    with opened(path) as db:
        assert db._storage.shrink_catalog() == 0
    assert refusals(path) == [None]
    assert set(samples(path, "gone").values()) == {1.0}


def test_what_was_stored_meanwhile_wins(path):
    before = samples(path)
    take(path, 1)
    with opened(path) as db:
        db.append({"__name__": "m"}, [T0 + DAY_MS, T0 + DAY_MS + 1], [77.0, 78.0])
    assert refusals(path) == [None]
    assert samples(path) == {**before, T0 + DAY_MS: 77.0, T0 + DAY_MS + 1: 78.0}


@pytest.mark.parametrize("delete", [False, True])
def test_parts_that_were_merged_over_it_are_merged_anew(tmp_path, delete):
    path = tmp_path / "db"
    with opened(path) as db:
        fill(db, 0, 1, n=100)
        fill(db, 0, 2, n=50)
        fill(db, 0, 3, n=10)
        fill(db, 5, 4)
    before = samples(path)
    folder = take(path, 1)
    with opened(path) as db:
        if delete:
            db.delete_series("m", T0 + 40 * 60_000, T0 + 44 * 60_000)
        db.compact()
        merged = [p for p in loaded(path).parts if p.mint == T0]
        assert [(p.n_samples, p.seq_max - p.seq_min) for p in merged] == [
            (95 if delete else 100, 2)
        ]
    (back,) = tsengine.bring_back(path)
    assert (back.refused, back.merged_with) == (None, 1)
    found = samples(path)
    # Which of the values that were merged was later than its own is no longer known.
    stay = {t: v for t, v in before.items() if v in (1.0, 3.0, 4.0)}
    gone = {T0 + k * 60_000 for k in range(40, 45)} if delete else set()
    assert found.keys() == before.keys() - gone
    assert {t: found[t] for t in stay} == stay
    assert folder not in loaded(path).aside
    assert tsengine.check(path).problems == []


def test_times_that_only_it_has_come_back_into_a_merge(tmp_path):
    path = tmp_path / "db"
    with opened(path) as db:
        fill(db, 0, 1, n=10)
        db.append({"__name__": "m"}, [T0 + 30_000, T0 + 90_000], [5.0, 6.0])
        db.flush()
        fill(db, 0, 3, n=5)
    before = samples(path)
    take(path, 1)
    with opened(path) as db:
        db.compact()
    (back,) = tsengine.bring_back(path)
    assert back.merged_with == 1
    assert samples(path) == before


def test_what_is_not_known_is_refused_without_force(path):
    before = samples(path)
    folder = take(path, 1)
    away = path / "elsewhere"
    shutil.move(path / "quarantine" / folder, away)
    with opened(path) as db:
        assert db.delete_series("m", T0 + DAY_MS, T0 + DAY_MS) == 0, "it has no such sample"
    assert loaded(path).aside == ()
    shutil.move(away, path / "quarantine" / folder)
    (refused,) = refusals(path)
    assert "with --force it comes back" in refused
    assert refusals(path, force=True) == [None]
    assert samples(path) == before


def test_notes_of_an_older_version(tmp_path):
    path = tmp_path / "db"
    rich.make(path)
    truth, whole = rich.content(path), loaded(path)
    damaged = [Damaged("parts", whole.parts[0].name, ("x",))]
    damaged += [Damaged("tiers", whole.tiers[0].name, ("x",))]
    for folder in put_aside(LocalFileSystem(), str(path), whole, damaged, T0):
        note = json.loads((tmp_path / "db" / folder / "note.json").read_text())
        del note["entry"]
        (tmp_path / "db" / folder / "note.json").write_text(json.dumps(note))
    current = loaded(path)
    manifest.swap(LocalFileSystem(), str(path), current.with_changes(aside=(), holes={}))
    assert all("--force" in refused for refused in refusals(path))
    assert refusals(path, force=True) == [None, None]
    assert set(loaded(path).parts) == set(whole.parts)
    assert set(loaded(path).tiers) == set(whole.tiers)
    assert rich.content(path) == truth


def test_what_does_not_fit_is_refused(path, tmp_path):
    folder = take(path, 1)
    note = path / "quarantine" / folder / "note.json"
    text = note.read_text()
    note.write_text(json.dumps({**json.loads(text), "database_id": "00" * 16}))
    assert refusals(path, force=True) == ["it is of another database"]
    note.write_text("{")
    assert "malformed" in refusals(path, force=True)[0]
    note.write_text(text)
    with pytest.raises(errors.StorageError, match="no part parts-9"):
        tsengine.bring_back(path, ["parts-9"])
    with tsengine.open(path), pytest.raises(errors.Locked):
        tsengine.bring_back(path)
    with pytest.raises(errors.StorageError, match="no manifest"):
        tsengine.bring_back(tmp_path / "none")
    shutil.copytree(path / "quarantine" / folder, tmp_path / "copy")
    assert refusals(path, force=True) == [None]
    shutil.copytree(tmp_path / "copy", path / "quarantine" / folder)
    assert refusals(path, force=True) == ["the database has it"]


@pytest.mark.parametrize("kind", ["link", "mkdir", "sync_dir", "write_file", "rename"])
def test_a_return_that_breaks_off_can_be_repeated(path, tmp_path, kind):
    before = samples(path)
    folder = take(path, 1)
    for nth in range(1, 40):
        copy = tmp_path / f"copy{nth}"
        shutil.copytree(path, copy)
        fs = FaultyFileSystem()
        database = StorageDatabase(str(copy), Options(background="merges"), fs=fs)
        database.maintenance.pause()
        n_before = fs.calls[kind]
        fs.fail(kind, nth=nth, crash=True)
        try:
            database.maintenance.run(Returning(database, folder, force=False))
        except (errors.StorageError, OSError):
            pass
        is_over = not fs.is_crashed
        fs.revive()
        database.close()
        assert fs.calls[kind] > n_before or is_over
        if (copy / "quarantine" / folder).exists():
            for refused in refusals(copy):
                assert refused in (None, "the database has it")
        assert samples(copy) == before
        assert tsengine.check(copy).problems == []
        shutil.rmtree(copy)
        if is_over:
            break
    else:
        pytest.fail("it never came through")


@pytest.mark.parametrize("kind", ["mkdir", "rename", "unlink"])
def test_a_return_into_a_merge_that_breaks_off_can_be_repeated(tmp_path, kind):
    path = tmp_path / "db"
    with opened(path) as db:
        fill(db, 0, 1, n=10)
        db.append({"__name__": "m"}, [T0 + 30_000, T0 + 90_000], [5.0, 6.0])
        db.flush()
        fill(db, 0, 3, n=5)
    before = samples(path)
    folder = take(path, 1)
    with opened(path) as db:
        db.compact()
    without = samples(path)
    for nth in range(1, 40):
        copy = tmp_path / f"copy{nth}"
        shutil.copytree(path, copy)
        fs = FaultyFileSystem()
        database = StorageDatabase(str(copy), Options(background="merges"), fs=fs)
        database.maintenance.pause()
        fs.fail(kind, nth=nth, crash=True)
        try:
            database.maintenance.run(Returning(database, folder, force=False))
        except (errors.StorageError, OSError):
            pass
        is_over = not fs.is_crashed
        fs.revive()
        database.close()
        is_waiting = folder in loaded(copy).aside
        assert samples(copy) == (without if is_waiting else before)
        if is_waiting:
            assert refusals(copy) == [None]
            assert samples(copy) == before
        assert tsengine.check(copy).problems == []
        shutil.rmtree(copy)
        if is_over:
            break
    else:
        pytest.fail("it never came through")


def test_the_command(path, capsys):
    before = samples(path)
    folder = take(path, 1, damage="values")
    base = ["check", "--data-dir", str(path)]
    assert cli.main([*base, "--bring-back"]) == 1
    assert f"stays aside: {folder}: it is damaged" in capsys.readouterr().out
    spoil(path / "quarantine" / folder / "values")
    assert cli.main([*base, "--quarantine", "--bring-back", folder]) == 2
    assert cli.main([*base, "--force"]) == 2
    capsys.readouterr()
    assert cli.main([*base, "--bring-back", folder, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["brought_back"][0]["refused"] is None
    assert samples(path) == before
    assert cli.main([*base, "--bring-back"]) == 0
    assert "no parts in the quarantine" in capsys.readouterr().out


def test_which_parts_were_merged_over_one():
    def part(name, seq_min, seq_max, mint=0, maxt=10):
        return PartEntry(f"{name:010d}", 1, mint, maxt, 1, 1, seq_min, seq_max, 1)

    own = part(1, 10, 12)
    beside = [part(2, 0, 9), part(3, 13, 20), part(4, 0, 20, 11, 20)]
    assert jumped_over(own, beside) == []
    over = part(5, 5, 15)
    assert jumped_over(own, [*beside, over]) == [beside[0], over, beside[1]]


def test_in_a_merge_it_lies_on_what_is_all_older():
    Reader = namedtuple("Reader", "entry")

    def reader(name, seq_min, seq_max):
        return Reader(PartEntry(f"{name:010d}", 1, 0, 10, 1, 1, seq_min, seq_max, 1))

    own, older, over, newer = (
        reader(1, 10, 12),
        reader(2, 0, 4),
        reader(3, 5, 15),
        reader(4, 16, 20),
    )
    assert in_order(own.entry, [own], [older, over, newer]) == [older, own, over, newer]
    assert in_order(own.entry, [own], [newer]) == [own, newer]
    assert in_order(own.entry, [own], [older]) == [older, own]
