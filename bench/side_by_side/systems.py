"""The systems under test: how each is started, settled, killed; what the kernel says about it."""

from __future__ import annotations

import atexit
import contextlib
import http.client
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any, ClassVar

from tests.real import peers

ROOT = Path(__file__).parents[2]
_START_S = 300.0
_STOP_S = 120.0


def _environment() -> dict[str, str]:
    """The environment, in which Python keeps bytecode: an installed package has it from pip."""
    return {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}


class System:
    """A server process with an empty or used data folder; see the subclasses."""

    name = ""
    write_path = "/api/v1/write"
    program: ClassVar[str] = ""
    """Of a peer: its name, or the path of another one."""

    @classmethod
    def find(cls) -> Path:
        """Path of what will be run. Raises MissingPeerError."""
        raise NotImplementedError

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = _free_port()
        self.process: subprocess.Popen[bytes] | None = None
        self._log = folder.with_suffix(".log")

    def command(self) -> list[str]:
        """The command line that listens on ``self.port`` and stores in ``self.folder``."""
        raise NotImplementedError

    def version(self) -> str:
        """One line."""
        raise NotImplementedError

    def is_ready(self) -> bool:
        """Whether writes and queries are served."""
        return self._status("/-/ready") == 200

    def settle(self) -> None:
        """Everything on disk in its final form."""
        raise NotImplementedError

    def disk_bytes(self) -> int:
        """Bytes of all that is needed to answer, after `settle`."""
        return sum(
            path.stat().st_blocks and path.stat().st_size
            for path in self.folder.rglob("*")
            if path.is_file() and not path.is_symlink()
        )

    def start(self) -> float:
        """Start; seconds until it is ready."""
        self.folder.mkdir(parents=True, exist_ok=True)
        started = time.perf_counter()
        with open(self._log, "ab") as log:
            self.process = subprocess.Popen(
                self.command(), stdout=log, stderr=log, stdin=subprocess.DEVNULL, cwd=ROOT,
                env=_environment(),
            )  # fmt: skip
        atexit.register(self.stop)
        while not self.is_ready():
            if self.process.poll() is not None or time.perf_counter() - started > _START_S:
                raise RuntimeError(f"{self.name} did not start:\n{self._log.read_text()[-2000:]}")
            time.sleep(0.005)
        return time.perf_counter() - started

    def stop(self) -> None:
        """End it with SIGTERM."""
        if self.process is None:
            return
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            self.kill()
        self.process = None
        atexit.unregister(self.stop)

    def kill(self) -> None:
        """End it with SIGKILL."""
        assert self.process is not None, "only a running system can be killed"
        self.process.kill()
        self.process.wait()
        self.process = None
        atexit.unregister(self.stop)

    def cpu_s(self) -> float:
        """CPU seconds of the process so far, all threads."""
        assert self.process is not None, "the system runs"
        text = Path(f"/proc/{self.process.pid}/stat").read_text()
        fields = text.rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def rss_mib(self, *, peak: bool) -> float:
        """Resident memory now, or the most there ever was."""
        assert self.process is not None, "the system runs"
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(status.split("VmHWM:" if peak else "VmRSS:")[1].split()[0]) / 1024

    def call(self, path: str, parameters: dict[str, Any], timeout_s: float = 300) -> bytes:
        """Body of a POST of a form; raises RuntimeError with what the system answered."""
        body = urllib.parse.urlencode(parameters, doseq=True)
        form = {"Content-Type": "application/x-www-form-urlencoded"}
        return self._request("POST", path, body, form, timeout_s)

    def get(self, path: str, timeout_s: float = 300) -> bytes:
        """Body of a GET; raises as `call` does."""
        return self._request("GET", path, None, {}, timeout_s)

    def _request(
        self, method: str, path: str, form: str | None, headers: dict[str, str], timeout_s: float
    ) -> bytes:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout_s)
        try:
            connection.request(method, path, form, headers)
            response = connection.getresponse()
            body = response.read()
        finally:
            connection.close()
        if response.status // 100 != 2:
            raise RuntimeError(f"{self.name}: {path}: {response.status} {body[:500]!r}")
        return body

    def data(self, call: str, **parameters: Any) -> Any:
        """The data of an API call."""
        return json.loads(self.call(f"/api/v1/{call}", parameters))["data"]

    def _status(self, path: str) -> int:
        with contextlib.suppress(OSError, http.client.HTTPException):
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=5) as found:
                return int(found.status)
        return 0


