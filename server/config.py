"""Settings of the server: flags, Prometheus's spellings of them, and ``TSENGINE_*`` variables.

One table makes the command line, the environment, ``/api/v1/status/flags`` and (checked by a
test) ``docs/configuration.md``. A flag wins over its variable, a variable over the default.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal

from . import feature_switches
from .limits import ServerLimits
from .logs import LEVELS
from .times import duration_text, parse_duration_ms

DEFAULT_LISTEN = "127.0.0.1:9201"
STRATEGY_NAMES = (
    "UnderscoreEscapingWithSuffixes",
    "UnderscoreEscapingWithoutSuffixes",
    "NoUTF8EscapingWithSuffixes",
    "NoTranslation",
)
KNOWN_FEATURES = feature_switches.WORKING

_SIZE_SHIFTS = {None: 0, "K": 10, "M": 20, "G": 30, "T": 40}


@dataclass(frozen=True, slots=True)
class Config:
    """What `serve` was asked to do. Durations in seconds; None means for ever or off."""

    data_dir: str
    host: str
    port: int
    retention_s: float | None
    exemplar_retention_s: float | None
    exemplars_max: int
    enable_admin_api: bool
    enable_lifecycle: bool
    features: frozenset[str]
    self_scrape_s: float | None
    hints: bool
    query_timeout_s: float
    query_samples_max: int
    query_memory_bytes: int
    query_memory_total_bytes: int
    query_slow_s: float | None
    query_log_file: str | None
    queries_running_max: int
    query_steps_max: int
    search_results_max: int
    query_lookback_s: float
    enable_otlp: bool
    otlp_strategy: str
    otlp_promoted: frozenset[str]
    otlp_keeps_identifying: bool
    cors_origin: str
    fsync: Literal["always", "interval"]
    log_level: str
    log_format: Literal["logfmt", "json"]

    def limits(self) -> ServerLimits:
        """The server's limits with what flags say about them."""
        return ServerLimits(
            query_timeout_s=self.query_timeout_s,
            query_samples_max=self.query_samples_max,
            queries_running_max=self.queries_running_max,
            query_steps_max=self.query_steps_max,
            search_results_max=self.search_results_max,
        )


def _duration_s(text: str) -> float:
    milliseconds = parse_duration_ms(text)
    if milliseconds is None or milliseconds <= 0:
        raise ValueError(f"{text!r} is not a duration like 15s, 2m or 15d")
    return milliseconds / 1000


def _retention_s(text: str) -> float | None:
    return None if text in ("0", "off") else _duration_s(text)


def _self_scrape_s(text: str) -> float | None:
    if text == "off":
        return None
    seconds = _duration_s(text)
    if seconds < 1:
        raise ValueError(f"{text!r} is shorter than 1s")
    return seconds


def _count(text: str) -> int:
    if not re.fullmatch(r"[0-9_]{1,18}", text, re.ASCII) or int(text) < 1:
        raise ValueError(f"{text!r} is not a number greater than 0")
    return int(text)


def _count_or_0(text: str) -> int:
    return 0 if text == "0" else _count(text)


def _size(text: str) -> int:
    """Bytes; every unit is a power of 1024, as in Prometheus's flags."""
    match = re.fullmatch(r"([0-9]{1,15})(?:([KMGT])?i?B)?", text, re.ASCII)
    if match is None:
        raise ValueError(f"{text!r} is not a size like 512MiB or 4GiB")
    return int(match[1]) << _SIZE_SHIFTS[match[2]]


def _slow_s(text: str) -> float | None:
    return None if text == "off" else _duration_s(text)


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


def _pattern(text: str) -> str:
    try:
        re.compile(text)
    except re.error as error:
        raise ValueError(f"{text!r} is not a regular expression: {error}") from None
    return text


def _one_of(*choices: str) -> Callable[[str], str]:
    def parse(text: str) -> str:
        if text not in choices:
            raise ValueError(f"{text!r} is none of {', '.join(choices)}")
        return text

    return parse


def _no_file(text: str) -> str:
    raise ValueError("this version reads no configuration file; use flags or TSENGINE_* variables")


