"""The crash matrix: every call that changes the disk fails once, in each way.

    python -m tests.faults.matrix [--share 0.1] [--scenario NAME] [--list]

A scenario is run once on a good disk and its calls are recorded. A fault point is a scenario, the
number of a call in it, to the file system or an object store, and what happens there: a power cut
(what was not synced may be lost), a kill (what was written stays), EIO or ENOSPC. After a crash the
directory is opened again; after an error the process goes on first. Each time everything the
database holds is compared with a model.
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import logging
import os
import random
import shutil
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from tests.faults.filesystem import FaultyFileSystem
from tests.faults.matrix_run import QuickFileSystem, RecordingFileSystem, Run, patiently
from tests.faults.matrix_scenarios import SCENARIOS, Scenario
from tests.faults.object_store import CALLS
from tests.reference.life import Life
from tsengine.errors import TsengineError

FAILURES = ("power cut", "kill", "EIO", "ENOSPC")
NEEDS_NO_SPACE = frozenset({"unlink", "rmdir"}) | CALLS


@dataclass(frozen=True)
class Point:
    """One fault: the ``number``-th call of a scenario, the ``nth`` of its kind."""

    scenario: str
    failure: str
    number: int
    kind: str
    nth: int
    file: str

    def __str__(self) -> str:
        return f"{self.scenario} / {self.failure} / call {self.number}: {self.kind} {self.file}"


@dataclass
class Prepared:
    """A filled directory that is copied for each point, and what it holds."""

    scenario: Scenario
    root: str
    life: Life
    copies: dict[str, Life]
    points: list[Point]


def prepare(scenario: Scenario, root: str) -> Prepared:
    """Fill the directory ``root`` and record a run on a copy of it."""
    run = Run(root, QuickFileSystem(), scenario.options, Life())
    run.open()
    scenario.prepare(run)
    run.verify()
    run.close()
    prepared = Prepared(scenario, root, run.life, run.copies, [])
    fs = RecordingFileSystem()
    run = _begin(prepared, f"{root}-recorded", fs)
    first = 0 if scenario.starts else len(fs.recorded)
    _work(run, scenario)
    calls = fs.recorded[first:]
    run.open()
    scenario.enter(run)
    run.verify()
    scenario.finish(run)
    run.verify()
    run.close()
    shutil.rmtree(f"{root}-recorded")
    prepared.points = _points(scenario.name, calls, run.path)
    return prepared


def _points(name: str, calls: Sequence[tuple[str, str]], path: str) -> list[Point]:
    seen: Counter[str] = Counter()
    points = []
    for number, (kind, file) in enumerate(calls, 1):
        seen[kind] += 1
        for failure in FAILURES:
            if failure == "ENOSPC" and kind in NEEDS_NO_SPACE:
                continue
            points.append(
                Point(name, failure, number, kind, seen[kind], os.path.relpath(file, path))
            )
    return points


def _begin(prepared: Prepared, root: str, fs: FaultyFileSystem) -> Run:
    """A copy of the directory, opened if the work does not begin with that."""
    scenario = prepared.scenario
    shutil.copytree(prepared.root, root)
    copies = {
        name.replace(f"{prepared.root}/", f"{root}/"): life
        for name, life in prepared.copies.items()
    }
    run = Run(root, fs, scenario.options, prepared.life.copy())
    run.copies = copies
    if not scenario.starts:
        run.open()
        scenario.enter(run)
    return run


def _work(run: Run, scenario: Scenario) -> None:
    """The work and, if nothing happened, a close, which removes what was replaced."""
    scenario.work(run)
    run.close()


def run_point(prepared: Prepared, point: Point, root: str) -> None:
    """Let the fault happen on a copy at ``root``; raises AssertionError if anything is wrong."""
    scenario = prepared.scenario
    rng = random.Random(str(point))
    fs = QuickFileSystem()
    run = _begin(prepared, root, fs)
    is_crash = point.failure in ("power cut", "kill")
    fs.fail(
        point.kind, nth=point.nth, torn=rng.randint(0, 60), crash=is_crash,
        error=errno.ENOSPC if point.failure == "ENOSPC" else errno.EIO, after=rng.random() < 0.5,
    )  # fmt: skip
    try:
        with contextlib.suppress(TsengineError, OSError):
            _work(run, scenario)
        if is_crash:
            assert fs.is_crashed, "the fault was not met"
            run.close()
            if point.failure == "power cut":
                fs.lose_unsynced(rng)
            else:
                fs.revive()
        else:
            fs.heal()
            if run.db is not None:
                run.verify()
                patiently(lambda: scenario.finish(run))
                run.verify()
                run.close()
        run.open()
        assert run.db.recovery.damage == [], run.db.recovery.damage
        scenario.enter(run)
        run.verify()
        scenario.finish(run)
        run.verify()
        run.close()
        run.open()
        run.close()
        run.verify_files()
    finally:
        fs.heal()
        run.close()
        shutil.rmtree(root, ignore_errors=True)


def quick_folder() -> str | None:
    """Where files are in memory, if there is such a place: what a power cut leaves is modelled."""
    shared = "/dev/shm"
    return shared if os.path.isdir(shared) and os.access(shared, os.W_OK) else None


def chosen(points: Sequence[Point], share: float, seed: int = 4) -> list[Point]:
    """A share of the points, the same each time: of every scenario, failure and kind of call."""
    if share >= 1:
        return list(points)
    groups: dict[tuple[str, str, str], list[Point]] = {}
    for point in points:
        groups.setdefault((point.scenario, point.failure, point.kind), []).append(point)
    rng = random.Random(seed)
    found: list[Point] = []
    owed = 0.0
    for _, group in sorted(groups.items()):
        owed += share * len(group)
        n = min(len(group), int(owed))
        owed -= n
        found += rng.sample(group, n)
    return found


def table(points: Sequence[Point]) -> str:
    """Counts by call site: scenarios by operations."""
    sites = Counter((point.scenario, point.kind) for point in points)
    kinds = sorted({kind for _, kind in sites})
    names = list(dict.fromkeys(point.scenario for point in points))
    lines = [f"{'':16}" + "".join(f"{kind:>12}" for kind in kinds) + f"{'all':>8}"]
    for name in names:
        counts = [sites[name, kind] for kind in kinds]
        lines.append(f"{name:16}" + "".join(f"{n:>12}" for n in counts) + f"{sum(counts):>8}")
    totals = [sum(sites[name, kind] for name in names) for kind in kinds]
    lines.append(f"{'all':16}" + "".join(f"{n:>12}" for n in totals) + f"{sum(totals):>8}")
    return "\n".join(lines)


def main() -> int:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--share", type=float, default=1.0)
    arguments.add_argument("--scenario", action="append")
    arguments.add_argument("--call", type=int, help="only this number")
    arguments.add_argument("--list", action="store_true", help="print the points, run none")
    given = arguments.parse_args()
    logging.disable(logging.CRITICAL)
    begin = time.monotonic()
    n_run = 0
    failed = []
    everything: list[Point] = []
    with tempfile.TemporaryDirectory(dir=quick_folder()) as folder:
        for scenario in SCENARIOS:
            if given.scenario and scenario.name not in given.scenario:
                continue
            prepared = prepare(scenario, os.path.join(folder, scenario.name.replace(" ", "-")))
            everything += prepared.points
            for point in chosen(prepared.points, given.share):
                if given.call is not None and point.number != given.call:
                    continue
                if given.list:
                    print(point)
                    continue
                n_run += 1
                try:
                    run_point(prepared, point, os.path.join(folder, "run"))
                except Exception:
                    failed.append(point)
                    print(f"FAILED {point}\n{traceback.format_exc()}", flush=True)
            print(f"{scenario.name}: {len(prepared.points)} points", flush=True)
    print(table(everything))
    print(
        f"{len(everything)} fault points, {n_run} run in {time.monotonic() - begin:.0f} s, "
        f"{len(failed)} failed"
    )
    for point in failed:
        print(f"  {point}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
