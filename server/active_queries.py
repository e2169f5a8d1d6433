"""Queries that wait or run right now, for ``/api/v1/status/active_queries``. Event loop only."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import tsengine

from .times import rfc3339_ms

ANSWER_BYTES_PER_SAMPLE = 64
"""Memory to write a sample as text: the digits of its value, its time, and the columns' copies."""


def _new_watch() -> tsengine.QueryWatch:
    return tsengine.QueryWatch(ANSWER_BYTES_PER_SAMPLE)


@dataclass(frozen=True, slots=True)
class Asked:
    """What a client asked. Times in ms; `step_ms` is 0 for an instant query."""

    kind: str
    expr: str
    start_ms: int
    end_ms: int
    step_ms: int
    client: str
    method: str
    path: str


@dataclass(slots=True)
class ActiveQuery:
    """One query on its way. `is_running` is False while it waits for its turn."""

    number: int
    asked: Asked
    watch: tsengine.QueryWatch = field(default_factory=_new_watch)
    arrived_s: float = field(default_factory=time.time)
    is_running: bool = False

    def as_json(self) -> dict[str, Any]:
        """The query as the API lists it."""
        asked = self.asked
        return {
            "id": self.number,
            "query": asked.expr,
            "kind": asked.kind,
            "state": "running" if self.is_running else "waiting",
            "start": asked.start_ms / 1000,
            "end": asked.end_ms / 1000,
            "step": asked.step_ms / 1000,
            "arrivedAt": rfc3339_ms(round(self.arrived_s * 1000)),
            "ageSeconds": round(max(time.time() - self.arrived_s, 0.0), 3),
            "samplesRead": self.watch.samples_read,
            "memoryBytes": self.watch.memory_bytes,
            "client": asked.client,
        }


class ActiveQueries:
    """The queries of one server."""

    def __init__(self) -> None:
        self._numbers = itertools.count(1)
        self._active: dict[int, ActiveQuery] = {}

    @contextmanager
    def entered(self, asked: Asked) -> Iterator[ActiveQuery]:
        """List a query as long as the block lasts."""
        query = ActiveQuery(next(self._numbers), asked)
        self._active[query.number] = query
        try:
            yield query
        finally:
            del self._active[query.number]

    def listed(self) -> list[dict[str, Any]]:
        """All of them, the oldest first."""
        return [query.as_json() for query in self._active.values()]
