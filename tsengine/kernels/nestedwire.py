"""What stands deeper in remote write bodies: histograms and exemplars, start timestamps.

Runs behind a scan of `protowire`, only over bodies that have some of these. Every read is checked
against the end of its message as there.
"""

from __future__ import annotations

import numpy as np

from tsengine.kernels.bits import load_u64
from tsengine.kernels.jit import (
    ERR_CORRUPT,
    I64_2D_OUT,
    I64_IN,
    I64_OUT,
    OK,
    U8_IN,
    U32_OUT,
    U64_OUT,
    device,
    i64,
    kernel,
)
from tsengine.kernels.protowire import CREATED, ERROR_POSITION, skip_value, varint

# Rows of the arrays that `find_nested` fills.
NESTED_START, NESTED_END, NESTED_ROW = 0, 1, 2

# Statuses of `parse_exemplars`.
EXEMPLAR_OK = 0
EXEMPLAR_BAD_REFERENCE = 1
EXEMPLAR_ODD_REFERENCES = 2


@kernel(
    i64(U8_IN, I64_IN, I64_IN, i64, i64, I64_2D_OUT, I64_2D_OUT, I64_OUT, I64_OUT)
)  # fmt: skip
def find_nested(
    data, starts, ends, n, version, histograms, exemplars, start_ms, histogram_start_ms
):
    """Spans of histogram and exemplar messages, and start timestamps, of n scanned TimeSeries.

    Rows are numbered as the scan of the version (1 or 2) did. Start timestamps are those of the
    samples (i64[n_samples], in the scan's order), else those of their TimeSeries, else 0;
    ``histogram_start_ms`` has only the latter.

    Shapes: histograms i64[3, n_histograms], exemplars i64[3, n_exemplars] (cells NESTED_*), of the
    sizes that the scan counted. Returns OK, or ERR_CORRUPT where a scan would.
    """
    field_histogram = 4 if version == 1 else 3
    field_exemplar = 3 if version == 1 else 4
    row = 0
    n_samples = 0
    n_histograms = 0
    n_exemplars = 0
    for i in range(n):
        pos = starts[i]
        end = ends[i]
        first_sample = n_samples
        first_histogram = n_histograms
        first_exemplar = n_exemplars
        created = np.int64(0)
        while pos < end:
            tag, pos = varint(data, pos, end)
            if pos < 0 or tag < 8:
                return ERR_CORRUPT
            field = tag >> np.int64(3)
            wire = tag & np.int64(7)
            start = pos
            pos = skip_value(data, pos, end, wire)
            if pos < 0:
                return ERR_CORRUPT
            if wire == 2 and 2 <= field <= 4:
                _, start = varint(data, start, end)
                if field == 2:
                    start_ms[n_samples] = _start_of_sample(data, start, pos, version)
                    n_samples += 1
                elif field == field_histogram:
                    histograms[NESTED_START, n_histograms] = start
                    histograms[NESTED_END, n_histograms] = pos
                    histograms[NESTED_ROW, n_histograms] = row
                    n_histograms += 1
                elif field == field_exemplar:
                    exemplars[NESTED_START, n_exemplars] = start
                    exemplars[NESTED_END, n_exemplars] = pos
                    exemplars[NESTED_ROW, n_exemplars] = row
                    n_exemplars += 1
            elif tag == CREATED and version == 2:
                created, _ = varint(data, start, end)
        for k in range(first_sample, n_samples):
            if start_ms[k] == 0:
                start_ms[k] = created
        for k in range(first_histogram, n_histograms):
            histogram_start_ms[k] = created
        n_found = n_samples - first_sample + n_histograms - first_histogram
        row += version == 2 or n_found + n_exemplars - first_exemplar > 0
    return OK


@kernel(
    i64(U8_IN, I64_IN, I64_IN, i64, i64, i64, I64_OUT, U64_OUT, I64_OUT, U32_OUT, I64_OUT, I64_OUT)
)  # fmt: skip
def parse_exemplars(
    data, starts, ends, n, version, n_symbols, t_ms, bits, symbol_ends, symbols, statuses, totals
):
    """Times, values and, in 2.0, label symbols of n Exemplar messages.

    ``symbols[symbol_ends[r - 1]:symbol_ends[r]]`` are name, value, ...; symbols that don't exist
    become 0 and the status says so. Labels of 1.0 are left to `parse_labels`.

    Shapes: row arrays i64[n] and u64[n], symbols u32[at least the bytes of all messages], totals
    i64[TOTALS_SIZE]. Returns the number of symbols, or ERR_CORRUPT.
    """
    n_used = 0
    for i in range(n):
        pos = starts[i]
        end = ends[i]
        symbol_start = n_used
        status = EXEMPLAR_OK
        t = np.int64(0)
        value = np.uint64(0)
        while pos < end:
            totals[ERROR_POSITION] = pos
            tag, pos = varint(data, pos, end)
            if pos < 0 or tag < 8:
                return ERR_CORRUPT
            field = tag >> np.int64(3)
            wire = tag & np.int64(7)
            start = pos
            pos = skip_value(data, pos, end, wire)
            if pos < 0:
                return ERR_CORRUPT
            if field == 1:
                if not (wire == 2 or (wire == 0 and version == 2)):
                    return ERR_CORRUPT
                if wire == 2:
                    _, start = varint(data, start, end)
                while version == 2 and start < pos:
                    symbol, start = varint(data, start, pos)
                    if start < 0:
                        return ERR_CORRUPT
                    if symbol < 0 or symbol >= n_symbols:
                        status = EXEMPLAR_BAD_REFERENCE
                        symbol = np.int64(0)
                    symbols[n_used] = symbol
                    n_used += 1
            elif field == 2:
                if wire != 1:
                    return ERR_CORRUPT
                value = load_u64(data, start)
            elif field == 3:
                if wire != 0:
                    return ERR_CORRUPT
                t, _ = varint(data, start, end)
        if (n_used - symbol_start) % 2 == 1:
            status = EXEMPLAR_ODD_REFERENCES
        t_ms[i] = t
        bits[i] = value
        symbol_ends[i] = n_used
        statuses[i] = status
    return n_used


@device
def _start_of_sample(data, pos, end, version):
    """The start timestamp of a Sample message of 2.0 that was scanned; 0 without one."""
    start = np.int64(0)
    while version == 2 and pos < end:
        tag, pos = varint(data, pos, end)
        if tag == 24:
            start, pos = varint(data, pos, end)
        else:
            pos = skip_value(data, pos, end, tag & np.int64(7))
        if pos < 0:
            return np.int64(0)
    return start
