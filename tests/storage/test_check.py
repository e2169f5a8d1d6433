"""A flipped bit anywhere is found, never returned as data, and what it hit can be put aside.

`TSENGINE_FLIPS=200 pytest tests/storage/test_check.py` flips that many bits of each kind of file.
"""

import contextlib
import json
import os
import random
import shutil
from pathlib import Path

import pytest

import tsengine
from server import cli
from tests.faults import rich_database as rich
from tests.faults.filesystem import Crash, FaultyFileSystem
from tsengine import errors
from tsengine.storage import filenames, manifest
from tsengine.storage.filesystem import LocalFileSystem
from tsengine.storage.quarantine import Damaged, put_aside

N_FLIPS = int(os.environ.get("TSENGINE_FLIPS", "4"))
KINDS = [
    "catalog/.cat", "exemplars/.ex", "manifest", "metadata/.meta", "tombstones/.tomb", "wal/.wal",
    *(
        f"{folder}/{file}"
        for folder in ("parts", "tiers")
        for file in (
            "axes", "index", "values",
            "components/axes", "components/index", "components/table", "components/values",
        )
    ),
]  # fmt: skip


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    path = tmp_path_factory.mktemp("rich") / "db"
    rich.make(path)
    return path, rich.content(path)


@pytest.fixture
def database(whole, tmp_path):
    shutil.copytree(whole[0], tmp_path / "db")
    return tmp_path / "db", whole[1]


def flip(path: Path, at: int, bit: int = 0) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1 << bit
    path.write_bytes(data)


def one_of(path, kind, number=0):
    return [path / name for name in rich.files(path) if rich.kind_of(name) == kind][number]


def test_the_database_has_every_kind_of_file(whole):
    assert {rich.kind_of(name) for name in rich.files(whole[0])} == set(KINDS)
    report = tsengine.check(whole[0])
    assert (report.problems, report.notes, report.quarantined) == ([], [], [])
    assert (report.n_parts, report.n_samples) == (2, 762)


@pytest.mark.parametrize("kind", KINDS)
def test_a_flipped_bit_is_found_and_never_returned(database, kind):
    path, truth = database
    rng = random.Random(kind)
    names = [path / name for name in rich.files(path) if rich.kind_of(name) == kind]
    for _ in range(N_FLIPS):
        file = rng.choice(names)
        data = file.read_bytes()
        at, bit = rng.randrange(len(data)), rng.randrange(8)
        flip(file, at, bit)
        if kind == "manifest":
            with pytest.raises(errors.StorageError, match=str(file)):
                tsengine.check(path)
        else:
            named = [problem.file for problem in tsengine.check(path).problems]
            where = f"{file}, bit {bit} of byte {at}, is not in {named}"
            assert any(str(file).startswith(name) for name in named), where
        try:
            found = rich.content(path)
        except errors.StorageError:
            found = {}
        # A delete whose record is lost with a damaged log is lost with it.
        hidden = "gone_total,k=1,w=1" if kind == "wal/.wal" else None
        for key, value in found.items():
            if key[0].startswith("__name__=tsengine_lost_series"):
                continue
            if hidden is None or hidden not in key[0]:
                assert truth.get(key) == value, f"{file}: bit {bit} of byte {at}: {key}"
        file.write_bytes(data)
    assert rich.content(path) == truth


@pytest.mark.parametrize("kind", [k for k in KINDS if k.endswith(("/index", "/values"))])
def test_a_missing_file_is_found(database, kind):
    path, truth = database
    file = one_of(path, kind)
    file.unlink()
    (problem, *_) = tsengine.check(path).problems
    assert str(file).startswith(problem.file)
    assert rich.content(path).items() < truth.items() or kind.startswith("tiers")


def test_numbers_of_the_manifest_are_compared(database):
    path, _ = database
    fs = LocalFileSystem()
    current = manifest.load(fs, str(path))
    first, *rest = current.parts
    larger = type(first)(**{**_fields(first), "size_bytes": first.size_bytes + 1})
    manifest.swap(fs, str(path), current.with_changes(parts=(larger, *rest)))
    (problem,) = tsengine.check(path).problems
    assert problem.text == f"{first.size_bytes} bytes, the manifest says {first.size_bytes + 1}"
    manifest.swap(fs, str(path), current.with_changes(next_seq=0))
    assert "is not below the manifest's 0" in tsengine.check(path).problems[0].text


