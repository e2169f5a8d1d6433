"""A disk that fails, or is gone, at any call of deletes, flushes, merges and clean-ups.

Whatever a delete that was acknowledged hides is gone for good; nothing else is. A delete under way
may have happened or not.
"""

from __future__ import annotations

import contextlib
import errno
import random
import time

import numpy as np
import pytest

from tests.faults.filesystem import FaultyFileSystem
from tests.reference import remote_write as wire
from tests.reference.background import paused
from tsengine.errors import TsengineError
from tsengine.options import Options
from tsengine.storage.database import StorageDatabase

EVER = (-(2**63), 2**63 - 1)
KINDS = (
    "write", "datasync", "write_file", "rename", "sync_dir", "open_append", "unlink", "mkdir",
    "rmdir",
)  # fmt: skip


class Run:
    """The steps of one run, and what must be there after each: {(series, t): value}."""

    def __init__(self, path, fs):
        self.fs = fs
        self.path = path
        self.samples = {}
        self.exemplars = set()
        self.under_way = []
        self.db = None

    def open(self):
        options = Options(future_limit=None)
        with paused():
            self.db = StorageDatabase(self.path, options, fs=self.fs, clock=lambda: 0)

    def append(self, series, times, value):
        exemplars = [wire.Exemplar([(b"id", b"%d" % t)], t, wire.bits_of(1.0)) for t in times]
        one = wire.Series(
            [(b"__name__", b"m"), (b"s", b"%d" % series)],
            [(t, wire.bits_of(value)) for t in times], exemplars=exemplars,
        )  # fmt: skip
        samples = self.samples | {(series, t): value for t in times}
        added = self.exemplars | {(series, t) for t in times}
        # The records of an entry may come back one without the other.
        self.under_way = [(samples, added), (samples, self.exemplars)]
        self.db.append_remote_write(wire.encode_v2([one]), version=2)
        self.samples, self.exemplars = samples, added
        self.under_way = []

    def delete(self, series, mint, maxt):
        kept = {key: v for key, v in self.samples.items() if not hit(key, series, mint, maxt)}
        exemplars = {key for key in self.exemplars if not hit(key, series, mint, maxt)}
        self.under_way = [(kept, exemplars)]
        self.db.delete(np.array(series, np.uint32), mint, maxt)
        self.samples, self.exemplars = kept, exemplars
        self.under_way = []

    def prepare(self):
        """Two parts and a head, series 0 to 2."""
        self.open()
        for series in range(3):
            self.append(series, range(10), 1.0)
        self.db.flush()
        self.append(0, range(5, 15), 2.0)
        self.append(1, [20], 2.0)
        self.db.flush()
        self.append(0, [30, 31, 32], 3.0)
        self.append(2, [30], 3.0)

    def work(self):
        """Deletes over all of it, and what becomes of them."""
        self.delete([0], 7, 30)
        self.append(0, [12], 4.0)
        self.delete([1, 2], *EVER)
        self.append(1, [3], 4.0)
        self.db.flush()
        self.delete([0], 31, 31)
        self.db.compact()
        self.db.clean_tombstones()
        self.append(2, [5], 5.0)

    def content(self):
        view = self.db.view()
        refs = view.live(view.all_refs(), *EVER)
        frames = view.read(refs, *EVER, drop_stale=False)
        samples = {}
        for row, ref in enumerate(refs.tolist()):
            axis = frames.row_axis[row]
            times = frames.t_ms[slice(*frames.axis_offsets[axis : axis + 2])].tolist()
            values = frames.values[slice(*frames.row_offsets[row : row + 2])].tolist()
            samples |= {(ref, t): value for t, value in zip(times, values, strict=True)}
        found = self.db.exemplars.view().find(refs, *EVER)
        return samples, set(zip(found.refs.tolist(), found.t_ms.tolist(), strict=True))

    def check(self):
        allowed = [(self.samples, self.exemplars), *self.under_way]
        found = self.content()
        assert found in allowed, (found, allowed)
        # From here on it has happened, or not.
        self.samples, self.exemplars = found
        self.under_way = []

    def close(self):
        if self.db is not None:
            with contextlib.suppress(TsengineError, OSError):
                self.db.close()


def hit(key, series, mint, maxt):
    return key[0] in series and mint <= key[1] <= maxt


def patiently(what):
    """Do it when the disk is trusted again."""
    for _ in range(400):
        try:
            return what()
        except TsengineError:
            time.sleep(0.05)
    return what()


@pytest.fixture(scope="module")
def calls(tmp_path_factory):
    """How many calls of each kind a run makes."""
    fs = FaultyFileSystem()
    run = Run(str(tmp_path_factory.mktemp("recorded") / "db"), fs)
    run.prepare()
    before = dict(fs.calls)
    run.work()
    run.check()
    assert run.db.state.tombstones == ()
    after = dict(fs.calls)
    run.close()
    return {kind: after.get(kind, 0) - before.get(kind, 0) for kind in KINDS}


def test_the_run_writes_enough_to_go_wrong(calls):
    print({kind: n for kind, n in calls.items() if n})
    assert sum(calls.values()) > 80
    assert all(calls[kind] for kind in ("write", "datasync", "write_file", "rename", "unlink"))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("how", ["power cut", "killed", "EIO", "ENOSPC"])
def test_deletes_may_fail_anywhere(tmp_path, calls, kind, how):
    rng = random.Random(f"{kind} {how}")
    numbers = range(1, calls[kind] + 1)
    for nth in sorted(rng.sample(numbers, min(len(numbers), 4))):
        fs = FaultyFileSystem()
        run = Run(str(tmp_path / f"{nth}"), fs)
        run.prepare()
        fs.fail(
            kind, nth=nth, error=errno.ENOSPC if how == "ENOSPC" else errno.EIO,
            torn=rng.randint(0, 60), crash=how in ("power cut", "killed"),
            after=rng.random() < 0.5,
        )  # fmt: skip
        with contextlib.suppress(TsengineError, OSError):
            run.work()
        if not fs.is_crashed:
            fs.heal()
            run.check()
            patiently(run.db.flush)
            patiently(run.db.clean_tombstones)
            run.check()
        run.close()
        if how == "power cut":
            fs.lose_unsynced(rng)
        else:
            fs.revive()
        run.open()
        run.check()
        assert run.db.recovery.damage == []
        run.db.flush()
        run.db.compact()
        run.db.clean_tombstones()
        run.check()
        assert run.db.state.tombstones == ()
        run.close()
