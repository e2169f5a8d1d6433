"""What can rot unseen around kernels: bare njit, missing twins, too many of them."""

from __future__ import annotations

import ast
from pathlib import Path

from tsengine.kernels.jit import import_all_kernels

ROOT = Path(__file__).parents[2]


def test_only_making_py_speaks_to_numba_about_compiling():
    for path in (ROOT / "tsengine").rglob("*.py"):
        if path.name == "making.py":
            continue
        text = path.read_text()
        for forbidden in ("@njit", "numba.njit", "fastmath=True", "parallel=True", "import njit"):
            assert forbidden not in text, f"{path.relative_to(ROOT)} uses {forbidden}"


def test_every_kernel_has_a_slow_twin():
    twins = set()
    for path in (ROOT / "tests" / "reference").glob("*.py"):
        tree = ast.parse(path.read_text())
        twins |= {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
    missing = [k.name for k in import_all_kernels() if k.name.split(".")[1] not in twins]
    assert missing == []


def test_every_kernel_says_what_it_does():
    assert [k.name for k in import_all_kernels() if not k.py_func.__doc__] == []


def test_kernels_stay_few():
    names = [kernel.name for kernel in import_all_kernels()]
    assert len(set(names)) == len(names), "two kernels of one name share one cache file"
    assert len(names) <= 120
