"""Histogram messages of remote write in plain Python: an encoder for tests, and a slow reader."""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass, field

from tests.reference.protowire import BrokenError, fields, read_varint, signed
from tests.reference.remote_write import double_field, length_field, varint, varint_field

STALE = 0x7FF0000000000002
BIAS = 1 << 20
U64 = (1 << 64) - 1

# In the order of the statuses of the kernel's module.
OK, SCHEMA, SPANS, OFFSET, BUCKET, COUNT, SMALL, MISMATCH, BOUNDS, FEW, ZERO, NEGATIVE, UNWANTED, \
    INDEX, LARGE = range(15)  # fmt: skip

KINDS = {
    **dict.fromkeys((1, 4, 6, 14, 15), (0,)),
    **dict.fromkeys((2, 3, 5, 7), (1,)),
    **dict.fromkeys((8, 11), (2,)),
    **dict.fromkeys((9, 12), (0, 2)),
    **dict.fromkeys((10, 13, 16), (1, 2)),
}


@dataclass
class Message:
    """A Histogram message. Doubles are bits; values are differences or bits of float counts."""

    count: int = 0
    sum: int = 0
    schema: int = 0
    threshold: int = 0
    zero_count: int = 0
    negative_spans: list[tuple[int, int]] = field(default_factory=list)
    negative: list[int] = field(default_factory=list)
    positive_spans: list[tuple[int, int]] = field(default_factory=list)
    positive: list[int] = field(default_factory=list)
    hint: int = 0
    t_ms: int = 0
    custom: list[int] = field(default_factory=list)
    start_ms: int = 0
    is_float: bool = False


def zigzag(value: int, bits: int = 64) -> int:
    return (value << 1 ^ value >> bits - 1) & (1 << bits) - 1


def unzigzag(value: int) -> int:
    return value >> 1 ^ -(value & 1)


def span(offset: int, length: int) -> bytes:
    return varint_field(1, zigzag(offset, 32)) + varint_field(2, length)


def encode(message: Message, *, packed: bool = True) -> bytes:
    out = double_field(3, message.sum) + varint_field(4, zigzag(message.schema, 32))
    out += double_field(5, message.threshold)
    if message.is_float:
        out += double_field(2, message.count) + double_field(7, message.zero_count)
    else:
        out += varint_field(1, message.count) + varint_field(6, message.zero_count)
    for number, spans, values in (
        (8, message.negative_spans, message.negative),
        (11, message.positive_spans, message.positive),
    ):
        out += b"".join(length_field(number, span(*one)) for one in spans)
        if message.is_float:
            out += _doubles(number + 2, values, packed)
        elif packed:
            out += length_field(number + 1, b"".join(varint(zigzag(v)) for v in values))
        else:
            out += b"".join(varint_field(number + 1, zigzag(v)) for v in values)
    out += varint_field(14, message.hint) + varint_field(15, message.t_ms)
    out += _doubles(16, message.custom, packed)
    if message.start_ms:
        out += varint_field(17, message.start_ms)
    return out


def _doubles(number: int, bits: list[int], packed: bool) -> bytes:
    if packed:
        return length_field(number, b"".join(struct.pack("<Q", b) for b in bits)) if bits else b""
    return b"".join(double_field(number, b) for b in bits)


def double(bits: int) -> float:
    return struct.unpack("<d", struct.pack("<Q", bits))[0]


def read_span(data: bytes, start: int, end: int) -> tuple[int, int]:
    offset = length = 0
    for number, _, _, pos, stop in fields(data, start, end, {1: (0,), 2: (0,)}):
        if number == 1:
            offset = unzigzag(read_varint(data, pos, stop)[0] & 0xFFFFFFFF)
        elif number == 2:
            length = read_varint(data, pos, stop)[0] & 0xFFFFFFFF
    return offset, length


