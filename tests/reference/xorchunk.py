"""Slow twins of kernels/xorchunk.py: chunks of Prometheus's TSDB as strings of bits."""

from __future__ import annotations

import struct

WIDTHS = (("0", 0), ("10", 14), ("110", 17), ("1110", 20), ("1111", 64))


class BitReader:
    """Reads a string of bits from its begin."""

    def __init__(self, data):
        self.bits = "".join(f"{byte:08b}" for byte in data)
        self.pos = 0

    def take(self, n):
        assert self.pos + n <= len(self.bits), "chunk cut"
        text = self.bits[self.pos : self.pos + n]
        self.pos += n
        return int(text, 2) if n else 0

    def prefix(self, longest):
        """Ones up to the first zero, at most `longest`."""
        n = 0
        while n < longest and self.take(1):
            n += 1
        return n

    def uvarint(self):
        value = shift = 0
        while True:
            byte = self.take(8)
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return value

    def signed(self, n):
        value = self.take(n)
        return value - (1 << n) if n and value > 1 << (n - 1) else value


class XorState:
    """One float that changes by XOR."""

    def __init__(self, word):
        self.word = word
        self.leading = self.width = None

    def read(self, reader):
        if reader.take(1):
            if reader.take(1):
                self.leading, self.width = reader.take(5), reader.take(6) or 64
            self.word ^= reader.take(self.width) << (64 - self.leading - self.width)
        return self.word


def wrap(value):
    """A number as int64."""
    return (value + (1 << 63)) % (1 << 64) - (1 << 63)


def decode_xor_chunk(data):
    """[(t_ms, bits)] of one chunk."""
    n = struct.unpack(">H", data[:2])[0]
    reader = BitReader(data[2:])
    zigzag = reader.uvarint()
    t = zigzag >> 1 ^ -(zigzag & 1)
    value = XorState(reader.take(64))
    out = [(t, value.word)]
    delta = 0
    for k in range(1, n):
        if k == 1:
            delta = reader.uvarint()
        else:
            width = WIDTHS[reader.prefix(4)][1]
            delta += reader.signed(width)
        t = wrap(t + delta)
        out.append((t, value.read(reader)))
    assert len(reader.bits) - reader.pos < 8, "bytes left over"
    assert "1" not in reader.bits[reader.pos :], "padding is not zero"
    return out


