"""OpenMetrics text in and out (the backfill format that promtool also reads).

Import takes every sample line with a timestamp, in any order, and TYPE, HELP and UNIT lines as
metadata; exemplars are dropped. Export writes one family per metric name; stale markers have no
text and are left out, and the types of histograms and summaries are written as unknown because
their samples are exported series by series.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from tsengine.interop.arrow import read_slices, row_times
from tsengine.interop.importing import ImportReport, Progress, SeriesTable, Target, store
from tsengine.interop.tables import write_whole
from tsengine.kernels.bits import STALE_BITS
from tsengine.model.histograms import is_handle
from tsengine.model.labels import label_dicts
from tsengine.model.matchers import METRIC_NAME, Matcher, MatchOp

_BATCH_ROWS = 64 * 1024
_LINE_SIZE_MAX = 1024 * 1024
_SERIES = re.compile(r'([a-zA-Z_:][\w:]*)?(?:\{((?:[^"}]|"(?:[^"\\\n]|\\.)*")*)\})?')
_LABEL = re.compile(
    r'\s*(?:([a-zA-Z_][\w]*)|"((?:[^"\\]|\\.)*)")\s*(?:=\s*"((?:[^"\\]|\\.)*)")?\s*(?:,|$)'
)
_DESCRIPTOR = re.compile(r'# (TYPE|HELP|UNIT) (?:"((?:[^"\\]|\\.)*)"|(\S+))(?: (.*))?')
_ESCAPE = re.compile(r"\\(.)")
_ESCAPED = {"n": "\n", "\\": "\\", '"': '"'}
_TYPES = frozenset(
    ("counter", "gauge", "histogram", "gaugehistogram", "summary", "info", "stateset", "unknown")
)


def import_file(
    db: Target, path: str | os.PathLike[str], progress: Progress | None = None
) -> ImportReport:
    """Store the samples of an OpenMetrics file; what is refused is counted, the rest is stored.

    Raises
    ------
    ValueError
        A line is not OpenMetrics (the text names it), or ``# EOF`` is missing: the file is cut.
        What stood before is stored.
    OSError
        The file can't be read.

    """
    report = ImportReport()
    table = SeriesTable(db, report)
    metadata: dict[str, dict[str, str]] = {}
    size = os.path.getsize(path)
    with open(path, "rb") as file:
        for refs, times, values in _batches(file, table, metadata, report):
            store(db, report, refs, times, values)
            if progress is not None:
                progress(file.tell(), size)
    for metric, texts in metadata.items():
        db.append_metadata(
            metric, texts.get("TYPE", "unknown"), texts.get("HELP", ""), texts.get("UNIT", "")
        )
    if progress is not None:
        progress(size, size)
    return report


_Batch = tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.float64]]


def _batches(
    file: BinaryIO,
    table: SeriesTable,
    metadata: dict[str, dict[str, str]],
    report: ImportReport,
) -> Iterator[_Batch]:
    refs: list[int] = []
    times: list[float] = []
    values: list[float] = []
    known: dict[str, int] = {}
    ended = False
    n_line = 0
    try:
        while line_bytes := file.readline(_LINE_SIZE_MAX):
            n_line += 1
            line = _decode(line_bytes, n_line)
            if ended and line:
                raise ValueError(f"line {n_line}: text after # EOF")
            if line.startswith("#"):
                ended = _comment(line, n_line, metadata)
                continue
            if not line:
                continue
            end = _series_end(line, n_line)
            text = line[:end]
            ref = known.get(text)
            if ref is None:
                ref = table.ref(_labels(text, n_line), f"line {n_line}")
                known[text] = ref
            value, time = _value_and_time(line[end:], n_line)
            if time is None:
                report.refuse(f"line {n_line}: sample without a timestamp")
                continue
            refs.append(ref)
            times.append(time)
            values.append(value)
            if len(refs) >= _BATCH_ROWS:
                yield _columns(refs, times, values)
                refs, times, values = [], [], []
    except ValueError:
        yield _columns(refs, times, values)
        raise
    yield _columns(refs, times, values)
    if not ended:
        raise ValueError(f"no # EOF after line {n_line}: the file is cut")


def _columns(refs: list[int], times: list[float], values: list[float]) -> _Batch:
    t_ms = np.rint(np.array(times, np.float64) * 1000).astype(np.int64)
    return np.array(refs, np.int64), t_ms, np.array(values, np.float64)


def _decode(line: bytes, n_line: int) -> str:
    if len(line) >= _LINE_SIZE_MAX:
        raise ValueError(f"line {n_line}: longer than {_LINE_SIZE_MAX} bytes")
    try:
        return line.decode().rstrip("\n").rstrip("\r")
    except UnicodeDecodeError as error:
        raise ValueError(f"line {n_line}: not UTF-8") from error


def _comment(line: str, n_line: int, metadata: dict[str, dict[str, str]]) -> bool:
    """Take a comment line over; returns whether it is the end mark."""
    if line == "# EOF":
        return True
    found = _DESCRIPTOR.fullmatch(line)
    if found is not None:
        kind, quoted, plain, text = found.groups(default="")
        if kind == "TYPE":
            text = "unknown" if text == "untyped" else text
            if text not in _TYPES:
                raise ValueError(f"line {n_line}: unknown metric type {text!r}")
        metadata.setdefault(plain or _unescape(quoted), {})[kind] = _unescape(text)
    return False


def _series_end(line: str, n_line: int) -> int:
    found = _SERIES.match(line)
    if found is None or found.end() == 0:
        raise ValueError(f"line {n_line}: expected a metric name, got {line[:40]!r}")
    return found.end()


def _labels(text: str, n_line: int) -> tuple[tuple[str, str], ...]:
    found = _SERIES.fullmatch(text)
    assert found is not None, "matched by _series_end"
    labels: list[tuple[str, str]] = []
    if found[1]:
        labels.append((METRIC_NAME, found[1]))
    rest = found[2] or ""
    pos = 0
    while rest[pos:].strip():
        label = _LABEL.match(rest, pos)
        if label is None:
            raise ValueError(f"line {n_line}: malformed labels at {rest[pos : pos + 40]!r}")
        quoted = None if label[2] is None else _unescape(label[2])
        if label[3] is None:
            if quoted is None:
                raise ValueError(f"line {n_line}: label {label[1]!r} has no value")
            labels.append((METRIC_NAME, quoted))
        else:
            labels.append((label[1] or quoted or "", _unescape(label[3])))
        pos = label.end()
    names = [name for name, _ in labels]
    if len(set(names)) != len(names):
        raise ValueError(f"line {n_line}: a label name stands twice in {text[:80]!r}")
    return tuple(labels)


def _value_and_time(rest: str, n_line: int) -> tuple[float, float | None]:
    fields = rest.split(" # ", 1)[0].split()
    if not 1 <= len(fields) <= 2:
        raise ValueError(f"line {n_line}: expected a value and a timestamp, got {rest[:40]!r}")
    try:
        value = float(fields[0])
        time = float(fields[1]) if len(fields) == 2 else None
    except ValueError:
        raise ValueError(f"line {n_line}: not a number in {rest[:40]!r}") from None
    if time is not None and not abs(time) < 9e15:
        raise ValueError(f"line {n_line}: timestamp {fields[1]} does not fit 64-bit milliseconds")
    return value, time


def _unescape(text: str) -> str:
    return _ESCAPE.sub(lambda m: _ESCAPED.get(m[1], m[0]), text) if "\\" in text else text


# --- export ---------------------------------------------------------------------------------------


def export_file(
    db: Any,
    path: str | os.PathLike[str],
    selector: str | None = None,
    start: Any = None,
    end: Any = None,
    progress: Progress | None = None,
) -> int:
    """Write the samples of a selector (default: all) and time range; returns how many.

    The file appears under its name only when it is complete.
    """
    view, matchers, mint, maxt = db.pin(selector, start, end)
    names = view.catalog.label_values(METRIC_NAME, view.find(matchers, mint, maxt))

    def write(temporary: str) -> int:
        n_samples = 0
        with open(temporary, "w", encoding="utf-8", newline="\n") as file:
            for done, name in enumerate(names):
                file.write(_family_head(db, name))
                by_name = (*matchers, Matcher(METRIC_NAME, MatchOp.EQUAL, name))
                for text in _family(view, by_name, mint, maxt):
                    file.write(text)
                    n_samples += text.count("\n")
                if progress is not None:
                    progress(done + 1, len(names))
            file.write("# EOF\n")
        return n_samples

    return write_whole(path, write)


def _family_head(db: Any, name: str) -> str:
    known = db.metadata(metric=name)
    entry = known[name][0] if name in known else {"type": "unknown", "help": "", "unit": ""}
    family, kind = name, "unknown"
    if entry["type"] == "counter" and name.endswith("_total"):
        family, kind = name.removesuffix("_total"), "counter"
    elif entry["type"] in ("gauge", "info"):
        kind = "gauge"
    shown = family if re.fullmatch(r"[a-zA-Z_:][\w:]*", family) else f'"{_escape(family)}"'
    lines = [f"# TYPE {shown} {kind}\n"]
    if entry["help"]:
        lines.append(f"# HELP {shown} {_escape(entry['help'])}\n")
    return "".join(lines)


def _family(view: Any, matchers: tuple[Matcher, ...], mint: int, maxt: int) -> Iterator[str]:
    refs = view.find(matchers, mint, maxt)
    for start, stop, frames in read_slices(view, refs, mint, maxt):
        times = row_times(frames)
        bits = frames.values.view(np.uint64)
        # The text has neither staleness markers nor native histograms.
        kept = (bits != STALE_BITS) & ~is_handle(bits)
        heads = [
            _series_text(labels)
            for labels in label_dicts(view.dictionary, view.labels(refs[start:stop]))
        ]
        for row, head in enumerate(heads):
            at = slice(int(frames.row_offsets[row]), int(frames.row_offsets[row + 1]))
            keep = kept[at]
            yield "".join(
                f"{head} {_number(value)} {_seconds(t)}\n"
                for value, t in zip(
                    frames.values[at][keep].tolist(), times[at][keep].tolist(), strict=True
                )
            )


def _series_text(labels: dict[str, str]) -> str:
    name = labels.get(METRIC_NAME, "")
    plain = bool(re.fullmatch(r"[a-zA-Z_:][\w:]*", name))
    inside = [] if plain or not name else [f'"{_escape(name)}"']
    for label, value in labels.items():
        if label != METRIC_NAME:
            shown = label if re.fullmatch(r"[a-zA-Z_]\w*", label) else f'"{_escape(label)}"'
            inside.append(f'{shown}="{_escape(value)}"')
    text = f"{{{','.join(inside)}}}" if inside else ""
    return (name if plain else "") + text


def _number(value: float) -> str:
    if value != value:
        return "NaN"
    if value in (float("inf"), float("-inf")):
        return "+Inf" if value > 0 else "-Inf"
    return repr(value)


def _seconds(t_ms: int) -> str:
    sign = "-" if t_ms < 0 else ""
    seconds, millis = divmod(abs(t_ms), 1000)
    return f"{sign}{seconds}.{millis:03d}" if millis else f"{sign}{seconds}"


def _escape(text: str) -> str:
    return text.replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')
