"""One run of the crash matrix: a database on a failing disk, and what must be in it.

A `Run` keeps what was acknowledged as `life` and, while an operation is under way, what it may have
become (`may_be`): after a fault either holds, and from then on that.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterable
from typing import TypeVar
from unittest import mock

import numpy as np

import tsengine
from tests.faults import object_store
from tests.faults.filesystem import FaultyFileSystem
from tests.reference import life as reference
from tests.reference import remote_write as wire
from tests.reference import rich_samples as rich
from tests.reference.life import DAY_MS, T0, Life
from tests.reference.rich_samples import Histogram, Sample
from tests.reference.unsynced import UnsyncedFileSystem
from tsengine.errors import TsengineError
from tsengine.model.metadata import MetadataEntry
from tsengine.options import Options
from tsengine.promql.parser import parse_selector
from tsengine.storage import manifest
from tsengine.storage.database import StorageDatabase
from tsengine.storage.filesystem import LocalFileSystem
from tsengine.storage.worker import Worker

N_DAYS = 9
LAST_MS = T0 + N_DAYS * DAY_MS
CHANGING = frozenset({
    "write", "write_file", "allocate", "datasync", "sync_dir", "rename", "link", "unlink", "rmdir",
    "mkdir", "open_append",
})  # fmt: skip
"""Calls that change the disk, or make changes durable."""
RECORDED = CHANGING | object_store.CALLS
JOBS = {"a": "api", "b": "api", "ci": "ci", "ci2": "ci", "tmp": "tmp", "h": "api", "e": "api"}
T = TypeVar("T")


class QuickFileSystem(FaultyFileSystem):
    """Waits for no disk: what is synced is only taken note of."""

    def __init__(self) -> None:
        super().__init__()
        self._inner = UnsyncedFileSystem()


class RecordingFileSystem(QuickFileSystem):
    """Keeps the order of calls that change something, or ask an object store: (kind, path)."""

    def __init__(self) -> None:
        super().__init__()
        self.recorded: list[tuple[str, str]] = []

    def _call(self, kind, path, act, torn=None):
        if kind in RECORDED:
            self.recorded.append((kind, path))
        return super()._call(kind, path, act, torn)


class Run:
    """A database in ``root``/db whose clock, disk and background work are ours."""

    def __init__(self, root: str, fs: FaultyFileSystem, options: Options, life: Life) -> None:
        self.root, self.fs, self.options, self.life = root, fs, options, life
        self.path = os.path.join(root, "db")
        self.now_ms = LAST_MS
        self.may_be: list[Life] = []
        self.copies: dict[str, Life] = {}
        """What each snapshot and backup that was acknowledged holds, by its name."""
        self.db: StorageDatabase | None = None

    # --- life -----------------------------------------------------------------------------------

    def open(self) -> None:
        """Open the database; nothing runs in the background."""
        with mock.patch.object(Worker, "start", start_paused):
            self.db = StorageDatabase(
                self.path, self.options, fs=self.fs, clock=lambda: self.now_ms,
                parse_selector=parse_selector,
                open_store=None if self.options.cold_url is None else self._objects,
            )  # fmt: skip
        # A delete asks for a flush: of ours alone, or calls would have no order.
        self.db.maintenance.request_flush = lambda: None

    def close(self) -> None:
        """Close it; on a dead disk only the threads and the lock."""
        if self.db is None:
            return
        database, self.db = self.db, None
        try:
            database.close()
        except (TsengineError, OSError):
            database._lock.release()

    def _objects(self, *_: object) -> object_store.FaultyObjects:
        """What old parts move to, whatever its URL is."""
        return object_store.FaultyObjects(self.fs, os.path.join(self.root, "objects"))

    # --- changes --------------------------------------------------------------------------------

    def append(self, rows: Iterable[tuple[str, int, Sample]]) -> None:
        """One batch, of floats or of histograms: one record of the log."""
        rows = list(rows)
        names = sorted({name for name, _, _ in rows})
        with self._becoming(lambda life: life.append(rows)):
            with self.db.refs_in_use([labels_of(name) for name in names]) as refs:
                ref_of = dict(zip(names, refs.tolist(), strict=True))
                batch = rich.batch_of([(ref_of[name], t, sample) for name, t, sample in rows])
                self.db.append_columns(
                    batch.refs, batch.t_ms, batch.bits,
                    histograms=batch.histograms, start_ms=batch.start_ms,
                )  # fmt: skip

    def append_exemplar(self, t_ms: int, value: float) -> None:
        """A sample of the series "e" with an exemplar, and a help text: records of their own."""
        bits = wire.bits_of(value)
        labels = sorted((k.encode(), v.encode()) for k, v in labels_of("e").items())
        exemplar = wire.Exemplar([(b"trace", b"%d" % t_ms)], t_ms, bits)
        body = wire.encode_v2([wire.Series(labels, [(t_ms, bits)], exemplars=[exemplar])])

        def with_sample(life: Life) -> None:
            life.append([("e", t_ms, (bits, 0))])

        def with_both(life: Life) -> None:
            with_sample(life)
            life.exemplars.add(("e", t_ms))

        with self._becoming(with_both, with_sample):
            self.db.append_remote_write(body, version=2)

    def describe(self, metric: str, text: str) -> None:
        """Give a metric its help text."""
        with self._becoming(lambda life: life.metadata.update({metric: text})):
            self.db.append_metadata([MetadataEntry(metric, "gauge", text, "")])

    def delete(self, names: Iterable[str], mint: int, maxt: int) -> None:
        """Delete what the series have in a closed range."""
        names = set(names)
        view = self.db.view()
        refs = [int(r) for r in view.all_refs() if self._name_of(view, r) in names]
        with self._becoming(lambda life: life.delete(names, mint, maxt)):
            self.db.delete(np.array(refs, np.uint32), mint, maxt)

    @contextlib.contextmanager
    def _becoming(self, *changes: Callable[[Life], None]):
        """The first change is the whole; others may be left of it after a fault."""
        lives = []
        for change in changes:
            life = self.life.copy()
            change(life)
            lives.append(life)
        self.may_be = lives
        yield
        self.life, self.may_be = lives[0], []

    @staticmethod
    def _name_of(view, ref) -> str:
        from tsengine.model.labels import label_dicts

        return label_dicts(view.catalog, view.labels(np.array([ref], np.uint32)))[0]["s"]

    # --- looks ----------------------------------------------------------------------------------

    @property
    def widths_ms(self) -> list[int]:
        """Of the tiers."""
        return [round(tier.width * 1000) for tier in self.options.tiers]

    def verify(self) -> None:
        """What was acknowledged is there and nothing else; of what was under way all or none."""
        found = reference.found_in(self.db, self.widths_ms, T0 + 1, LAST_MS)
        for life in (self.life, *self.may_be):
            if found == life.content(self.widths_ms, T0 + 1, LAST_MS):
                self.life, self.may_be = life, []
                return
        expected = self.life.content(self.widths_ms, T0 + 1, LAST_MS)
        more = " (nor what was under way)" if self.may_be else ""
        raise AssertionError(
            f"not what was acknowledged{more}:\n{reference.difference(found, expected)}"
        )

    def verify_copy(self, path: str, life: Life) -> None:
        """A directory is a whole database that holds just that."""
        copy = Run(os.path.dirname(path), LocalFileSystem(), self.options, life)
        copy.now_ms = self.now_ms
        report = tsengine.check(path)
        assert report.problems == [], report.problems
        copy.db = StorageDatabase(
            path, self.options, read_only=True, clock=lambda: self.now_ms,
            parse_selector=parse_selector,
        )  # fmt: skip
        copy.verify()
        copy.db.close()

    def verify_files(self) -> None:
        """`check` finds nothing, and no file lies there that no manifest names. Closed only."""
        with mock.patch("tsengine.inspection.open_cold_store", self._objects):
            report = tsengine.check(self.path)
        assert report.problems == [], report.problems
        fs = LocalFileSystem()
        assert list(manifest.orphans(fs, self.path, manifest.load(fs, self.path))) == []


_start = Worker.start


def start_paused(worker: Worker) -> None:
    worker._paused.set()
    _start(worker)


def labels_of(name: str) -> dict[str, str]:
    return {"__name__": "m", "job": JOBS.get(name, "new"), "s": name}


def float_rows(
    name: str, day: int, *, step_ms: int = DAY_MS // 24, late_ms: int = 0, start: float = 0.0
) -> list[tuple[str, int, Sample]]:
    """A day of rising numbers that are reset now and then, a marker among them."""
    first = T0 + day * DAY_MS
    rows: list[tuple[str, int, Sample]] = []
    for k, t in enumerate(range(first + step_ms, first + DAY_MS + 1, step_ms)):
        value = rich.STALE if k == 13 else rich.bits(start + k % 10)
        rows.append((name, t - late_ms, (value, first if name == "b" else 0)))
    return rows


def histogram_rows(
    name: str, day: int, step_ms: int = DAY_MS // 8
) -> list[tuple[str, int, Sample]]:
    """A day of native histograms whose buckets come and go."""
    first = T0 + day * DAY_MS
    rows: list[tuple[str, int, Sample]] = []
    for k, t in enumerate(range(first + step_ms, first + DAY_MS + 1, step_ms)):
        buckets = tuple((2**20 + i, rich.bits(float(k + i))) for i in range(1, 2 + k % 3))
        count = rich.bits(float(sum(k + i for i in range(1, 2 + k % 3))))
        rows.append(
            (
                name,
                t,
                (Histogram(3, 0, count, rich.bits(k / 4), rich.bits(0.001), 0, buckets, None), 5),
            )
        )
    return rows


def patiently(what: Callable[[], T]) -> T:
    """Do it when the disk is trusted again."""
    for _ in range(400):
        try:
            return what()
        except TsengineError:
            time.sleep(0.02)
    return what()