@dataclass(frozen=True, slots=True)
class Setting:
    """One line of the table. The first flag is ours, the others are Prometheus's spellings."""

    key: str
    flags: tuple[str, ...]
    default: str | None
    parse: Callable[[str], Any]
    metavar: str
    help: str

    @property
    def variable(self) -> str:
        """Name of the environment variable."""
        return "TSENGINE_" + self.key.upper()

    @property
    def is_switch(self) -> bool:
        """Whether the flag stands alone (``--hints``) or takes a value."""
        return self.parse is _switch


SETTINGS = (
    Setting("data_dir", ("--data-dir", "--storage.tsdb.path"), "data", str, "DIR",
            "directory of the database; made when absent"),
    Setting("listen", ("--listen", "--web.listen-address"), DEFAULT_LISTEN, _listen, "HOST:PORT",
            "address to listen on; port 0 lets the system choose; no host means all addresses"),
    Setting("config", ("--config", "--config.file"), None, _no_file, "FILE",
            "not in this version: a configuration file is refused"),
    Setting("retention", ("--retention", "--storage.tsdb.retention.time"), "15d", _retention_s,
            "D", "how long samples are kept (1d, 4w, 2y); 0 keeps them for ever"),
    Setting("exemplar_retention", ("--exemplar-retention",), "0", _retention_s, "D",
            "how long exemplars are kept; 0 keeps them as long as samples"),
    Setting("exemplars_max", ("--exemplars-max",), "1000000", _count, "N",
            "exemplars that are kept; of more the oldest go"),
    Setting("enable_admin_api", ("--enable-admin-api", "--web.enable-admin-api"), "false",
            _switch, "", "allow POST /api/v1/admin/... (flush and merge)"),
    Setting("enable_lifecycle", ("--enable-lifecycle", "--web.enable-lifecycle"), "false",
            _switch, "", "allow POST /-/quit and /-/reload"),
    Setting("enable_feature", ("--enable-feature",), "", _name_set, "A,B",
            "features as in Prometheus, with commas: " + ", ".join(KNOWN_FEATURES)),
    Setting("self_scrape", ("--self-scrape",), "15s", _self_scrape_s, "D|off",
            'how often the server stores its own metrics (job="tsengine")'),
    Setting("hints", ("--hints",), "false", _switch, "",
            "after the start print what to try next (always on a terminal)"),
    Setting("query_timeout", ("--query.timeout",), "2m", _duration_s, "D",
            "longest time a query may take"),
    Setting("query_max_samples", ("--query.max-samples",), "50000000", _count, "N",
            "samples one query may hold in memory"),
    Setting("query_max_memory", ("--query.max-memory",), "0", _size, "SIZE",
            "memory one query may hold (512MiB, 4GiB); 0 takes an eighth of the machine's"),
    Setting("query_max_total_memory", ("--query.max-total-memory",), "0", _size, "SIZE",
            "memory all queries together may hold; 0 takes half of the machine's"),
    Setting("query_slow_threshold", ("--query.slow-threshold",), "10s", _slow_s, "D|off",
            "queries that take longer are logged as warnings"),
    Setting("query_log_file", ("--query.log-file",), None, str, "FILE",
            "append a JSON line for every query, with the fields of Prometheus's query log"),
    Setting("query_max_concurrency", ("--query.max-concurrency",), "20", _count, "N",
            "queries evaluated at once; further ones wait"),
    Setting("query_max_steps", ("--query.max-steps",), "11000", _count, "N",
            "steps of one range query"),
    Setting("search_max_limit", ("--web.search.max-limit",), "10000", _count_or_0, "N",
            "largest limit that a search (feature search-api) may ask for; 0 allows any"),
    Setting("query_lookback_delta", ("--query.lookback-delta",), "5m", _duration_s, "D",
            "how far an instant selector looks back for a sample"),
    Setting("enable_otlp", ("--enable-otlp-receiver", "--web.enable-otlp-receiver"), "true",
            _switch, "", "accept OpenTelemetry's metrics on /api/v1/otlp/v1/metrics"),
    Setting("otlp_translation_strategy", ("--otlp.translation-strategy",),
            "UnderscoreEscapingWithSuffixes", _one_of(*STRATEGY_NAMES), "NAME",
            "how OpenTelemetry's names are translated: " + ", ".join(STRATEGY_NAMES)),
    Setting("otlp_promote_resource_attributes", ("--otlp.promote-resource-attributes",), "",
            _name_set, "A,B", "resource attributes that become labels of every series"),
    Setting("otlp_keep_identifying_resource_attributes",
            ("--otlp.keep-identifying-resource-attributes",), "false", _switch, "",
            "keep service.name and the like in target_info, beside job and instance"),
    Setting("cors_origin", ("--web.cors.origin",), ".*", _pattern, "REGEX",
            "origins of web pages that may read answers (whole origin must match)"),
    Setting("fsync", ("--fsync",), "always", _one_of("always", "interval"), "always|interval",
            "always: a write is answered when it is on the disk; interval: at most 1 s earlier"),
    Setting("log_level", ("--log.level",), "info", _one_of(*LEVELS), "|".join(LEVELS),
            "least severe messages to log on stderr"),
    Setting("log_format", ("--log.format",), "logfmt", _one_of("logfmt", "json"), "logfmt|json",
            "shape of log lines"),
)  # fmt: skip