def _fields(entry):
    return {name: getattr(entry, name) for name in entry.__dataclass_fields__}


def test_a_damaged_part_is_left_out_at_the_start(database, caplog):
    path, truth = database
    file = one_of(path, "parts/index")
    flip(file, 40)
    day = {key for key in truth if key[1] < rich.T0 + rich.DAY_MS}
    with tsengine.open(path) as db:
        assert db.stats()["damaged_files"] == 1
        assert len(db.recovery_problems) == 1
        assert db.recovery_problems[0].startswith(f"{file}: damaged")
        assert str(file) in caplog.text
        samples = {k: v for k, v in truth.items() if not k[0].startswith("exemplar")}
        found = {k: v for k, v in rich.content(db).items() if not k[0].startswith("exemplar")}
        assert found == {key: samples[key] for key in samples.keys() - day}
        # Its entry stays, so nothing may jump over it.
        for call in (db.compact, db.build_tiers, db.clean_tombstones):
            with pytest.raises(errors.StorageError, match="check --quarantine"):
                call()
        db.append({"__name__": "x"}, [rich.T0], [1.0])
        db.flush()
        assert "damaged parts" in db.query("x", rich.T0).warnings[0]
    current = manifest.load(LocalFileSystem(), str(path))
    assert file.parent.name in {part.name for part in current.parts}
    flip(file, 40)  # a disk that comes back
    with tsengine.open(path) as db:
        assert db.recovery_problems == []
        assert db.query("x", rich.T0).warnings == []
        db.compact()
    after = rich.content(path)
    assert after.pop(("__name__=x", rich.T0))
    assert after == truth


def test_a_damaged_tier_is_left_out_at_the_start(database):
    path, truth = database
    flip(one_of(path, "tiers/index"), 40)
    with tsengine.open(path, read_only=True) as db:
        assert len(db.recovery_problems) == 1
        assert rich.content(db) == truth
        answer = db.query('count_over_time(gone_total{k="2",w="2"}[1h])', rich.T0 + 7_200_000)
        assert answer.to_numpy().tolist() == [[6.0]]


def test_damaged_names_and_deletes_refuse_the_start(database):
    path, _ = database
    for kind in ("catalog/.cat", "tombstones/.tomb"):
        file = one_of(path, kind)
        flip(file, 60)
        for read_only in (False, True):
            with pytest.raises(errors.CorruptionError, match=str(file)):
                tsengine.open(path, read_only=read_only)
        flip(file, 60)


