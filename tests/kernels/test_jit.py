"""The cache of machine code: its keys, and how a start knows that nothing is missing."""

from __future__ import annotations

import ast
import contextlib
import shutil
import subprocess
import sys
from pathlib import Path

import google_crc32c
import numpy as np
import pytest

from tsengine.kernels import compiler, jit, loading

FOLDER = Path(jit.__file__).parent
MODULES = sorted(path.stem for path in FOLDER.glob("*.py"))


def imported_by_syntax(module):
    found = set()
    for node in ast.walk(ast.parse((FOLDER / f"{module}.py").read_bytes())):
        if isinstance(node, ast.ImportFrom) and node.module == "tsengine.kernels":
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith(
            "tsengine.kernels."
        ):
            found.add(node.module.rsplit(".", 1)[1])
    return found


@pytest.mark.parametrize("module", MODULES)
def test_imports_are_found_as_the_parser_finds_them(module):
    assert jit._imported_modules(module) == imported_by_syntax(module)


def test_the_hash_covers_what_is_imported_indirectly(tmp_path, monkeypatch):
    (tmp_path / "a.py").write_text("from tsengine.kernels import (\n    b as other,\n)\n")
    (tmp_path / "b.py").write_text("from tsengine.kernels.c import x\n")
    (tmp_path / "c.py").write_text("x = 1\n")
    monkeypatch.setattr(jit, "_PACKAGE", tmp_path)
    jit.sources_hash.cache_clear()
    before = jit.sources_hash("a")
    (tmp_path / "c.py").write_text("x = 2\n")
    jit.sources_hash.cache_clear()
    jit._source.cache_clear()
    try:
        assert jit.sources_hash("a") != before
    finally:
        jit.sources_hash.cache_clear()


STALE = """
import sys
import numpy as np
from tsengine.kernels import packing
if sys.argv[1] == "edit":
    path = packing.__file__
    with open(path) as file:
        text = file.read()
    old = "crc = crc_word(crc, load_u64(data, pos))"
    assert old in text
    with open(path, "w") as file:
        file.write(text.replace(old, "crc = crc_word(crc, load_u64(data, pos) + _ONE)"))
out = np.zeros(1, np.uint32)
packing.checksum_ranges(np.arange(9, dtype=np.uint8), np.array([0]), np.array([9]), out)
print(out[0])
"""


