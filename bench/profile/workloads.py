"""What is profiled: remote write into the server, queries of `bench.side_by_side` from it."""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench.profile.sampling import Sampled, sampled
from bench.profile.target import PIPE
from bench.side_by_side import bodies, queries
from bench.side_by_side.bodies import Load
from bench.side_by_side.replay import Replayer
from bench.side_by_side.systems import TsEngine

START_MS = 1_760_000_040_000 // 3_600_000 * 3_600_000
_DAY_ROUNDS = 24 * 60 * 4
_WARM_HOSTS = 20

INGESTS = {
    "known": "samples of known series",
    "new": "one sample each of series that are new",
}


@dataclass(frozen=True, slots=True)
class Found:
    """A profile with what it is of. ``n_units`` samples or queries; `gil` only if asked for."""

    name: str
    what: str
    unit: str
    n_units: int
    cpu: Sampled
    gil: Sampled | None


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much is done. ``rate`` in samples of stacks a second."""

    hosts: int
    minutes: int
    seconds: float
    connections: int
    rate: int
    gil: bool
    native: bool


class ProfiledEngine(TsEngine):
    """The server, in a process that may be looked into."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.pipe = folder.with_suffix(".pipe")
        self.pipe.unlink(missing_ok=True)
        os.mkfifo(self.pipe)
        os.environ[PIPE] = str(self.pipe)

    def command(self) -> list[str]:
        """See `System.command`."""
        command = super().command()
        return [sys.executable, "-m", "bench.profile.target", *command[command.index("serve") :]]


def _build(work: Path, name: str, n_hosts: int, n_rounds: int) -> Load:
    path = work / f"profile-{name}-{n_hosts}-{n_rounds}.bodies"
    return bodies.build(path, n_hosts, n_rounds, start_ms=START_MS, seed=7)


@contextmanager
def _running(work: Path) -> Iterator[ProfiledEngine]:
    folder = work / "profile-data"
    shutil.rmtree(folder, ignore_errors=True)
    system = ProfiledEngine(folder)
    system.start()
    try:
        yield system
    finally:
        system.stop()
        system.pipe.unlink()
        shutil.rmtree(folder, ignore_errors=True)


def profile_ingest(name: str, sizes: Sizes, work: Path) -> Found:
    """Profile `known` or `new`; see `INGESTS`."""
    if name not in INGESTS:
        raise SystemExit(f"ingest is one of {', '.join(INGESTS)}")
    with _running(work) as system:
        if name == "new":
            _send(system, _build(work, "warm", _WARM_HOSTS, 2), range(2), sizes)
            load = _build(work, "new", sizes.hosts * 2, 1)
            measured, doubled = range(1), range(0)
        else:
            load = _build(work, "known", sizes.hosts, sizes.minutes * 4)
            _send(system, load, range(1), sizes)
            end = sizes.minutes * 4
            middle = end * 3 // 4 if sizes.gil else end
            measured, doubled = range(1, middle), range(middle, end)
        assert system.process is not None, "it runs"
        pid = system.process.pid
        with sampled(pid, rate=sizes.rate, pipe=system.pipe, native=sizes.native) as cpu:
            n = _send(system, load, measured, sizes)
        gil = None
        if len(doubled):
            with sampled(pid, rate=sizes.rate, gil=True) as gil:
                _send(system, load, doubled, sizes)
    connections = "connection" if sizes.connections == 1 else "connections"
    what = f"{INGESTS[name]}, over {sizes.connections} {connections}"
    return Found(f"ingest {name}", what, "million samples", n, cpu, gil)


def _send(system: ProfiledEngine, load: Load, rounds: range, sizes: Sizes) -> int:
    replayer = Replayer(load)
    try:
        return int(replayer.send(system, rounds, sizes.connections)["samples"])
    finally:
        replayer.stop()


def find_query(name: str) -> queries.Query:
    """The query of that name, or the only one whose name has this in it."""
    found = [query for query in queries.QUERIES if query.name == name]
    found = found or [query for query in queries.QUERIES if name in query.name]
    if len(found) != 1:
        known = "\n  ".join(query.name for query in queries.QUERIES)
        raise SystemExit(f"{len(found)} queries are called {name!r}; there are\n  {known}")
    return found[0]


def profile_queries(wanted: list[queries.Query], sizes: Sizes, work: Path) -> Iterator[Found]:
    """Profile queries, each over and over for some seconds, on parts that are merged."""
    for day in (False, True):
        mine = [query for query in wanted if (query.load == "day") == day]
        if not mine:
            continue
        n_hosts = max(8, sizes.hosts // 10) if day else sizes.hosts
        n_rounds = _DAY_ROUNDS if day else sizes.minutes * 4
        load = _build(work, "day" if day else "known", n_hosts, n_rounds)
        with _running(work) as system:
            _send(system, load, range(n_rounds), sizes)
            system.settle()
            for query in mine:
                yield _profile_query(system, query, load, sizes)


def _profile_query(system: ProfiledEngine, query: queries.Query, load: Load, sizes: Sizes) -> Found:
    end_ms = load.end_ms // 60_000 * 60_000
    if queries.size_of(query, queries.run(system, query, end_ms)) == 0:
        raise RuntimeError(f"{query.name}: the answer is empty")
    assert system.process is not None, "it runs"
    pid = system.process.pid
    with sampled(pid, rate=sizes.rate, pipe=system.pipe, native=sizes.native) as cpu:
        n = _repeat(system, query, end_ms, sizes.seconds)
    gil = None
    if sizes.gil:
        with sampled(pid, rate=sizes.rate, gil=True) as gil:
            _repeat(system, query, end_ms, sizes.seconds / 3)
    series = load.n_series
    what = f"{query.kind} query on {series:,} series: {query.text or query.kind}"
    return Found(query.name, what, "query", n, cpu, gil)


def _repeat(system: ProfiledEngine, query: queries.Query, end_ms: int, seconds: float) -> int:
    n, end_s = 0, time.perf_counter() + seconds
    while time.perf_counter() < end_s:
        queries.time_ms(system, query, end_ms, 1)
        n += 1
    return n
