"""The two engines under comparison: a real Prometheus, and tsengine embedded or as a server.

Both are loaded by the same remote write 1.0 messages. An answer has the shape of the HTTP API:
status, errorType, error, data, warnings, infos.
"""

from __future__ import annotations

import http.client
import json
import urllib.parse

import tsengine
from tests.differential.messages import write_messages
from tests.http.wire import HEADERS_V1, snappy
from tests.real.peers import find_prometheus
from tests.real.processes import Child, ServerChild
from tsengine import errors
from tsengine.options import Options
from tsengine.promql.functions import EXPERIMENTAL_FUNCTIONS

DELAYED_NAMES = "promql-delayed-name-removal"
NATIVE_HISTOGRAMS = "native-histograms"


class HttpPeer:
    """An engine behind the HTTP API, on one connection that stays open."""

    def __init__(self, child, address):
        self.child = child
        self._connection = http.client.HTTPConnection(address, timeout=120)

    def load(self, series):
        """Send everything; each answer must be a success."""
        for message in write_messages(series):
            status, text = self._post("/api/v1/write", snappy(message), HEADERS_V1)
            assert status in (200, 204), (status, text)

    def query(self, expr, time_ms):
        """Answer of an instant query."""
        return self._ask("query", {"query": expr, "time": _seconds(time_ms)})

    def query_range(self, expr, start_ms, end_ms, step_ms):
        """Answer of a range query."""
        return self._ask("query_range", {
            "query": expr, "start": _seconds(start_ms), "end": _seconds(end_ms),
            "step": _seconds(step_ms),
        })  # fmt: skip

    def delete(self, selector, start_ms=None, end_ms=None):
        """Delete samples by the admin API."""
        parameters = {"match[]": selector}
        if start_ms is not None:
            parameters["start"] = _seconds(start_ms)
        if end_ms is not None:
            parameters["end"] = _seconds(end_ms)
        body = urllib.parse.urlencode(parameters).encode()
        headers = {"Content-Type": "application/x-www-form-urlencoded"}
        status, text = self._post("/api/v1/admin/tsdb/delete_series", body, headers)
        assert status == 204, (status, text)

    def series(self, selector):
        """Answer of /api/v1/series about all time."""
        return self._ask("series", {"match[]": selector})

    def clear_pools(self):
        """Make a Prometheus forget memory that it would use again: by two collections."""
        for _ in range(2):
            self._connection.request("GET", "/debug/pprof/heap?gc=1")
            response = self._connection.getresponse()
            response.read()
            assert response.status == 200, response.status

    def close(self):
        self._connection.close()
        self.child.stop()

    def _ask(self, call, parameters):
        body = urllib.parse.urlencode(parameters).encode()
        headers = {"Content-Type": "application/x-www-form-urlencoded"}
        return json.loads(self._post(f"/api/v1/{call}", body, headers)[1])

    def _post(self, path, body, headers):
        for attempt in (1, 2):
            try:
                self._connection.request("POST", path, body, headers)
                response = self._connection.getresponse()
                return response.status, response.read()
            except (http.client.RemoteDisconnected, ConnectionError):
                # The other side may close a connection that was idle.
                self._connection.close()
                if attempt == 2:
                    raise
        raise AssertionError("unreachable: the second failure raises")


class EmbeddedPeer:
    """tsengine inside this process."""

    def __init__(self, directory, *, delayed_names):
        options = Options(
            features=frozenset((EXPERIMENTAL_FUNCTIONS,)),
            delayed_name_removal=delayed_names,
            fsync="interval",
            query_threads=1,
        )
        self._db = tsengine.open(directory, options=options)

    def load(self, series):
        for message in write_messages(series):
            result = self._db.append_remote_write(message, version=1)
            assert not result.rejected, result.rejected[:3]

    def flush(self):
        """Move all samples from the head into a part."""
        self._db.flush()

    def delete(self, selector, start_ms=None, end_ms=None):
        self._db.delete_series(selector, start_ms, end_ms)

    def series(self, selector):
        return {"status": "success", "data": self._db.series([selector])[0]}

    def query(self, expr, time_ms):
        return _envelope(lambda: self._db.query(expr, time=time_ms))

    def query_range(self, expr, start_ms, end_ms, step_ms):
        ask = self._db.query_range
        return _envelope(lambda: ask(expr, start=start_ms, end=end_ms, step=step_ms))

    def close(self):
        self._db.close()


def start_prometheus(directory, *, delayed_names=False):
    """A Prometheus that scrapes nothing; raises MissingPeerError without the program."""
    binary = find_prometheus()
    config = directory / "prometheus.yml"
    config.write_text("global: {scrape_interval: 1m}\n")
    features = [EXPERIMENTAL_FUNCTIONS, NATIVE_HISTOGRAMS] + [DELAYED_NAMES] * delayed_names
    child = Child(
        [
            binary, f"--config.file={config}", "--web.listen-address=127.0.0.1:0",
            f"--storage.tsdb.path={directory / 'prometheus-data'}",
            "--storage.tsdb.retention.time=100y", "--web.enable-remote-write-receiver",
            "--web.enable-admin-api",
            f"--enable-feature={','.join(features)}",
        ],
        directory / "prometheus.log",
    )  # fmt: skip
    try:
        child.wait_for(r"Server is ready to receive web requests")
        address = child.wait_for(r'msg="?Listening on"? .*address=(127\.0\.0\.1:\d+)')[1]
    except AssertionError:
        child.stop()
        raise
    return HttpPeer(child, address)


def start_server(directory, *, delayed_names=False):
    """``tsengine serve`` with the same features."""
    features = [EXPERIMENTAL_FUNCTIONS] + [DELAYED_NAMES] * delayed_names
    child = ServerChild(
        directory / "server-data", directory / "server.log", "--retention=100y",
        f"--enable-feature={','.join(features)}", "--enable-admin-api",
    )  # fmt: skip
    return HttpPeer(child, child.url.removeprefix("http://"))


def start_embedded(directory, *, delayed_names=False):
    """The library on a directory of its own."""
    return EmbeddedPeer(directory / "embedded-data", delayed_names=delayed_names)


def _seconds(time_ms):
    return f"{time_ms // 1000}.{time_ms % 1000:03d}"


def _envelope(ask):
    try:
        result = ask()
    except (errors.ParseError, errors.InvalidQueryType) as error:
        return _failed("bad_data", f'invalid parameter "query": {error}')
    except errors.QueryError as error:
        return _failed("execution", str(error))
    return {
        "status": "success",
        "data": result.to_prometheus(),
        "warnings": list(result.warnings),
        "infos": list(result.infos),
    }


def _failed(kind, text):
    return {"status": "error", "errorType": kind, "error": text}
