"""tsengine beside VictoriaMetrics and Prometheus: the same bytes, the same queries, one machine.

    python -m bench.side_by_side [--systems tsengine,victoria,prometheus] [--hosts 1000]
        [--minutes 120] [--phases load,day,million,kill,users] [--work DIR] [--json FILE] [--table]

Builds the bodies first (4 GB for all), then runs one system after the other, each phase from an
empty folder: `load` (48 M samples of 100,000 series: speed, CPU, memory, disk, restart, queries),
`day` (100 hosts for 24 h), `million` (1 M series of 3 samples), `kill` (SIGKILL after 5 and 20 M
samples), `users` (100 users during ingest). Answers are compared. Writes JSON and, with --table,
the tables in docs/performance.md. A system that is not in .peers or on PATH is unpacked, or left
out. All of it takes about two hours on 2 cores; --hosts 20 --minutes 10 is a try.
"""

from __future__ import annotations

import argparse
import json
import platform
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

from bench.side_by_side import bodies, phases, queries, report
from bench.side_by_side.systems import ROOT, SYSTEMS, System
from tests.real.peers import MissingPeerError

_RESULTS = ROOT / "bench" / "results"
_MINUTE_MS = 60_000


def _plan(args: argparse.Namespace, work: Path) -> phases.Plan:
    # A fixed start, so that bodies can be kept; hosts of the last days, as retention is off.
    start_ms = 1_760_000_040_000 // (60 * _MINUTE_MS) * 60 * _MINUTE_MS
    rounds = args.minutes * 4
    wanted = {"load": (args.hosts, rounds, 7)}
    if "day" in args.phases:
        wanted["day"] = (max(8, args.hosts // 10), rounds * 12, 8)
    if "million" in args.phases:
        wanted["million"] = (args.hosts * 10, 3, 9)
    loads = {}
    for name, (n_hosts, n_rounds, seed) in wanted.items():
        print(f"building {name}: {n_hosts * n_rounds * 100:,} samples", flush=True)
        path = work / f"{name}-{n_hosts}-{n_rounds}.bodies"
        loads[name] = bodies.build(path, n_hosts, n_rounds, start_ms=start_ms, seed=seed)
    return phases.Plan(loads, repeats=args.repeats)


def _measure(
    name: str, plan: phases.Plan, args: argparse.Namespace, work: Path
) -> tuple[dict[str, Any], dict[str, Any]]:
    kind = SYSTEMS[name]

    def make(phase: str) -> System:
        folder = work / f"{name}-{phase}"
        shutil.rmtree(folder, ignore_errors=True)
        return kind(folder)

    def log(text: str) -> None:
        print(f"{name}: {text}", flush=True)

    facts: dict[str, Any] = {"version": make("version").version()}
    answers: dict[str, Any] = {}
    for phase in args.phases:
        try:
            if phase in plan.loads:
                found = phases.ingest(make, plan, log, load=phase)
                facts[phase] = found["facts"]
                answers |= found["answers"]
            else:
                facts[phase] = getattr(phases, phase)(make, plan, log)
        finally:
            for folder in work.glob(f"{name}-*"):
                if folder.is_dir():
                    shutil.rmtree(folder, ignore_errors=True)
    return facts, answers


def main() -> None:
    """Run all."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--systems", default="tsengine,victoria,prometheus")
    parser.add_argument("--phases", default="load,day,million,kill,users")
    parser.add_argument("--hosts", type=int, default=1000)
    parser.add_argument("--minutes", type=int, default=120)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--work", type=Path, default=None)
    parser.add_argument("--json", type=Path, default=None)
    parser.add_argument("--table", action="store_true")
    args = parser.parse_args()
    args.phases = args.phases.split(",")
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


def _run(args: argparse.Namespace, work: Path) -> dict[str, Any]:
    plan = _plan(args, work)
    result: dict[str, Any] = {
        "date": time.strftime("%Y-%m-%d"),
        "machine": f"{platform.machine()}, {len(__import__('os').sched_getaffinity(0))} cores",
        "hosts": args.hosts,
        "minutes": args.minutes,
        "systems": {},
        "differences": {},
    }
    answers: dict[str, dict[str, Any]] = {}
    for name in args.systems.split(","):
        try:
            result["systems"][name], answers[name] = _measure(name, plan, args, work)
        except MissingPeerError as error:
            print(f"{name} is left out: {error}", flush=True)
    if "tsengine" in answers:
        for name, theirs in answers.items():
            if name != "tsengine":
                result["differences"][name] = _compare(answers["tsengine"], theirs)
    return result


def _compare(ours: dict[str, Any], theirs: dict[str, Any]) -> dict[str, str]:
    by_name = {query.name: query for query in queries.QUERIES}
    found = {
        name: queries.difference(by_name[name], ours[name], theirs[name])
        for name in ours.keys() & theirs.keys()
    }
    return {name: text for name, text in sorted(found.items()) if text}


if __name__ == "__main__":
    main()
