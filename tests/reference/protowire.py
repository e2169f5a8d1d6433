"""Remote write messages read the slow way: lists of fields, then what each field means."""

from __future__ import annotations

import struct


class BrokenError(Exception):
    """Not a message."""


def read_varint(data: bytes, pos: int, end: int) -> tuple[int, int]:
    value = 0
    for i in range(10):
        if pos + i >= end:
            raise BrokenError
        value |= (data[pos + i] & 127) << 7 * i
        if data[pos + i] < 128:
            return value & (1 << 64) - 1, pos + i + 1
    raise BrokenError


def signed(value: int) -> int:
    return value - (1 << 64) if value >> 63 else value


def fields(data: bytes, start: int, end: int, kinds: dict[int, tuple[int, ...]]):
    """(field, wire type, position of the tag, content's start and end); kinds limits wire types."""
    pos = start
    while pos < end:
        at = pos
        tag, pos = read_varint(data, pos, end)
        field, wire = tag >> 3, tag & 7
        if field == 0 or tag >> 63:
            raise BrokenError
        if wire == 0:
            stop = read_varint(data, pos, end)[1]
        elif wire == 1:
            stop = pos + 8
        elif wire == 5:
            stop = pos + 4
        elif wire == 2:
            size, pos = read_varint(data, pos, end)
            stop = pos + size
        else:
            raise BrokenError
        if stop > end or wire not in kinds.get(field, (0, 1, 2, 5)):
            raise BrokenError
        yield field, wire, at, pos, stop
        pos = stop


def split_fields(data: bytes, field_a: int, field_b: int) -> tuple[list, list]:
    found = {field_a: [], field_b: []}
    for field, _, _, start, stop in fields(data, 0, len(data), {field_a: (2,), field_b: (2,)}):
        if field in found:
            found[field].append((start, stop))
    return found[field_a], found[field_b]


def read_sample(data: bytes, start: int, end: int, version: int) -> tuple[int, int]:
    """Time and bits; a NaN that looks like a histogram's handle becomes another one."""
    t_ms = bits = 0
    kinds = {1: (1,), 2: (0,), 3: (0,) if version == 2 else (0, 1, 2, 5)}
    for field, _, _, pos, stop in fields(data, start, end, kinds):
        if field == 1:
            bits = struct.unpack("<Q", data[pos:stop])[0]
            if bits >> 48 == 0x7FFC:
                bits -= 1 << 50
        elif field == 2:
            t_ms = signed(read_varint(data, pos, stop)[0])
    return t_ms, bits


def scan_series_v1(data: bytes, spans: list[tuple[int, int]]) -> tuple[list, int]:
    """Rows (label span, number of labels, samples, number of histograms); number of exemplars."""
    rows = []
    n_exemplars = 0
    for start, end in spans:
        label_spans, samples, n_histograms, own_exemplars = [], [], 0, 0
        for field, _, at, pos, stop in fields(data, start, end, dict.fromkeys((1, 2, 3, 4), (2,))):
            if field == 1:
                label_spans.append((at, stop))
            elif field == 2:
                samples.append(read_sample(data, pos, stop, 1))
            own_exemplars += field == 3
            n_histograms += field == 4
        n_exemplars += own_exemplars
        if samples or n_histograms or own_exemplars:
            together = all(a[1] == b[0] for a, b in zip(label_spans, label_spans[1:], strict=False))
            span = (start, end)
            if together:
                span = (label_spans[0][0], label_spans[-1][1]) if label_spans else (start, start)
            rows.append((span, len(label_spans), samples, n_histograms))
    return rows, n_exemplars


def read_metadata(data: bytes, start: int, end: int) -> tuple[int, int, int]:
    values = {1: 0, 3: 0, 4: 0}
    for field, _, _, pos, stop in fields(data, start, end, dict.fromkeys(values, (0,))):
        if field in values:
            values[field] = read_varint(data, pos, stop)[0]
    kind = values[1] if values[1] <= 7 else 0
    return kind + 1, values[3], values[4]


def scan_series_v2(data: bytes, spans: list[tuple[int, int]], n_symbols: int) -> tuple[list, int]:
    """Rows (symbols with help and unit, type + 1, status, samples, histograms); n exemplars."""
    rows = []
    n_exemplars = 0
    kinds = {1: (0, 2), **dict.fromkeys((2, 3, 4, 5), (2,))}
    for start, end in spans:
        symbols, samples, n_histograms, metadata = [], [], 0, (0, 0, 0)
        own_exemplars = 0
        for field, _, _, pos, stop in fields(data, start, end, kinds):
            if field == 1:
                while pos < stop:
                    symbol, pos = read_varint(data, pos, stop)
                    symbols.append(symbol)
            elif field == 2:
                samples.append(read_sample(data, pos, stop, 2))
            elif field == 5:
                metadata = read_metadata(data, pos, stop)
            n_histograms += field == 3
            own_exemplars += field == 4
        n_exemplars += own_exemplars
        kind, help_symbol, unit = metadata
        status = 0
        if any(symbol >= n_symbols for symbol in symbols):
            status = 1
        if len(symbols) % 2:
            status = 2
        elif not samples and not n_histograms and not own_exemplars:
            status = 3
        if max(help_symbol, unit) >= n_symbols:
            status, help_symbol, unit = 1, 0, 0
        symbols = [symbol if symbol < n_symbols else 0 for symbol in symbols]
        rows.append(([*symbols, help_symbol, unit], kind, status, samples, n_histograms))
    return rows, n_exemplars


def parse_labels(data: bytes, spans: list[tuple[int, int]]) -> list[list[tuple[bytes, bytes]]]:
    rows = []
    for start, end in spans:
        row = []
        for field, wire, _, pos, stop in fields(data, start, end, {}):
            if field != 1 or wire != 2:
                continue
            texts = {1: b"", 2: b""}
            for inner, _, _, a, b in fields(data, pos, stop, {1: (2,), 2: (2,)}):
                if inner in texts:
                    texts[inner] = data[a:b]
            row.append((texts[1], texts[2]))
        rows.append(row)
    return rows
