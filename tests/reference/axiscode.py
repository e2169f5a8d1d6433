"""Slow twin of tsengine/kernels/axiscode.py, written from docs/format/axis.md."""

from __future__ import annotations

import math
from functools import reduce
from itertools import pairwise

from tests.reference.packing import (
    MASK,
    VECTOR,
    Choose,
    Damaged,
    Reader,
    checksum,
    read_stream,
    seal,
    signed,
    unzigzag,
    varint,
    write_stream,
    zigzag,
)

REGULAR, VECTORS = 1, 2
DIFFERENCES, LINE = 1, 2


def line_at(slope: int, i: int) -> int:
    return (slope * i + 2048 & MASK) >> 12


def encode_axes(axes: list[list[int]], choose: Choose | None = None) -> list[bytes]:
    """Payload of each axis: any legal form with `choose`, the smallest plain one without."""
    return [_axis(t_ms, choose) for t_ms in axes]


def _axis(t_ms: list[int], choose: Choose | None) -> bytes:
    n = len(t_ms)
    step = reduce(math.gcd, (t - t_ms[0] for t in t_ms), 0) or 1
    is_regular = t_ms[-1] - t_ms[0] == step * (n - 1)
    if is_regular and (choose is None or choose(2)):
        return seal(bytes([REGULAR]) + varint(zigzag(t_ms[0])) + varint(step), n)
    if choose is not None and choose(2):
        step = 1
    out = bytes([VECTORS]) + varint(zigzag(t_ms[0])) + varint(step)
    rows = [(t - t_ms[0]) // step for t in t_ms]
    for at in range(0, n, VECTOR):
        q = rows[at : at + VECTOR]
        orders = range(min(3, len(q)))
        if choose is None:
            out += min((_differences(q, order, choose) for order in orders), key=len)
        elif choose(2):
            out += _differences(q, choose(len(orders)), choose)
        else:
            slope = choose(1 << choose(63))
            order = choose(len(orders))
            rest = [(x - line_at(slope, i)) & MASK for i, x in enumerate(q)]
            out += bytes([LINE | order << 4]) + varint(slope) + write_stream(rest, order, choose)
    return seal(out, n)


def _differences(q: list[int], order: int, choose: Choose | None) -> bytes:
    return bytes([DIFFERENCES | order << 4]) + write_stream(q, order, choose)


def decode_axes(payloads: list[bytes], lengths: list[int]) -> list[list[int]]:
    """Timestamps of each axis."""
    return [_read_axis(data, n) for data, n in zip(payloads, lengths, strict=True)]


def _read_axis(data: bytes, n: int) -> list[int]:
    if len(data) < 7 or checksum(data[:-4], n).to_bytes(4, "little") != data[-4:]:
        raise Damaged
    reader = Reader(data, 0, len(data) - 4)
    kind = reader.byte()
    first, step = unzigzag(reader.varint()), reader.varint()
    rows: list[int] = []
    if kind == REGULAR:
        rows = list(range(n))
    elif kind == VECTORS:
        for at in range(0, n, VECTOR):
            tag = reader.byte()
            if tag & 15 not in (DIFFERENCES, LINE):
                raise Damaged
            slope = reader.varint() if tag & 15 == LINE else 0
            q = read_stream(reader, min(VECTOR, n - at), tag >> 4)
            line = tag & 15 == LINE
            rows += [x + (line_at(slope, i) if line else 0) & MASK for i, x in enumerate(q)]
    else:
        raise Damaged
    t_ms = [signed(x * step + first & MASK) for x in rows]
    if reader.pos != reader.end or any(b <= a for a, b in pairwise(t_ms)):
        raise Damaged
    return t_ms
