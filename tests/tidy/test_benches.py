"""Every kernel is named by the code of a bench; every bench is found by `pytest bench`."""

from __future__ import annotations

import ast
import re
from pathlib import Path

from tsengine.kernels.jit import import_all_kernels

BENCH = Path(__file__).parents[2] / "bench"


def names_in_code(path):
    """Words of a file's code and of its strings, docstrings and comments aside."""
    tree = ast.parse(path.read_text())
    with_docstrings = (ast.Module, ast.FunctionDef, ast.ClassDef)
    docstrings = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, with_docstrings) and isinstance(node.body[0], ast.Expr)
    }
    for node in ast.walk(tree):
        match node:
            case ast.Name():
                yield node.id
            case ast.Attribute():
                yield node.attr
            case ast.Constant(value=str(text)) if id(node) not in docstrings:
                yield from re.findall(r"\w+", text)


def test_every_kernel_occurs_in_a_bench():
    words = set()
    for path in (BENCH / "kernels").glob("bench_*.py"):
        words |= set(names_in_code(path))
    missing = [k.name for k in import_all_kernels() if k.name.split(".")[1] not in words]
    assert missing == [], "bench/kernels measures none of these"


def test_docstrings_measure_nothing(tmp_path):
    path = tmp_path / "bench_x.py"
    path.write_text('"""`kernel_a`."""\nimport b\n\ndef f():\n    """kernel_b"""\n    b.c("d e")\n')
    assert set(names_in_code(path)) == {"b", "c", "d", "e"}


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
