"""A disk that fails or dies at any call of building, rebuilding and merging tiers."""

from __future__ import annotations

import errno
import random

import numpy as np
import pytest

from tests.faults.filesystem import FaultyFileSystem
from tests.reference.background import paused
from tsengine.errors import TsengineError
from tsengine.model.windows import FLOAT_COLUMNS, Column
from tsengine.options import Options, Tier
from tsengine.storage.database import StorageDatabase

DAY_MS = 86_400_000
FIRST = 20_010
T0 = FIRST * DAY_MS
WIDTH = 3_600_000
OPTIONS = Options(tiers=(Tier(WIDTH / 1000),))
KINDS = ("write", "write_file", "datasync", "sync_dir", "rename", "mkdir", "open_append", "unlink")


class Case:
    """A database whose clock and disk are ours, with nothing running in the background."""

    def __init__(self, path):
        self.path = str(path)
        self.fs = FaultyFileSystem()
        self.now_ms = T0
        self.rng = np.random.default_rng(1)
        self.open()

    def open(self):
        with paused():
            self.db = StorageDatabase(self.path, OPTIONS, clock=lambda: self.now_ms, fs=self.fs)

    def append_day(self, day, n=20, late=0):
        refs = self.db.series_refs([{"__name__": "m", "s": str(s)} for s in range(2)])
        t_ms = T0 + day * DAY_MS + late + (DAY_MS - 2 * late) // n * np.arange(1, n + 1)
        for ref in refs:
            values = self.rng.integers(0, 9, n).astype(np.float64)
            self.db.append_columns(np.full(n, ref, np.uint32), t_ms, values.view(np.uint64))
        self.now_ms = max(self.now_ms, T0 + (day + 1) * DAY_MS)

    def windows(self, n_days=9):
        """Bits of all windows of all columns."""
        refs = np.arange(2, dtype=np.uint32)
        batch = self.db.view().read_windows(
            refs, WIDTH, T0 + 1, T0 + n_days * DAY_MS, FLOAT_COLUMNS
        )
        columns = {c: batch.columns[c].view(np.uint64).tolist() for c in sorted(FLOAT_COLUMNS)}
        axes = [
            batch.end_ms[batch.axis_offsets[axis] : batch.axis_offsets[axis + 1]].tolist()
            for axis in batch.row_axis
        ]
        return axes, batch.row_offsets.tolist(), columns

    def tiers(self):
        entries = [tier.entry for tier in self.db.state.tiers]
        return [((e.cover_min - 1 - T0) // DAY_MS, (e.cover_max - T0) // DAY_MS) for e in entries]


def before_building(case):
    for day in range(3):
        case.append_day(day)


def before_rebuilding(case):
    before_building(case)
    case.db.build_tiers()
    case.append_day(1, n=5, late=70_000)


def before_merging(case):
    """Eight days are built one by one; the ninth call also merges them."""
    for day in range(8):
        case.append_day(day, n=5)
        if day < 7:
            case.db.build_tiers()


SCENARIOS = {
    "build": (before_building, [(0, 3)]),
    "rebuild": (before_rebuilding, [(0, 3), (1, 2)]),
    "merge": (before_merging, [(0, 8)]),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("scenario", "how"),
    [
        ("build", "enospc"), ("rebuild", "power cut"), ("merge", "enospc"), ("merge", "power cut")
    ],
)  # fmt: skip
def test_tiers_may_fail_anywhere(tmp_path, scenario, kind, how):
    prepare, expected_tiers = SCENARIOS[scenario]
    n_failed = 0
    for nth in range(1, 60):
        case = Case(tmp_path / f"{kind}-{nth}")
        prepare(case)
        case.db.flush()
        expected = case.windows()
        assert len(expected[2][Column.COUNT]) > 20
        calls = case.fs.calls[kind]
        case.fs.fail(kind, nth=nth, error=errno.ENOSPC, torn=5, crash=how == "power cut")
        try:
            case.db.build_tiers()
            has_failed = False
        except (TsengineError, OSError):
            has_failed = True
        n_calls = case.fs.calls[kind] - calls
        if how == "power cut":
            # Even if the call got through: what it left must be found again.
            case.fs.is_crashed = True
            abandon(case)
            case.fs.lose_unsynced(random.Random(nth))
            case.open()
        assert case.windows() == expected
        case.fs.heal()
        case.db.build_tiers()
        assert case.tiers() == expected_tiers
        assert case.windows() == expected
        assert case.db.view().tiers_read(WIDTH, T0 + 1, T0 + 3 * DAY_MS) == ("1h",)
        case.db.close()
        case.open()
        assert case.tiers() == expected_tiers
        assert case.windows() == expected
        folders = case.fs.listdir(f"{case.path}/tiers")
        assert len(folders) == len(expected_tiers)
        case.db.close()
        n_failed += has_failed
        if n_calls < nth:
            break
    else:
        raise AssertionError("the loop saw no end of the calls")
    # What can't be removed is left for the next start, and folders are there but the first time.
    assert n_failed or kind in ("unlink", "mkdir")


def abandon(case):
    """The process is gone: threads end, nothing reaches the disk, the lock is free."""
    try:
        case.db.close()
    except (TsengineError, OSError):
        case.db._lock.release()
