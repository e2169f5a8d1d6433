"""What is measured of one system: each phase starts from an empty folder, returns numbers."""

from __future__ import annotations

import http.client
import shutil
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from bench.side_by_side import dataset, queries
from bench.side_by_side.bodies import Load
from bench.side_by_side.replay import Replayer
from bench.side_by_side.systems import System

Make = Callable[[str], System]
Facts = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Plan:
    """How much is done: loads by name, connections to try, repeats of a query."""

    loads: dict[str, Load]
    connections: tuple[int, ...] = (1, 2, 4, 8)
    repeats: int = 7
    kill_samples: tuple[int, ...] = (5_000_000, 20_000_000)
    users: int = 100


def _speeds(found: Facts) -> Facts:
    p50, p95, p99 = np.percentile(found["waits_ms"], [50, 95, 99])
    return {
        "samples_per_s": found["samples"] / found["seconds"],
        "cpu_s_per_million": found["cpu_s"] / found["samples"] * 1e6,
        "p50_ms": float(p50),
        "p95_ms": float(p95),
        "p99_ms": float(p99),
        "retries": found["retries"],
    }


def ingest(make: Make, plan: Plan, log: Callable[[str], None], *, load: str = "load") -> Facts:
    """The whole load: the first round makes the series, the others come over 1 to 8 connections.

    Then bytes on disk, restart, and the queries of this load.
    """
    system = make(load)
    data = plan.loads[load]
    n_rounds = int(data.rounds[-1]) + 1
    system.start()
    replayer = Replayer(data)
    facts: Facts = {"series": data.n_series, "samples": data.n_samples}
    total = {"samples": 0, "seconds": 0.0, "cpu_s": 0.0}
    try:
        borders = np.linspace(1, n_rounds, len(plan.connections) + 1).astype(int).tolist()
        legs = [("first", range(1), max(plan.connections))]
        for n, first, last in zip(plan.connections, borders[:-1], borders[1:], strict=True):
            legs.append((str(n), range(first, last), n))
        facts["legs"] = {}
        for name, rounds, n in legs:
            if not len(rounds):
                continue
            found = replayer.send(system, rounds, n)
            facts["legs"][name] = _speeds(found)
            for key in total:
                total[key] += found[key]
            log(f"{load}, {name}: {found['samples'] / found['seconds'] / 1e6:.2f} M samples/s")
    finally:
        replayer.stop()
    before = system.cpu_s()
    system_peak = system.rss_mib(peak=True)
    started = time.perf_counter()
    try:
        system.settle()
    finally:
        facts["settle_s"] = time.perf_counter() - started
    facts |= {
        "samples_per_s": total["samples"] / total["seconds"],
        "cpu_s_per_million": total["cpu_s"] / total["samples"] * 1e6,
        "cpu_before_settle_s": before,
        "peak_rss_mib": system_peak,
        "disk_bytes_per_sample": system.disk_bytes() / data.n_samples,
        "disk_bytes_per_series": system.disk_bytes() / data.n_series,
    }
    facts["queries"], answers = _query(system, load, plan, log)
    system.stop()
    facts["restart_s"] = system.start()
    system.stop()
    return {"facts": facts, "answers": answers}