class ConfigError(ValueError):
    """A flag or variable has a value that is not allowed; the text names it."""


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Give `parser` one option per setting. Values stay texts until `load`."""
    for setting in SETTINGS:
        shown = {"": "none", None: "none", "false": "off"}.get(setting.default, setting.default)
        text = f"{setting.help} (default: {shown}; {setting.variable})".replace("%", "%%")
        if setting.is_switch:
            parser.add_argument(
                *setting.flags, dest=setting.key, help=text, nargs="?", const="true",
                metavar="true|false",
            )  # fmt: skip
        else:
            parser.add_argument(
                *setting.flags, dest=setting.key, metavar=setting.metavar, help=text
            )


def load(arguments: argparse.Namespace, environment: Mapping[str, str]) -> Config:
    """Texts of flags and variables to a checked Config.

    Raises
    ------
    ConfigError
        For the first value that is not allowed.

    """
    values: dict[str, Any] = {}
    for setting in SETTINGS:
        text = getattr(arguments, setting.key)
        source = setting.flags[0]
        if text is None and setting.variable in environment:
            text, source = environment[setting.variable], setting.variable
        if text is None:
            text = setting.default
        try:
            values[setting.key] = None if text is None else setting.parse(text)
        except ValueError as error:
            raise ConfigError(f"{source}: {error}") from None
    host, port = values["listen"]
    return Config(
        data_dir=values["data_dir"],
        host=host,
        port=port,
        retention_s=values["retention"],
        exemplar_retention_s=values["exemplar_retention"],
        exemplars_max=values["exemplars_max"],
        enable_admin_api=values["enable_admin_api"],
        enable_lifecycle=values["enable_lifecycle"],
        features=values["enable_feature"],
        self_scrape_s=values["self_scrape"],
        hints=values["hints"],
        query_timeout_s=values["query_timeout"],
        query_samples_max=values["query_max_samples"],
        query_memory_bytes=values["query_max_memory"],
        query_memory_total_bytes=values["query_max_total_memory"],
        query_slow_s=values["query_slow_threshold"],
        query_log_file=values["query_log_file"],
        queries_running_max=values["query_max_concurrency"],
        query_steps_max=values["query_max_steps"],
        search_results_max=values["search_max_limit"],
        query_lookback_s=values["query_lookback_delta"],
        enable_otlp=values["enable_otlp"],
        otlp_strategy=values["otlp_translation_strategy"],
        otlp_promoted=values["otlp_promote_resource_attributes"],
        otlp_keeps_identifying=values["otlp_keep_identifying_resource_attributes"],
        cors_origin=values["cors_origin"],
        fsync=values["fsync"],
        log_level=values["log_level"],
        log_format=values["log_format"],
    )


def as_flags(config: Config) -> dict[str, str]:
    """Every value of a Config as a text, by its field's name with dashes."""
    out = {}
    for field in fields(config):
        value = getattr(config, field.name)
        if isinstance(value, frozenset):
            value = ",".join(sorted(value))
        elif isinstance(value, bool):
            value = str(value).lower()
        if field.name.endswith("_s") and value is not None:
            value = duration_text(value)
        name = field.name.removesuffix("_s").replace("_", "-")
        out[name] = "" if value is None else str(value)
    return out
