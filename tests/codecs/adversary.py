"""Series that are hard for the transforms, each in its own way, and bytes that lie.

Not a test itself: `block` and `axis` draw from a `random.Random`, so that a hypothesis test gives
a seed and gets whole arrays without drawing thousands of numbers one by one.
"""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import random
from collections.abc import Iterator

import numpy as np

from tests.reference.blockcode import SPECIALS, STALE
from tests.reference.decimals import to_bits, to_ordered
from tests.reference.packing import MASK

LENGTHS = (1, 2, 3, 4, 5, 16, 17, 24, 25, 48, 50, 127, 128, 129, 257, 1023, 1024, 1025)
LONG = (2048, 3000, 8191, 8192)
FIRST_ROWS = (0, 1, 5, 896, 1000, 1023, 1024, 8191)
NANS = (0x7FF8000000000123, 0xFFF8000000000000, 0x7FF0000000000001, 0xFFFFFFFFFFFFFFFF)


def _steps(rnd: random.Random, n: int) -> list[float]:
    """Rarely changes, by very different amounts: exceptions."""
    x, out = 0, []
    for _ in range(n):
        if rnd.random() < 0.05:
            x += rnd.randrange(1, 10 ** rnd.randrange(1, 14))
        out.append(float(x))
    return out


def _walk(rnd: random.Random, n: int, digits: int) -> list[float]:
    x, out = 0.0, []
    for _ in range(n):
        x += rnd.gauss(0, 1)
        out.append(round(x, digits))
    return out


def _real(rnd: random.Random, n: int) -> list[float]:
    """Float sums of decimals: near a decimal, a few ulps off."""
    x, out = 0.0, []
    for _ in range(n):
        x += rnd.randrange(1000) / 1000
        out.append(x)
    return out


def _ordered(integers: list[int]) -> list[int]:
    return [to_ordered(x & MASK) for x in integers]


def _aliasing(rnd: random.Random, n: int) -> list[int]:
    """Most values in the upper part of int64, a few at its end below: spans wrap."""
    high = 2**62 + 2**61
    return _ordered(
        [
            high + rnd.getrandbits(61) if rnd.random() < 0.97 else -high - rnd.getrandbits(5)
            for _ in range(n)
        ]
    )


def _edges(rnd: random.Random, n: int) -> list[float]:
    edges = (0.0, 1.0, 2.0**52, 2.0**53 - 1, -(2.0**53) + 1, 2.0**53, 1e22, 5e-324, 1e308, -1e308)
    few = rnd.sample(edges, 3)
    return [rnd.choice(few) for _ in range(n)]


def block(rnd: random.Random, n: int) -> list[int]:
    """n values (bits) of one of the families, often with specials, sometimes of two families."""
    if n > 3 and rnd.random() < 0.2:
        cut = rnd.randrange(1, n)
        return block(rnd, cut) + block(rnd, n - cut)
    start = rnd.choice((0, 7, -3, 10**6, 2**40))
    floats = (
        lambda: [rnd.choice((0.0, 1.0, 1e300, 5e-324, -1.5, 1 / 3, 123.456))] * n,
        lambda: [float(start + 3 * i) for i in range(n)],
        lambda: [float(4096 * rnd.randrange(-1000, 1000)) for _ in range(n)],
        lambda: [float(i * i % 2**50) for i in range(n)],
        lambda: _walk(rnd, n, rnd.randrange(16)),
        lambda: _real(rnd, n),
        lambda: _steps(rnd, n),
        lambda: _edges(rnd, n),
        lambda: [rnd.random() * 2.0 ** rnd.randrange(-1074, 1000) for _ in range(n)],
        lambda: [i * 5e-324 * 8 for i in range(n)],
        lambda: [round(rnd.uniform(0, 9), rnd.choice((1, 1, 1, 9))) for _ in range(n)],
    )
    words = (
        lambda: [rnd.getrandbits(64) for _ in range(n)],
        lambda: _ordered([rnd.choice((-(2**63), 2**63 - 1, 0, -1)) for _ in range(n)]),
        lambda: _ordered([rnd.getrandbits(40) << 20 for _ in range(n)]),
        lambda: _aliasing(rnd, n),
    )
    made = rnd.choice((*floats, *words))()
    bits = [x if isinstance(x, int) else to_bits(x) for x in made]
    if rnd.random() < 0.4:
        share = rnd.choice((0.01, 0.3, 0.9, 1.0))
        usual = rnd.choice((STALE, STALE, *SPECIALS[1:], *NANS))
        for i in range(n):
            if rnd.random() < share:
                bits[i] = usual if rnd.random() < 0.7 else rnd.choice((*SPECIALS[1:], *NANS))
    return bits


def axis(rnd: random.Random, n: int) -> list[int]:
    """n strictly ascending int64 of one of the families."""
    start = rnd.choice((0, -5, 1_700_000_000_000, 40 - 2**63))
    step = rnd.choice((1, 15_000, 1000, 7))
    wide = 2**64 // n
    jump = rnd.getrandbits(30)
    families = (
        lambda: [start + step * i for i in range(n)],
        lambda: [start + 15_000 * i + rnd.randrange(-40, 40) for i in range(n)],
        lambda: [start + 1000 * i + rnd.randrange(400) for i in range(n)],
        lambda: [-(2**63) + wide * i + rnd.randrange(wide) for i in range(n)],
        lambda: [start + 60_000 * (i + (i > n // 2) * jump) for i in range(n)],
        lambda: [2**63 - 1 - n + i + 1 for i in range(n)],
        lambda: [-(2**63), *range(n - 2), 2**63 - 1][:n] if n > 1 else [2**63 - 1],
    )
    t_ms = rnd.choice(families)()
    gaps = rnd.choice((0, 0, 0.1))
    return [t for i, t in enumerate(t_ms) if i == 0 or rnd.random() >= gaps] or t_ms


def damaged(rnd: random.Random, data: bytes) -> bytes:
    """A few bytes changed, or the end lost; the first bytes, where structure lies, more often."""
    changed = bytearray(data)
    for _ in range(rnd.randrange(1, 4)):
        place = rnd.choice((0, rnd.randrange(min(len(data), 16)), rnd.randrange(len(data))))
        changed[place] = rnd.choice((0, 1, 0x7F, 0x80, 0xFF, rnd.getrandbits(8)))
    if rnd.random() < 0.25:
        return bytes(changed[: rnd.randrange(1, len(data) + 1)])
    return bytes(changed)


@contextlib.contextmanager
def guarded(size: int) -> Iterator[np.ndarray]:
    """u8[size] that ends where memory ends: a read behind it kills the process.

    ``NUMBA_BOUNDSCHECK`` does not see loads of whole words; this does.
    """
    pages = -(-max(size, 1) // mmap.PAGESIZE)
    area = mmap.mmap(-1, (pages + 1) * mmap.PAGESIZE)
    whole = np.frombuffer(area, np.uint8)
    protect = ctypes.CDLL(None, use_errno=True).mprotect
    guard = ctypes.c_void_p(whole.ctypes.data + pages * mmap.PAGESIZE)
    assert protect(guard, ctypes.c_size_t(mmap.PAGESIZE), 0) == 0
    yield whole[pages * mmap.PAGESIZE - size : pages * mmap.PAGESIZE]
