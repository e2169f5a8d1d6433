"""Machine code runs without numba, and looks at its arguments itself."""

from __future__ import annotations

import errno
import os
import subprocess
import sys

import numpy as np
import pytest

from tsengine.kernels import jit, packing

WITHOUT_NUMBA = """
import sys
import numpy as np
from tsengine.kernels import jit, loading, packing

made = jit.import_all_kernels()
assert all([kernel.compile() for kernel in made]), "the parent compiled all"
assert not [name for name in sys.modules if name.split(".")[0] == "numba"]
# Lets LLVM's code go; numba needs it again below.
loading.load_kernels()
out = np.zeros(1, np.uint32)

def checksum():
    data = np.arange(9, dtype=np.uint8)
    packing.checksum_ranges(data, np.array([0]), np.array([9]), out)
    return int(out[0])

first = checksum()

# The host program may use numba as well, before and after.
import numba
import numba.core.runtime.nrt

@numba.njit
def total(values):
    doubled = np.empty(len(values))
    for i in range(len(values)):
        doubled[i] = 2 * values[i]
    return doubled.sum()

assert total(np.arange(5.0)) == 20.0
assert checksum() == first
print(len(made), first)
"""


def test_all_kernels_load_without_numba_and_beside_it():
    made = jit.import_all_kernels()
    for kernel in made:
        kernel.compile()
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_NUMBA], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[0] == str(len(made))


OUT_OF_MEMORY = """
import sys
import numpy as np
from pathlib import Path
from tsengine.kernels import jit

def fill(n, out):
    taken = np.empty(n)
    for i in range(out.shape[0]):
        out[i] = taken.shape[0]
    return n

jit._cache_root = Path(sys.argv[1])
jit.sources_hash = lambda name: "none"
kernel = jit.Kernel(fill, jit.i64(jit.i64, jit.F64_OUT))
hit = kernel.compile()
out = np.zeros(2)
assert kernel(3, out) == 3 and out.tolist() == [3.0, 3.0]
assert hit == ("numba" not in sys.modules)
try:
    kernel(1 << 58, out)
except MemoryError:
    print("refused", hit)
"""


def test_an_exception_of_a_kernel_is_raised_without_numba_too(tmp_path):
    for hit in (False, True):
        done = subprocess.run(
            [sys.executable, "-c", OUT_OF_MEMORY, str(tmp_path)], capture_output=True, text=True,
            check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert done.stdout.split() == ["refused", str(hit)]


def checksum(data, out):
    packing.checksum_ranges(data, np.array([0]), np.array([9]), out)
    return int(out[0])


def unaligned(dtype, n):
    raw = np.zeros(n * np.dtype(dtype).itemsize + 1, np.uint8)
    return raw[1:].view(dtype)


def read_only(array):
    array.flags.writeable = False
    return array


BYTES = np.arange(9, dtype=np.uint8)
NOT_BYTES = {
    "other size": BYTES.astype(np.int64),
    "other kind": BYTES.astype(np.int8),
    "truth": np.zeros(9, np.bool_),
    "objects": np.array([None] * 9),
    "gaps": np.zeros(18, np.uint8)[::2],
    "backwards": BYTES[::-1],
    "two dimensions": np.zeros((3, 3), np.uint8),
    "none": np.array(3, np.uint8),
    "list": BYTES.tolist(),
    "bytes": bytes(9),
    "nothing": None,
    "number": 7,
    "type": np.ndarray,
}


@pytest.mark.parametrize("data", NOT_BYTES.values(), ids=NOT_BYTES)
def test_arrays_of_another_type_or_layout_are_refused(data):
    out = np.zeros(1, np.uint32)
    changes = []
    for _ in range(20):
        before = sys.getrefcount(data)
        for _ in range(3):
            with pytest.raises(TypeError, match="readonly array"):
                checksum(data, out)
        changes.append(sys.getrefcount(data) - before)
    # Other threads take and give back references of None and the like at any time.
    assert 0 in changes
    assert out[0] == 0


@pytest.mark.parametrize(
    "out",
    [
        read_only(np.zeros(1, np.uint32)),
        np.zeros(1, ">u4"),
        np.zeros(1, np.int32),
        np.zeros(1, np.float32),
        unaligned(np.uint32, 1),
    ],
    ids=["read-only", "foreign order", "signed", "floats", "unaligned"],
)
def test_outputs_that_can_not_be_written_as_declared_are_refused(out):
    with pytest.raises(TypeError, match="uint32"):
        checksum(BYTES, out)


def test_what_is_alike_is_taken(tmp_path):
    out = np.zeros(1, np.uint32)
    wanted = checksum(BYTES, out)
    (tmp_path / "bytes").write_bytes(BYTES.tobytes())
    alike = (
        read_only(BYTES.copy()),
        np.memmap(tmp_path / "bytes", np.uint8, "r"),
        np.frombuffer(BYTES.tobytes(), np.uint8),
        np.zeros(9, np.ulonglong)[:0].view(np.uint8),
    )
    assert [checksum(data, out) for data in alike[:3]] == [wanted] * 3
    starts = np.array([0], np.longlong)
    packing.checksum_ranges(BYTES, starts, np.array([9], np.longlong), out)
    assert out[0] == wanted
    packing.checksum_ranges(alike[3], starts[:0], starts[:0], out)


def test_references_of_arguments_are_given_back():
    out = np.zeros(1, np.uint32)
    data, starts = BYTES.copy(), np.array([0])
    before = sys.getrefcount(data), sys.getrefcount(starts), sys.getrefcount(out)
    for _ in range(10):
        packing.checksum_ranges(data, starts, np.array([9]), out)
        with pytest.raises(TypeError):
            packing.checksum_ranges(data, starts, out, out)
    assert (sys.getrefcount(data), sys.getrefcount(starts), sys.getrefcount(out)) == before


def test_a_wrong_number_of_arguments_is_refused():
    with pytest.raises(TypeError):
        packing.checksum_ranges(BYTES)


def test_damaged_code_is_made_anew(tmp_path, monkeypatch):
    monkeypatch.setattr(jit, "_cache_root", tmp_path)
    monkeypatch.setattr(jit, "sources_hash", lambda name: "none")

    def add(a, b):
        return a + b

    def made():
        kernel = jit.Kernel(add, jit.i64(jit.i64, jit.i64))
        hit = kernel.compile()
        assert kernel(2, 3) == 5
        return hit

    assert [made(), made()] == [False, True]
    (path,) = tmp_path.rglob("*.code")
    whole = path.read_bytes()
    # In the checksum, in the names of symbols, which would be called, and in the code.
    flipped = [whole[:k] + bytes([whole[k] ^ 1]) + whole[k + 1 :] for k in (0, 5, 15, 40, 100, -9)]
    for damaged in (whole[:-1], b"", b"\n", b"7\n", b"[]\n", *flipped):
        path.write_bytes(damaged)
        assert [made(), made()] == [False, True]


def test_code_that_can_not_be_stored_runs_all_the_same(tmp_path, monkeypatch):
    monkeypatch.setattr(jit, "_cache_root", tmp_path)
    monkeypatch.setattr(jit, "sources_hash", lambda name: "none")

    def full(source, target):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    kernel = jit.Kernel(lambda a, b: a + b, jit.i64(jit.i64, jit.i64))
    assert kernel(2, 3) == 5
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]
    # Who compiles ahead is told.
    with pytest.raises(OSError, match="No space"):
        jit.Kernel(lambda a, b: a - b, jit.i64(jit.i64, jit.i64)).compile()
