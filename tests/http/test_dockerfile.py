"""The Dockerfile's build steps, run in a fresh virtual environment; then its command."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.real.processes import Child, get

ROOT = Path(__file__).resolve().parents[2]
LINES = [
    line
    for line in (ROOT / "Dockerfile").read_text().splitlines()
    if line and not line.startswith("#")
]
COPIED = ("tsengine", "server", "pyproject.toml", "README.md", "LICENSE")


def values(instruction):
    return [line.removeprefix(instruction + " ") for line in LINES if line.startswith(instruction)]


def test_its_only_build_steps_are_install_and_warmup():
    steps = values("RUN")
    assert steps[0] == "pip install '.[server,s3]'"
    assert steps[1].startswith("tsengine warmup")
    assert len(steps) == 2


def test_it_runs_as_nobody_in_particular_and_has_a_health_check():
    assert values("USER") not in ([], ["root"], ["0"])
    assert len(values("HEALTHCHECK")) == 1
    assert "/-/healthy" in values("HEALTHCHECK")[0]
    assert len(LINES) <= 15


@pytest.mark.timeout(900)
def test_its_build_steps_work_in_a_fresh_environment(tmp_path):
    source = tmp_path / "src"
    source.mkdir()
    for name in COPIED:
        if (ROOT / name).is_dir():
            ignored = shutil.ignore_patterns("__pycache__")
            shutil.copytree(ROOT / name, source / name, ignore=ignored)
        else:
            shutil.copy(ROOT / name, source / name)
    venv = tmp_path / "venv"
    subprocess.run([sys.executable, "-m", "venv", venv], check=True, timeout=120)
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith("PYTHON")
    }
    environment["PATH"] = f"{venv / 'bin'}{os.pathsep}{environment['PATH']}"
    for step in values("RUN"):
        done = subprocess.run(
            step, shell=True, cwd=source, env=environment, capture_output=True, text=True,
            timeout=600,
        )  # fmt: skip
        assert done.returncode == 0, f"{step}\n{done.stdout}\n{done.stderr}"
    for pair in re.findall(r"(\w+)=(\S+)", " ".join(values("ENV"))):
        environment[pair[0]] = pair[1]
    environment |= {
        "TSENGINE_DATA_DIR": str(tmp_path / "data"), "TSENGINE_LISTEN": "127.0.0.1:0",
        "PYTHONUNBUFFERED": "1",
    }  # fmt: skip
    command = json.loads(values("CMD")[0])
    command[0] = str(venv / "bin" / command[0])
    server = Child(command, tmp_path / "server.log", cwd=tmp_path, env=environment)
    try:
        url = server.wait_for(r"tsengine is ready: (\S+)")[1]
        assert "compiling" not in server.text()
        assert get(url + "/-/healthy") == b"tsengine is healthy.\n"
        assert b'"status":"success"' in get(url + "/api/v1/query?query=up")
    finally:
        code = server.stop()
    assert code == 0