def _query(
    system: System, load: str, plan: Plan, log: Callable[[str], None]
) -> tuple[Facts, dict[str, Any]]:
    times, answers = {}, {}
    # A whole minute that is not before the last samples: a load may be shorter than a minute.
    end_ms = -(-plan.loads[load].end_ms // 60_000) * 60_000
    for query in queries.QUERIES:
        if query.load != load:
            continue
        answer = queries.run(system, query, end_ms)
        if queries.size_of(query, answer) == 0:
            raise RuntimeError(f"{system.name}: {query.name}: the answer is empty")
        answers[query.name] = answer
        times[query.name] = queries.time_ms(system, query, end_ms, plan.repeats)
        log(f"{query.name}: {times[query.name]:.1f} ms")
    return times, answers


def kill(make: Make, plan: Plan, log: Callable[[str], None]) -> Facts:
    """SIGKILL at the last acknowledgement: what is lost, and how long the next start takes."""
    facts = {}
    data = plan.loads["load"]
    for n_samples in plan.kill_samples:
        n_rounds = max(1, min(int(data.rounds[-1]) + 1, n_samples // data.n_series))
        system = make(f"kill{n_samples}")
        system.start()
        replayer = Replayer(data)
        try:
            sent = replayer.send(system, range(n_rounds), max(plan.connections))["samples"]
        finally:
            replayer.stop()
        system.kill()
        ready_s = system.start()
        started = time.perf_counter()
        counted = _count(system, data, n_rounds)
        facts[str(sent)] = {
            "ready_s": ready_s,
            "counted_s": ready_s + time.perf_counter() - started,
            "lost": sent - counted,
        }
        log(f"SIGKILL after {sent:,} samples: {facts[str(sent)]}")
        system.stop()
        shutil.rmtree(system.folder, ignore_errors=True)
    return facts


def _count(system: System, data: Load, n_rounds: int) -> int:
    """Samples that queries find, name by name: without their names series would be the same."""
    end_s = data.start_ms / 1000 + (n_rounds + 2) * 15
    n_samples = 0
    for name in sorted({metric["__name__"] for metric in dataset.HOST_METRICS}):
        text = f"sum(count_over_time({name}[{(n_rounds + 4) * 15}s]))"
        result = system.data("query", query=text, time=end_s)["result"]
        n_samples += int(float(result[0]["value"][1])) if result else 0
    return n_samples


def users(make: Make, plan: Plan, log: Callable[[str], None]) -> Facts:
    """Dashboard users who ask all the time while samples come at full rate."""
    data = plan.loads["load"]
    n_rounds = int(data.rounds[-1]) + 1
    system = make("users")
    system.start()
    replayer = Replayer(data)
    half, most = n_rounds // 2, n_rounds * 3 // 4
    try:
        replayer.send(system, range(half), 4)
        alone = _speeds(replayer.send(system, range(half, most), 4))
        end_ms = data.start_ms + most * dataset.SCRAPE_MS
        over = threading.Event()
        waits: list[float] = []
        failures: list[str] = []
        threads = [
            threading.Thread(target=_user, args=(system, end_ms, number, over, waits, failures))
            for number in range(plan.users)
        ]
        for thread in threads:
            thread.start()
        busy = _speeds(replayer.send(system, range(most, n_rounds), 4))
        over.set()
        for thread in threads:
            thread.join()
        if failures:
            raise RuntimeError(f"{system.name}: {len(failures)} users failed: {failures[0]}")
    finally:
        replayer.stop()
    system.stop()
    shutil.rmtree(system.folder, ignore_errors=True)
    p50, p95 = np.percentile(waits, [50, 95]) * 1e3
    facts = {
        "users": plan.users,
        "asked": len(waits),
        "p50_ms": float(p50),
        "p95_ms": float(p95),
        "ingest_share": busy["samples_per_s"] / alone["samples_per_s"],
    }
    log(f"users: {facts}")
    return facts


_PANELS = tuple(
    query
    for query in queries.QUERIES
    if query.load == "load"
    and query.kind in ("range", "instant")
    and "all series" not in query.name
    and "100 k" not in query.name
)  # fmt: skip
_PANEL_PAUSE_S = 5.0


def _user(
    system: System,
    end_ms: int,
    number: int,
    over: threading.Event,
    waits: list[float],
    failures: list[str],
) -> None:
    """Loads a panel every few seconds, as a dashboard that refreshes does."""
    rng = np.random.default_rng(number)
    over.wait(float(rng.uniform(0, _PANEL_PAUSE_S)))
    while not over.is_set():
        query = _PANELS[int(rng.integers(len(_PANELS)))]
        started = time.perf_counter()
        try:
            answer = queries.ask(system, query, end_ms)
        except (OSError, RuntimeError, http.client.HTTPException) as error:
            failures.append(f"{query.name}: {error}")
            return
        # Not parsed: that would take the cores from who is measured.
        if b'"result":[]' in answer:
            failures.append(f"{query.name}: the answer is empty")
            return
        waits.append(time.perf_counter() - started)
        over.wait(_PANEL_PAUSE_S)
