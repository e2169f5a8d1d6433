"""The rows of the table in docs/performance.md: what is aimed at, and where a run has it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from bench.side_by_side import queries

Facts = dict[str, Any]
FAST_MS = 3.0
"""Queries that take less are not called slower."""


@dataclass(frozen=True, slots=True)
class Target:
    """One row. ``read`` finds the figure among the facts of a system; KeyError if it isn't there.

    `better`: whether more or less is. ``wanted`` is None for what is only shown. `victoria` is what
    VictoriaMetrics had on the machine for which speeds are wanted: another one may be slower.
    """

    name: str
    better: Literal["more", "less"]
    wanted: float | None
    read: Callable[[Facts], float]
    scale: float = 1.0
    victoria: float | None = None

    def is_met(self, value: float) -> bool:
        """Whether a figure is as good as wanted."""
        assert self.wanted is not None, "only shown"
        return value >= self.wanted if self.better == "more" else value <= self.wanted

    def is_met_beside(self, value: float, victoria: float) -> bool:
        """Whether a figure is as far from VictoriaMetrics' of the same run as is wanted."""
        return self.victoria is not None and self.is_met(value * self.victoria / victoria)


def _at(*path: str) -> Callable[[Facts], float]:
    def read(facts: Facts) -> float:
        found: Any = facts
        for name in path:
            found = found[name]
        return float(found)

    return read


def _best_leg(load: str, figure: str) -> Callable[[Facts], float]:
    """A figure of the fastest leg of known series."""

    def read(facts: Facts) -> float:
        legs = [leg for name, leg in facts[load]["legs"].items() if name != "first"]
        return float(max(legs, key=lambda leg: leg["samples_per_s"])[figure])

    return read


def _worst_kill(name: str) -> Callable[[Facts], float]:
    return lambda facts: float(max(one[name] for one in facts["kill"].values()))


_LOADS = (
    # Load, and its targets: samples/s of all of it, CPU, peak, bytes a sample.
    ("load", 2.5e6, 0.35, 400.0, 1.15),
    ("day", None, None, None, 1.05),
    ("million", None, 2.0, 650.0, None),
    ("five", None, None, None, None),
    ("churn", None, None, None, 1.5),
)
_VICTORIA_SPEED = {"load": 0.97}
_VICTORIA_CPU = {"load": 1.4, "million": 18.0}
"""The least of what was measured there."""


def _of_loads() -> Iterator[Target]:
    for load, speed, cpu, peak, disk in _LOADS:
        yield Target(
            f"{load}: all of it with its new series, M samples/s", "more",
            None if speed is None else speed / 1e6, _at(load, "samples_per_s"), 1e-6,
            _VICTORIA_SPEED.get(load),
        )  # fmt: skip
        yield Target(
            f"{load}: CPU s per million samples", "less", cpu, _at(load, "cpu_s_per_million"),
            victoria=_VICTORIA_CPU.get(load),
        )  # fmt: skip
        yield Target(f"{load}: peak RSS, MiB", "less", peak, _at(load, "peak_rss_mib"))
        yield Target(
            f"{load}: bytes/sample on disk", "less", disk, _at(load, "disk_bytes_per_sample")
        )
        if load in ("million", "five"):
            yield Target(
                f"{load}: bytes/series on disk", "less", 75.0 if load == "million" else None,
                _at(load, "disk_bytes_per_series"),
            )  # fmt: skip
        yield Target(f"{load}: restart, s", "less", None, _at(load, "restart_s"))


def _of_body_sizes() -> Iterator[Target]:
    for load, size in (("small", "500"), ("large", "10,000")):
        name = f"{load}: bodies of {size} samples, known series, best of 1-8 connections"
        speed = _best_leg(load, "samples_per_s")
        yield Target(f"{name}, M samples/s", "more", None, speed, 1e-6)
        yield Target(f"{load}: p99 of that, ms", "less", None, _best_leg(load, "p99_ms"))
        yield Target(
            f"{load}: CPU s per million samples", "less", None, _at(load, "cpu_s_per_million")
        )
        yield Target(f"{load}: peak RSS, MiB", "less", None, _at(load, "peak_rss_mib"))


TARGETS = (
    Target("load: known series, best of 1-8 connections, M samples/s", "more", 3.0,
           _best_leg("load", "samples_per_s"), 1e-6, victoria=1.25),
    Target("load: p99 of that, ms", "less", 50.0, _best_leg("load", "p99_ms")),
    Target("million: new series/s, first pass", "more", 300_000.0,
           _at("million", "legs", "first", "samples_per_s"), victoria=40_000.0),
    Target("five: new series/s, first pass", "more", None,
           _at("five", "legs", "first", "samples_per_s")),
    *_of_loads(),
    *_of_body_sizes(),
    Target("churn, embedded: RSS after 24 h to that after 4 h, without the head", "less", 1.15,
           _at("churn_embedded", "rss_share")),
    Target("churn, embedded: bytes/sample on disk", "less", 1.5,
           _at("churn_embedded", "bytes_per_sample")),
    Target("kill: samples lost", "less", 0.0, _worst_kill("lost")),
    Target("kill: ready again, s", "less", 2.0, _worst_kill("ready_s")),
    Target("kill: all counted, s", "less", 4.0, _worst_kill("counted_s")),
    Target("users: p95, ms", "less", 100.0, _at("users", "p95_ms")),
    Target("users: ingest meanwhile, share of that alone", "more", 0.7,
           _at("users", "ingest_share")),
)  # fmt: skip


def query_times(facts: Facts) -> dict[str, float]:
    """Milliseconds of all queries of a system."""
    loads = (load for load in facts.values() if isinstance(load, dict))
    return {name: ms for load in loads for name, ms in load.get("queries", {}).items()}


def query_ratios(systems: dict[str, Facts]) -> dict[str, float]:
    """Our time of each query in units of the faster peer's; those that no peer has are left out."""
    times = {name: query_times(facts) for name, facts in systems.items()}
    ours = times.pop("tsengine", {})
    found = {}
    for query in queries.QUERIES:
        peers = [of[query.name] for of in times.values() if query.name in of]
        if query.name in ours and peers:
            found[query.name] = ours[query.name] / min(peers)
    return found


def geometric_mean(ratios: dict[str, float]) -> float:
    """Of at least one."""
    return float(np.exp(np.mean(np.log(list(ratios.values())))))


def slower_queries(systems: dict[str, Facts]) -> list[str]:
    """Names of queries that a peer answers faster, and not within a few ms."""
    ours = query_times(systems.get("tsengine", {}))
    return [
        name for name, ratio in query_ratios(systems).items() if ratio > 1 and ours[name] > FAST_MS
    ]
