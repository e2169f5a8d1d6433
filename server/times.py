"""Texts of times and durations, as flags and API parameters write them."""

from __future__ import annotations

import math
import re
import time
from datetime import UTC, datetime

MS_MAX = 2**63 - 1
_FLOAT = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?", re.ASCII)
_RFC3339 = re.compile(r"\d{4}-\d\d-\d\d[Tt]\d\d:\d\d:\d\d(\.\d+)?([Zz]|[+-]\d\d:\d\d)", re.ASCII)
# Prometheus's own texts for its smallest and largest time; its clients send them back.
_EXTREME_TIMES = {
    "-292273086-05-16T16:47:06Z": -(2**63),
    "292277025-08-18T07:12:54.999999999Z": MS_MAX,
}
_DURATION = re.compile(
    r"(?:(\d+)y)?(?:(\d+)w)?(?:(\d+)d)?(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s)?(?:(\d+)ms)?", re.ASCII
)
_UNITS_MS = (31_536_000_000, 604_800_000, 86_400_000, 3_600_000, 60_000, 1000, 1)
_DURATION_MS_MAX = MS_MAX // 1_000_000
"""Prometheus counts durations in nanoseconds of an int64: about 292 years."""


def now_ms() -> int:
    """The machine's clock."""
    return time.time_ns() // 1_000_000


def rfc3339_ms(t_ms: int) -> str:
    """A time like ``2024-05-01T10:00:00.250Z``; as seconds where there is no such date."""
    try:
        moment = datetime.fromtimestamp(t_ms // 1000, UTC)
    except (OverflowError, ValueError, OSError):
        return f"{t_ms / 1000:.3f}"
    seconds = moment.replace(tzinfo=None).isoformat(timespec="seconds")
    return f"{seconds}.{t_ms % 1000:03d}Z"


def parse_time_ms(text: str) -> int | None:
    """Float seconds or RFC 3339 as ms since the epoch, rounded; None if it is neither."""
    if text in _EXTREME_TIMES:
        return _EXTREME_TIMES[text]
    if len(text) <= 400 and _FLOAT.fullmatch(text):
        seconds = float(text)
        if not abs(seconds) <= MS_MAX // 1000:
            return None
        # Whole and fraction apart: their products with 1000 round less than that of the sum.
        whole = math.floor(seconds)
        return whole * 1000 + math.floor((seconds - whole) * 1000 + 0.5)
    if len(text) <= 64 and _RFC3339.fullmatch(text):
        return _parse_rfc3339_ms(text)
    return None


def _parse_rfc3339_ms(text: str) -> int | None:
    """Split the fraction off first: Python reads at most 6 digits of it."""
    stamp = text.upper().replace("Z", "+00:00")
    date, zone = stamp[:-6], stamp[-6:]
    date, _, fraction = date.partition(".")
    try:
        moment = datetime.fromisoformat(date + zone)
    except ValueError:
        return None
    return round(moment.timestamp()) * 1000 + int((fraction + "000")[:3])


def parse_duration_ms(text: str) -> int | None:
    """Float seconds or a Prometheus duration like ``1h30m`` in ms; None if it is neither.

    Floats may be zero or negative; both kinds end at about 292 years.
    """
    if not text or len(text) > 400:
        return None
    if _FLOAT.fullmatch(text):
        milliseconds = float(text) * 1000
        return round(milliseconds) if abs(milliseconds) <= _DURATION_MS_MAX else None
    match = _DURATION.fullmatch(text)
    if match is None:
        return None
    total = sum(
        int(n) * unit for n, unit in zip(match.groups(), _UNITS_MS, strict=True) if n is not None
    )
    return total if total <= _DURATION_MS_MAX else None


def duration_text(seconds: float) -> str:
    """A duration as Prometheus writes it, like ``15d`` or ``1h30m``; whole milliseconds."""
    rest = round(seconds * 1000)
    parts = []
    for name, unit in zip(("y", "w", "d", "h", "m", "s", "ms"), _UNITS_MS, strict=True):
        # Years and weeks only when they come out even: 15d, not 2w1d.
        if rest >= unit and (name not in ("y", "w") or rest % unit == 0):
            parts.append(f"{rest // unit}{name}")
            rest %= unit
    return "".join(parts) or "0s"
