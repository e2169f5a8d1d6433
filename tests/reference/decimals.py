"""Slow twin of tsengine/kernels/decimals.py."""

from __future__ import annotations

import math
import struct

MAX_EXPONENT = 15
SIGN = 1 << 63


def to_f64(bits: int) -> float:
    return struct.unpack("<d", struct.pack("<Q", bits))[0]


def to_bits(value: float) -> int:
    return struct.unpack("<Q", struct.pack("<d", value))[0]


def is_special(bits: int) -> bool:
    return not math.isfinite(to_f64(bits)) or bits == SIGN


def to_ordered(bits: int) -> int:
    """int64 bits that are ordered as the doubles are; its own inverse."""
    return bits ^ (2**63 - 1) if bits >> 63 else bits


def decimal(value: float, k: int) -> int | None:
    """The m below 2**53 with m / 10**k == value, or None."""
    scaled = value * 10.0**k
    if not abs(scaled) < 2**53:
        return None
    m = round(scaled)
    return m if m / 10.0**k == value else None


def decimal_exponent(values: list[float]) -> tuple[int, list[int]]:
    """Least k for which all values are decimals, and their integers; (-1, []) if there is none."""
    for k in range(MAX_EXPONENT + 1):
        found = [decimal(value, k) for value in values]
        if None not in found:
            return k, found
    return -1, []
