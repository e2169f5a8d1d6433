"""Imports point downwards: the layers of docs/architecture.md."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PLAIN = {"errors", "options", "clock", "model"}
ALLOWED = {
    "kernels": {"kernels"},
    "model": PLAIN | {"kernels"},
    "errors": set(),
    "options": {"errors"},
    "clock": set(),
    "codecs": PLAIN | {"kernels", "codecs"},
    "promql": PLAIN | {"promql"},
    "storage": PLAIN | {"kernels", "codecs", "storage"},
    "query": PLAIN | {"kernels", "promql", "query"},
    "interop": PLAIN | {"kernels", "interop"},
    "result": PLAIN | {"query", "interop", "kernels"},
    "backup": PLAIN | {"storage", "codecs", "backup"},
    "inspection": PLAIN | {"storage", "codecs", "backup"},
    "bringing_back": PLAIN | {"storage", "backup", "promql"},
    "explorer": PLAIN | {"storage", "promql", "interop"},
    "appender": PLAIN | {"storage"},
    "deletion": PLAIN | {"storage", "promql"},
    "keeper": PLAIN | {"storage", "query", "backup"},
    "remote_reader": PLAIN | {"storage", "query", "promql", "interop"},
    "engine": PLAIN
    | {"storage", "query", "promql", "interop", "result", "explorer", "appender", "deletion"}
    | {"backup", "keeper", "remote_reader"},
    "rehearsal": PLAIN | {"storage", "query", "engine"},
}
SERVER_MAY_USE = {"", "errors", "interop"}


def modules(folder):
    return sorted(path for path in (ROOT / folder).rglob("*.py") if "__pycache__" not in path.parts)


def imported(path):
    """Dotted names of tsengine's modules that a file imports, at any depth of its code."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            if node.module == "tsengine":
                yield from (f"tsengine.{alias.name}" for alias in node.names)
            else:
                yield node.module


def layer_of(path):
    inside = path.relative_to(ROOT / "tsengine")
    return inside.parts[0].removesuffix(".py")


def targets(path):
    for name in imported(path):
        parts = name.split(".")
        if parts[0] == "tsengine":
            yield parts[1] if len(parts) > 1 else ""


@pytest.mark.parametrize("path", modules("tsengine"), ids=lambda p: str(p.relative_to(ROOT)))
def test_library_imports_point_down(path):
    layer = layer_of(path)
    if layer == "__init__":
        return
    assert set(targets(path)) <= ALLOWED[layer], f"{path.relative_to(ROOT)} imports upwards"


@pytest.mark.parametrize("path", modules("server"), ids=lambda p: str(p.relative_to(ROOT)))
def test_server_uses_only_the_facade(path):
    exported = set(_exported())
    used = set(targets(path)) - exported
    assert used <= SERVER_MAY_USE, f"{path.relative_to(ROOT)} reaches inside the engine"


def test_the_library_opens_no_socket_and_reads_no_environment():
    for path in modules("tsengine"):
        text = path.read_text()
        if path.parts[-2:] in (("kernels", "compiler.py"), ("kernels", "jit.py")):
            continue  # one hands its own to the children that compile, one asks as numba does
        for forbidden in ("os.environ", "os.getenv", "import socketserver", "sys.exit", "os._exit"):
            assert forbidden not in text, f"{path.relative_to(ROOT)} uses {forbidden}"


def test_kernels_know_only_numba_and_numpy():
    standard = {
        "__future__", "builtins", "collections", "contextlib", "ctypes", "functools", "gc",
        "hashlib", "importlib", "json", "os", "pathlib", "pkgutil", "queue", "re", "shutil", "stat",
        "subprocess", "sys", "tempfile", "threading", "time", "types", "typing", "warnings", "zlib",
    }  # fmt: skip
    for path in modules("tsengine/kernels"):
        roots = {name.split(".")[0] for name in imported(path)}
        assert roots <= standard | {"numba", "numpy", "llvmlite", "tsengine"}, path.name


def _exported():
    tree = ast.parse((ROOT / "tsengine/__init__.py").read_text())
    for node in tree.body:
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "__all__":
            return ast.literal_eval(node.value)
    raise AssertionError("tsengine/__init__.py lists what it exports")
