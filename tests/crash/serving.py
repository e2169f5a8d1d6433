"""A real `tsengine serve` process for tests that kill it."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.parse
import urllib.request


class ServerProcess:
    """Starts the server on a port of the system's choice; `url` when it is ready."""

    def __init__(self, data_dir, *flags, log=None):
        begin = time.monotonic()
        command = [
            sys.executable, "-m", "tsengine_server", "serve", "--data-dir", str(data_dir),
            "--listen", "127.0.0.1:0", "--self-scrape", "off", *flags,
        ]  # fmt: skip
        self._log = open(log, "ab") if log is not None else subprocess.DEVNULL
        self.process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=self._log, text=True, env=dict(os.environ)
        )
        line = self.process.stdout.readline()
        found = re.search(r"http://127\.0\.0\.1:\d+", line)
        if found is None:
            self.kill()
            raise AssertionError(f"the server printed {line!r} instead of its URL")
        self.url = found[0]
        self.start_s = time.monotonic() - begin

    def kill(self):
        """SIGKILL, at once."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGKILL)
        self._reap()

    def stop(self):
        """SIGTERM; returns the exit code."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        self._reap()
        return self.process.returncode

    def _reap(self):
        self.process.wait(timeout=60)
        self.process.stdout.close()
        if self._log is not subprocess.DEVNULL:
            self._log.close()

    def query(self, expr, at_ms):
        """{labels as a frozenset: value} of an instant query."""
        result = self.get("query", query=expr, time=at_ms / 1000)["result"]
        return {frozenset(row["metric"].items()): float(row["value"][1]) for row in result}

    def get(self, what, **form):
        """The data of an answer of the API."""
        url = f"{self.url}/api/v1/{what}"
        data = urllib.parse.urlencode(form).encode()
        with urllib.request.urlopen(url, data, timeout=60) as answer:
            return json.load(answer)["data"]
