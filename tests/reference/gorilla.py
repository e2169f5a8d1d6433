"""Slow twin of tsengine/kernels/gorilla.py, written from the paper (VLDB 2015, section 4.1)."""

from __future__ import annotations

from itertools import pairwise

from tests.reference.packing import MASK, Damaged

TIMES, VALUES = 1, 2
BUCKETS = (("10", 7, 63), ("110", 9, 255), ("1110", 12, 2047))


def _low_first(x: int, width: int) -> str:
    return format(x, f"0{width}b")[::-1] if width else ""


def _times(words: list[int]) -> str:
    text = ""
    before = 0
    for a, b in pairwise(words):
        delta = b - a & MASK
        change = delta - before & MASK
        before = delta
        if change == 0:
            text += "0"
            continue
        for prefix, width, bias in BUCKETS:
            if change + bias & MASK < 1 << width:
                text += prefix + _low_first(change + bias & MASK, width)
                break
        else:
            text += "1111" + _low_first(change, 64)
    return text


def _values(words: list[int]) -> str:
    text = ""
    window: tuple[int, int] | None = None
    for a, b in pairwise(words):
        x = a ^ b
        if x == 0:
            text += "0"
            continue
        leading = min(31, 64 - x.bit_length())
        trailing = (x & -x).bit_length() - 1
        if window is not None and leading >= window[0] and trailing >= window[1]:
            text += "10"
        else:
            window = leading, trailing
            text += "11" + _low_first(leading, 5) + _low_first(64 - leading - trailing & 63, 6)
        text += _low_first(x >> window[1], 64 - sum(window))
    return text


def encode_gorilla(words: list[int], kind: int) -> bytes:
    text = _low_first(words[0], 64) + (_times(words) if kind == TIMES else _values(words))
    return int(text[::-1], 2).to_bytes((len(text) + 7) // 8, "little")


class _Bits:
    def __init__(self, data: bytes) -> None:
        self.text = format(int.from_bytes(data, "little"), f"0{8 * len(data)}b")[::-1]
        self.pos = 0

    def take(self, width: int) -> int:
        if self.pos + width > len(self.text):
            raise Damaged
        taken = self.text[self.pos : self.pos + width]
        self.pos += width
        return int(taken[::-1], 2) if width else 0


def decode_gorilla(data: bytes, kind: int, count: int) -> list[int]:
    bits = _Bits(data)
    words = [bits.take(64)]
    delta = width = trailing = 0
    for _ in range(count - 1):
        if kind == TIMES:
            ones = 0
            while ones < 4 and bits.take(1):
                ones += 1
            if ones == 4:
                delta += bits.take(64)
            elif ones:
                _, size, bias = BUCKETS[ones - 1]
                delta += bits.take(size) - bias
            words.append(words[-1] + delta & MASK)
            continue
        x = 0
        if bits.take(1):
            if bits.take(1):
                leading = bits.take(5)
                width = bits.take(6) or 64
                trailing = 64 - leading - width
            if width == 0 or trailing < 0:
                raise Damaged
            x = bits.take(width) << trailing
        words.append(words[-1] ^ x)
    if (bits.pos + 7) // 8 != len(data):
        raise Damaged
    return words
