"""Kinds of values that settings have: how their texts are read, and written again.

A kind reads the same text wherever it comes from: a flag, a variable, or a scalar of the
configuration file. Lists have one more form, that of the file (`config_file`).
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import tsengine

from .times import duration_text, parse_duration_ms

DEFAULT_LISTEN = "127.0.0.1:9201"

_SIZE_SHIFTS = {None: 0, "K": 10, "M": 20, "G": 30, "T": 40}
_PLAIN = re.compile(r"[A-Za-z0-9][A-Za-z0-9_./+-]*(?::[A-Za-z0-9_./+-]+)*", re.ASCII)
_YAML_WORDS = frozenset({"true", "false", "yes", "no", "on", "off", "null", "y", "n"})

Shape: TypeAlias = Literal["scalar", "names", "tiers", "rules"]


@dataclass(frozen=True, slots=True)
class Kind:
    """What the values of a setting are.

    Parameters
    ----------
    parse
        A text to a value; raises ValueError with a text that shows what was given.
    show
        A value to a text that `parse` reads as the same value.
    shape
        Its form in the configuration file.

    """

    parse: Callable[[str], Any]
    show: Callable[[Any], str]
    shape: Shape = "scalar"


def _duration_s(text: str) -> float:
    milliseconds = parse_duration_ms(text)
    if milliseconds is None or milliseconds <= 0:
        raise ValueError(f"{text!r} is not a duration like 15s, 2m or 15d")
    return milliseconds / 1000


def _duration_or_0_s(text: str) -> float:
    return 0.0 if text == "0" else _duration_s(text)


def retention_s(text: str) -> float | None:
    """Seconds; None for ever."""
    return None if text in ("0", "off") else _duration_s(text)


def _self_scrape_s(text: str) -> float | None:
    if text == "off":
        return None
    seconds = _duration_s(text)
    if seconds < 1:
        raise ValueError(f"{text!r} is shorter than 1s")
    return seconds


def _slow_s(text: str) -> float | None:
    return None if text == "off" else _duration_s(text)


def _shown_or(word: str) -> Callable[[float | None], str]:
    return lambda seconds: word if seconds is None else duration_text(seconds)


def _count(text: str) -> int:
    if not re.fullmatch(r"[0-9_]{1,18}", text, re.ASCII) or int(text) < 1:
        raise ValueError(f"{text!r} is not a number greater than 0")
    return int(text)


def _count_or_0(text: str) -> int:
    return 0 if text == "0" else _count(text)


def _size(text: str) -> int:
    """Bytes; every unit is a power of 1024, as in Prometheus's flags."""
    match = re.fullmatch(r"([0-9]{1,18})(?:([KMGT])?i?B)?", text, re.ASCII)
    if match is None:
        raise ValueError(f"{text!r} is not a size like 512MiB or 4GiB")
    return int(match[1]) << _SIZE_SHIFTS[match[2]]


def _size_or_none(text: str) -> int | None:
    """Bytes with a unit, as what is above goes for good; None for 0 and off."""
    if text in ("0", "off"):
        return None
    if text.isdecimal():
        raise ValueError(f"{text!r} has no unit; write {text}GB or the like")
    return _size(text)


def _show_size(size: int | None) -> str:
    size = size or 0
    for unit, shift in (("TiB", 40), ("GiB", 30), ("MiB", 20), ("KiB", 10)):
        if size and size % (1 << shift) == 0:
            return f"{size >> shift}{unit}"
    return str(size)


def _show_size_or_none(size: int | None) -> str:
    shown = _show_size(size)
    return shown + "B" if size and shown.isdecimal() else shown


def _switch(text: str) -> bool:
    if text.lower() not in ("true", "false", "1", "0"):
        raise ValueError(f"{text!r} is neither true nor false")
    return text.lower() in ("true", "1")


def _name_set(text: str) -> frozenset[str]:
    return frozenset(name.strip() for name in text.split(",") if name.strip())


def _listen(text: str) -> tuple[str, int]:
    host, colon, port = text.rpartition(":")
    if not colon or not re.fullmatch(r"[0-9]{1,5}", port, re.ASCII) or int(port) > 65535:
        raise ValueError(f"{text!r} is not HOST:PORT like {DEFAULT_LISTEN}")
    return host.strip("[]") or "0.0.0.0", int(port)


def _show_listen(address: tuple[str, int]) -> str:
    host, port = address
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _pattern(text: str) -> str:
    try:
        re.compile(text)
    except re.error as error:
        raise ValueError(f"{text!r} is not a regular expression: {error}") from None
    return text


def _refuse_credentials(option: str, url: str) -> None:
    """Raise ValueError, which does not repeat the URL, if that may hold a secret."""
    options: dict[str, Any] = {option: url}
    try:
        tsengine.Options(**options).validate()
    except tsengine.errors.OptionsError as error:
        raise ValueError(str(error).removeprefix(f"{option} ")) from None


def _endpoint(text: str) -> str:
    _refuse_credentials("cold_endpoint_url", text)
    if not re.fullmatch(r"https?://([\w.-]+|\[[0-9A-Fa-f:.]+\])(:[0-9]{1,5})?(/\S*)?", text):
        raise ValueError(f"{text!r} is not a URL like https://s3.example.org:9000")
    return text


