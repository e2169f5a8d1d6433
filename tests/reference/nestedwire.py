"""Histograms, exemplars and start timestamps of remote write, found the slow way."""

from __future__ import annotations

import struct

from tests.reference.protowire import fields, read_varint, signed


def start_of_sample(data: bytes, start: int, end: int) -> int:
    found = 0
    for field, wire, _, pos, stop in fields(data, start, end, {}):
        if field == 3 and wire == 0:
            found = signed(read_varint(data, pos, stop)[0])
    return found


def find_nested(data: bytes, spans: list[tuple[int, int]], version: int) -> tuple:
    """(start, end, row) of histograms and of exemplars; starts of samples and of histograms."""
    field_histogram, field_exemplar = (4, 3) if version == 1 else (3, 4)
    histograms, exemplars, starts, histogram_starts = [], [], [], []
    row = 0
    for start, end in spans:
        found: dict[int, list] = {2: [], field_histogram: [], field_exemplar: []}
        created = 0
        for field, wire, _, pos, stop in fields(data, start, end, {}):
            if wire == 2 and field in found:
                found[field].append((pos, stop, row))
            elif field == 6 and wire == 0 and version == 2:
                created = signed(read_varint(data, pos, stop)[0])
        histograms += found[field_histogram]
        exemplars += found[field_exemplar]
        for pos, stop, _ in found[2]:
            starts.append((start_of_sample(data, pos, stop) if version == 2 else 0) or created)
        histogram_starts += [created] * len(found[field_histogram])
        row += version == 2 or any(found.values())
    return histograms, exemplars, starts, histogram_starts


def parse_exemplars(data: bytes, spans: list[tuple[int, int]], version: int, n_symbols: int):
    """(t, bits, symbols, status) of each span; labels of 1.0 are not looked into."""
    made = []
    for start, end in spans:
        t_ms = bits = status = 0
        symbols = []
        kinds = {1: (2,) if version == 1 else (0, 2), 2: (1,), 3: (0,)}
        for field, _, _, pos, stop in fields(data, start, end, kinds):
            if field == 1 and version == 2:
                while pos < stop:
                    symbol, pos = read_varint(data, pos, stop)
                    symbols.append(symbol)
            elif field == 2:
                bits = struct.unpack("<Q", data[pos:stop])[0]
            elif field == 3:
                t_ms = signed(read_varint(data, pos, stop)[0])
        if any(symbol >= n_symbols for symbol in symbols):
            status = 1
        if len(symbols) % 2:
            status = 2
        made.append((t_ms, bits, [s if s < n_symbols else 0 for s in symbols], status))
    return made
