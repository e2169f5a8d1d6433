"""Names of OpenTelemetry's metrics, units and attributes as Prometheus writes them.

Rules: OpenTelemetry's specification of the compatibility with Prometheus, and Prometheus 3's four
translation strategies. Pure functions of texts.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

Kind = Literal["gauge", "counter", "sum", "histogram", "summary"]
"""What decides about suffixes; a `sum` is one that may go down."""

_UNITS = {
    "d": "days", "h": "hours", "min": "minutes", "s": "seconds", "ms": "milliseconds",
    "us": "microseconds", "ns": "nanoseconds",
    "By": "bytes", "KiBy": "kibibytes", "MiBy": "mebibytes", "GiBy": "gibibytes",
    "TiBy": "tibibytes", "KBy": "kilobytes", "MBy": "megabytes", "GBy": "gigabytes",
    "TBy": "terabytes",
    "m": "meters", "V": "volts", "A": "amperes", "J": "joules", "W": "watts", "g": "grams",
    "Cel": "celsius", "Hz": "hertz", "1": "", "%": "percent",
}  # fmt: skip
_PER_UNITS = {
    "s": "second", "m": "minute", "h": "hour", "d": "day", "w": "week", "mo": "month", "y": "year",
}  # fmt: skip
_NOT_IN_METRICS = re.compile(r"[^a-zA-Z0-9:]+")
_NOT_IN_PLAIN_METRICS = re.compile(r"[^a-zA-Z0-9:_]+")
_NOT_IN_LABELS = re.compile(r"[^a-zA-Z0-9]+")


class Untranslatable(ValueError):
    """What has no form in Prometheus; the text says why."""


@dataclass(frozen=True, slots=True)
class Strategy:
    """How names are translated.

    Parameters
    ----------
    escapes
        Characters outside Prometheus's old set become underscores.
    adds_suffixes
        Units, ``_total`` and ``_ratio`` are appended.

    """

    escapes: bool
    adds_suffixes: bool


STRATEGIES = {
    "UnderscoreEscapingWithSuffixes": Strategy(escapes=True, adds_suffixes=True),
    "UnderscoreEscapingWithoutSuffixes": Strategy(escapes=True, adds_suffixes=False),
    "NoUTF8EscapingWithSuffixes": Strategy(escapes=False, adds_suffixes=True),
    "NoTranslation": Strategy(escapes=False, adds_suffixes=False),
}


def metric_name(name: str, unit: str, kind: Kind, strategy: Strategy) -> str:
    """The name of a metric (family).

    Raises
    ------
    Untranslatable
        Nothing but underscores would be left.

    """
    if strategy.escapes and strategy.adds_suffixes:
        made = _escaped_with_suffixes(name, unit, kind)
    elif strategy.escapes:
        made = "_".join(part for part in _NOT_IN_PLAIN_METRICS.split(name) if part)
        made = _not_a_digit(made)
    elif strategy.adds_suffixes:
        made = _with_suffixes(name, unit, kind)
    else:
        made = name
    if not made or (made != name and not made.strip("_")):
        raise Untranslatable(f'metric name "{name}" has no form that Prometheus allows')
    return made


def _escaped_with_suffixes(name: str, unit: str, kind: Kind) -> str:
    tokens = [part for part in _NOT_IN_METRICS.split(name) if part]
    main, per = (_clean_unit(part) for part in _split_unit(unit))
    per = "" if per == "per_" else per.removesuffix("_")
    if per in tokens:
        per = ""
    if main in tokens:
        main = ""
    if per:
        main = main.removesuffix("_")
    tokens += [part for part in (main, per) if part]
    if kind == "counter":
        tokens = [*(token for token in tokens if token != "total"), "total"]
    if unit == "1" and kind == "gauge":
        tokens = [*(token for token in tokens if token != "ratio"), "ratio"]
    return _not_a_digit("_".join(tokens))


def _with_suffixes(name: str, unit: str, kind: Kind) -> str:
    main, per = _split_unit(unit)
    behind = ""
    if unit == "1" and kind == "gauge":
        name, behind = _without_suffix(name, "ratio"), "_ratio"
    if kind == "counter":
        name, behind = _without_suffix(name, "total"), "_total" + behind
    if per:
        name, behind = _without_suffix(name, per), f"_{per}" + behind
    if main and not name.endswith(main):
        name += f"_{main}"
    return name + behind


def _without_suffix(name: str, suffix: str) -> str:
    """Without the suffix and the delimiter before it, if something is left."""
    if name.endswith(suffix) and len(name) > len(suffix) + 1:
        return name[: -len(suffix) - 1]
    return name


def _not_a_digit(name: str) -> str:
    return f"_{name}" if name[:1].isdigit() else name


def unit_name(unit: str) -> str:
    """The unit of a metric's metadata: ``By/s`` is ``bytes_per_second``."""
    parts = [_clean_unit(part) for part in _split_unit(unit)]
    return "_".join(part for part in parts if part).removeprefix("_").removesuffix("_")


def _split_unit(unit: str) -> tuple[str, str]:
    """Main unit and ``per_x``; annotations in braces are no units."""
    main, _, per = unit.partition("/")
    main, per = main.strip(), per.strip()
    main = "" if set("{}") & set(main) else _UNITS.get(main, main)
    per = "" if set("{}") & set(per) else _PER_UNITS.get(per, per)
    return main, f"per_{per}" if per else ""


def _clean_unit(unit: str) -> str:
    return re.sub("_+", "_", re.sub("[^a-zA-Z0-9:]", "_", unit)).removeprefix("_")


def label_name(name: str, strategy: Strategy) -> str:
    """The name of an attribute.

    Raises
    ------
    Untranslatable
        Nothing but underscores would be left.

    """
    if not strategy.escapes:
        if not name:
            raise Untranslatable("an attribute has no name")
        return name
    is_reserved = len(name) >= 4 and name.startswith("__") and name.endswith("__")
    inner = name[2:-2] if is_reserved else name
    made = _NOT_IN_LABELS.sub("_", inner)
    if is_reserved:
        made = f"__{made}__"
    if made[:1].isdigit():
        made = f"key_{made}"
    if not made.strip("_"):
        raise Untranslatable(f'attribute "{name}" has no form that Prometheus allows')
    return made
