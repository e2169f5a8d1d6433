"""No byte behind a body is ever read: bodies end where an unreadable page begins.

Numba's own bounds check does not see 8-byte loads, so a child process does the checking: a read
too far ends it with SIGSEGV.
"""

from __future__ import annotations

import subprocess
import sys

CHILD = r"""
import ctypes, mmap, random
import numpy as np
from tests.reference import histogramscan as native
from tests.reference import remote_write as wire
from tsengine.errors import MalformedRequest
from tsengine.model.histogram_checks import check_histograms
from tsengine.options import LabelLimits
from tsengine.storage.catalog import Catalog

page = mmap.PAGESIZE
area = mmap.mmap(-1, 3 * page)
view = np.frombuffer(area, np.uint8)
libc = ctypes.CDLL(None, use_errno=True)
guard = ctypes.c_void_p(view.ctypes.data + 2 * page)
assert libc.mprotect(guard, ctypes.c_size_t(page), 0) == 0, ctypes.get_errno()
rng = random.Random(7)

def texts(n):
    return [bytes(rng.choices(b"ab\xc3\xbc_", k=rng.randrange(20))) for _ in range(n)]

def histogram():
    n = rng.randrange(5)
    spans = [(rng.randrange(-3, 9), n // 2), (rng.randrange(3), n - n // 2)]
    values = [rng.randrange(4) for _ in range(n)]
    counts = [sum(values[: k + 1]) for k in range(n)]
    message = native.Message(sum(counts), positive_spans=spans, positive=values, start_ms=5)
    if rng.random() < 0.5:
        message.is_float = True
        message.custom = [wire.bits_of(float(k)) for k in range(rng.randrange(20))]
        message.schema = -53
    return native.encode(message, packed=rng.random() < 0.5)

def exemplar():
    return wire.Exemplar(list(zip(texts(2), texts(2))), rng.randrange(2**50), 7)

def body():
    series = []
    for _ in range(rng.randrange(1, 5)):
        labels = list(zip(texts(3), texts(3)))
        labels.append((b"__name__", rng.choice(texts(4))))
        if rng.random() < 0.5:
            labels = [(b"__name__", b"up")]
        samples = [(rng.randrange(2**50), rng.randrange(2**64)) for _ in range(rng.randrange(3))]
        numbers = rng.randrange(2), rng.randrange(2)
        series.append(wire.Series(labels, samples, *numbers, (1, b"h", b"u")))
        series[-1].histograms = [histogram() for _ in range(rng.randrange(3))]
        series[-1].exemplars = [exemplar() for _ in range(rng.randrange(3))]
        series[-1].starts = [9] * rng.randrange(len(samples) + 1)
    one = wire.encode_v1(series, [(1, b"m", b"h", b"")])
    made = bytearray(one if version == 1 else wire.encode_v2(series))
    for _ in range(rng.randrange(3)):
        made[rng.randrange(len(made))] = rng.randrange(256)
    if rng.random() < 0.5:
        del made[rng.randrange(len(made)):]
    return made

good = n_histograms = 0
for i in range(6000):
    version = 1 + i % 2
    if i % 500 == 0:
        catalog = Catalog(secret=bytes(32), limits=LabelLimits(), max_series=10**6)
    data = body()
    place = slice(2 * page - len(data), 2 * page)
    view[place] = np.frombuffer(bytes(data), np.uint8)
    try:
        found = catalog.scan_remote_write(memoryview(area)[place], version=version)
        good += 1
        if found.batch.histograms is not None:
            check_histograms(found.batch.histograms)
            n_histograms += len(found.batch.histograms)
    except MalformedRequest:
        pass
print("good", good, n_histograms)
"""


def test_bodies_are_never_read_past_their_end():
    child = subprocess.run(
        [sys.executable, "-c", CHILD], capture_output=True, text=True, timeout=120, check=False
    )
    assert child.returncode == 0, child.stderr
    n_good, n_histograms = map(int, child.stdout.split()[1:])
    assert n_good > 1000
    assert n_histograms > 500
