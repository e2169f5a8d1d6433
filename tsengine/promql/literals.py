"""Values of literals: numbers, durations, regular expressions. Problems are Prometheus's texts."""

from __future__ import annotations

import math
import re
from typing import Final

import re2

from tsengine.model.matchers import Matcher, MatchOp
from tsengine.promql.lexer import quote

_UNITS: Final = ("y", "w", "d", "h", "m", "s", "ms")
_UNIT_MS: Final = dict(
    zip(_UNITS, (31_536_000_000, 604_800_000, 86_400_000, 3_600_000, 60_000, 1000, 1), strict=True)
)
_DURATION_MS_MAX: Final = (2**63 - 1) // 1_000_000  # what 64-bit nanoseconds hold
_DURATION_PART: Final = re.compile(r"([0-9]+)([a-z]+)")
_HEX: Final = re.compile(r"0[xX][0-9a-fA-F_]+")
_OCTAL: Final = re.compile(r"0[0-7_]*")

_RE2_OPTIONS: Final = re2.Options()
_RE2_OPTIONS.log_errors = False
# Nobody asks for groups here, and RE2 needs memory for threads times groups: 100,000 parentheses
# would take tens of gigabytes.
_RE2_OPTIONS.never_capture = True
# An escape, or a stretch in which escapes mean nothing.
_REGEX_ESCAPE: Final = re.compile(r"\\Q.*?(?:\\E|\Z)|\\(.)", re.DOTALL)


def number_value(text: str) -> float:
    """Value of a number as the lexer delimits it. Raises ValueError if it is none."""
    lower = text.lower()
    if lower == "inf":
        return math.inf
    if lower == "nan":
        return math.nan
    digits = text.replace("_", "")
    if _HEX.fullmatch(text):
        integer = int(digits, 16)
    elif _OCTAL.fullmatch(text):
        integer = int(digits, 8)
    else:
        value = float(digits)
        if math.isinf(value):
            raise ValueError(_out_of_range(text))
        return value
    try:
        return float(integer)
    except OverflowError:
        raise ValueError(_out_of_range(text)) from None


def _out_of_range(text: str) -> str:
    return f"error parsing number: strconv.ParseFloat: parsing {quote(text)}: value out of range"


def duration_ms(text: str) -> int:
    """Milliseconds of a duration such as ``1h30m``. Raises ValueError if it is none."""
    if text == "0":
        return 0
    total = 0
    pos = 0
    last_unit = -1
    while pos < len(text):
        part = _DURATION_PART.match(text, pos)
        if part is None:
            raise ValueError(f"not a valid duration string: {quote(text)}")
        pos = part.end()
        count, unit = part.groups()
        if unit not in _UNIT_MS:
            raise ValueError(f"unknown unit {quote(unit)} in duration {quote(text)}")
        if _UNITS.index(unit) <= last_unit:
            raise ValueError(f"not a valid duration string: {quote(text)}")
        last_unit = _UNITS.index(unit)
        # Python refuses to convert texts of thousands of digits; 20 are out of range already.
        if len(count.lstrip("0")) > 20:
            raise ValueError("duration out of range")
        total += int(count) * _UNIT_MS[unit]
        if total > _DURATION_MS_MAX:
            raise ValueError("duration out of range")
    if not text:
        raise ValueError("empty duration string")
    return total


def duration_seconds(text: str) -> float:
    """Seconds of a duration such as ``1h30m``. Raises ValueError if it is none."""
    return duration_ms(text) / 1000


def duration_text(ms: int) -> str:
    """Write milliseconds, not negative, as Prometheus does: ``1h30m``."""
    if ms == 0:
        return "0s"
    text = ""
    for unit, unit_ms in _UNIT_MS.items():
        # 90d reads better than 12w6d: years and weeks only where nothing is left.
        if unit in ("y", "w") and ms % unit_ms:
            continue
        count, ms = divmod(ms, unit_ms)
        if count:
            text += f"{count}{unit}"
    return text


def seconds_to_ms(seconds: float) -> int | None:
    """Nearest millisecond, halves away from zero; None if it does not fit 64 bits."""
    scaled = abs(seconds) * 1000
    if not scaled < 2**63:
        return None
    ms = math.floor(scaled + 0.5) if scaled < 2**52 else int(scaled)
    return -ms if seconds < 0 else ms


def check_regex(pattern: str) -> str | None:
    """Problem with a regular expression as an error text, or None."""
    for escape in _REGEX_ESCAPE.finditer(pattern):
        if escape[1] == "C":
            return f"error parsing regexp: invalid escape sequence: `{escape[0]}` in `{pattern}`"
    try:
        re2.compile(pattern, _RE2_OPTIONS)
    except re2.error as error:
        reason = error.args[0]
        reason = reason.decode("utf-8", "replace") if isinstance(reason, bytes) else str(reason)
        return f"error parsing regexp: {reason} in `{pattern}`"
    except UnicodeEncodeError:
        return f"error parsing regexp: invalid UTF-8: {quote(pattern)}"
    return None


def matches(matcher: Matcher, value: str) -> bool:
    """Whether a matcher accepts a label value; an absent label has the empty one."""
    if matcher.op is MatchOp.EQUAL:
        return value == matcher.value
    if matcher.op is MatchOp.NOT_EQUAL:
        return value != matcher.value
    regex = re2.compile(f"^(?s:{matcher.value})$", _RE2_OPTIONS)
    return (regex.search(value) is not None) is (matcher.op is MatchOp.REGEX)


def matches_empty(matcher: Matcher) -> bool:
    """Whether a matcher accepts a series without the label."""
    return matches(matcher, "")
