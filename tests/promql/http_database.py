"""A server process as a database for test scripts: remote write in, JSON out."""

import http.client
import json
import subprocess
import sys
import tempfile
import urllib.parse
from contextlib import contextmanager

from tests.http import wire
from tests.promql import histogram_messages
from tests.promql.answers import Answer
from tests.promql.databases import SCRATCH
from tsengine.errors import QueryError

FLAGS = (
    "--self-scrape", "off", "--retention", "0", "--fsync", "interval", "--log.level", "error",
    "--query.lookback-delta", "5m", "--query.max-samples", "10000", "--query.timeout", "100s",
    "--enable-feature", "promql-experimental-functions,promql-extended-range-selectors,"
    "promql-binop-fill-modifiers,promql-delayed-name-removal,use-start-timestamps",
)  # fmt: skip


class ServedDatabases:
    """One server process; `open` gives its database, empty."""

    def __init__(self):
        self._directory = tempfile.TemporaryDirectory(prefix="promqltest-", dir=SCRATCH)
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.promql.serving", self._directory.name, *FLAGS],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        line = self._process.stdout.readline()
        if not line.startswith("ready "):
            raise AssertionError(f"the server did not start: {line!r}")
        self._connection = http.client.HTTPConnection(line.split("//")[1].strip(), timeout=60)
        self._is_used = False

    @contextmanager
    def open(self):
        if self._is_used:
            self._process.stdin.write("clear\n")
            self._process.stdin.flush()
            assert self._process.stdout.readline() == "cleared\n"
        self._is_used = True
        yield _Served(self._connection)

    def close(self):
        self._connection.close()
        self._process.stdin.close()
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()
        self._directory.cleanup()


class _Served:
    """Methods of `databases.TestDatabase` over HTTP."""

    def __init__(self, connection):
        self._connection = connection

    def append(self, labels, timestamps, values, start_timestamps=None):
        samples = _rows(timestamps, values, start_timestamps)
        self._write(labels, samples, [], version=1 if start_timestamps is None else 2)

    def append_histograms(self, labels, timestamps, histograms, start_timestamps=None):
        rows = _rows(timestamps, histogram_messages.rows(histograms), start_timestamps)
        self._write(labels, [], rows, version=1 if start_timestamps is None else 2)

    def query(self, expr, *, time):
        return self._ask("query", [time], query=expr, time=_seconds(time))

    def query_range(self, expr, *, start, end, step):
        return self._ask(
            "query_range",
            range(start, end + 1, step),
            query=expr,
            start=_seconds(start),
            end=_seconds(end),
            step=_seconds(step),
        )

    def _write(self, labels, samples, histograms, *, version):
        body = wire.snappy(histogram_messages.write_request(labels, samples, histograms, version))
        headers = wire.HEADERS_V1 if version == 1 else wire.HEADERS_V2
        status, text = self._call("/api/v1/write", body, headers)
        assert status == 204, (status, text)

    def _ask(self, call, times, **parameters):
        body = urllib.parse.urlencode(parameters).encode()
        headers = {"Content-Type": "application/x-www-form-urlencoded"}
        status, text = self._call(f"/api/v1/{call}", body, headers)
        answer = json.loads(text)
        if answer["status"] == "error":
            if answer["errorType"] in ("execution", "bad_data"):
                raise QueryError(answer["error"])
            raise AssertionError(f"{status}: {answer}")
        assert status == 200, status
        return _answer(answer)

    def _call(self, path, body, headers):
        self._connection.request("POST", path, body, headers)
        response = self._connection.getresponse()
        return response.status, response.read()


def _rows(timestamps, values, start_timestamps):
    starts = [0] * len(timestamps) if start_timestamps is None else start_timestamps.tolist()
    return list(zip(timestamps.tolist(), values, starts, strict=True))


def _seconds(ms):
    return f"{ms // 1000}.{ms % 1000:03d}"


def _answer(answer):
    kind, result = answer["data"]["resultType"], answer["data"]["result"]
    notes = {"warnings": answer.get("warnings", []), "infos": answer.get("infos", [])}
    if kind == "string":
        return Answer("string", string=result[1], **notes)
    if kind == "scalar":
        return Answer("scalar", [({}, [_ms(result[0])], [float(result[1])])], **notes)
    return Answer(kind, [_series(row) for row in result], **notes)


def _series(row):
    floats = row.get("values", [row["value"]] if "value" in row else [])
    histograms = row.get("histograms", [row["histogram"]] if "histogram" in row else [])
    cells = {_ms(t): float(value) for t, value in floats}
    cells |= {_ms(t): histogram_messages.Shown.of_json(h) for t, h in histograms}
    assert len(cells) == len(floats) + len(histograms)
    return row["metric"], sorted(cells), [cells[t] for t in sorted(cells)]


def _ms(seconds):
    return round(seconds * 1000)
