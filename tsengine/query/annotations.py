"""Warnings and infos that a query collects beside its answer."""

from __future__ import annotations

import threading

from tsengine.promql.ast import Span


def line_and_column(text: bytes, position: int) -> tuple[int, int]:
    """1-based line and byte column of a byte position in a query's UTF-8 text."""
    before = text[:position]
    return before.count(b"\n") + 1, position - (before.rfind(b"\n") + 1) + 1


class Annotations:
    """Texts without duplicates, in order of arrival. Thread-safe.

    Two annotations are the same if message and position are; a text names its position as
    ``(line:column)``.
    """

    def __init__(self, query: str) -> None:
        self._query = query.encode("utf-8", "surrogateescape")
        self._warnings: dict[str, None] = {}
        self._infos: dict[str, None] = {}
        self._lock = threading.Lock()

    @property
    def warnings(self) -> list[str]:
        """Everything that makes the answer doubtful."""
        return list(self._warnings)

    @property
    def infos(self) -> list[str]:
        """Everything that may be a mistake in the query."""
        return list(self._infos)

    def add_warning(self, message: str, span: Span) -> None:
        """Add a warning about the part of the query at `span`; `message` has no prefix."""
        self._add(self._warnings, f"PromQL warning: {message}", span)

    def add_info(self, message: str, span: Span) -> None:
        """Add an info about the part of the query at `span`; `message` has no prefix."""
        self._add(self._infos, f"PromQL info: {message}", span)

    def _add(self, texts: dict[str, None], message: str, span: Span) -> None:
        line, column = line_and_column(self._query, span.start)
        with self._lock:
            texts.setdefault(f"{message} ({line}:{column})")