def test_code_of_an_old_source_is_not_stored_as_that_of_the_new_one(tmp_path):
    """A helper is edited, or upgraded, after a process imported it and before it compiles."""
    package = tmp_path / "tsengine"
    shutil.copytree(FOLDER.parent, package, ignore=shutil.ignore_patterns("__pycache__"))

    def run(mode):
        done = subprocess.run(
            [sys.executable, "-c", STALE, mode], cwd=tmp_path, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        return int(done.stdout)

    first, second = run("edit"), run("plain")
    assert first == google_crc32c.value(bytes(range(9)))
    assert second != first


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache, and one kernel to be in it."""
    monkeypatch.setattr(jit, "_cache_root", tmp_path)
    made = jit.import_all_kernels()[0]
    monkeypatch.setattr(jit, "import_all_kernels", lambda: [made])
    return tmp_path, made


def test_completeness_is_noted_and_checked(cache):
    _, made = cache
    assert not jit.is_complete()
    assert compiler.missing_kernel_count() == 1
    assert not jit.is_complete()
    touch(made.code_path)
    assert compiler.missing_kernel_count() == 0
    assert jit.is_complete()
    made.code_path.unlink()
    assert not jit.is_complete()
    assert compiler.missing_kernel_count() == 1


def touch(path):
    path.parent.mkdir(exist_ok=True)
    path.touch()


def test_code_for_another_cpu_is_not_ours(cache, monkeypatch):
    """Machines may share a folder, and a disk may find itself in another machine."""
    _, made = cache
    touch(made.code_path)
    assert compiler.missing_kernel_count() == 0
    with monkeypatch.context() as patch:
        patch.setattr(loading, "cpu_key", lambda: "another")
        assert not jit.is_complete()
        assert compiler.missing_kernel_count() == 1
        touch(made.code_path)
        assert compiler.missing_kernel_count() == 0
        assert jit.is_complete()
    assert jit.is_complete(), "each has a mark of its own"


def test_a_changed_source_is_not_complete(cache, tmp_path_factory, monkeypatch):
    touch(cache[1].code_path)
    jit.mark_complete()
    assert jit.is_complete()
    other = tmp_path_factory.mktemp("package")
    (other / "a.py").write_text("x = 1\n")
    monkeypatch.setattr(jit, "_PACKAGE", other)
    assert not jit.is_complete()


def test_a_mark_that_can_not_be_written_is_no_error(cache, monkeypatch):
    def refuse(*args, **kwargs):
        raise PermissionError

    monkeypatch.setattr(Path, "write_text", refuse)
    jit.mark_complete()
    monkeypatch.undo()


def test_modules_are_compiled_whole_and_the_largest_first():
    names = [made.name for made in jit.import_all_kernels()]
    batches = compiler._batches(names)
    assert sorted(name for batch in batches for name in batch) == sorted(names)
    modules = [{name.split(".")[0] for name in batch} for batch in batches]
    assert [len(each) for each in modules] == [1] * len(modules)
    sizes = [(FOLDER / f"{each.pop()}.py").stat().st_size for each in modules]
    assert sizes == sorted(sizes, reverse=True)


@pytest.mark.parametrize("whose", ["ours", "open to all", "a link", "somebody else's"])
def test_code_is_only_taken_from_a_folder_of_the_user_alone(tmp_path, monkeypatch, whose):
    """The last resort is a folder in one that everybody can write to."""
    monkeypatch.setattr(jit, "_writable", lambda path: False)
    monkeypatch.setattr(jit, "ENVIRONMENT_HASH", "none")
    monkeypatch.setattr(jit.tempfile, "gettempdir", lambda: str(tmp_path))
    folder = tmp_path / f"tsengine-machine-code-{jit.os.getuid()}"
    if whose == "a link":
        (tmp_path / "elsewhere").mkdir(mode=0o700)
        folder.symlink_to(tmp_path / "elsewhere")
    elif whose != "ours":
        folder.mkdir(mode=0o700)
    if whose == "open to all":
        folder.chmod(0o777)
    if whose == "somebody else's":
        uid = jit.os.getuid()
        monkeypatch.setattr(jit.os, "getuid", lambda: uid + 1)
        folder.rename(tmp_path / f"tsengine-machine-code-{uid + 1}")
    refused = pytest.raises(PermissionError, match="not this user's alone")
    with (
        pytest.warns(UserWarning, match="kernels are compiled into"),
        contextlib.nullcontext() if whose == "ours" else refused,
    ):
        assert jit._choose_cache_dir() == folder


@jit.device
def _doubled(x):
    return x + x


@jit.polished_device
def _halved(x):
    return x // 2


def test_helpers_are_for_kernels_only():
    with pytest.raises(TypeError):
        _doubled(2)
    assert _doubled.py_func(2) == 4


def test_kernels_run_both_kinds_of_helpers(tmp_path, monkeypatch):
    monkeypatch.setattr(jit, "_cache_root", tmp_path)
    monkeypatch.setattr(jit, "sources_hash", lambda name: "none")

    def count(values):
        total = 0
        for value in values:
            total += _halved(_doubled(_doubled(value)))
        return total

    made = jit.Kernel(count, jit.i64(jit.I64_IN))
    assert made.compile() is False
    assert made(np.arange(10)) == 90
    again = jit.Kernel(count, jit.i64(jit.I64_IN))
    assert again.compile() is True
    assert again(np.arange(10)) == 90
