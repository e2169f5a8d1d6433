"""Samples a running process with py-spy, and reads from /proc what its threads really used."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from bench.profile import stacks

_ATTACH_S = 20.0


class SamplerError(Exception):
    """There is no sampler, or it may not look into the process."""


@dataclass(slots=True)
class Sampled:
    """What a stretch of time cost. ``cpu_s`` by thread; ``profile`` once it is over."""

    seconds: float = 0.0
    cpu_s: dict[int, float] = field(default_factory=dict)
    load_average: float = 0.0
    profile: stacks.Profile = field(default_factory=lambda: stacks.Profile({}, 0))

    @property
    def total_cpu_s(self) -> float:
        """Of all threads."""
        return sum(self.cpu_s.values())


def find_sampler() -> str:
    """Path of py-spy."""
    beside = Path(sys.executable).with_name("py-spy")
    found = str(beside) if beside.exists() else shutil.which("py-spy")
    if found is None:
        raise SamplerError("there is no py-spy; run: pip install 'tsengine[bench]'")
    return found


def thread_cpu_s(pid: int) -> dict[int, float]:
    """CPU seconds of each thread so far."""
    found = {}
    for task in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(OSError):
            # Nanoseconds; `stat` counts in hundredths of a second.
            found[int(task.name)] = int((task / "schedstat").read_text().split()[0]) / 1e9
    return found


def kernel_cpu_s(pipe: Path | None, folder: Path) -> dict[tuple[int, str], float]:
    """CPU seconds so far by thread and kernel, of the process that reads the pipe."""
    if pipe is None:
        return {}
    answer = folder / "spent.json"
    with open(pipe, "w") as paths:
        paths.write(f"{answer}\n")
    while not answer.exists():
        time.sleep(0.005)
    found: dict[str, dict[str, int]] = json.loads(answer.read_text())
    answer.unlink()
    return {
        (int(of), name): ns / 1e9 for name, all_ns in found.items() for of, ns in all_ns.items()
    }


@contextlib.contextmanager
def sampled(
    pid: int, *, rate: int, pipe: Path | None = None, gil: bool = False, native: bool = False
) -> Iterator[Sampled]:
    """Sample a process while the block runs.

    Parameters
    ----------
    pid
        The process; it has called `bench.profile.target.allow_tracing`, or we are its user's root.
    rate
        Samples a second.
    pipe
        Through which a `bench.profile.target` says what kernels spent.
    gil
        Only threads that hold the interpreter's lock. The profile's weights are then samples over
        the rate: seconds for which it was held.
    native
        Frames of C libraries too.

    Raises
    ------
    SamplerError
        There is no py-spy, or it can't trace the process.

    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "raw"
        command = [
            find_sampler(), "record", "--pid", str(pid), "--threads", "--format", "raw",
            "--rate", str(rate), "--output", str(path), "--nonblocking",
            *(["--gil"] if gil else []), *(["--native"] if native else []),
        ]  # fmt: skip
        log = Path(folder) / "log"
        with open(log, "wb") as file:
            sampler = subprocess.Popen(command, stdout=file, stderr=file, stdin=subprocess.DEVNULL)
        _wait_until_attached(sampler, log)
        found = Sampled()
        counted = kernel_cpu_s(pipe, Path(folder))
        before, started_s = thread_cpu_s(pid), time.perf_counter()
        try:
            yield found
        finally:
            found.seconds = time.perf_counter() - started_s
            after = thread_cpu_s(pid)
            counted_after = kernel_cpu_s(pipe, Path(folder))
            sampler.send_signal(signal.SIGINT)
            sampler.wait(60)
        found.cpu_s = {n: s - before.get(n, 0.0) for n, s in after.items()}
        found.load_average = os.getloadavg()[0]
        if not path.exists():
            raise SamplerError(log.read_text()[-500:])
        raw = path.read_text()
        if gil:
            found.profile = stacks.parse(raw, _seconds_sampled(raw, rate))
        else:
            kernel_s = {key: s - counted.get(key, 0.0) for key, s in counted_after.items()}
            found.profile = stacks.parse(raw, found.cpu_s, kernel_s)


def _wait_until_attached(sampler: subprocess.Popen[bytes], log: Path) -> None:
    end_s = time.monotonic() + _ATTACH_S
    while b"Sampling process" not in log.read_bytes():
        if sampler.poll() is not None or time.monotonic() > end_s:
            sampler.kill()
            sampler.wait()
            raise SamplerError(f"py-spy can't look into the process: {log.read_text()[-500:]}")
        time.sleep(0.02)


def _seconds_sampled(raw: str, rate: int) -> dict[int, float]:
    """Samples by thread over the rate."""
    found: dict[int, float] = {}
    for line in raw.splitlines():
        number = int(line.split("(", 1)[1].split(")", 1)[0])
        found[number] = found.get(number, 0.0) + int(line.rpartition(" ")[2]) / rate
    return found
