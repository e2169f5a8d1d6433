"""Databases that test scripts run against; every one starts empty."""

import os
import shutil
import tempfile
from contextlib import contextmanager
from typing import Protocol

import tsengine
from tests.promql.answers import answer_of
from tests.reference.memory_source import MemorySource
from tsengine.options import Options
from tsengine.promql.functions import ALL_ON
from tsengine.query.engine import Engine
from tsengine.result import Result


class TestDatabase(Protocol):
    """What the runner needs; times in ms, values to the bit."""

    __test__ = False

    def append(self, labels, timestamps, values, start_timestamps=None): ...
    def append_histograms(self, labels, timestamps, histograms, start_timestamps=None): ...
    def query(self, expr, *, time): ...
    def query_range(self, expr, *, start, end, step): ...


# In memory where there is such a place: this is about answers, not about disks.
SCRATCH = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None

OPTIONS = Options(
    delayed_name_removal=True,
    features=ALL_ON,
    lookback=300,
    max_samples=10000,
    query_timeout=100,
    fsync="interval",
    query_threads=1,
)


@contextmanager
def embedded_database():
    """A fresh `tsengine` database in a temporary directory."""
    path = tempfile.mkdtemp(prefix="promqltest-", dir=SCRATCH)
    try:
        with tsengine.open(path, options=OPTIONS) as db:
            yield _Embedded(db)
    finally:
        shutil.rmtree(path, ignore_errors=True)


@contextmanager
def flushed_database():
    """The same, with all samples in parts, none in the head, when a query runs."""
    with embedded_database() as db:
        db.flushes = True
        yield db


@contextmanager
def memory_database(*, share_axes: bool, options: Options = OPTIONS):
    """The query engine over dicts and lists."""
    yield _Memory(share_axes, options)


class _Embedded:
    def __init__(self, db):
        self._db = db
        self._is_dirty = False
        self.flushes = False

    def append(self, labels, timestamps, values, **starts):
        self._is_dirty = True
        self._db.append(labels, timestamps, values, **starts)

    def append_histograms(self, labels, timestamps, histograms, **starts):
        self._is_dirty = True
        self._db.append_histograms(labels, timestamps, histograms, **starts)

    def query(self, expr, *, time):
        self._before_query()
        return answer_of(self._db.query(expr, time=time))

    def query_range(self, expr, *, start, end, step):
        self._before_query()
        return answer_of(self._db.query_range(expr, start=start, end=end, step=step))

    def _before_query(self):
        if self.flushes and self._is_dirty:
            self._db.flush()
        self._is_dirty = False


class _Memory:
    def __init__(self, share_axes, options):
        self._source = MemorySource(share_axes=share_axes)
        self._engine = Engine(self._source, options)

    def append(self, labels, timestamps, values, **starts):
        self._source.append(labels, timestamps.tolist(), list(values), **starts)

    def append_histograms(self, labels, timestamps, histograms, **starts):
        self._source.append_histograms(labels, timestamps.tolist(), histograms, **starts)

    def query(self, expr, *, time):
        return answer_of(Result(self._engine.query(expr, time)))

    def query_range(self, expr, *, start, end, step):
        return answer_of(Result(self._engine.query_range(expr, start, end, step)))