def read(data: bytes, start: int, end: int, version: int) -> Message:
    made = Message()
    zero_is_float = False
    deltas: dict[int, list[int]] = {9: [], 12: []}
    doubles: dict[int, list[int]] = {10: [], 13: [], 16: []}
    kinds = {**KINDS, 17: (0,)} if version == 2 else KINDS
    for number, wire, _, pos, stop in fields(data, start, end, kinds):
        value = read_varint(data, pos, stop)[0] if wire == 0 else 0
        if wire == 1:
            value = struct.unpack("<Q", data[pos:stop])[0]
        if number in (1, 2):
            made.count, made.is_float = value, number == 2
        elif number == 3:
            made.sum = value
        elif number == 4:
            made.schema = unzigzag(value & 0xFFFFFFFF)
        elif number == 5:
            made.threshold = value
        elif number in (6, 7):
            made.zero_count, zero_is_float = value, number == 7
        elif number == 8:
            made.negative_spans.append(read_span(data, pos, stop))
        elif number == 11:
            made.positive_spans.append(read_span(data, pos, stop))
        elif number in deltas:
            while pos < stop:
                value, pos = read_varint(data, pos, stop)
                deltas[number].append(unzigzag(value))
        elif number in doubles:
            if (stop - pos) % 8:
                raise BrokenError
            doubles[number] += struct.unpack(f"<{(stop - pos) // 8}Q", data[pos:stop])
        elif number == 14:
            made.hint = value if value <= 3 else 0
        elif number == 15:
            made.t_ms = signed(value)
        elif number == 17 and version == 2:
            made.start_ms = signed(value)
    if zero_is_float != made.is_float:
        made.zero_count = 0
    made.custom = doubles[16]
    made.negative = doubles[10] if made.is_float else deltas[9]
    made.positive = doubles[13] if made.is_float else deltas[12]
    return made


def status_of_spans(spans: list, values: list, first: int) -> int:
    if any(offset < 0 for offset, _ in spans[first:]):
        return OFFSET
    return OK if sum(length for _, length in spans) == len(values) else SPANS


def buckets_of(spans: list, values: list, message: Message) -> tuple[int, dict, int]:
    """(status, count by index, sum of all counts); empty ones left out."""
    found: dict[int, float] = {}
    index = position = total = count = 0
    for offset, length in spans:
        index += offset
        for _ in range(length):
            if message.is_float:
                count = double(values[position])
            else:
                count = (count + values[position] + 2**63) % 2**64 - 2**63
                total += count
            position += 1
            if count < 0:
                return BUCKET, found, total
            if count:
                target = index
                if message.schema > 8:
                    target = math.ceil(index / 2 ** (message.schema - 8))
                if abs(target) >= BIAS:
                    return INDEX, found, total
                # A sum with zero would change the bits of some NaN.
                found[target] = found[target] + count if target in found else count
            index += 1
    return OK, found, total


def checked(message: Message) -> tuple[int, dict[int, float]]:
    """Status and buckets by key of a message."""
    zero_count = double(message.zero_count) if message.is_float else message.zero_count
    if message.schema == -53:
        bounds = [-math.inf, *(double(bits) for bits in message.custom)]
        if not all(a < b for a, b in zip(bounds, bounds[1:], strict=False)) or math.inf in bounds:
            return BOUNDS, {}
        status = status_of_spans(message.positive_spans, message.positive, 0)
        if status:
            return status, {}
        if sum(map(sum, message.positive_spans)) > len(message.custom) + 1:
            return FEW, {}
        if zero_count or double(message.threshold):
            return ZERO, {}
        if message.negative_spans or message.negative:
            return NEGATIVE, {}
    else:
        if not -4 <= message.schema <= 52:
            return SCHEMA, {}
        status = status_of_spans(message.positive_spans, message.positive, 1)
        status = status or status_of_spans(message.negative_spans, message.negative, 1)
        if status or message.custom:
            return status or UNWANTED, {}
    status, below, n_below = buckets_of(message.negative_spans, message.negative, message)
    if status:
        return status, {}
    status, above, n_above = buckets_of(message.positive_spans, message.positive, message)
    if status:
        return status, {}
    if message.is_float:
        if double(message.count) < 0 or zero_count < 0:
            return COUNT, {}
    else:
        total = (n_below + n_above + zero_count) & U64
        if math.isnan(double(message.sum)):
            if total > message.count:
                return SMALL, {}
        elif total != message.count:
            return MISMATCH, {}
    keys = {-(index + BIAS): float(count) for index, count in below.items()}
    keys |= {index + BIAS: float(count) for index, count in above.items()}
    return OK, dict(sorted(keys.items()))


def parse_histograms(data: bytes, spans: list[tuple[int, int]], version: int) -> list:
    """(status, message, buckets) of each span; a stale one has no buckets."""
    made = []
    for start, end in spans:
        message = read(data, start, end, version)
        status, keys = checked(message)
        if end - start > 1 << 20:
            status, keys = LARGE, {}
        made.append((status, message, {} if message.sum == STALE else keys))
    return made
