"""moto's S3 API on loopback, and a gate before it that fails, stalls and breaks on order.

    gate.fail("PUT", status=500, times=2)       the next two PUTs get an error of the server
    gate.fail("GET", reset=True)                the connection is reset instead of an answer
    gate.fail("GET", delay_s=3)                 the answer is late
    gate.fail("GET", cut=True)                  the connection ends in the middle of the body

Each goes for requests whose path contains `contains`. `requests` are those that came.
"""

import contextlib
import http.client
import itertools
import socket
import struct
import threading
import time
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from moto.server import ThreadedMotoServer

from tsengine.backup.store import StoreOptions

_NUMBERS = itertools.count()


class S3Server:
    def __init__(self):
        self._server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
        self._server.start()
        self.host, self.port = self._server.get_host_and_port()

    def stop(self):
        self._server.stop()


@dataclass
class Order:
    method: str
    contains: str
    times: int
    status: int = 0
    code: str = ""
    delay_s: float = 0.0
    reset: bool = False
    cut: bool = False
    after: bool = False


class Gate:
    def __init__(self, server: S3Server) -> None:
        self.upstream = (server.host, server.port)
        self.requests: list[tuple[str, str, str | None]] = []
        self.orders: list[Order] = []
        self.lock = threading.Lock()
        self._httpd = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._httpd.daemon_threads = True
        self._thread = threading.Thread(target=self._httpd.serve_forever, args=(0.05,))
        self._thread.start()
        self.endpoint = f"http://127.0.0.1:{self._httpd.server_address[1]}"
        self.bucket = f"bucket-{next(_NUMBERS)}"
        connection = http.client.HTTPConnection(*self.upstream)
        connection.request("PUT", f"/{self.bucket}", headers={"Authorization": _FAKE})
        assert connection.getresponse().status == 200
        connection.close()
        self.url = f"s3://{self.bucket}/some/prefix"
        self.options = StoreOptions(
            endpoint_url=self.endpoint, timeout_s=1, retries_max=3, retry_timeout_s=5
        )

    def fail(self, method, *, contains="", times=1, **what):
        self.orders.append(Order(method, contains, times, **what))

    def due(self, method, path):
        with self.lock:
            for order in self.orders:
                if order.times and order.method == method and order.contains in path:
                    order.times -= 1
                    return order
        return None

    def stop(self):
        self._httpd.shutdown()
        self._thread.join()
        self._httpd.server_close()


_FAKE = (
    "AWS4-HMAC-SHA256 Credential=key/20260101/us-east-1/s3/aws4_request, "
    "SignedHeaders=host, Signature=0"
)


def _handler(gate):
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_):
            pass

        def handle_any(self):
            body = self._body()
            with gate.lock:
                gate.requests.append((self.command, self.path, self.headers.get("Range")))
            order = gate.due(self.command, self.path)
            if order is not None:
                time.sleep(order.delay_s)
                if order.reset and order.after:
                    self._forward(body)
                if order.reset:
                    self._reset()
                    return
                if order.status:
                    self._answer(order.status, order.code)
                    return
            status, headers, data = self._forward(body)
            cut = order is not None and order.cut
            self.send_response(status)
            for name, value in headers:
                if name.lower() not in ("transfer-encoding", "connection", "date", "server"):
                    self.send_header(name, value)
            if not any(name.lower() == "content-length" for name, _ in headers):
                self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            if self.command != "HEAD":
                with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # it gave up
                    self.wfile.write(data[: len(data) // 2] if cut else data)
            if cut:
                self._reset()

        do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = handle_any  # noqa: N815

        def _body(self):
            if self.headers.get("Transfer-Encoding", "").lower() == "chunked":
                raise AssertionError("obstore sends lengths")
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))

        def _forward(self, body):
            connection = http.client.HTTPConnection(*gate.upstream, timeout=30)
            headers = {k: v for k, v in self.headers.items() if k.lower() != "connection"}
            connection.request(self.command, self.path, body, headers)
            response = connection.getresponse()
            found = response.status, response.getheaders(), response.read()
            connection.close()
            return found

        def _answer(self, status, code):
            data = f"<Error><Code>{code}</Code><Message>on order</Message></Error>".encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(data)

        def _reset(self):
            self.close_connection = True
            self.wfile.flush()
            linger = struct.pack("ii", 1, 0)
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            self.connection.close()

    return Handler
