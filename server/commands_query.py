"""``tsengine query``: one PromQL question to a directory or to a server."""

from __future__ import annotations

import argparse
import csv
import io
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import tsengine

from .directories import add_data_dir, existing_directory
from .exits import EXIT_OK, UsageError
from .times import now_ms, parse_duration_ms, parse_time_ms

_EPILOG = """\
examples:
  tsengine query up --data-dir data
  tsengine query 'rate(http_requests_total[5m])' --url http://127.0.0.1:9201 --format csv
  tsengine query up --data-dir data --start now-1h --step 1m

Times are Unix seconds (1700000000.5), RFC 3339 (2024-01-31T12:00:00Z), now, or now-1h.
"""

_TIMEOUT_S = 130.0


@dataclass(frozen=True, slots=True)
class Answer:
    """What a query gave: the API's data, and notes about it."""

    kind: str
    result: Any
    notes: Sequence[str] = field(default=())
    table: Any = None
    """The result as an Arrow table, when it came as one."""


@dataclass(frozen=True, slots=True)
class Row:
    """One sample of an answer, ready to print."""

    labels: dict[str, str]
    t_s: float
    value: str


def add_verb(verbs: Any) -> None:
    """Add ``query`` to the command line."""
    parser = verbs.add_parser(
        "query", help="evaluate a PromQL expression",
        description="Evaluate a PromQL expression at one time, or with --start at many.",
        epilog=_EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("expr", metavar="EXPR", help="the expression, in quotes for the shell")
    source = parser.add_mutually_exclusive_group(required=True)
    add_data_dir(source, "database directory; a server may be using it", required=False)
    source.add_argument("--url", metavar="URL", help="a running server, like http://127.0.0.1:9201")
    parser.add_argument("--time", metavar="T", help="evaluate at this time (default: now)")
    parser.add_argument("--start", metavar="T", help="first time of a range query")
    parser.add_argument("--end", metavar="T", help="last time of a range query (default: now)")
    parser.add_argument(
        "--step",
        metavar="D",
        help="distance of its times (default: 1/250 of the range, 1s or more)",
    )
    parser.add_argument(
        "--format", choices=("table", "json", "csv", "arrow"), default="table",
        help="table for people (default); json is the API's data; arrow is an IPC stream",
    )  # fmt: skip
    parser.add_argument(
        "--explain", action="store_true",
        help="print how it would be evaluated instead; needs --data-dir, reads no samples",
    )  # fmt: skip
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Ask, print, and show warnings on stderr."""
    grid = _parse_grid(arguments)
    if arguments.explain:
        sys.stdout.write(f"{_explain(arguments, grid)}\n")
        return EXIT_OK
    if arguments.url is None:
        answer = _ask_directory(arguments, grid)
    else:
        answer = _ask_server(arguments, grid)
    for note in answer.notes:
        sys.stderr.write(f"{note}\n")
    _WRITERS[arguments.format](answer)
    return EXIT_OK


def _parse_grid(arguments: argparse.Namespace) -> tuple[int, int, int] | int:
    """(start, end, step) of a range query or the time of an instant one, all ms."""
    now = now_ms()
    if arguments.start is None:
        if arguments.end is not None or arguments.step is not None:
            raise UsageError("--end and --step belong to a range query: give --start too")
        return now if arguments.time is None else parse_moment(arguments.time, "--time", now)
    if arguments.time is not None:
        raise UsageError("--time is for one time, --start for many: give only one of them")
    start = parse_moment(arguments.start, "--start", now)
    end = now if arguments.end is None else parse_moment(arguments.end, "--end", now)
    step: int | None = max(1000, (end - start) // 250 // 1000 * 1000)
    if arguments.step is not None:
        step = parse_duration_ms(arguments.step)
    if step is None or step <= 0:
        raise UsageError(f"--step: {arguments.step!r} is not a duration like 15s or 1m")
    if end < start:
        raise UsageError("--end is before --start")
    return start, end, step


def parse_moment(text: str, flag: str, now: int) -> int:
    """A time of the command line in ms: Unix seconds, RFC 3339, ``now`` or ``now-1h``."""
    if text == "now":
        return now
    if text.startswith("now-"):
        before = parse_duration_ms(text[4:])
        value = None if before is None else now - before
    else:
        value = parse_time_ms(text)
    if value is None:
        raise UsageError(
            f"{flag}: {text!r} is no time; write 1700000000, 2024-01-31T12:00:00Z, now or now-1h"
        )
    return value


def _explain(arguments: argparse.Namespace, grid: tuple[int, int, int] | int) -> str:
    if arguments.url is not None:
        raise UsageError("--explain is for a directory: give --data-dir instead of --url")
    with tsengine.open(existing_directory(arguments.data_dir), read_only=True) as database:
        if isinstance(grid, int):
            return database.explain(arguments.expr, grid)
        start, end, step = grid
        return database.explain(arguments.expr, start, end, step / 1000)


def _ask_directory(arguments: argparse.Namespace, grid: tuple[int, int, int] | int) -> Answer:
    path = existing_directory(arguments.data_dir)
    with tsengine.open(path, read_only=True) as database:
        if isinstance(grid, int):
            result = database.query(arguments.expr, grid)
        else:
            start, end, step = grid
            result = database.query_range(arguments.expr, start, end, step / 1000)
        notes = (*result.warnings, *result.infos)
        if arguments.format == "arrow" and result.type != "string":
            return Answer(result.type, (), notes, result.to_arrow())
        data = result.to_prometheus()
        return Answer(data["resultType"], data["result"], (*result.warnings, *result.infos))


def _ask_server(arguments: argparse.Namespace, grid: tuple[int, int, int] | int) -> Answer:
    form = {"query": arguments.expr}
    if isinstance(grid, int):
        path = "/api/v1/query"
        form["time"] = str(grid / 1000)
    else:
        path = "/api/v1/query_range"
        form |= dict(zip(("start", "end", "step"), (str(t / 1000) for t in grid), strict=True))
    body = _post(arguments.url.rstrip("/") + path, form)
    data = body["data"]
    notes = (*body.get("warnings", ()), *body.get("infos", ()))
    return Answer(data["resultType"], data["result"], notes)


def _post(url: str, form: dict[str, str]) -> dict[str, Any]:
    """The answer's envelope; OSError or UsageError with the server's own words."""
    if not url.startswith(("http://", "https://")):
        raise UsageError(f"--url: {url!r} does not begin with http:// or https://")
    # Imported late: other verbs need no client.
    import urllib.error
    import urllib.parse
    import urllib.request

    request = urllib.request.Request(url, urllib.parse.urlencode(form).encode())
    try:
        with urllib.request.urlopen(request, timeout=_TIMEOUT_S) as response:
            body = response.read()
    except urllib.error.HTTPError as error:
        text = error.read().decode("utf-8", "replace")
        try:
            text = json.loads(text)["error"]
        except (ValueError, KeyError, TypeError):
            text = f"{error.code} {error.reason}: {text.strip()[:500]}"
        if error.code == 400:
            raise UsageError(text) from None
        raise OSError(text) from None
    except urllib.error.URLError as error:
        raise OSError(f"can't reach {url}: {error.reason}") from None
    try:
        envelope: dict[str, Any] = json.loads(body)
        assert envelope["status"] == "success", "answers with 200 are successes"
    except (ValueError, KeyError, TypeError, AssertionError):
        raise OSError(f"{url} did not answer like a Prometheus API") from None
    return envelope


def rows_of(answer: Answer) -> Iterator[Row]:
    """Samples in the answer's order; histograms are shown as their JSON."""
    if answer.kind in ("scalar", "string"):
        t_s, value = answer.result
        yield Row({}, t_s, value)
        return
    for series in answer.result:
        points = series.get("values", []) + series.get("histograms", [])
        points += [series[key] for key in ("value", "histogram") if key in series]
        for t_s, value in sorted(points, key=lambda point: float(point[0])):
            text = value if isinstance(value, str) else json.dumps(value)
            yield Row(series["metric"], t_s, text)


def series_text(labels: dict[str, str]) -> str:
    """A label set as PromQL writes it."""
    name = labels.get("__name__", "")
    pairs = ", ".join(
        f"{key}={json.dumps(value, ensure_ascii=False)}"
        for key, value in sorted(labels.items())
        if key != "__name__"
    )
    return f"{name}{{{pairs}}}" if pairs or not name else name


def _time_text(t_s: float) -> str:
    try:
        moment = datetime.fromtimestamp(t_s, UTC)
    except (OverflowError, ValueError, OSError):
        return f"{t_s}"
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _write_table(answer: Answer) -> None:
    rows = [(series_text(row.labels), _time_text(row.t_s), row.value) for row in rows_of(answer)]
    if not rows:
        sys.stderr.write("no data\n")
        return
    table = [("SERIES", "TIME", "VALUE"), *rows]
    widths = [max(len(row[column]) for row in table) for column in range(2)]
    for series, moment, value in table:
        sys.stdout.write(f"{series:{widths[0]}}  {moment:{widths[1]}}  {value}\n")


def _write_json(answer: Answer) -> None:
    data = {"resultType": answer.kind, "result": answer.result}
    sys.stdout.write(json.dumps(data, ensure_ascii=False) + "\n")


def _write_csv(answer: Answer) -> None:
    rows = list(rows_of(answer))
    names = sorted({name for row in rows for name in row.labels})
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*names, "timestamp", "value"])
    for row in rows:
        writer.writerow([*(row.labels.get(name, "") for name in names), row.t_s, row.value])
    sys.stdout.write(text.getvalue())


def _write_arrow(answer: Answer) -> None:
    """An IPC stream with the columns of `Result.to_arrow`, one row per sample."""
    import pyarrow as pa

    if answer.kind == "string":
        raise UsageError("a string has no Arrow form; use --format json")
    table = answer.table
    if table is None:
        rows = list(rows_of(answer))
        labels = [tuple(sorted(row.labels.items())) for row in rows]
        number_of = {pairs: number for number, pairs in enumerate(dict.fromkeys(labels))}
        texts = pa.map_(pa.string(), pa.string())
        numbers = pa.array([number_of[pairs] for pairs in labels], pa.int32())
        times = [round(row.t_s * 1000) for row in rows]
        table = pa.table(
            {
                "labels": pa.DictionaryArray.from_arrays(numbers, pa.array(number_of, texts)),
                "timestamp": pa.array(times, pa.timestamp("ms", "UTC")),
                "value": pa.array([float(row.value) for row in rows], pa.float64()),
            }
        )
    with pa.ipc.new_stream(sys.stdout.buffer, table.schema) as writer:
        writer.write_table(table)


_WRITERS = {"table": _write_table, "json": _write_json, "csv": _write_csv, "arrow": _write_arrow}
