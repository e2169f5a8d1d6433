"""Child processes that say where they listen, and small HTTP calls to them."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request

from tests.real.peers import ROOT

START_S = 240.0


class Child:
    """A program whose output goes to a file; ended with SIGTERM, then by force."""

    def __init__(self, command, log_path, *, cwd=ROOT, env=None):
        self.log_path = log_path
        self._log = open(log_path, "wb")
        self.process = subprocess.Popen(
            command, stdout=self._log, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL,
            cwd=cwd, env=env,
        )  # fmt: skip

    def text(self):
        return self.log_path.read_text(errors="replace")

    def wait_for(self, pattern, timeout_s=START_S):
        """The first match of `pattern` in the output."""
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            if match := re.search(pattern, self.text()):
                return match
            if self.process.poll() is not None:
                break
            time.sleep(0.02)
        raise AssertionError(f"{pattern!r} did not appear in {self.log_path}:\n{self.text()}")

    def stop(self, timeout_s=20):
        """Exit code after SIGTERM."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(timeout_s)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        self._log.close()
        return self.process.returncode


class ServerChild(Child):
    """``tsengine serve`` on a port of the system's choice."""

    def __init__(self, data_dir, log_path, *flags, self_scrape="off"):
        command = [
            sys.executable, "-m", "server", "serve", "--data-dir", str(data_dir),
            "--listen", "127.0.0.1:0", "--self-scrape", self_scrape, *flags,
        ]  # fmt: skip
        started = time.monotonic()
        super().__init__(command, log_path, env={**os.environ, "PYTHONUNBUFFERED": "1"})
        self.url = self.wait_for(r"tsengine is ready: (http://\S+)\n")[1]
        self.start_s = time.monotonic() - started


@contextlib.contextmanager
def stopped_afterwards(children):
    """Ends what is in the list, last first, whatever happens."""
    try:
        yield children
    finally:
        for child in reversed(children):
            child.stop()


def get(url, **parameters):
    """Body of a GET."""
    if parameters:
        url += "?" + urllib.parse.urlencode(parameters)
    with urllib.request.urlopen(url, timeout=30) as response:
        return response.read()


def api(url, call, **parameters):
    """The data of a Prometheus API call by POST."""
    body = urllib.parse.urlencode(parameters).encode()
    try:
        with urllib.request.urlopen(f"{url}/api/v1/{call}", body, timeout=60) as response:
            answer = json.load(response)
    except urllib.error.HTTPError as error:
        raise AssertionError(f"{call} {parameters}: {error.read().decode()}") from None
    assert answer["status"] == "success", answer
    return answer["data"]
