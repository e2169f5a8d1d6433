"""Every kernel occurs in a bench; every bench is found by `pytest bench`."""

from __future__ import annotations

import ast
import re
from pathlib import Path

from tsengine.kernels.jit import import_all_kernels

BENCH = Path(__file__).parents[2] / "bench"


def test_every_kernel_occurs_in_a_bench():
    words = set()
    for path in (BENCH / "kernels").glob("bench_*.py"):
        words |= set(re.findall(r"\w+", path.read_text()))
    assert [k.name for k in import_all_kernels() if k.name.split(".")[1] not in words] == []


def test_bench_files_hold_benches():
    for path in (BENCH / "kernels").glob("*.py"):
        assert path.name.startswith("bench_"), f"{path.name} would not be collected"
        names = [n.name for n in ast.parse(path.read_text()).body if isinstance(n, ast.FunctionDef)]
        assert any(name.startswith(("bench_", "test_")) for name in names), (
            f"{path.name} measures nothing"
        )


def test_scripts_say_their_command():
    for path in BENCH.glob("*.py"):
        if path.name in ("conftest.py", "bodies.py", "synthetic.py"):
            continue
        docstring = ast.get_docstring(ast.parse(path.read_text())) or ""
        assert f"python -m bench.{path.stem}" in docstring, path.name