def _object_store(text: str) -> str:
    _refuse_credentials("cold_url", text)
    if not re.fullmatch(r"s3://[^/\s]+(/\S*)?", text):
        raise ValueError(f"{text!r} is not a place like s3://bucket/prefix")
    return text


def _tiers(text: str) -> tuple[tsengine.Tier, ...]:
    """``5m:90d,1h:2y``; a width alone is kept for ever; ``off`` for none."""
    if text in ("off", "0", ""):
        return ()
    tiers = []
    for item in text.split(","):
        width, colon, keep = item.strip().partition(":")
        tiers.append(tsengine.Tier(_duration_s(width), retention_s(keep) if colon else None))
    return checked_tiers(tiers)


def checked_tiers(tiers: list[tsengine.Tier]) -> tuple[tsengine.Tier, ...]:
    """Tiers that go together; raises ValueError otherwise."""
    found = tuple(tiers)
    tsengine.Options(tiers=found).validate()
    return found


def _show_tiers(tiers: tuple[tsengine.Tier, ...]) -> str:
    texts = []
    for tier in tiers:
        keep = "" if tier.retention is None else ":" + duration_text(tier.retention)
        texts.append(duration_text(tier.width) + keep)
    return ",".join(texts) or "off"


def _rules(text: str) -> tuple[tsengine.RetentionRule, ...]:
    """``{job="ci"}:3d``, several with ``;`` between them."""
    rules = []
    for item in _split_outside_quotes(text, ";"):
        match, colon, keep = item.strip().rpartition(":")
        if not colon:
            raise ValueError(f'{item.strip()!r} is not SELECTOR:DURATION like {{job="ci"}}:3d')
        rules.append(checked_rule(match.strip(), keep.strip()))
    return tuple(rules)


def checked_rule(match: str, keep: str) -> tsengine.RetentionRule:
    """A retention rule; raises ValueError if the selector is none, or the duration."""
    try:
        tsengine.parse_selector(match)
    except tsengine.errors.ParseError as error:
        raise ValueError(f"{match!r} is not a selector: {error}") from None
    return tsengine.RetentionRule(match, retention_s(keep))


def _show_rules(rules: tuple[tsengine.RetentionRule, ...]) -> str:
    shown = _shown_or("0")
    return ";".join(f"{rule.match}:{shown(rule.keep)}" for rule in rules)


def _split_outside_quotes(text: str, separator: str) -> list[str]:
    pieces, quote, start = [], "", 0
    is_escaped = False
    for at, c in enumerate(text):
        if is_escaped:
            is_escaped = False
        elif quote:
            is_escaped = c == "\\" and quote != "`"
            if c == quote:
                quote = ""
        elif c in "\"'`":
            quote = c
        elif c == separator:
            pieces.append(text[start:at])
            start = at + 1
    pieces.append(text[start:])
    return [piece for piece in pieces if piece.strip()]


def _names(names: frozenset[str]) -> str:
    return ",".join(sorted(names))


TEXT = Kind(str, str)
OBJECT_STORE = Kind(_object_store, str)
ENDPOINT = Kind(_endpoint, str)
PATTERN = Kind(_pattern, str)
LISTEN = Kind(_listen, _show_listen)
DURATION = Kind(_duration_s, duration_text)
DURATION_OR_0 = Kind(_duration_or_0_s, _shown_or("0"))
RETENTION = Kind(retention_s, _shown_or("0"))
SELF_SCRAPE = Kind(_self_scrape_s, _shown_or("off"))
SLOW = Kind(_slow_s, _shown_or("off"))
COUNT = Kind(_count, str)
COUNT_OR_0 = Kind(_count_or_0, str)
SIZE = Kind(_size, _show_size)
SIZE_OR_NONE = Kind(_size_or_none, _show_size_or_none)
SWITCH = Kind(_switch, lambda value: str(value).lower())
NAMES = Kind(_name_set, _names, "names")
TIERS = Kind(_tiers, _show_tiers, "tiers")
RULES = Kind(_rules, _show_rules, "rules")


def one_of(*choices: str) -> Kind:
    """One of some words."""

    def parse(text: str) -> str:
        if text not in choices:
            raise ValueError(f"{text!r} is none of {', '.join(choices)}")
        return text

    return Kind(parse, str)


def yaml_lines(kind: Kind, value: Any) -> str | list[str]:
    """A value as the file would say it: a scalar, or the lines of a list."""
    if kind.shape == "scalar":
        return _yaml_text(kind.show(value))
    if not value:
        return "[]"
    if kind.shape == "names":
        return [f"- {_yaml_text(name)}" for name in sorted(value)]
    lines = []
    shown = _shown_or("0")
    for item in value:
        if isinstance(item, tsengine.Tier):
            lines.append(f"- width: {duration_text(item.width)}")
            lines.append(f"  retention: {shown(item.retention)}")
        else:
            lines.append(f"- match: {_yaml_text(item.match)}")
            lines.append(f"  keep: {shown(item.keep)}")
    return lines


def _yaml_text(text: str) -> str:
    """Quoted where YAML could take it for something else; every JSON text is one of YAML."""
    if _PLAIN.fullmatch(text) and (text.lower() not in _YAML_WORDS or text in ("true", "false")):
        return text
    return json.dumps(text, ensure_ascii=False)
