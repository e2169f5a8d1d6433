"""Slow twin of tsengine/kernels/packing.py, written from docs/format/block.md."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

import google_crc32c

MASK = 2**64 - 1
VECTOR = 1024
PIECE = 128

Choose = Callable[[int], int]
"""``choose(n)`` returns one of 0 .. n-1; a writer asks it wherever the format leaves a choice."""


class Damaged(Exception):
    """The bytes break the format."""


def checksum_ranges(data: bytes, starts: Sequence[int], ends: Sequence[int]) -> list[int]:
    """CRC-32C of each range."""
    return [google_crc32c.value(bytes(data[a:b])) for a, b in zip(starts, ends, strict=True)]


def checksum(data: bytes, context: int) -> int:
    """CRC-32C of the context and of `data`, of which long ones are striped."""
    text = context.to_bytes(8, "little")
    if len(data) >= 128:
        whole = len(data) - len(data) % 32
        words = [data[i : i + 8] for i in range(0, whole, 8)]
        for k in range(4):
            text += google_crc32c.value(b"".join(words[k::4])).to_bytes(4, "little")
        data = data[whole:]
    return google_crc32c.value(text + data)


def seal(data: bytes, context: int) -> bytes:
    return data + checksum(data, context).to_bytes(4, "little")


def signed(x: int) -> int:
    """The int64 of 64 bits."""
    return x - 2**64 if x >> 63 else x


def zigzag(x: int) -> int:
    x = signed(x & MASK)
    return 2 * x if x >= 0 else -2 * x - 1


def unzigzag(z: int) -> int:
    return (z >> 1 if z % 2 == 0 else -(z + 1) // 2) & MASK


def varint(x: int) -> bytes:
    out = bytearray()
    while x >= 128:
        out.append(x & 127 | 128)
        x >>= 7
    return bytes([*out, x])


class Reader:
    """Reads ``data[pos:end]`` and nothing else."""

    def __init__(self, data: bytes, pos: int, end: int) -> None:
        self.data, self.pos, self.end = data, pos, end

    def take(self, size: int) -> bytes:
        if size > self.end - self.pos:
            raise Damaged
        self.pos += size
        return self.data[self.pos - size : self.pos]

    def byte(self) -> int:
        return self.take(1)[0]

    def varint(self) -> int:
        value = 0
        for k in range(10):
            byte = self.byte()
            value |= (byte & 127) << 7 * k
            if byte < 128:
                if value > MASK:
                    raise Damaged
                return value
        raise Damaged


def pack(values: Sequence[int], width: int) -> bytes:
    """Values one behind the other, each from its lowest bit on."""
    number = sum(x << i * width for i, x in enumerate(values))
    return number.to_bytes((len(values) * width + 7) // 8, "little")


def unpack(data: bytes, width: int, count: int, bit: int = 0) -> list[int]:
    number = int.from_bytes(data, "little") >> bit
    return [number >> i * width & (1 << width) - 1 for i in range(count)]


def pack_lanes(values: Sequence[int], width: int) -> bytes:
    lanes = [pack(values[k::16], width) for k in range(16)]
    return b"".join(lanes[k][8 * w : 8 * w + 8] for w in range(width) for k in range(16))


def unpack_lanes(data: bytes, width: int) -> list[int]:
    values = [0] * VECTOR
    for k in range(16):
        lane = b"".join(data[128 * w + 8 * k : 128 * w + 8 * k + 8] for w in range(width))
        values[k::16] = unpack(lane, width, 64)
    return values


def low_bits(n: int, count: int) -> int:
    low = 0
    while n >> low + 1 >= count:
        low += 1
    return low


def write_body(values: list[int], near: int, lanes: int, choose: Choose | None) -> bytes:
    """A body of the values; `lanes` is 1 + the slots left empty, 0 for a sequential body."""
    least = min(values, key=signed)
    most = max(values, key=signed)
    base, width = least, ((most - least) & MASK).bit_length()
    if choose is not None:
        base = values[choose(len(values))]
        width = choose(65)
        base = (base - choose(1 << min(width, 20))) & MASK
    rest = [(x - base) & MASK for x in values]
    with_sign = choose is not None and choose(2) == 1
    high = [0 if width == 64 else x >> width for x in rest]
    if with_sign and width < 64:
        high = [zigzag(signed(x) >> width) for x in rest]
    low = [x & (1 << width) - 1 for x in rest]
    head = bytes([width | (128 if any(high) else 0)]) + varint(zigzag(base - near))
    head += pack_lanes([0] * (lanes - 1) + low, width) if lanes else pack(low, width)
    return head + (write_exceptions(high, with_sign) if any(high) else b"")


def write_exceptions(high: list[int], with_sign: bool) -> bytes:
    places = [i for i, x in enumerate(high) if x]
    width = max(high[i] - 1 for i in places).bit_length()
    low = low_bits(len(high), len(places))
    size_unary = len(places) + (len(high) >> low) + 1
    number = sum((i & (1 << low) - 1) << k * low for k, i in enumerate(places))
    at = len(places) * low
    number |= sum(1 << at + (i >> low) + k for k, i in enumerate(places))
    at += size_unary
    number |= sum(high[i] - 1 << at + k * width for k, i in enumerate(places))
    at += len(places) * width
    head = varint(len(places)) + bytes([width | (128 if with_sign else 0)])
    return head + number.to_bytes((at + 7) // 8, "little")


def read_body(reader: Reader, near: int, lanes: int, count: int) -> tuple[list[int], int]:
    """Return the values and the base."""
    head = reader.byte()
    base = near + unzigzag(reader.varint()) & MASK
    width = head & 127
    if width > 64:
        raise Damaged
    if lanes:
        values = unpack_lanes(reader.take(128 * width), width)[lanes - 1 :]
    else:
        values = unpack(reader.take((count * width + 7) // 8), width, count)
    values = [x + base & MASK for x in values]
    if head & 128:
        for idx, high in read_exceptions(reader, width, count):
            values[idx] = values[idx] + (high << width) & MASK
    return values, base


def read_exceptions(reader: Reader, width: int, count: int) -> list[tuple[int, int]]:
    n = reader.varint()
    if not 1 <= n <= count or width == 64:
        raise Damaged
    head = reader.byte()
    bits = head & 127
    if bits > 64:
        raise Damaged
    low = low_bits(count, n)
    size_unary = n + (count >> low) + 1
    data = reader.take((n * (low + bits) + size_unary + 7) // 8)
    lows = unpack(data, low, n)
    unary = unpack(data, 1, size_unary, n * low)
    highs = unpack(data, bits, n, n * low + size_unary)
    ones = [i for i, bit in enumerate(unary) if bit]
    found = []
    for k in range(n):
        if k >= len(ones) or (ones[k] - k << low) + lows[k] >= count:
            raise Damaged
        high = highs[k] + 1 & MASK
        found.append(((ones[k] - k << low) + lows[k], unzigzag(high) if head & 128 else high))
    return found


def write_stream(x: list[int], order: int, choose: Choose | None) -> bytes:
    """x modulo 2**64 as differences of an order below their number."""
    d = x
    head = b""
    for _ in range(order):
        head += varint(zigzag(d[0]))
        d = [(b - a) & MASK for a, b in pairwise(d)]
    if choose is None or choose(2) == 0:
        return head + write_body(d, 0, 1 + order if len(x) == VECTOR else 0, choose)
    head += b"\x7f"
    near = 0
    for at in range(0, len(d), PIECE):
        piece = write_body(d[at : at + PIECE], near, 0, choose)
        near = near + unzigzag(Reader(piece, 1, len(piece)).varint()) & MASK
        head += piece
    return head


def read_stream(reader: Reader, n: int, order: int) -> list[int]:
    heads = [unzigzag(reader.varint()) for _ in range(min(order, 2))]
    if order > 2 or order > n - 1:
        raise Damaged
    if reader.pos < reader.end and reader.data[reader.pos] == 0x7F:
        reader.byte()
        near = 0
        d = []
        for at in range(order, n, PIECE):
            values, near = read_body(reader, near, 0, min(PIECE, n - at))
            d += values
    else:
        d, _ = read_body(reader, 0, 1 + order if n == VECTOR else 0, n - order)
    for head in reversed(heads):
        x = [head]
        for step in d:
            x.append(x[-1] + step & MASK)
        d = x
    return d
