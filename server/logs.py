"""Log lines on stderr: logfmt by default, JSON on request."""

from __future__ import annotations

import json
import logging
import sys
import time
from typing import Literal, TextIO

LOGGER = logging.getLogger("tsengine")
LEVELS = ("debug", "info", "warn", "error")
_FIELDS = "tsengine_fields"
_REASON_MAX = 200


def setup(level: str, style: Literal["logfmt", "json"], stream: TextIO | None = None) -> None:
    """Send the records of `tsengine` loggers (and aiohttp's errors) to `stream`."""
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(_Formatter(as_json=style == "json"))
    number = logging.WARNING if level == "warn" else getattr(logging, level.upper())
    handler.addFilter(_BadRequests(number))
    for name in ("tsengine", "aiohttp", "asyncio"):
        logger = logging.getLogger(name)
        logger.handlers = [handler]
        logger.setLevel(number if name == "tsengine" else max(number, logging.WARNING))
        logger.propagate = False


def log(level: int, message: str, *, exc_info: bool = False, **fields: object) -> None:
    """Log `message` with fields; a field's value is shown as its ``str``."""
    LOGGER.log(level, message, exc_info=exc_info, extra={_FIELDS: fields})


class _BadRequests(logging.Filter):
    """Makes a warning of one line of what aiohttp logs as an error when bytes are no request."""

    def __init__(self, level: int) -> None:
        super().__init__()
        self._level = level

    def filter(self, record: logging.LogRecord) -> bool:
        error = record.exc_info[1] if record.exc_info else None
        # By name: most verbs of the command never load aiohttp.
        kinds = {f"{kind.__module__}.{kind.__name__}" for kind in type(error).__mro__}
        if "aiohttp.http_exceptions.HttpProcessingError" not in kinds:
            return True
        # What follows on the first line are the client's bytes.
        reason = str(getattr(error, "message", "")).strip().partition("\n")[0].rstrip(": ")
        record.msg = f"{record.getMessage()}: {type(error).__name__}: {reason[:_REASON_MAX]}"
        record.args = ()
        record.exc_info = None
        record.levelno, record.levelname = logging.WARNING, "WARNING"
        return record.levelno >= self._level


class _Formatter(logging.Formatter):
    def __init__(self, *, as_json: bool) -> None:
        super().__init__()
        self._as_json = as_json

    def format(self, record: logging.LogRecord) -> str:
        seconds = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        level = "warn" if record.levelno == logging.WARNING else record.levelname.lower()
        fields: dict[str, object] = {
            "ts": f"{seconds}.{int(record.msecs):03d}Z",
            "level": level,
            "msg": record.getMessage(),
            **getattr(record, _FIELDS, {}),
        }
        if record.exc_info:
            fields["trace"] = self.formatException(record.exc_info)
        if self._as_json:
            return json.dumps({key: str(value) for key, value in fields.items()})
        return " ".join(f"{key}={_quoted(str(value))}" for key, value in fields.items())


def _quoted(text: str) -> str:
    """A logfmt value: quoted when a reader could mistake it for several."""
    if text and all(c.isprintable() and c not in ' "=\\' for c in text):
        return text
    return json.dumps(text, ensure_ascii=False)
