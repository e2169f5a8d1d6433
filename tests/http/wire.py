"""Remote-write messages, written and read slowly; and raw Snappy blocks."""

from __future__ import annotations

import struct

import cramjam

HEADERS_V1 = {"Content-Type": "application/x-protobuf", "Content-Encoding": "snappy"}
HEADERS_V2 = {
    "Content-Type": "application/x-protobuf;proto=io.prometheus.write.v2.Request",
    "Content-Encoding": "snappy",
}


def varint(value):
    value &= (1 << 64) - 1
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def field(number, content):
    return varint(number << 3 | 2) + varint(len(content)) + content


def _text(text):
    return text if isinstance(text, bytes) else text.encode()


def _sample(t_ms, value):
    return b"\x09" + struct.pack("<d", value) + b"\x10" + varint(t_ms)


def message_v1(series, metadata=()):
    """`series`: pairs of (labels as dict or list of pairs, [(t_ms, value)])."""
    out = b""
    for labels, samples in series:
        pairs = labels.items() if isinstance(labels, dict) else labels
        inner = b"".join(field(1, field(1, _text(n)) + field(2, _text(v))) for n, v in pairs)
        inner += b"".join(field(2, _sample(t, v)) for t, v in samples)
        out += field(1, inner)
    for kind, name, text, unit in metadata:
        inner = b"\x08" + varint(kind) + field(2, _text(name)) + field(4, _text(text))
        out += field(3, inner + field(5, _text(unit)))
    return out


def message_v2(series):
    symbols = {b"": 0}
    rows = b""
    for labels, samples in series:
        pairs = labels.items() if isinstance(labels, dict) else labels
        refs = b""
        for pair in pairs:
            for text in pair:
                refs += varint(symbols.setdefault(_text(text), len(symbols)))
        rows += field(5, field(1, refs) + b"".join(field(2, _sample(t, v)) for t, v in samples))
    return b"".join(field(4, text) for text in symbols) + rows


def snappy(message):
    return bytes(cramjam.snappy.compress_raw(message))


def _read_varint(data, pos):
    value = shift = 0
    while True:
        byte = data[pos]
        pos += 1
        value |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            return value, pos


def fields(data):
    """(number, value) of each field: bytes, int or raw 8 bytes."""
    pos = 0
    while pos < len(data):
        key, pos = _read_varint(data, pos)
        if key & 7 == 0:
            value, pos = _read_varint(data, pos)
        elif key & 7 == 1:
            value = data[pos : pos + 8]
            pos += 8
        else:
            size, pos = _read_varint(data, pos)
            if pos + size > len(data):
                raise ValueError("cut")
            value = data[pos : pos + size]
            pos += size
        yield key >> 3, value


def decode(message, version):
    """(labels, samples) of each series; MalformedRequest when it is none."""
    from tsengine import errors

    try:
        return _decode_v1(message) if version == 1 else _decode_v2(message)
    except (ValueError, IndexError, struct.error, AttributeError, TypeError) as error:
        raise errors.MalformedRequest(f"cut message: {error}") from None


def _decode_samples(data):
    found = dict(fields(data))
    return found.get(2, 0), struct.unpack("<d", found.get(1, b"\0" * 8))[0]


def _decode_v1(message):
    out = []
    for number, data in fields(message):
        if number == 1:
            labels, samples = {}, []
            for inner, content in fields(data):
                if inner == 1:
                    pair = dict(fields(content))
                    labels[pair.get(1, b"").decode()] = pair.get(2, b"").decode()
                elif inner == 2:
                    samples.append(_decode_samples(content))
            out.append((labels, samples))
    return out


def _decode_v2(message):
    symbols = [data.decode() for number, data in fields(message) if number == 4]
    out = []
    for number, data in fields(message):
        if number == 5:
            refs, samples = [], []
            for inner, content in fields(data):
                if inner == 1:
                    pos = 0
                    while pos < len(content):
                        ref, pos = _read_varint(content, pos)
                        refs.append(symbols[ref])
                elif inner == 2:
                    samples.append(_decode_samples(content))
            out.append((dict(zip(refs[::2], refs[1::2], strict=True)), samples))
    return out
