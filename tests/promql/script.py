"""Reader of promqltest scripts: blocks of `load`, `clear` and `eval` with file and line.

The format is described in the README beside Prometheus's data files. This module knows nothing
about the engine; it borrows the query lexer for names, labels and strings.
"""

import re
from dataclasses import dataclass, field
from pathlib import Path

from tsengine.promql import lexer as lx
from tsengine.promql.literals import duration_ms, duration_seconds, number_value


class ScriptError(Exception):
    """A script breaks the format; the text says where."""


class Stale:
    """The staleness marker as an item of a series."""

    def __repr__(self):
        return "stale"


STALE = Stale()


@dataclass(frozen=True)
class Histogram:
    """A native histogram literal: its keys, and `n_increments` times another one added."""

    keys: dict
    increment: dict | None = None
    n_increments: int = 0
    decreasing: bool = False


@dataclass(frozen=True)
class SeriesLine:
    """A label set and its items: a float, STALE, a Histogram, or None for a missing sample."""

    line: int
    text: str
    labels: dict
    items: list
    start_offsets_ms: list | None = None  # from an @st line: per item, None for none


@dataclass(frozen=True)
class Load:
    line: int
    step_ms: int
    series: list
    nhcb: bool = False


@dataclass(frozen=True)
class Clear:
    line: int


@dataclass(frozen=True)
class Expectation:
    """An expect line: `kind`, and `msg` or `regex` with a text if it has one."""

    kind: str
    mode: str = ""
    text: str = ""


@dataclass(frozen=True)
class Eval:
    """One evaluation; for an instant one start and end are its time and `step_ms` is 0."""

    line: int
    expr: str
    start_ms: int
    end_ms: int
    step_ms: int
    expectations: list = field(default_factory=list)
    series: list = field(default_factory=list)
    scalar: float | None = None
    string: str | None = None
    range_vector: tuple | None = None  # start, end, step in ms

    @property
    def is_instant(self):
        return self.step_ms == 0

    def expects(self, kind):
        return [e for e in self.expectations if e.kind == kind]


_TIME = r"(-?(?:[0-9]+[a-z]+)+|0)"
_LOAD = re.compile(rf"load(?P<nhcb>_with_nhcb)?\s+{_TIME}", re.IGNORECASE)
_INSTANT = re.compile(rf"eval(_\w+)?\s+instant\s+at\s+{_TIME}\s+(.+)", re.IGNORECASE)
_RANGE = re.compile(
    rf"eval(_\w+)?\s+range\s+from\s+{_TIME}\s+to\s+{_TIME}\s+step\s+{_TIME}\s+(.+)", re.IGNORECASE
)
_RANGE_VECTOR = re.compile(rf"range vector from {_TIME} to {_TIME} step {_TIME}")
_EXPECT = re.compile(
    r"expect\s+(?P<kind>fail|warn|info|no_warn|no_info|ordered)"
    r"(?:\s+(?P<mode>msg|regex):(?P<text>.*))?"
)
_NUMBER = (
    r"(?:(?:[0-9][0-9_]*(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?"
    r"|(?i:inf|nan)|(?:[0-9]+[a-z]+)+?)"
)
_ITEM = re.compile(rf"(?P<first>[+-]?{_NUMBER})(?P<step>[+-]{_NUMBER})?(?:x(?P<times>[0-9]+))?")
_WORDS = re.compile(r"\{\{.*?\}\}(?:[+-]\{\{.*?\}\})?(?:x[0-9]+)?|\S+")
_HISTOGRAM = re.compile(
    r"\{\{(?P<first>.*?)\}\}(?:(?P<sign>[+-])\{\{(?P<step>.*?)\}\})?(?:x(?P<times>[0-9]+))?"
)
_HISTOGRAM_KEY = re.compile(r"([a-z_]+):(\[[^\]]*\]|\S+)")
_START_ITEM = re.compile(
    r"(?P<first>[+-]?[0-9a-z]+?)(?P<step>[+-][0-9a-z]+?)?(?:x(?P<times>[0-9]+))?"
)
_SCALAR = re.compile(r"[+-]?(?:0[xX][0-9a-fA-F]+|" + _NUMBER + ")")


