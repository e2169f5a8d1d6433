"""Reads the configuration file: YAML nodes with line marks to checked values.

Scalars are read by the kinds that flags have, from the text as it stands in the file: ``15d`` and
``off`` mean what they mean on the command line. Everything wrong is told at once, each with line
and key. Loaded only when there is a file.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import yaml

import tsengine

from .config import ConfigError
from .config_settings import BY_PATH, Setting
from .config_values import checked_rule, checked_tiers, retention_s
from .times import parse_duration_ms

_SIZE_MAX = 1 << 20
_PROMETHEUS_KEYS = (
    "scrape_configs", "scrape_config_files", "rule_files", "alerting", "remote_write",
    "remote_read", "global", "tracing", "runtime",
)  # fmt: skip
"""Sections of prometheus.yml that this file does not have."""
_SECTIONS = frozenset(path.partition(".")[0] for path in BY_PATH if "." in path)


@dataclass(frozen=True, slots=True)
class FileValue:
    """A setting's value and the line it stands on."""

    value: Any
    line: int


@dataclass(frozen=True, slots=True)
class _Problem:
    line: int
    key: str
    text: str


def read_config(path: str) -> dict[str, FileValue]:
    """Values of a file by their settings' keys.

    Raises
    ------
    ConfigError
        The file can't be read, is no YAML, or says something that is not allowed; one line of text
        for each problem, with file, line and key.

    """
    try:
        with open(path, "rb") as file:
            data = file.read(_SIZE_MAX + 1)
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from None
    if len(data) > _SIZE_MAX:
        raise ConfigError(f"{path}: larger than {_SIZE_MAX} bytes")
    try:
        root = yaml.compose(data.decode("utf-8"), Loader=yaml.SafeLoader)
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not UTF-8 at byte {error.start}") from None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = "" if mark is None else f":{mark.line + 1}:{mark.column + 1}"
        raise ConfigError(f"{path}{where}: not YAML: {error.problem}") from None
    except (yaml.YAMLError, RecursionError) as error:
        raise ConfigError(f"{path}: not YAML: {error}") from None
    reader = _Reader()
    if root is not None:
        reader.read_root(root)
    if reader.problems:
        told = sorted(reader.problems, key=lambda problem: problem.line)
        lines = [f"{path}:{p.line}: {p.key + ': ' if p.key else ''}{p.text}" for p in told]
        raise ConfigError("\n".join(lines))
    return reader.values


