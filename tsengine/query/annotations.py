"""Warnings and infos that a query collects beside its answer."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from tsengine.promql.ast import Span

Note = tuple[bool, str]
"""Whether it is a warning, and the message without prefix and place."""


def line_and_column(text: bytes, position: int) -> tuple[int, int]:
    """1-based line and byte column of a byte position in a query's UTF-8 text."""
    before = text[:position]
    return before.count(b"\n") + 1, position - (before.rfind(b"\n") + 1) + 1


class Annotations:
    """Texts without duplicates, in order of first arrival. Thread-safe.

    Two annotations are the same if their messages are; a text names the position of the last one
    as ``(line:column)``, as Prometheus does.
    """

    def __init__(self, query: str) -> None:
        self._query = query.encode("utf-8", "surrogateescape")
        self._warnings: dict[str, Span] = {}
        self._infos: dict[str, Span] = {}
        self._lock = threading.Lock()
        self._recordings: list[list[Note]] = []

    @property
    def warnings(self) -> list[str]:
        """Everything that makes the answer doubtful."""
        return self._texts(self._warnings)

    @property
    def infos(self) -> list[str]:
        """Everything that may be a mistake in the query."""
        return self._texts(self._infos)

    @contextmanager
    def recorded(self) -> Iterator[list[Note]]:
        """What is added meanwhile, without its places; for one thread, may be nested."""
        notes: list[Note] = []
        self._recordings.append(notes)
        try:
            yield notes
        finally:
            self._recordings.pop()

    def add_again(self, notes: Sequence[Note], span: Span) -> None:
        """Add what was recorded for another part of the query that reads the same."""
        for is_warning, message in notes:
            (self.add_warning if is_warning else self.add_info)(message, span)

    def add_warning(self, message: str, span: Span) -> None:
        """Add a warning about the part of the query at `span`; `message` has no prefix."""
        self._note(True, message)
        self._add(self._warnings, f"PromQL warning: {message}", span)

    def add_info(self, message: str, span: Span) -> None:
        """Add an info about the part of the query at `span`; `message` has no prefix."""
        self._note(False, message)
        self._add(self._infos, f"PromQL info: {message}", span)

    def _note(self, is_warning: bool, message: str) -> None:
        for notes in self._recordings:
            notes.append((is_warning, message))

    def _add(self, spans: dict[str, Span], message: str, span: Span) -> None:
        with self._lock:
            spans[message] = span

    def _texts(self, spans: dict[str, Span]) -> list[str]:
        with self._lock:
            notes = list(spans.items())
        places = [line_and_column(self._query, span.start) for _, span in notes]
        return [
            f"{message} ({line}:{column})"
            for (message, _), (line, column) in zip(notes, places, strict=True)
        ]
