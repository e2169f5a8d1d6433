"""tsengine beside VictoriaMetrics and Prometheus: the same bytes, the same queries, one machine.

    python -m bench.side_by_side [--systems tsengine,victoria,prometheus] [--hosts 1000]
        [--minutes 120] [--phases load,day,million,five,churn,small,large,kill,users] [--repeats 7]
        [--work DIR] [--json FILE] [--table] [--wait-quiet SECONDS] [--victoria PATH]
        [--prometheus PATH]
    python -m bench.side_by_side --merge FILE... [--json FILE] [--table]

Builds the bodies first (9 GB for all), then runs one system after the other, each phase from an
empty folder:

    load     48 M samples of 100,000 series in 2 h: speed, CPU, memory, disk, restart, queries
    day      the same of a tenth of the hosts for 24 h
    million  the same of 1 M series with 3 samples
    five     the same of 5 M series with 2 samples
    churn    the same of a tenth of the hosts for 24 h, a tenth replaced every 10 minutes
    small    the hosts of `load` for a quarter of its time, in bodies of 500 samples
    large    the same in bodies of 10,000 samples
    kill     SIGKILL after 5 and 20 M samples
    users    100 dashboard users during ingest

Answers are compared; an empty one ends the run. Writes JSON and, with --table, the tables in
docs/performance.md. A system that is not in .peers, on PATH or named here is unpacked, or left out.
All of it takes about three hours on 2 cores; --hosts 50 --minutes 90 --phases load is a try.

It can be done in pieces: run some phases or systems at a time with one --work, in which bodies and
answers are kept (answers are compared when both are there), then --merge their files. Of a phase
that is in two of them the later one counts; a file of `bench.churn` adds what that measured. Before
each phase it is noted how busy the machine is; --wait-quiet waits until others use less than a
tenth of it, or the time is over.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

from bench.side_by_side import answers, bodies, merging, phases, quiet, report
from bench.side_by_side.systems import ROOT, SYSTEMS, System
from tests.real.peers import MissingPeerError

_RESULTS = ROOT / "bench" / "results"
_MINUTE_MS = 60_000
_REPLACED_EVERY = 40
"""Rounds: ten minutes."""
PHASES = ("load", "day", "million", "five", "churn", "small", "large", "kill", "users")


def _plan(args: argparse.Namespace, work: Path) -> phases.Plan:
    # A fixed start, so that bodies can be kept; hosts of the last days, as retention is off.
    start_ms = 1_760_000_040_000 // (60 * _MINUTE_MS) * 60 * _MINUTE_MS
    rounds = args.minutes * 4
    some_hosts = max(20, args.hosts // 10)
    # Hosts, rounds, seed, samples of a body.
    wanted = {
        "load": (args.hosts, rounds, 7, 2000),
        "day": (some_hosts, rounds * 12, 8, 2000),
        "million": (args.hosts * 10, 3, 9, 2000),
        "five": (args.hosts * 50, 2, 11, 2000),
        "churn": (some_hosts, rounds * 12, 10, 2000),
        "small": (args.hosts, rounds // 4, 12, 500),
        "large": (args.hosts, rounds // 4, 12, 10_000),
    }
    loads = {}
    for name, (n_hosts, n_rounds, seed, body_samples) in wanted.items():
        # Other phases replay `load`.
        if name != "load" and name not in args.phases:
            continue
        print(f"building {name}: {n_hosts * n_rounds * 100:,} samples", flush=True)
        path = work / f"{name}-{n_hosts}-{n_rounds}.bodies"
        loads[name] = bodies.build(
            path, n_hosts, n_rounds, start_ms=start_ms, seed=seed, body_samples=body_samples,
            replaced_every=_REPLACED_EVERY if name == "churn" else 0,
        )  # fmt: skip
    return phases.Plan(loads, repeats=args.repeats)


def _measure(
    name: str, plan: phases.Plan, args: argparse.Namespace, work: Path, result: dict[str, Any]
) -> None:
    """Add what is found of one system, and how busy the machine was before each phase.

    Each phase is also written to ``so-far.json``: what a later one breaks loses nothing.
    """
    made: list[System] = []

    def make(phase: str) -> System:
        folder = work / f"{name}-{phase}"
        shutil.rmtree(folder, ignore_errors=True)
        made.append(SYSTEMS[name](folder))
        return made[-1]

    def log(text: str) -> None:
        print(f"{name}: {text}", flush=True)

    facts = result["systems"][name] = {"version": make("version").version()}
    looks = result["quiet"][name] = {}
    for phase in args.phases:
        # What the phase before left to the disk is not this one's.
        os.sync()
        looks[phase] = quiet.look(args.wait_quiet)
        log(f"{phase}: {looks[phase]}")
        try:
            if phase in plan.loads:
                found = phases.ingest(make, plan, log, load=phase)
                facts[phase] = found["facts"]
                if found["answers"]:
                    answers.keep(work, name, phase, _size(args), found["answers"])
            else:
                facts[phase] = getattr(phases, phase)(make, plan, log)
        finally:
            for system in made:
                system.stop()
            for folder in work.glob(f"{name}-*"):
                if folder.is_dir():
                    shutil.rmtree(folder, ignore_errors=True)
        (work / "so-far.json").write_text(json.dumps(result))


def _size(args: argparse.Namespace) -> str:
    return f"{args.hosts}-{args.minutes}"


def main(argv: list[str] | None = None) -> None:
    """Run all, or put together what was run."""
    args = _parse(argv)
    if args.merge:
        result = merging.merge([json.loads(path.read_text()) for path in args.merge])
    else:
        work = args.work or Path(tempfile.mkdtemp(prefix="side-by-side-"))
        work.mkdir(parents=True, exist_ok=True)
        try:
            result = _run(args, work)
        finally:
            if args.work is None:
                shutil.rmtree(work, ignore_errors=True)
    target = args.json or _RESULTS / f"side-by-side-{time.strftime('%Y-%m-%d')}.json"
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(json.dumps(result, indent=1) + "\n")
    print(report.tables(result))
    if args.table:
        report.write_doc(result)


def _parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bench.side_by_side", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("--systems", default="tsengine,victoria,prometheus")
    parser.add_argument("--phases", default=",".join(PHASES))
    parser.add_argument("--hosts", type=int, default=1000)
    parser.add_argument("--minutes", type=int, default=120)
    parser.add_argument("--repeats", type=int, default=7, help="of each query; the median counts")
    parser.add_argument("--work", type=Path, default=None)
    parser.add_argument("--json", type=Path, default=None)
    parser.add_argument("--table", action="store_true")
    parser.add_argument("--merge", type=Path, nargs="+", default=[])
    parser.add_argument("--wait-quiet", type=float, default=0.0, metavar="SECONDS")
    for name, kind in SYSTEMS.items():
        if kind.program:
            parser.add_argument(f"--{name}", type=Path, default=None, metavar="PATH")
    args = parser.parse_args(argv)
    args.phases = args.phases.split(",")
    args.systems = args.systems.split(",")
    for given, known in ((args.phases, PHASES), (args.systems, SYSTEMS)):
        for name in given:
            if name not in known:
                parser.error(f"{name}: one of {', '.join(known)}")
    for name, kind in SYSTEMS.items():
        path = getattr(args, name, None)
        if path is not None:
            if not path.is_file():
                parser.error(f"{path} is not a program")
            kind.program = str(path.resolve())
    return args


def _present(names: list[str]) -> list[str]:
    """Those systems whose programs are there; asked before hours of work."""
    found = []
    for name in names:
        try:
            path = SYSTEMS[name].find()
        except MissingPeerError as error:
            print(f"{name} is left out: {error}", flush=True)
            continue
        print(f"{name}: {path}", flush=True)
        found.append(name)
    return found


def _run(args: argparse.Namespace, work: Path) -> dict[str, Any]:
    systems = _present(args.systems)
    plan = _plan(args, work)
    result = merging.empty() | {
        "date": time.strftime("%Y-%m-%d"),
        "machine": f"{platform.machine()}, {len(os.sched_getaffinity(0))} cores",
        "hosts": args.hosts,
        "minutes": args.minutes,
        "repeats": args.repeats,
    }
    for name in systems:
        _measure(name, plan, args, work, result)
    peers = [name for name in SYSTEMS if name != "tsengine"]
    for load in plan.loads.keys() & set(args.phases):
        for peer, found in answers.compare(work, load, _size(args), peers).items():
            result["compared"].setdefault(peer, {}).update(found)
    return result


if __name__ == "__main__":
    main()
