"""Where a real Prometheus (major version 3), node_exporter and VictoriaMetrics come from.

In this order: unpacked under ``.peers`` already, found on PATH, unpacked now by the team's tool. A
clone without that tool and without the programs skips; with the tool, a missing program fails.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PEERS = ROOT / ".peers"
TOOL = ROOT.parent / "shared" / "tools" / "debian-binary"
TRIES = 3


class MissingPeerError(Exception):
    """A program is not there; `is_failure` says whether it had to be."""

    def __init__(self, text, *, is_failure):
        super().__init__(text)
        self.is_failure = is_failure


def find_prometheus():
    """Path of a Prometheus of major version 3."""
    return _find("prometheus", ("prometheus",), "sid", PEERS / "prometheus3", _is_version_3)


def find_node_exporter():
    """Path of a node_exporter."""
    names = ("prometheus-node-exporter", "node_exporter")
    return _find(
        "prometheus-node-exporter", names, "bookworm", PEERS / "node_exporter", lambda path: True
    )


def find_promtool():
    """Path of a promtool."""
    return _find("promtool", ("promtool",), "sid", PEERS / "promtool", _is_version_3)


def find_victoria_metrics(program):
    """Path of ``vmagent``, ``vmalert``, ``victoria-metrics``: all of one package."""
    return _find("victoria-metrics", (program,), "sid", PEERS / "vm", lambda path: True)


def _find(package, names, suite, directory, is_good):
    candidates = [directory / "usr" / "bin" / name for name in names]
    candidates += [Path(found) for name in names if (found := shutil.which(name))]
    for path in candidates:
        if path.is_file() and is_good(path):
            return path
    if not TOOL.exists():
        raise MissingPeerError(f"{package} is not installed", is_failure=False)
    problem = ""
    for _ in range(TRIES):
        done = subprocess.run(
            [TOOL, package, suite, directory], capture_output=True, text=True, timeout=280
        )
        path = directory / "usr" / "bin" / names[0]
        if done.returncode == 0 and path.is_file() and is_good(path):
            return path
        problem = done.stderr.strip()[-500:]
    raise MissingPeerError(f"{package} could not be unpacked: {problem}", is_failure=True)


def _is_version_3(path):
    done = subprocess.run([path, "--version"], capture_output=True, text=True, timeout=30)
    return re.search(r"version 3\.", done.stdout + done.stderr) is not None
