"""What becomes of queries: a JSON line for each in a file, a warning for slow ones. Any thread.

The lines have the fields of Prometheus's ``query_log_file``, so that its readers work.
"""

from __future__ import annotations

import errno
import logging
import os
import threading
from datetime import UTC, datetime
from typing import Any, BinaryIO

import orjson

from .active_queries import Asked
from .logs import log
from .times import rfc3339_ms

_TEXT_MAX = 2000
"""Characters of a query in a log line; the file has all of them."""


class QueryLog:
    """Where finished queries are written.

    Parameters
    ----------
    path
        File that lines are appended to; None for no file.
    slow_s
        Queries that took at least so long are logged as warnings; None for none.

    Raises
    ------
    OSError
        The file can't be written.

    """

    def __init__(self, path: str | None, slow_s: float | None) -> None:
        self._file = None if path is None else _opened(path)
        self._is_failing = False
        self._slow_s = slow_s
        self._lock = threading.Lock()

    @property
    def has_file(self) -> bool:
        """Whether every query is written."""
        return self._file is not None

    def note(
        self, asked: Asked, seconds: float, stats: dict[str, Any] | None, error: str | None
    ) -> None:
        """Write one finished query.

        Parameters
        ----------
        asked, seconds
            The query, and how long it waited and ran.
        stats
            As the API answers them; None if the query has none because it failed.
        error
            Why there is no answer.

        """
        stats = stats or {"timings": {"execTotalTime": seconds}, "samples": {}}
        if self._slow_s is not None and seconds >= self._slow_s:
            self._warn(asked, seconds, stats, error)
        if self._file is None:
            return
        line = orjson.dumps(_record(asked, stats, error), option=orjson.OPT_APPEND_NEWLINE)
        with self._lock:
            if self._file is None:
                return
            try:
                if self._file.write(line) != len(line):
                    raise BlockingIOError(errno.EAGAIN, "nobody reads it fast enough")
                self._is_failing = False
            except (OSError, ValueError) as problem:
                if not self._is_failing:
                    log(logging.ERROR, "can't write the query log", error=problem)
                self._is_failing = True

    def _warn(self, asked: Asked, seconds: float, stats: dict[str, Any], error: str | None) -> None:
        fields: dict[str, Any] = {
            "query": asked.expr[:_TEXT_MAX], "duration": f"{seconds:.3f}s",
            "samples": stats["samples"].get("samplesRead", "unknown"),
            "start": rfc3339_ms(asked.start_ms), "end": rfc3339_ms(asked.end_ms),
            "step": f"{asked.step_ms / 1000:g}s", "client": asked.client,
        }  # fmt: skip
        if error is not None:
            fields["error"] = error
        log(logging.WARNING, "slow query", **fields)

    def take_over(self, other: QueryLog) -> None:
        """Go on with the file and the threshold of another log, which must not be used again."""
        with self._lock:
            old, self._file = self._file, other._file
            self._slow_s = other._slow_s
        if old is not None:
            old.close()

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()


def _opened(path: str) -> BinaryIO:
    """A file to append to, unbuffered; it may be a pipe, whose reader is never waited for."""
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK
    try:
        return open(os.open(path, flags, 0o666), "ab", buffering=0)
    except ValueError as error:  # A zero byte in the name.
        raise OSError(errno.EINVAL, str(error), path) from None


def _record(asked: Asked, stats: dict[str, Any], error: str | None) -> dict[str, Any]:
    record: dict[str, Any] = {
        "time": datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z"),
        "level": "INFO",
        "msg": "promql query logged",
        "params": {
            "end": rfc3339_ms(asked.end_ms),
            "query": asked.expr.encode("utf-8", "replace").decode(),
            "start": rfc3339_ms(asked.start_ms),
            "step": asked.step_ms // 1000,
        },
        "stats": stats,
        "httpRequest": {
            "clientIP": asked.client,
            "method": asked.method,
            "path": asked.path,
        },
    }
    if error is not None:
        record["error"] = error
    return record
