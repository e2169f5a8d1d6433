"""Verbs that write know nothing of the server's tiers, and leave them alone."""

import time

import pytest

import tsengine
from server import cli
from tsengine.errors import OptionsError
from tsengine.options import Options, Tier
from tsengine.storage import manifest, worker
from tsengine.storage.filesystem import LocalFileSystem
from tsengine.storage.retention_chores import Expiry, RetentionRewriting

DAY_MS = 86_400_000
TIERS = (Tier(900.0), Tier(86_400.0))


@pytest.fixture
def directory(tmp_path):
    """Ten days of which the samples of eight are gone, and tiers of other widths than usual."""
    path = tmp_path / "db"
    today = int(time.time() * 1000) // DAY_MS * DAY_MS
    times = list(range(today - 10 * DAY_MS + 60_000, today, 60_000))
    with tsengine.open(path, Options(tiers=TIERS)) as db:
        db.append({"__name__": "m"}, times, [float(i % 97) for i in range(len(times))])
        db.build_tiers()
        db.reconfigure(retention=2 * 86_400.0)
        for chore in (Expiry, RetentionRewriting):
            db._storage.maintenance.run(chore(db._storage))
    assert widths(path) == {900_000, 86_400_000}
    return path, today


def widths(path):
    return {tier.width_ms for tier in manifest.load(LocalFileSystem(), str(path)).tiers}


def answer(path, today):
    with tsengine.open(path, Options(tiers=TIERS), read_only=True) as db:
        start = today - 8 * DAY_MS
        found = db.query_range("sum_over_time(m[15m])", start, start + 3_600_000, 900_000)
        return found.to_numpy().tolist(), found.infos


def test_import_and_delete_leave_tiers_alone(directory, tmp_path, monkeypatch, capsys):
    path, today = directory
    before = answer(path, today)
    assert len(before[0][0]) == 5
    names = {tier.name for tier in manifest.load(LocalFileSystem(), str(path)).tiers}
    planned = _Seen(monkeypatch)
    file = tmp_path / "z.csv"
    rows = "\n".join(f"z,{today // 1000 - i * 15},{i}" for i in range(100))
    file.write_text(f"__name__,timestamp,value\n{rows}\n")
    assert cli.main(["import", str(file), "--data-dir", str(path)]) == 0
    assert cli.main(["delete", "z", "--data-dir", str(path), "--clean"]) == 0
    capsys.readouterr()
    assert planned.names <= {"urgent_compaction", "compaction", "erasing"}
    assert {tier.name for tier in manifest.load(LocalFileSystem(), str(path)).tiers} == names
    assert answer(path, today) == before


class _Seen:
    """Which chores were in databases that were opened."""

    def __init__(self, monkeypatch):
        self.names = set()
        made = worker.Worker.__init__

        def note(own, database, checkpointer, fs, chores):
            self.names |= {chore.name for chore in chores}
            made(own, database, checkpointer, fs, chores)

        monkeypatch.setattr(worker.Worker, "__init__", note)


def test_other_tiers_take_no_history_away(directory):
    """A notebook that opens the directory with the usual tiers, for long."""
    path, today = directory
    before = answer(path, today)
    with tsengine.open(path) as db:
        db.build_tiers()
    assert 900_000 in widths(path)
    assert answer(path, today) == before


def test_the_option(tmp_path):
    with pytest.raises(OptionsError, match="background"):
        tsengine.open(tmp_path / "db", Options(background="nothing"))
    with tsengine.open(tmp_path / "db", Options(background="merges")) as db:
        assert "background_jobs:compaction" in db.stats()
        assert "background_jobs:expiry" not in db.stats()