def read_script(path: Path):
    """Commands of a file in order."""
    return parse_script(path.read_text(encoding="utf-8"), name=path.name)


def parse_script(text, *, name="script"):
    """Commands of a script's text in order."""
    commands = []
    for block in _blocks(text):
        number, head = block[0]
        word = head.split()[0].lower()
        try:
            if word == "clear":
                commands.append(Clear(number))
            elif word.startswith("load"):
                commands.append(_load(block))
            elif word.startswith("eval"):
                commands.append(_eval(block))
            else:
                raise ScriptError(f"unknown command {head!r}")
        except (ScriptError, ValueError) as error:
            raise ScriptError(f"{name}:{number}: {error}") from error
    return commands


def _blocks(text):
    """Runs of (line number, stripped line) between blank lines and comments."""
    block = []
    for number, raw in enumerate(text.split("\n"), 1):
        line = raw.strip()
        if line and not line.startswith("#"):
            if block and line.lower().split()[0] == "clear":
                yield block
                block = []
            block.append((number, line))
            if block[0][1].lower() == "clear":
                yield block
                block = []
        elif block:
            yield block
            block = []
    if block:
        yield block


def _load(block):
    number, head = block[0]
    match = _LOAD.fullmatch(head)
    if match is None:
        raise ScriptError(f"bad load command {head!r}")
    series = []
    starts = None
    for line_number, line in block[1:]:
        parsed = _series(line_number, line)
        if isinstance(parsed, tuple):
            starts = parsed
            continue
        if starts is not None:
            labels, offsets = starts
            if labels != parsed.labels or len(offsets) != len(parsed.items):
                raise ScriptError(f"line {line_number}: @st line does not fit its series")
            parsed = SeriesLine(line_number, line, labels, parsed.items, offsets)
            starts = None
        series.append(parsed)
    return Load(number, duration_ms(match[2]), series, nhcb=match["nhcb"] is not None)


def _eval(block):
    number, head = block[0]
    match = _RANGE.fullmatch(head)
    if match is not None:
        start_ms, end_ms, step_ms = (_signed_ms(match[i]) for i in (2, 3, 4))
        expr = match[5]
    else:
        match = _INSTANT.fullmatch(head)
        if match is None:
            raise ScriptError(f"bad eval command {head!r}")
        start_ms = end_ms = _signed_ms(match[2])
        step_ms = 0
        expr = match[3]
    found = {"expectations": [], "series": []}
    if match[1]:
        found["expectations"].append(Expectation(match[1][1:].lower()))
    for line_number, line in block[1:]:
        if line.startswith("expect "):
            _expect_line(line, found)
        elif _SCALAR.fullmatch(line):
            sign = -1.0 if line[0] == "-" else 1.0
            digits = line.lstrip("+-")
            is_number = re.fullmatch(r"(?i:inf|nan)|0[xX].*|[0-9_.]+(?:[eE].*)?", digits)
            found["scalar"] = sign * (number_value if is_number else duration_seconds)(digits)
            break
        else:
            found["series"].append(_series(line_number, line))
    return Eval(number, expr.strip(), start_ms, end_ms, step_ms, **found)


def _expect_line(line, found):
    if line.startswith("expect string "):
        token = lx.Lexer(line.removeprefix("expect string ").strip()).next()
        if token.kind != lx.STRING:
            raise ScriptError(f"bad string in {line!r}")
        found["string"] = token.value
        return
    match = _RANGE_VECTOR.fullmatch(line.removeprefix("expect ").strip())
    if match is not None:
        found["range_vector"] = tuple(_signed_ms(text) for text in match.groups())
        return
    match = _EXPECT.fullmatch(line)
    if match is None:
        raise ScriptError(f"bad expect line {line!r}")
    text = (match["text"] or "").strip()
    found["expectations"].append(Expectation(match["kind"], match["mode"] or "", text))


def _series(number, line):
    """A SeriesLine, or (labels, start offsets) for an @st line."""
    labels, end = _labels(line)
    rest = line[end:]
    if rest.startswith("@st"):
        return labels, _start_offsets(rest.removeprefix("@st"))
    items = []
    for word in _WORDS.findall(rest):
        items.extend(_expand(word))
    return SeriesLine(number, line, labels, items)


