"""What a start of the server does not wait for."""

from __future__ import annotations

import subprocess
import sys

import pytest

import tsengine

LATE = (
    "numba", "pyarrow", "pandas", "opentelemetry", "google.protobuf", "tqdm", "multiprocessing",
    "tsengine.interop.exposition", "tsengine.interop.openmetrics",
)  # fmt: skip
"""Modules that only some requests need."""

SCRIPT = """
import os, signal, sys
from tsengine_server import cli, lifecycle

def announce(config, address):
    print(*sorted(sys.modules))
    os.kill(os.getpid(), signal.SIGTERM)

lifecycle.announce = announce
sys.exit(cli.main(sys.argv[1:]))
"""


@pytest.fixture(scope="module")
def loaded(tmp_path_factory):
    """Names of all modules of a server process that has just become ready."""
    tsengine.warmup()
    folder = tmp_path_factory.mktemp("start")
    command = [
        sys.executable, "-c", SCRIPT, "serve", "--data-dir", str(folder / "data"),
        "--listen", "127.0.0.1:0", "--self-scrape", "off",
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split())


@pytest.mark.parametrize("module", LATE)
def test_heavy_modules_are_loaded_when_they_are_needed(loaded, module):
    assert module not in loaded


def test_what_every_request_needs_is_loaded(loaded):
    assert {"aiohttp.web", "tsengine.engine", "tsengine.query.engine"} <= loaded
    # All kernels, also those of few requests: loaded later they would compete with the first ones.
    assert "tsengine.kernels.xorchunk" in loaded