class _Reader:
    """Walks the nodes; collects values and problems."""

    def __init__(self) -> None:
        self.values: dict[str, FileValue] = {}
        self.problems: list[_Problem] = []

    def read_root(self, root: yaml.Node) -> None:
        if not isinstance(root, yaml.MappingNode):
            self._complain(root, "", "the file is not a mapping of sections like 'storage:'")
            return
        foreign = _prometheus_key(root)
        if foreign is not None:
            self._complain(
                foreign, "",
                f"this looks like Prometheus's configuration ({foreign.value}:). tsengine scrapes "
                "nothing and evaluates no rules: keep this file for Prometheus, let it send here "
                "with remote_write, and write tsengine's own settings as docs/configuration.md "
                "shows",
            )  # fmt: skip
            return
        for name, key, node in self._items(root, ""):
            if name in BY_PATH:
                self._read_setting(BY_PATH[name], node)
            elif name not in _SECTIONS:
                self._unknown(key, name, "")
            elif isinstance(node, yaml.MappingNode):
                self._read_section(name, node)
            elif not _is_null(node):
                self._complain(node, name, f"must be a section with keys, not {_found(node)}")

    def _read_section(self, section: str, node: yaml.MappingNode) -> None:
        for name, key, value in self._items(node, section):
            path = f"{section}.{name}"
            if path in BY_PATH:
                self._read_setting(BY_PATH[path], value)
            else:
                self._unknown(key, path, section)

    def _read_setting(self, setting: Setting, node: yaml.Node) -> None:
        read = {
            "scalar": self._scalar, "names": self._names, "tiers": self._tiers,
            "rules": self._rules,
        }[setting.kind.shape]  # fmt: skip
        try:
            value = read(setting, node)
        except _Told:
            return
        except ValueError as error:
            self._complain(node, setting.path, str(error))
            return
        self.values[setting.key] = FileValue(value, node.start_mark.line + 1)

    def _scalar(self, setting: Setting, node: yaml.Node) -> Any:
        return setting.kind.parse(self._text(node, setting.path))

    def _names(self, setting: Setting, node: yaml.Node) -> frozenset[str]:
        items = self._sequence(node, setting.path, "- name")
        return frozenset(self._text(item, f"{setting.path}[{at}]") for at, item in items)

    def _tiers(self, setting: Setting, node: yaml.Node) -> tuple[tsengine.Tier, ...]:
        tiers = []
        for at, item in self._sequence(node, setting.path, "{width: 5m, retention: 90d}"):
            path = f"{setting.path}[{at}]"
            found = self._mapping(item, path, required=("width",), optional=("retention",))
            width = found["width"]
            width_ms = parse_duration_ms(width.value)
            if width_ms is None or width_ms <= 0:
                self._complain(
                    width, f"{path}.width", f"{width.value!r} is not a duration like 15s, 2m or 15d"
                )
                raise _Told
            tiers.append(tsengine.Tier(width_ms / 1000, self._keep(found.get("retention"), path)))
        return checked_tiers(tiers)

    def _rules(self, setting: Setting, node: yaml.Node) -> tuple[tsengine.RetentionRule, ...]:
        rules = []
        for at, item in self._sequence(node, setting.path, "{match: '{job=\"ci\"}', keep: 3d}"):
            path = f"{setting.path}[{at}]"
            found = self._mapping(item, path, required=("match", "keep"), optional=())
            try:
                rules.append(checked_rule(found["match"].value, found["keep"].value))
            except ValueError as error:
                self._complain(found["match"], path, str(error))
                raise _Told from None
        return tuple(rules)

    def _keep(self, node: yaml.ScalarNode | None, path: str) -> float | None:
        if node is None:
            return None
        try:
            return retention_s(node.value)
        except ValueError as error:
            self._complain(node, f"{path}.retention", str(error))
            raise _Told from None

    def _text(self, node: yaml.Node, path: str) -> str:
        """A scalar as it stands in the file."""
        if not isinstance(node, yaml.ScalarNode):
            hint = ""
            if isinstance(node, yaml.MappingNode) and path.endswith(".match"):
                hint = "; put the selector in quotes: '{job=\"ci\"}'"
            self._complain(node, path, f"must be one value, not {_found(node)}{hint}")
            raise _Told
        if _is_null(node):
            self._complain(node, path, "has no value")
            raise _Told
        text: str = node.value
        return text

    def _sequence(
        self, node: yaml.Node, path: str, example: str
    ) -> Iterator[tuple[int, yaml.Node]]:
        if not isinstance(node, yaml.SequenceNode):
            self._complain(
                node, path, f"must be a list of items like {example}, not {_found(node)}"
            )
            raise _Told
        return enumerate(node.value)

    def _mapping(
        self, node: yaml.Node, path: str, *, required: tuple[str, ...], optional: tuple[str, ...]
    ) -> dict[str, yaml.ScalarNode]:
        """The scalars of an item of a list."""
        if not isinstance(node, yaml.MappingNode):
            self._complain(
                node, path, f"must have the keys {', '.join(required)}, not be {_found(node)}"
            )
            raise _Told
        found = {}
        n_problems = len(self.problems)
        for name, key, value in self._items(node, path):
            if name not in (*required, *optional):
                hint = _did_you_mean(name, (*required, *optional))
                self._complain(key, f"{path}.{name}", f"unknown key{hint}")
                continue
            self._text(value, f"{path}.{name}")
            found[name] = value
        for name in required:
            if name not in found:
                self._complain(node, path, f"the key {name} is missing")
        if len(self.problems) > n_problems:
            raise _Told
        return found

    def _items(
        self, node: yaml.MappingNode, section: str
    ) -> Iterable[tuple[str, yaml.ScalarNode, yaml.Node]]:
        """Names, their nodes and values; names that are no texts or come twice are told."""
        lines: dict[str, int] = {}
        for key, value in node.value:
            line = key.start_mark.line + 1
            if not isinstance(key, yaml.ScalarNode):
                self._complain(key, section, "a key must be a word")
            elif key.value in lines:
                path = f"{section}.{key.value}" if section else key.value
                self._complain(key, path, f"stands on line {lines[key.value]} already")
            else:
                lines[key.value] = line
                yield key.value, key, value

    def _unknown(self, node: yaml.Node, path: str, section: str) -> None:
        prefix = f"{section}." if section else ""
        name = path.removeprefix(prefix)
        here = [
            known.removeprefix(prefix).partition(".")[0]
            for known in BY_PATH
            if known.startswith(prefix)
        ]
        hint = _did_you_mean(name, here)
        if not hint:
            elsewhere = {known.rpartition(".")[2]: known for known in BY_PATH}
            close = difflib.get_close_matches(name.rpartition(".")[2], elsewhere, 1, 0.75)
            hint = f"; did you mean {elsewhere[close[0]]}?" if close else ""
        self._complain(node, path, f"unknown key{hint}")

    def _complain(self, node: yaml.Node, key: str, text: str) -> None:
        self.problems.append(_Problem(node.start_mark.line + 1, key, text))


class _Told(Exception):
    """The value can't be used; why has been told."""


def _prometheus_key(root: yaml.MappingNode) -> yaml.ScalarNode | None:
    for key, _ in root.value:
        if isinstance(key, yaml.ScalarNode) and key.value in _PROMETHEUS_KEYS:
            return key
    return None


def _did_you_mean(name: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(name, list(known), 1, 0.6)
    return f"; did you mean {close[0]}?" if close else ""


def _is_null(node: yaml.Node) -> bool:
    return isinstance(node, yaml.ScalarNode) and node.tag == "tag:yaml.org,2002:null"


def _found(node: yaml.Node) -> str:
    if isinstance(node, yaml.MappingNode):
        return "a mapping"
    if isinstance(node, yaml.SequenceNode):
        return "a list"
    return "nothing" if _is_null(node) else f"the value {node.value!r}"
