"""Settings of the server: flags, ``TSENGINE_*`` variables and a configuration file.

A flag wins over its variable, a variable over the file, the file over the default. The table of
all settings is in `config_settings`; the file is read by `config_file`, only if there is one.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, Literal

import tsengine

from .config_settings import KNOWN_FEATURES, SETTINGS, STRATEGY_NAMES, Setting
from .config_values import yaml_lines
from .limits import ServerLimits
from .times import duration_text

if TYPE_CHECKING:
    from .config_file import FileValue

__all__ = ["KNOWN_FEATURES", "SETTINGS", "STRATEGY_NAMES", "Config", "ConfigError", "Setting"]

_FUTURE_LIMIT_S = 600.0
_BALLAST_BYTES = 64 << 20


@dataclass(frozen=True, slots=True)
class Config:
    """What `serve` was asked to do. Durations in seconds; None means for ever or off."""

    data_dir: str
    host: str
    port: int
    config_file: str | None
    retention_s: float | None
    retention_size: int | None
    retention_rules: tuple[tsengine.RetentionRule, ...]
    tiers: tuple[tsengine.Tier, ...]
    tier_delay_s: float
    compaction_rate: int
    memory: int
    cold_url: str | None
    cold_after_s: float | None
    cold_endpoint_url: str | None
    cold_cache: int
    exemplar_retention_s: float | None
    exemplars_max: int
    metadata_memory: int
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
    connections_max: int
    query_lookback_s: float
    enable_otlp: bool
    otlp_strategy: str
    otlp_promoted: frozenset[str]
    otlp_keeps_identifying: bool
    cors_origin: str
    fsync: Literal["always", "interval"]
    log_level: str
    log_format: Literal["logfmt", "json"]

    @property
    def listen(self) -> tuple[str, int]:
        """Host and port."""
        return self.host, self.port

    def limits(self) -> ServerLimits:
        """The server's limits with what settings say about them."""
        return ServerLimits(
            query_timeout_s=self.query_timeout_s,
            query_samples_max=self.query_samples_max,
            queries_running_max=self.queries_running_max,
            query_steps_max=self.query_steps_max,
            search_results_max=self.search_results_max,
            connections_max=self.connections_max,
        )

    def options(self) -> tsengine.Options:
        """The database's options."""
        return tsengine.Options(
            retention=self.retention_s,
            retention_size=self.retention_size,
            retention_rules=self.retention_rules,
            tiers=self.tiers,
            tier_delay=self.tier_delay_s,
            compaction_rate=self.compaction_rate,
            memory=self.memory,
            cold_url=self.cold_url,
            cold_after=self.cold_after_s,
            cold_endpoint_url=self.cold_endpoint_url,
            cold_cache=self.cold_cache,
            exemplar_retention=self.exemplar_retention_s,
            exemplars_max=self.exemplars_max,
            metadata_memory=self.metadata_memory,
            lookback=self.query_lookback_s,
            delayed_name_removal="promql-delayed-name-removal" in self.features,
            features=self.features.intersection(KNOWN_FEATURES),
            max_samples=self.query_samples_max,
            query_memory=self.query_memory_bytes,
            query_memory_total=self.query_memory_total_bytes,
            query_timeout=self.query_timeout_s,
            future_limit=_FUTURE_LIMIT_S,
            fsync=self.fsync,
            ballast=_BALLAST_BYTES,
        )


class ConfigError(ValueError):
    """A flag, a variable or the file has a value that is not allowed; the text names it."""


def add_flags(parser: argparse.ArgumentParser, *, with_config: bool = True) -> None:
    """Give `parser` one option per setting. Values stay texts until `load`."""
    for setting in SETTINGS:
        if setting.key == "config" and not with_config:
            continue
        shown = {"": "none", None: "none", "false": "off"}.get(setting.default, setting.default)
        text = f"{setting.help} (default: {shown}; {setting.variable})".replace("%", "%%")
        if setting.is_switch:
            parser.add_argument(
                *setting.flags, dest=setting.key, help=text, nargs="?", const="true",
                metavar="true|false",
            )  # fmt: skip
        else:
            parser.add_argument(
                *setting.flags, dest=setting.key, metavar=setting.metavar, help=text,
                action="append" if setting.is_repeatable else "store",
            )  # fmt: skip


def load(arguments: argparse.Namespace, environment: Mapping[str, str]) -> Config:
    """Texts of flags, variables and the file they name to a checked Config.

    Raises
    ------
    ConfigError
        For the first flag or variable that is not allowed, or for all that is wrong in the file.

    """
    path = arguments.config or environment.get("TSENGINE_CONFIG") or None
    from_file: Mapping[str, FileValue] = {}
    if path is not None:
        # Imported late: a start without a file need not load a YAML reader.
        from .config_file import read_config

        from_file = read_config(path)
    values: dict[str, Any] = {}
    for setting in SETTINGS:
        found = given(setting, arguments, environment)
        if found is not None:
            text, source = found
            values[setting.field] = _parsed(setting, text, source)
        elif setting.key in from_file:
            values[setting.field] = from_file[setting.key].value
        elif setting.default is None:
            values[setting.field] = None
        else:
            values[setting.field] = setting.kind.parse(setting.default)
    values["config_file"] = path
    return make(values)


def given(
    setting: Setting, arguments: argparse.Namespace, environment: Mapping[str, str]
) -> tuple[str, str] | None:
    """Text and name of the flag or variable that sets something; None if neither does."""
    text = getattr(arguments, setting.key, None)
    if text is not None:
        return (";".join(text) if setting.is_repeatable else text), setting.flags[0]
    if setting.variable in environment:
        return environment[setting.variable], setting.variable
    return None


def make(values: dict[str, Any]) -> Config:
    """A Config of values by field; raises ConfigError if they don't go together."""
    host, port = values.pop("listen")
    config = Config(host=host, port=port, **values)
    try:
        config.options().validate()
    except tsengine.errors.OptionsError as error:
        raise ConfigError(str(error)) from None
    return config


def _parsed(setting: Setting, text: str, source: str) -> Any:
    try:
        return setting.kind.parse(text)
    except ValueError as error:
        raise ConfigError(f"{source}: {error}") from None


def as_flags(config: Config) -> dict[str, str]:
    """Every value of a Config as a text, by its field's name with dashes."""
    kinds = {setting.field: setting.kind for setting in SETTINGS}
    out = {}
    for field in fields(config):
        value = getattr(config, field.name)
        if isinstance(value, tuple):
            value = kinds[field.name].show(value)
        elif isinstance(value, frozenset):
            value = ",".join(sorted(value))
        elif isinstance(value, bool):
            value = str(value).lower()
        if field.name.endswith("_s") and value is not None:
            value = duration_text(value)
        name = field.name.removesuffix("_s").replace("_", "-")
        out[name] = "" if value is None else str(value)
    return out


def as_yaml(config: Config) -> str:
    """All that a configuration file can say, as it is in effect: a file that reads the same."""
    sections: dict[str, list[str]] = {"": []}
    for setting in SETTINGS:
        value = getattr(config, setting.field)
        if not setting.path or (value is None and setting.default is None):
            continue
        section, _, name = setting.path.rpartition(".")
        indent = "  " if section else ""
        lines = sections.setdefault(section, [])
        text = yaml_lines(setting.kind, value)
        if isinstance(text, str):
            lines.append(f"{indent}{name}: {text}")
        else:
            lines.append(f"{indent}{name}:")
            lines += [f"{indent}  {line}" for line in text]
    out = []
    for section, lines in sections.items():
        out += [f"{section}:", *lines] if section else lines
    return "\n".join(out) + "\n"