class TsEngine(System):
    """This repository's server, without tiers: the others make none."""

    name = "tsengine"

    @classmethod
    def find(cls) -> Path:
        """See `System.find`."""
        return ROOT / "server"

    def command(self) -> list[str]:
        return [
            sys.executable, "-m", "server", "serve", "--data-dir", str(self.folder),
            "--listen", f"127.0.0.1:{self.port}", "--self-scrape", "off", "--retention", "0",
            "--tiers", "off", "--enable-admin-api", "--query.max-samples", "500000000",
        ]  # fmt: skip

    def version(self) -> str:
        import tsengine

        done = subprocess.run(
            ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, cwd=ROOT
        )
        return f"{tsengine.__version__} ({done.stdout.strip()})"

    def settle(self) -> None:
        self.call("/api/v1/admin/tsdb/flush?merge=1", {})
        # Replaced files stay for readers of other processes until the next start.
        self.stop()
        self.start()

    def disk_bytes(self) -> int:
        """Without the ballast, which is there to be given up."""
        ballast = self.folder / "ballast"
        return super().disk_bytes() - (ballast.stat().st_size if ballast.exists() else 0)


class Prometheus(System):
    """Prometheus 3, out-of-order samples allowed as hosts are not sent in step."""

    name = "Prometheus"
    program = "prometheus"

    @classmethod
    def find(cls) -> Path:
        """See `System.find`."""
        given = Path(cls.program)
        return given if given.is_absolute() else Path(peers.find_prometheus())

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._binary = self.find()
        self._config = folder.with_suffix(".yml")

    def command(self) -> list[str]:
        self._config.write_text("storage: {tsdb: {out_of_order_time_window: 1h}}\n")
        return [
            str(self._binary), f"--config.file={self._config}",
            f"--storage.tsdb.path={self.folder}", "--storage.tsdb.retention.time=100y",
            f"--web.listen-address=127.0.0.1:{self.port}", "--web.enable-remote-write-receiver",
            "--web.enable-admin-api", "--query.max-samples=500000000", "--log.level=error",
        ]  # fmt: skip

    def version(self) -> str:
        done = subprocess.run([self._binary, "--version"], capture_output=True, text=True)
        match = re.search(r"version (\S+)", done.stdout + done.stderr)
        return match[1] if match else "unknown"

    def settle(self) -> None:
        """A snapshot with the head as a block: what a compaction of the head would leave."""
        shutil.rmtree(self.folder / "snapshots", ignore_errors=True)
        self.call("/api/v1/admin/tsdb/snapshot", {})

    def disk_bytes(self) -> int:
        files = (self.folder / "snapshots").rglob("*")
        return sum(path.stat().st_size for path in files if path.is_file())


class VictoriaMetrics(System):
    """A single node of VictoriaMetrics with the cache of answers off."""

    name = "VictoriaMetrics"
    program = "victoria-metrics"

    @classmethod
    def find(cls) -> Path:
        """See `System.find`."""
        given = Path(cls.program)
        return given if given.is_absolute() else Path(peers.find_victoria_metrics(cls.program))

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._binary = self.find()

    def command(self) -> list[str]:
        return [
            str(self._binary), f"-storageDataPath={self.folder}",
            f"-httpListenAddr=127.0.0.1:{self.port}", "-retentionPeriod=100y",
            "-search.disableCache", "-search.latencyOffset=0",
            "-search.maxUniqueTimeseries=20000000",
            "-search.maxQueryDuration=300s", "-search.maxSeries=20000000", "-loggerLevel=ERROR",
            "-search.maxPointsPerTimeseries=100000", "-selfScrapeInterval=0",
            "-search.maxSamplesPerQuery=2000000000",
        ]  # fmt: skip

    def version(self) -> str:
        done = subprocess.run([self._binary, "--version"], capture_output=True, text=True)
        lines = (done.stdout + done.stderr).strip().splitlines()
        if lines:
            return lines[-1]
        marks = (mark for folder in self._binary.parents[:3]
                 for mark in folder.glob(".victoria-metrics-*"))  # fmt: skip
        return next((mark.name[1:] for mark in marks), "of a package")

    def is_ready(self) -> bool:
        return self._status("/health") == 200

    def settle(self) -> None:
        self.get("/internal/force_flush")
        self.get("/internal/force_merge")
        before = -1
        # The merge runs behind the answer; it is over when the files stand still.
        while (now := self.disk_bytes()) != before:
            before = now
            time.sleep(3)


SYSTEMS: dict[str, type[System]] = {
    "tsengine": TsEngine,
    "victoria": VictoriaMetrics,
    "prometheus": Prometheus,
}


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