@pytest.mark.parametrize("kind", [k for k in KINDS if k.startswith(("parts", "tiers"))])
def test_quarantine(database, kind):
    path, truth = database
    file = one_of(path, kind)
    flip(file, file.stat().st_size // 2)
    folder, name = file.relative_to(path).parts[:2]
    report = tsengine.check(path, quarantine=True)
    assert len(report.problems) >= 1
    aside = path / "quarantine" / f"{folder}-{name}"
    assert report.quarantined == [str(aside)]
    assert (aside / file.relative_to(path / folder / name)).exists()
    note = json.loads((aside / "note.json").read_text())
    assert note["was"] == f"{folder}/{name}"
    assert note["problems"]
    assert not (path / folder / name).exists()
    clean = tsengine.check(path)
    assert (clean.problems, clean.notes) == ([], [])
    with tsengine.open(path) as db:
        assert db.recovery_problems == []
        db.build_tiers()
        db.compact()
        found = rich.content(db)
    # Each window of the finest tier has one sample, which stands for those that went.
    assert found == truth
    current = manifest.load(LocalFileSystem(), str(path))
    assert list(current.holes) == [aside.name] * (folder == "parts")
    assert not current.erased
    assert aside.exists(), "nothing cleans it up"


@pytest.mark.parametrize("kind", ["exemplars/.ex", "metadata/.meta"])
def test_quarantine_of_single_files(database, kind):
    path, truth = database
    file = one_of(path, kind)
    flip(file, file.stat().st_size // 2)
    report = tsengine.check(path, quarantine=True)
    assert [os.path.basename(p) for p in report.quarantined] == [f"{file.parent.name}-{file.name}"]
    assert tsengine.check(path).problems == []
    with tsengine.open(path) as db:
        assert rich.content(db).items() <= truth.items()


def test_what_can_not_go_is_said(database):
    path, _ = database
    file = one_of(path, "tombstones/.tomb")
    flip(file, 60)
    report = tsengine.check(path, quarantine=True)
    assert report.quarantined == []
    assert any("restore it from a backup" in note for note in report.notes)
    assert len(tsengine.check(path).problems) == 1


def test_quarantine_needs_the_lock(database):
    path, _ = database
    with tsengine.open(path), pytest.raises(errors.Locked):
        tsengine.check(path, quarantine=True)
    with pytest.raises(errors.StorageError):
        tsengine.check(path / "nothing", quarantine=True)
    assert not (path / "nothing").exists()


def test_exit_codes(database, capsys):
    path, _ = database
    assert cli.main(["check", "--data-dir", str(path)]) == 0
    flip(one_of(path, "parts/values"), 100)
    assert cli.main(["check", "--data-dir", str(path)]) == 1
    assert "quarantine" not in capsys.readouterr().out
    with tsengine.open(path):
        assert cli.main(["check", "--data-dir", str(path), "--quarantine"]) == 2
    assert cli.main(["check", "--data-dir", str(path), "--quarantine", "--json"]) == 1
    text = capsys.readouterr().out
    found = json.loads(text[text.index("{") :])
    assert len(found["quarantined"]) == len(found["problems"]) == 1
    assert cli.main(["check", "--data-dir", str(path)]) == 0
    assert cli.main(["check", "--data-dir", str(path / "none")]) == 2


def test_check_beside_a_writer_that_flushes_and_merges(tmp_path):
    """What the writer replaces meanwhile is no damage."""
    with tsengine.open(tmp_path / "db") as db:
        db.pause_background()
        for k in range(12):
            db.append({"__name__": "x", "k": str(k)}, [rich.T0 + k], [1.0])
            db.flush()

        def disturb(done, total):
            if done == 3:
                db.append({"__name__": "y"}, [rich.T0], [1.0])
                db.flush()
                db.compact()
                for name in os.listdir(tmp_path / "db" / filenames.PARTS_DIR):
                    live = {e.name for e in manifest.load(LocalFileSystem(), db.path).parts}
                    if name not in live:
                        shutil.rmtree(tmp_path / "db" / filenames.PARTS_DIR / name)

        report = tsengine.check(tmp_path / "db", disturb)
        assert report.problems == []
        assert any("replaced by the writer" in note for note in report.notes)


@pytest.mark.parametrize(
    "kind", ["link", "mkdir", "sync_dir", "write_file", "rename", "unlink", "rmdir"]
)
def test_a_quarantine_that_breaks_off_loses_nothing(database, kind):
    path, truth = database
    file = one_of(path, "parts/values")
    flip(file, 100)
    damaged = Damaged("parts", file.parent.name, ("x",))
    for nth in range(1, 40):
        fs = FaultyFileSystem()
        current = manifest.load(fs, str(path))
        if file.parent.name not in {part.name for part in current.parts}:
            break
        fs.fail(kind, nth=nth, crash=True)
        with contextlib.suppress(errors.StorageError, Crash):
            put_aside(fs, str(path), current, [damaged], nth)
        with contextlib.suppress(OSError):
            fs.lose_unsynced(random.Random(nth))
        kept = path / "quarantine" / f"parts-{file.parent.name}" / "values"
        assert file.exists() or kept.exists()
    with tsengine.open(path) as db:
        assert db.recovery_problems == []
    assert kept.exists()
    assert not file.exists()
    current = manifest.load(LocalFileSystem(), str(path))
    assert file.parent.name not in {part.name for part in current.parts}
    assert list(current.holes) == [f"parts-{file.parent.name}"]
    assert rich.content(path) == truth, "tiers stand for its samples"
