"""Instructions that not every CPU has, and what is done without them, give the same."""

import os
import subprocess
import sys

SCRIPT = """
import random
import sys
import numpy as np
from tests.reference import packing as reference
from tsengine.kernels import making, packing
from tsengine.kernels.jit import I64_IN, U8_IN, U64_OUT, i64, u64
from tsengine.kernels.packing import checksum, has_byte_shuffle, has_crc32c, unpack_tail

def branches(nothing):
    return (1 if has_crc32c() else 0) + (2 if has_byte_shuffle() else 0)

def unpack(data, numbers, base, x):
    pos, width, start, lo, hi = numbers[0], numbers[1], numbers[2], numbers[3], numbers[4]
    unpack_tail(data, pos, width, base, x, start, lo, hi)
    return 0

def crc(data, numbers, context):
    return checksum(data, numbers[0], numbers[1], context)

branches = making.compiled(branches, i64(i64))
unpack = making.compiled(unpack, i64(U8_IN, I64_IN, u64, U64_OUT))
crc = making.compiled(crc, u64(U8_IN, I64_IN, u64))
rnd = random.Random(7)
for width in range(65):
    for _ in range(12):
        n, pos, start = rnd.randint(1, 90), rnd.randint(0, 5), rnd.randint(0, 9)
        lo = rnd.randint(0, n - 1)
        hi = rnd.randint(lo, n)
        values = [rnd.getrandbits(width) if width else 0 for _ in range(n)]
        packed = sum(value << (k * width) for k, value in enumerate(values))
        size = pos + (n * width + 7) // 8
        # Bytes behind the end are not there, or belong to others.
        behind = rnd.choice((0, 1, 9, 70))
        data = rnd.randbytes(pos) + packed.to_bytes(size - pos, "little") + rnd.randbytes(behind)
        data = np.frombuffer(data, np.uint8)
        base = rnd.getrandbits(64)
        x = np.full(start + n, 77, np.uint64)
        unpack(data, np.array([pos, width, start, lo, hi]), np.uint64(base), x)
        wanted = [(value + base) & reference.MASK for value in values[lo:hi]]
        assert x[start + lo : start + hi].tolist() == wanted, (width, n, pos, lo, hi, behind)
        # What belongs to other streams stays.
        assert (x[:start] == 77).all() and (x[start + hi :] == 77).all()
for size in (0, 1, 7, 8, 9, 127, 128, 131, 160, 500):
    data, context = rnd.randbytes(size + 3), rnd.getrandbits(64)
    found = crc(np.frombuffer(data, np.uint8), np.array([2, 2 + size]), np.uint64(context))
    assert found == reference.checksum(data[2 : 2 + size], context), size
print(branches(0))
"""


def branches_of(cpu):
    environment = dict(os.environ)
    if cpu is not None:
        environment["NUMBA_CPU_NAME"] = cpu
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return int(done.stdout)


def test_with_what_every_cpu_has():
    assert branches_of("generic") == 0


def test_with_what_this_cpu_has():
    found = branches_of(None)
    if not os.path.exists("/proc/cpuinfo"):
        return
    # Else fast branches could be left out everywhere, and nobody would notice.
    with open("/proc/cpuinfo", encoding="ascii", errors="replace") as file:
        flags = set(next((line for line in file if line.startswith("flags")), "").split())
    wanted = (1 if "sse4_2" in flags else 0) + (2 if {"avx512bw", "avx512vbmi"} <= flags else 0)
    assert found == wanted
