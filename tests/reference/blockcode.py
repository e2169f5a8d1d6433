"""Slow twin of tsengine/kernels/blockcode.py, written from docs/format/block.md.

`encode_blocks` with a `choose` writes any legal form of a block, not only those that the kernel
chooses; without one it writes the smallest of the plain forms. `decode_blocks` is strict: whatever
the page does not allow is `Damaged`.
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from functools import reduce
from itertools import pairwise

from tests.reference.decimals import decimal, is_special, to_bits, to_f64, to_ordered
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

CONSTANT, CONSTANT_DECIMAL, DECIMAL, RESIDUAL, ORDERED = 1, 2, 3, 4, 5
STALE = 0x7FF0000000000002
SPECIALS = [
    None, STALE, 0x7FF8000000000000, 0x7FF8000000000001,
    0x7FF0000000000000, 0xFFF0000000000000, 1 << 63,
]  # fmt: skip


def vector_bounds(length: int, first_row: int) -> list[int]:
    """Positions of the first value of each vector, and the length."""
    cut = [i for i in range(1, length) if (first_row + i) % VECTOR == 0]
    return [0, *cut, length]


def context(length: int, first_row: int, vector: int) -> int:
    return length | first_row % VECTOR << 16 | vector << 32


# ---------------------------------------------------------------------------- encoding


def encode_blocks(
    blocks: list[list[int]], first_rows: list[int], choose: Choose | None = None
) -> list[bytes]:
    """Payload of each block of float64 bits."""
    return [_block(bits, row, choose) for bits, row in zip(blocks, first_rows, strict=True)]


def _block(bits: list[int], first_row: int, choose: Choose | None) -> bytes:
    bounds = vector_bounds(len(bits), first_row)
    vectors = [bits[a:b] for a, b in pairwise(bounds)]
    if len(vectors) == 1:
        return seal(_vector(vectors[0], choose), context(len(bits), first_row, 0))
    out = b""
    at = 0
    while at < len(vectors):
        count = 1 if choose is None else 1 + choose(min(15, len(vectors) - at))
        group = vectors[at : at + count]
        if len(group) == 1:
            body = _vector(group[0], choose)
        else:
            body = b""
            while group:
                equal = len({x for vector in group for x in vector}) == 1
                encoded = _vector(group[0], choose)
                if equal and encoded[0] in (CONSTANT, CONSTANT_DECIMAL) and choose(2):
                    encoded = bytes([encoded[0] | 128]) + encoded[1:]
                    group = group[:1]
                body += varint(len(encoded)) + encoded
                group = group[1:]
        head = varint(len(body) << 4 | count)
        out += seal(head + body, context(len(bits), first_row, at))
        at += count
    return out


def _vector(bits: list[int], choose: Choose | None) -> bytes:
    forms = []
    if len(set(bits)) == 1:
        forms.append(bytes([CONSTANT]) + struct.pack("<Q", bits[0]))
        if not is_special(bits[0]):
            for k in range(16):
                m = decimal(to_f64(bits[0]), k)
                if m is not None:
                    forms.append(bytes([CONSTANT_DECIMAL]) + varint(zigzag(m) << 4 | k))
    with_specials, specials, filled = _specials(bits)
    values = [to_f64(x) for x in filled]
    for k in range(16) if choose is None else [choose(16)]:
        m = [decimal(value, k) for value in values]
        if None not in m:
            forms += _integers(DECIMAL, bytes([k]), specials, with_specials, m, choose)
    ordered = [to_ordered(x) for x in filled]
    forms += _integers(ORDERED, b"", specials, with_specials, ordered, choose)
    if choose is None:
        return min(forms, key=len)
    k = choose(16)
    if max(abs(value) for value in values) * 10.0**k < 2**52:
        m = [round(value * 10.0**k) for value in values]
        near = [to_ordered(to_bits(x / 10.0**k)) for x in m]
        r = [(x - y) & MASK for x, y in zip(ordered, near, strict=True)]
        order = choose(min(3, len(r)))
        tail = write_stream(r, order, choose)
        head = bytes([k | order << 4])
        forms += [
            form + tail for form in _integers(RESIDUAL, head, specials, with_specials, m, choose)
        ]
    return forms[choose(len(forms))]


def _specials(bits: list[int]) -> tuple[bool, bytes, list[int]]:
    filled = []
    good = next((x for x in bits if not is_special(x)), 0)
    runs = []
    for i, x in enumerate(bits):
        if is_special(x):
            if runs and runs[-1][1] == i and runs[-1][2] == x:
                runs[-1][1] += 1
            else:
                runs.append([i, i + 1, x])
        else:
            good = x
        filled.append(good)
    out = varint(len(runs))
    behind = 0
    for start, stop, x in runs:
        code = SPECIALS.index(x) if x in SPECIALS else 0
        out += varint(start - behind) + varint(stop - start - 1 << 3 | code)
        out += b"" if code else struct.pack("<Q", x)
        behind = stop
    return bool(runs), out if runs else b"", filled


def _integers(
    kind: int, head: bytes, specials: bytes, with_specials: bool, x: list[int],
    choose: Choose | None,
) -> list[bytes]:  # fmt: skip
    """The forms of a vector with one stream of integers that all the choices allow."""
    x = [value & MASK for value in x]
    tag = kind | (16 if with_specials else 0)
    divided = b""
    differences = [signed(value - x[0] & MASK) for value in x]
    g = reduce(math.gcd, differences, 0)
    if kind == ORDERED:
        shift = (g & -g).bit_length() - 1 if g else 0
        divisor, g = shift, 1 << shift
    else:
        divisor = g
    if g > 1 and (choose is None or choose(2)):
        tag |= 32
        divided = varint(divisor) + varint(zigzag(x[0]))
        x = [value // g & MASK for value in differences]
    orders = range(min(3, len(x))) if choose is None else [choose(min(3, len(x)))]
    return [
        bytes([tag | order << 6]) + head + specials + divided + write_stream(x, order, choose)
        for order in orders
    ]


# ---------------------------------------------------------------------------- decoding


def decode_blocks(
    payloads: list[bytes], first_rows: list[int], lengths: list[int],
    lo: list[int], hi: list[int],
) -> list[list[int]]:  # fmt: skip
    """Values [lo, hi) of each block; `Damaged` if what holds them breaks the format."""
    columns = zip(payloads, first_rows, lengths, lo, hi, strict=True)
    return [_read_block(*column) if column[3] < column[4] else [] for column in columns]


def decode_file(
    file: bytes, payloads: list[tuple[int, int]], first_rows: list[int], lengths: list[int],
    wanted: list[tuple[int, int, int]],
) -> list[list[int]]:  # fmt: skip
    """Values [lo, lo + size) of each ``(block, lo, size)``; blocks lie in ranges of the file."""
    found = []
    for block, lo, size in wanted:
        start, stop = payloads[block]
        data = file[start:stop]
        found += decode_blocks([data], [first_rows[block]], [lengths[block]], [lo], [lo + size])
    return found


def _read_block(data: bytes, first_row: int, length: int, lo: int, hi: int) -> list[int]:
    bounds = vector_bounds(length, first_row)
    n_vectors = len(bounds) - 1
    values: list[int] = [-1] * length
    reader = Reader(data, 0, len(data))
    vector = 0
    while vector < n_vectors:
        if bounds[vector] >= hi:
            return values[lo:hi]
        start = reader.pos
        size, count = len(data) - 4, 1
        if n_vectors > 1:
            head = reader.varint()
            size, count = head >> 4, head & 15
        if size < 1 or not 1 <= count <= n_vectors - vector:
            raise Damaged
        body_at = reader.pos
        reader.take(size)
        stored = int.from_bytes(reader.take(4), "little")
        if bounds[vector + count] > lo:
            if stored != checksum(data[start : body_at + size], context(length, first_row, vector)):
                raise Damaged
            _read_group(
                Reader(data, body_at, body_at + size), values,
                bounds[vector : vector + count + 1], lo, hi,
            )  # fmt: skip
        vector += count
    if reader.pos != reader.end:
        raise Damaged
    return values[lo:hi]


def _read_group(reader: Reader, values: list[int], bounds: list[int], lo: int, hi: int) -> None:
    has_sizes = len(bounds) > 2
    while len(bounds) > 1:
        size = reader.end - reader.pos
        if has_sizes:
            size = reader.varint()
            if size == 0:
                raise Damaged
        data = reader.take(size)
        repeated = data[0] & 128 and data[0] & 15 in (CONSTANT, CONSTANT_DECIMAL)
        stop = bounds[-1] if repeated else bounds[1]
        if bounds[0] < hi and stop > lo:
            inner = Reader(data, 0, len(data))
            values[bounds[0] : stop] = _read_vector(inner, stop - bounds[0])
            if inner.pos != inner.end:
                raise Damaged
        bounds = bounds[-1:] if repeated else bounds[1:]
    if reader.pos != reader.end:
        raise Damaged


def _read_vector(reader: Reader, n: int) -> list[int]:
    tag = reader.byte()
    kind = tag & 15
    if kind in (CONSTANT, CONSTANT_DECIMAL):
        if tag & 0x70:
            raise Damaged
        if kind == CONSTANT:
            return [struct.unpack("<Q", reader.take(8))[0]] * n
        word = reader.varint()
        return [to_bits(signed(unzigzag(word >> 4)) / 10.0 ** (word & 15))] * n
    if not DECIMAL <= kind <= ORDERED:
        raise Damaged
    k = reader.byte() if kind != ORDERED else 0
    if kind == DECIMAL and k >> 4:
        raise Damaged
    runs = _read_specials(reader, n) if tag & 16 else []
    divisor, first = 1, 0
    if tag & 32:
        divisor, first = reader.varint(), unzigzag(reader.varint())
        if kind == ORDERED:
            if divisor > 63:
                raise Damaged
            divisor = 1 << divisor
    x = [value * divisor + first & MASK for value in read_stream(reader, n, tag >> 6)]
    if kind == ORDERED:
        bits = [to_ordered(value) for value in x]
    else:
        bits = [to_bits(float(signed(value)) / 10.0 ** (k & 15)) for value in x]
        if kind == RESIDUAL:
            r = read_stream(reader, n, k >> 4)
            moved = [to_ordered(a) + b & MASK for a, b in zip(bits, r, strict=True)]
            bits = [to_ordered(value) for value in moved]
    for start, stop, value in runs:
        bits[start:stop] = [value] * (stop - start)
    return bits


def _read_specials(reader: Reader, n: int) -> list[tuple[int, int, int]]:
    count = reader.varint()
    if count > n:
        raise Damaged
    runs = []
    behind = 0
    for _ in range(count):
        start = behind + reader.varint()
        word = reader.varint()
        behind = start + (word >> 3) + 1
        code = word & 7
        if behind > n or code == 7:
            raise Damaged
        value = SPECIALS[code] if code else struct.unpack("<Q", reader.take(8))[0]
        runs.append((start, behind, value))
    return runs


# ---------------------------------------------------------------------------- statistics


@dataclass
class Statistics:
    """What is said of a block's values without its staleness markers."""

    count: int
    first: float
    last: float
    vmin: float
    vmax: float
    vsum: float
    reset_sum: float
    flags: int


def statistics(bits: list[int]) -> Statistics:
    values = [to_f64(x) for x in bits if x != STALE]
    numbers = [x for x in values if not math.isnan(x)]
    flags = 1 if STALE in bits else 0
    flags |= 2 if len(numbers) < len(values) else 0
    flags |= 4 if any(math.isinf(x) for x in numbers) else 0
    try:
        total = math.fsum(values)
    except (OverflowError, ValueError):
        total = math.nan
    if values and not flags & 6:
        if all(x.is_integer() for x in values) and sum(abs(int(x)) for x in values) < 2**53:
            flags |= 8
        flags |= 16 if min(values) >= 0 or max(values) <= 0 else 0
    drops = (a for a, b in pairwise(values) if b < a)
    return Statistics(
        count=len(values),
        first=values[0] if values else math.nan,
        last=values[-1] if values else math.nan,
        vmin=min(numbers, default=math.nan),
        vmax=max(numbers, default=math.nan),
        vsum=total,
        reset_sum=sum(drops, 0.0),
        flags=flags,
    )