def encode_xor_chunks(samples):
    """The bytes of one chunk of [(t_ms, bits)], written as a string of bits."""
    t, word = samples[0]
    zigzag = (t << 1) ^ (t >> 63)
    text = f"{len(samples):016b}" + _uvarint(zigzag & (1 << 64) - 1) + f"{word:064b}"
    delta, window = 0, None
    for k in range(1, len(samples)):
        step = wrap(samples[k][0] - samples[k - 1][0])
        if k == 1:
            text += _uvarint(step & (1 << 64) - 1)
        else:
            text += _change(wrap(step - delta))
        delta = step
        changed, window = _xor(samples[k][1] ^ samples[k - 1][1], window)
        text += changed
    text += "0" * (-len(text) % 8)
    return int(text, 2).to_bytes(len(text) // 8, "big")


def _uvarint(number):
    text = ""
    while number > 127:
        text += f"{number & 127 | 128:08b}"
        number >>= 7
    return text + f"{number:08b}"


def _change(value):
    if value == 0:
        return "0"
    for prefix, width in WIDTHS[1:-1]:
        if -(1 << (width - 1)) + 1 <= value <= 1 << (width - 1):
            return prefix + f"{value % (1 << width):0{width}b}"
    return "1111" + f"{value % (1 << 64):064b}"


def _xor(x, window):
    if x == 0:
        return "0", window
    text = f"{x:064b}"
    leading = min(len(text) - len(text.lstrip("0")), 31)
    trailing = len(text) - len(text.rstrip("0"))
    if window is not None and leading >= window[0] and trailing >= window[1]:
        return "10" + text[window[0] : 64 - window[1]], window
    significant = text[leading : 64 - trailing]
    return f"11{leading:05b}{len(significant) % 64:06b}" + significant, (leading, trailing)


VARBITS = (0, 3, 6, 9, 12, 18, 25, 56, 64)


class HistogramReader(BitReader):
    """Reads what stands in chunks of float histograms."""

    def varbit(self, *, signed):
        n = VARBITS[self.prefix(8)]
        if not signed or n == 0:
            return self.take(n)
        return wrap(self.take(64)) if n == 64 else self.signed(n)

    def double(self):
        return to_float(self.take(64))

    def zero_threshold(self):
        code = self.take(8)
        if code == 255:
            return self.double()
        return 0.5 * 2.0 ** (code - 243) if code else 0.0

    def spans(self):
        """Indexes of the buckets."""
        index, found = 0, []
        for _ in range(self.varbit(signed=False)):
            length = self.varbit(signed=False)
            index += self.varbit(signed=True)
            found += range(index, index + length)
            index += length
        return found

    def bound(self):
        scaled = self.varbit(signed=False)
        return (scaled - 1) / 1000 if scaled else self.double()


def to_float(word):
    """A float of its bits."""
    return struct.unpack("<d", struct.pack("<Q", word))[0]


def encode_histogram_chunks(data):
    """(flag, [(t_ms, fields of a histogram as a dict)]) of one chunk of float histograms."""
    n, flag = struct.unpack(">HB", data[:3])
    reader = HistogramReader(data[3:])
    layout = {"zero_threshold": reader.zero_threshold(), "schema": reader.varbit(signed=True)}
    positive, negative = reader.spans(), reader.spans()
    layout["custom_bounds"] = ()
    if layout["schema"] == -53:
        layout["custom_bounds"] = tuple(reader.bound() for _ in range(reader.varbit(signed=False)))
    t, delta, states, out = 0, 0, [], []
    for k in range(n):
        change = reader.varbit(signed=True)
        t, delta = (change, 0) if k == 0 else (wrap(t + delta + change), wrap(delta + change))
        if k == 0:
            states = [XorState(reader.take(64)) for _ in range(3 + len(positive + negative))]
            words = [state.word for state in states]
        else:
            words = [state.read(reader) for state in states]
        count, zero_count, sum_, *counts = map(to_float, words)
        filled = {
            "positive": dict(zip(positive, counts[: len(positive)], strict=True)),
            "negative": dict(zip(negative, counts[len(positive) :], strict=True)),
        }
        buckets = {
            name: {index: value for index, value in found.items() if value != 0}
            for name, found in filled.items()
        }
        out.append((t, layout | {"count": count, "zero_count": zero_count, "sum": sum_} | buckets))
    assert len(reader.bits) - reader.pos < 8, "bytes left over"
    return flag, out


def cut_histogram_chunks(rows, n_max):
    """[(first, end, flag)] for histograms one after the other."""
    chunks = []
    for i, row in enumerate(rows):
        gauge = row.hint == "gauge"
        flag = 0xC0 if gauge else 0x80 if row.hint == "reset" else 0
        if i:
            before = rows[i - 1]
            alike = (
                row.schema == before.schema
                and row.zero_threshold == before.zero_threshold
                and row.custom_bounds == before.custom_bounds
                and gauge == (before.hint == "gauge")
            )
            if alike and not gauge and has_fallen(before, row):
                flag = 0x80
            first, _, first_flag = chunks[-1]
            if alike and flag != 0x80 and i - first < n_max:
                chunks[-1] = (first, i + 1, first_flag)
                continue
        chunks.append((i, i + 1, flag))
    return chunks


def has_fallen(before, row):
    """Whether any count is lower than before."""
    if row.count < before.count or row.zero_count < before.zero_count:
        return True
    return any(
        getattr(row, side).get(index, 0) < value
        for side in ("positive", "negative")
        for index, value in getattr(before, side).items()
    )
