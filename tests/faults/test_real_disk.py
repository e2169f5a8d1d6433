"""A server on a real small disk (a tmpfs of its own) that is filled, emptied, made read-only."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request

import pytest

from tests.http import wire
from tests.real.processes import Child

SCRIPT = 'mount -t tmpfs -o size=24m tmpfs "$0" || exit 9; "$@"; "$@"'
"""The server twice: the second takes over when the first was killed."""


def can_mount():
    if shutil.which("unshare") is None or shutil.which("nsenter") is None:
        return False
    command = ["unshare", "-rm", "mount", "-t", "tmpfs", "tmpfs", "/tmp"]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


pytestmark = [
    pytest.mark.timeout(600),
    pytest.mark.skipif(not can_mount(), reason="no file system can be mounted here"),
]


class Small:
    """`tsengine serve` on 24 MiB, and a hand on its disk."""

    def __init__(self, tmp_path):
        self.disk = tmp_path / "disk"
        self.disk.mkdir()
        command = [
            "unshare", "-rm", "sh", "-c", SCRIPT, str(self.disk),
            sys.executable, "-u", "-m", "server", "serve", "--data-dir", str(self.disk / "data"),
            "--listen", "127.0.0.1:0", "--self-scrape", "off", "--enable-admin-api",
        ]  # fmt: skip
        self.child = Child(command, tmp_path / "log")
        self.url = self.child.wait_for(r"tsengine is ready: (http://\S+)\n")[1]

    @property
    def pid(self):
        """The server's, the youngest child of the shell."""
        path = f"/proc/{self.child.process.pid}/task/{self.child.process.pid}/children"
        with open(path) as file:
            return int(file.read().split()[0])

    @property
    def inside(self):
        """The disk as it is seen from here."""
        return f"/proc/{self.pid}/root{self.disk}"

    def fill(self):
        with open(f"{self.inside}/filler", "ab", buffering=0) as file:
            for size in (1 << 20, 1 << 12):
                try:
                    while True:
                        file.write(bytes(size))
                except OSError:
                    pass

    def empty(self):
        os.unlink(f"{self.inside}/filler")

    def do_inside(self, script):
        """Run a shell script that sees the server's mounts; $0 is the data directory."""
        command = [
            "nsenter", "-t", str(self.pid), "-U", "-m", "--preserve-credentials",
            "sh", "-ec", script, str(self.disk / "data"),
        ]  # fmt: skip
        subprocess.run(command, check=True, capture_output=True)

    def call(self, path, data=None, headers=None):
        request = urllib.request.Request(self.url + path, data, headers or {})
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                return answer.status, answer.headers, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.headers, error.read().decode()

    def write(self, k, now_ms):
        series = [
            ({"__name__": "m", "i": str(i), "pad": "x" * 500}, [(now_ms + k, float(k))])
            for i in range(20)
        ]
        body = wire.snappy(wire.message_v1(series))
        return self.call("/api/v1/write", body, wire.HEADERS_V1)

    def values(self, now_ms):
        """Values of one series, in order."""
        form = {"query": 'm{i="7"}[1d]', "time": (now_ms + 86_399_000) / 1000}
        status, _, text = self.call("/api/v1/query", urllib.parse.urlencode(form).encode())
        assert status == 200, text
        result = json.loads(text)["data"]["result"]
        return [float(value) for _, value in result[0]["values"]] if result else []

    def failing(self, reason):
        _, _, text = self.call("/metrics")
        return f'tsengine_storage_failing{{reason="{reason}"}} 1.0' in text

    def write_until_accepted(self, k, now_ms):
        deadline = time.monotonic() + 60
        while (answer := self.write(k, now_ms))[0] != 204:
            assert answer[0] == 503, answer
            assert time.monotonic() < deadline, answer
            time.sleep(0.1)


def test_a_disk_that_fills_up_goes_read_only_and_comes_back(tmp_path):
    small = Small(tmp_path)
    now_ms = int(time.time() * 1000) - 3_600_000
    accepted = []
    try:
        for k in range(20):
            assert small.write(k, now_ms)[0] == 204
            accepted.append(k)

        small.fill()
        n_refused = 0
        for k in range(20, 2000):
            status, headers, text = small.write(k, now_ms)
            if status == 204:
                accepted.append(k)
                continue
            assert status == 503
            assert headers["Retry-After"] == "1"
            assert headers["X-Prometheus-Remote-Write-Samples-Written"] == "0"
            # The gate's words, or the log's own when the room that the ballast left is taken up
            # before the write that failed is tried in a new segment.
            assert text.startswith(("the disk is full (", "writing the log: No space left")), text
            # What the ballast left is filled too.
            small.fill()
            n_refused += 1
            if n_refused == 5:
                break
        assert n_refused == 5
        assert small.failing("no_space")
        assert small.call("/-/ready")[0] == 200
        assert small.values(now_ms) == accepted
        status, _, text = small.call("/api/v1/admin/tsdb/flush", b"")
        assert status in (204, 503), text

        small.empty()
        small.write_until_accepted(3000, now_ms)
        accepted.append(3000)
        assert not small.failing("no_space")
        assert small.values(now_ms) == accepted
        assert small.call("/api/v1/admin/tsdb/flush", b"")[0] == 204
        assert small.values(now_ms) == accepted

        assert small.write(3001, now_ms)[0] == 204
        accepted.append(3001)
        small.fill()
        while small.write(3002, now_ms)[0] == 204:
            if 3002 not in accepted:
                accepted.append(3002)
            small.fill()
        os.kill(small.pid, signal.SIGKILL)
        small.url = small.child.wait_for(r"(?s)is ready.*tsengine is ready: (http://\S+)\n")[1]
        assert small.values(now_ms)[-2:] == accepted[-2:], "it starts on a full disk, and reads"
        small.empty()
        small.write_until_accepted(3003, now_ms)
        accepted.append(3003)
        found = small.values(now_ms)
        # A refused write may have reached the log before the kill.
        assert [k for k in found if k != 3002] == [k for k in accepted if k != 3002]
    finally:
        stop(small)


def test_a_disk_that_becomes_read_only(tmp_path):
    small = Small(tmp_path)
    now_ms = int(time.time() * 1000) - 3_600_000
    try:
        assert small.write(1, now_ms)[0] == 204
        assert small.call("/api/v1/admin/tsdb/flush", b"")[0] == 204
        # Laid over the directory, since the lock keeps the mount itself busy. What is open stays
        # writable, but the flush has closed the log's segment.
        small.do_inside('mount --bind "$0" "$0"; mount -o remount,bind,ro "$0"')
        for k in range(2, 5):
            status, headers, text = small.write(k, now_ms)
            assert (status, headers["Retry-After"]) == (503, "1")
            # The first one's own error, then that of the gate.
            assert ("writing the log: Read-only" if k == 2 else "the disk is read-only (") in text
        assert small.failing("read_only")
        assert small.values(now_ms) == [1]
        small.do_inside('umount "$0"')
        small.write_until_accepted(5, now_ms)
        assert small.values(now_ms) == [1, 5]
    finally:
        stop(small)


def stop(small):
    pid = small.pid
    # First the shell, or it would start the next server.
    small.child.process.kill()
    os.kill(pid, signal.SIGKILL)
    small.child.stop()