def _labels(line):
    """Label set that a line begins with, and where it ends (in characters)."""
    lexer = lx.Lexer(line)
    labels = {}
    end = 0
    if not line.startswith("{"):
        token = lexer.next()
        if (
            token.kind not in (lx.IDENTIFIER, lx.METRIC_IDENTIFIER)
            and token.kind not in lx.KEYWORDS
        ):
            raise ScriptError(f"no metric name in {line!r}")
        labels["__name__"] = token.value
        end = token.end
    if lexer.source[end : end + 1] == "{":
        end = _brace_labels(lexer, labels, line)
    return labels, len(lexer.source[:end].encode("latin-1").decode("utf-8"))


def _brace_labels(lexer, labels, line):
    """Read ``{...}`` into a label set; gives the end's byte offset."""
    lexer.next()
    token = lexer.next()
    while token.kind != "}":
        name = token
        if name.kind not in (lx.IDENTIFIER, lx.STRING):
            raise ScriptError(f"bad label set in {line!r}")
        token = lexer.next()
        if token.kind == "=":
            value = lexer.next()
            if value.kind != lx.STRING:
                raise ScriptError(f"bad label value in {line!r}")
            labels[name.value] = value.value
            token = lexer.next()
        else:
            labels["__name__"] = name.value
        if token.kind == ",":
            token = lexer.next()
        elif token.kind != "}":
            raise ScriptError(f"bad label set in {line!r}")
    return token.end


def _expand(word):
    """Items that one word of a series stands for."""
    if word == "stale":
        return [STALE]
    if word == "_":
        return [None]
    if re.fullmatch(r"_x[0-9]+", word):
        return [None] * int(word[2:])
    if word.startswith("{{"):
        return _expand_histogram(word)
    match = _ITEM.fullmatch(word)
    if match is None or (match["step"] and match["times"] is None):
        raise ScriptError(f"bad item {word!r}")
    value = _number(match["first"])
    step = _number(match["step"]) if match["step"] else None
    items = [value]
    for _ in range(int(match["times"] or 0)):
        value = value if step is None else value + step
        items.append(value)
    return items


def _expand_histogram(word):
    match = _HISTOGRAM.fullmatch(word)
    if match is None:
        raise ScriptError(f"bad histogram {word!r}")
    keys = _histogram_keys(match["first"])
    times = int(match["times"] or 0)
    if match["step"] is None:
        return [Histogram(keys)] * (times + 1)
    step = _histogram_keys(match["step"])
    return [Histogram(keys, step, n, match["sign"] == "-") for n in range(times + 1)]


def _histogram_keys(text):
    keys = {}
    for key, value in _HISTOGRAM_KEY.findall(text):
        if key in keys:
            raise ScriptError(f"duplicate key {key!r} in a histogram")
        if value.startswith("["):
            keys[key] = [_number(number) for number in value[1:-1].split()]
        else:
            keys[key] = value if key == "counter_reset_hint" else _number(value)
    if _HISTOGRAM_KEY.sub("", text).strip():
        raise ScriptError(f"bad histogram {text!r}")
    return keys


def _number(text):
    sign = -1.0 if text[0] == "-" else 1.0
    digits = text.lstrip("+-")
    if digits[-1:].isalpha() and digits.lower() not in ("inf", "nan"):
        return sign * duration_seconds(digits)
    return sign * number_value(digits)


def _signed_ms(text):
    return -duration_ms(text[1:]) if text.startswith("-") else duration_ms(text.lstrip("+"))


def _start_offsets(text):
    offsets = []
    for word in text.split():
        if word == "_":
            offsets.append(None)
            continue
        if re.fullmatch(r"_x[0-9]+", word):
            offsets.extend([None] * int(word[2:]))
            continue
        match = _START_ITEM.fullmatch(word)
        if match is None:
            raise ScriptError(f"bad start timestamp {word!r}")
        value = _signed_ms(match["first"])
        step = _signed_ms(match["step"]) if match["step"] else 0
        offsets.extend(value + n * step for n in range(int(match["times"] or 0) + 1))
    return offsets
