"""Protobuf bytes of remote write 1.0 and 2.0 to columns of offsets and samples.

Nothing here knows what a label means. Every read is checked against the end of its message, every
message against the end of the one around it, so no byte outside the input is ever read, whatever
the input says. A walk stops at the first break and reports its position.

Histograms, exemplars and start timestamps are only counted by the scans, whose speed matters;
`nestedwire` looks for them in bodies that have some. It and `histogramscan` take `varint` and
`skip_value` from here.

Wire format: protobuf.dev, "Encoding". Groups (wire types 3 and 4) are not accepted; unknown fields
of the other types are skipped; a known field of another wire type breaks the message.
"""

from __future__ import annotations

import numpy as np

from tsengine.kernels.bits import load_u64
from tsengine.kernels.jit import (
    ERR_CAPACITY,
    ERR_CORRUPT,
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

# Cells of `totals`.
N_SAMPLES = 0
N_HISTOGRAMS = 1
N_EXEMPLARS = 2
ERROR_POSITION = 3
N_LABELS = 4
N_STARTS = 5
TOTALS_SIZE = 6

# What `read_sample` met.
_BROKEN, _FINE, _WITH_START, _ODD_START = 0, 1, 2, 3

# Row statuses of `scan_series_v2`.
ROW_OK = 0
ROW_BAD_REFERENCE = 1
ROW_ODD_REFERENCES = 2
ROW_EMPTY = 3

_LENGTH_1 = np.int64(0x0A)
_LENGTH_2 = np.int64(0x12)
_LENGTH_3 = np.int64(0x1A)
_LENGTH_4 = np.int64(0x22)

CREATED = np.int64(0x30)
"""Field 6 of a TimeSeries of older 2.0 drafts: the start timestamp of all its samples."""

_HANDLE_TAG = np.uint64(0x7FFC)
_TAG_SHIFT = np.uint64(48)
_UPPER_BITS = np.uint64(0x808080808080)
_SIX_BYTES = np.uint64(0x008080808080)
_PLAIN = np.uint64(~(1 << 50) & (1 << 64) - 1)


@kernel(i64(U8_IN, i64, i64, I64_OUT, I64_OUT, I64_OUT, I64_OUT, I64_OUT))
def split_fields(data, field_a, field_b, a_starts, a_ends, b_starts, b_ends, counts):
    """Spans of all messages of two fields at the top level of data, in order.

    ``counts[0], counts[1]`` become the numbers of spans, ``counts[2]`` the position of an error.
    Shapes: data u8[.], starts and ends i64[.], counts i64[3]. Returns OK, ERR_CORRUPT or
    ERR_CAPACITY (a list is full: call again with more room).
    """
    end = np.int64(data.shape[0])
    pos = np.int64(0)
    n_a = 0
    n_b = 0
    while pos < end:
        counts[2] = pos
        tag, pos = varint(data, pos, end)
        field = tag >> np.int64(3)
        wire = tag & np.int64(7)
        if pos < 0 or field <= 0:
            return ERR_CORRUPT
        start = pos
        pos = skip_value(data, pos, end, wire)
        if pos < 0:
            return ERR_CORRUPT
        is_a = field == field_a
        if is_a or field == field_b:
            if wire != 2:
                return ERR_CORRUPT
            _, start = varint(data, start, end)
            if is_a:
                if n_a == a_starts.shape[0]:
                    return ERR_CAPACITY
                a_starts[n_a] = start
                a_ends[n_a] = pos
                n_a += 1
            else:
                if n_b == b_starts.shape[0]:
                    return ERR_CAPACITY
                b_starts[n_b] = start
                b_ends[n_b] = pos
                n_b += 1
    counts[0] = n_a
    counts[1] = n_b
    return OK


@kernel(
    i64(U8_IN, I64_IN, I64_IN, i64, I64_OUT, I64_OUT, I64_OUT, I64_OUT, I64_OUT,
        I64_OUT, U64_OUT, I64_OUT)
)  # fmt: skip
def scan_series_v1(
    data, starts, ends, n, label_starts, label_ends, n_labels, sample_ends, n_histograms,
    t_ms, bits, totals,
):  # fmt: skip
    """Walk n TimeSeries messages of 1.0; each with a sample, histogram or exemplar becomes a row.

    The labels of row r are the fields 1 in ``data[label_starts[r]:label_ends[r]]`` (all of the
    message, where other fields stand between them), ``n_labels[r]`` of them; its samples are
    ``t_ms, bits[sample_ends[r - 1]:sample_ends[r]]``. Labels are not looked into.

    Shapes: row arrays i64[>= n], samples [capacity], totals i64[TOTALS_SIZE].
    Returns the number of rows, ERR_CORRUPT or ERR_CAPACITY (more samples than room).
    """
    totals[:] = 0
    row = 0
    n_samples = 0
    n_exemplars = 0
    for i in range(n):
        pos = starts[i]
        end = ends[i]
        first = pos
        last = pos
        labels = 0
        histograms = 0
        sample_start = n_samples
        exemplar_start = n_exemplars
        while pos < end:
            field_start = pos
            totals[ERROR_POSITION] = pos
            tag, pos = varint(data, pos, end)
            if pos < 0 or tag < 8:
                return ERR_CORRUPT
            if tag <= _LENGTH_4 and tag & np.int64(7) == 2:
                size, pos = varint(data, pos, end)
                if pos < 0 or size < 0 or size > end - pos:
                    return ERR_CORRUPT
                if tag == _LENGTH_1:
                    if labels == 0:
                        first = field_start
                    elif field_start != last:
                        first = np.int64(-1)
                    labels += 1
                    last = pos + size
                elif tag == _LENGTH_2:
                    if n_samples == t_ms.shape[0]:
                        return ERR_CAPACITY
                    t, value, found = read_sample(data, pos, pos + size)
                    if found == _BROKEN:
                        return ERR_CORRUPT
                    t_ms[n_samples] = t
                    bits[n_samples] = value
                    n_samples += 1
                elif tag == _LENGTH_3:
                    n_exemplars += 1
                else:
                    histograms += 1
                pos += size
            else:
                if tag >> np.int64(3) <= 4:
                    return ERR_CORRUPT
                pos = skip_value(data, pos, end, tag & np.int64(7))
                if pos < 0:
                    return ERR_CORRUPT
        if n_samples > sample_start or histograms > 0 or n_exemplars > exemplar_start:
            if first < 0:
                # Labels with other fields between them: the span is the whole message.
                first = starts[i]
                last = end
            label_starts[row] = first
            label_ends[row] = last
            n_labels[row] = labels
            sample_ends[row] = n_samples
            n_histograms[row] = histograms
            totals[N_HISTOGRAMS] += histograms
            totals[N_LABELS] += labels
            row += 1
    totals[N_SAMPLES] = n_samples
    totals[N_EXEMPLARS] = n_exemplars
    return row


@kernel(
    i64(U8_IN, I64_IN, I64_IN, i64, i64, I64_OUT, U32_OUT, I64_OUT, I64_OUT, I64_OUT, I64_OUT,
        I64_OUT, U64_OUT, I64_OUT)
)  # fmt: skip
def scan_series_v2(
    data, starts, ends, n, n_symbols, symbol_ends, symbols, metadata_types, statuses, sample_ends,
    n_histograms, t_ms, bits, totals,
):  # fmt: skip
    """Walk n TimeSeries messages of 2.0; each becomes a row.

    ``symbols[symbol_ends[r - 1]:symbol_ends[r]]`` are the row's label symbols (name, value, ...)
    and behind them always two more: help and unit of its metadata (0 where there is none).
    ``metadata_types[r]`` is the type's number plus one, 0 without metadata. References to symbols
    that don't exist become 0, and the row's status says so.

    Shapes: row arrays i64[>= n], symbols u32[capacity], samples [capacity], totals
    i64[TOTALS_SIZE]. Returns n, ERR_CORRUPT or ERR_CAPACITY (more symbols or samples than room).
    """
    totals[:] = 0
    n_used = 0
    n_samples = 0
    n_exemplars = 0
    for i in range(n):
        pos = starts[i]
        end = ends[i]
        status = ROW_OK
        histograms = 0
        sample_start = n_samples
        symbol_start = n_used
        exemplar_start = n_exemplars
        kind = np.int64(0)
        help_ref = np.int64(0)
        unit_ref = np.int64(0)
        while pos < end:
            totals[ERROR_POSITION] = pos
            tag, pos = varint(data, pos, end)
            if pos < 0 or tag < 8:
                return ERR_CORRUPT
            wire = tag & np.int64(7)
            field = tag >> np.int64(3)
            size = np.int64(0)
            if wire == 2:
                size, pos = varint(data, pos, end)
                if pos < 0 or size < 0 or size > end - pos:
                    return ERR_CORRUPT
            elif field <= 5 and not (field == 1 and wire == 0):
                return ERR_CORRUPT
            stop = pos + size
            if field == 1:
                # Packed, or one reference a field: readers must take both.
                if wire == 0:
                    stop = skip_value(data, pos, end, wire)
                    if stop < 0:
                        return ERR_CORRUPT
                if n_used + stop - pos + 2 > symbols.shape[0]:
                    return ERR_CAPACITY
                while pos < stop:
                    # One or two bytes are the rule, and this loop is most of the scan's work.
                    symbol = np.int64(data[pos])
                    if symbol < 128:
                        pos += 1
                    elif stop - pos > 1 and data[pos + 1] < 128:
                        symbol = (symbol & np.int64(127)) | (np.int64(data[pos + 1]) << np.int64(7))
                        pos += 2
                    else:
                        symbol, pos = varint(data, pos, stop)
                        if pos < 0:
                            return ERR_CORRUPT
                    if symbol < 0 or symbol >= n_symbols:
                        status = ROW_BAD_REFERENCE
                        symbol = np.int64(0)
                    symbols[n_used] = symbol
                    n_used += 1
            elif field == 2:
                if n_samples == t_ms.shape[0]:
                    return ERR_CAPACITY
                t, value, found = read_sample(data, pos, stop)
                if found != _FINE:
                    if found != _WITH_START:
                        return ERR_CORRUPT
                    totals[N_STARTS] += 1
                t_ms[n_samples] = t
                bits[n_samples] = value
                n_samples += 1
            elif field == 3:
                histograms += 1
            elif field == 4:
                n_exemplars += 1
            elif field == 5:
                kind, help_ref, unit_ref, ok = _metadata(data, pos, stop)
                if not ok:
                    return ERR_CORRUPT
            elif wire != 2:
                totals[N_STARTS] += tag == CREATED
                stop = skip_value(data, pos, end, wire)
                if stop < 0:
                    return ERR_CORRUPT
            pos = stop
        if n_used + 2 > symbols.shape[0]:
            return ERR_CAPACITY
        if (n_used - symbol_start) % 2 == 1:
            status = ROW_ODD_REFERENCES
        elif n_samples == sample_start and histograms == 0 and n_exemplars == exemplar_start:
            status = ROW_EMPTY
        if not (0 <= help_ref < n_symbols and 0 <= unit_ref < n_symbols):
            status = ROW_BAD_REFERENCE
            help_ref = np.int64(0)
            unit_ref = np.int64(0)
        symbols[n_used] = help_ref
        symbols[n_used + 1] = unit_ref
        totals[N_LABELS] += (n_used - symbol_start) // 2
        n_used += 2
        symbol_ends[i] = n_used
        metadata_types[i] = kind
        statuses[i] = status
        sample_ends[i] = n_samples
        n_histograms[i] = histograms
        totals[N_HISTOGRAMS] += histograms
    totals[N_SAMPLES] = n_samples
    totals[N_EXEMPLARS] = n_exemplars
    return n


@kernel(
    i64(U8_IN, I64_IN, I64_IN, i64, I64_OUT, I64_OUT, I64_OUT, I64_OUT, I64_OUT, I64_OUT)
)  # fmt: skip
def parse_labels(
    data, starts, ends, n, row_ends, name_starts, name_ends, value_starts, value_ends, totals
):
    """Spans of names and values of all fields 1 (Label messages) in n spans of data.

    Shapes: row_ends i64[>= n], label arrays i64[capacity], totals i64[TOTALS_SIZE].
    Returns the number of labels, ERR_CORRUPT or ERR_CAPACITY.
    """
    n_labels = 0
    for i in range(n):
        pos = starts[i]
        end = ends[i]
        while pos < end:
            totals[ERROR_POSITION] = pos
            tag, pos = varint(data, pos, end)
            if pos < 0 or tag < 8:
                return ERR_CORRUPT
            if tag != _LENGTH_1:
                pos = skip_value(data, pos, end, tag & np.int64(7))
                if pos < 0:
                    return ERR_CORRUPT
                continue
            size, pos = varint(data, pos, end)
            if pos < 0 or size < 0 or size > end - pos:
                return ERR_CORRUPT
            if n_labels == name_starts.shape[0]:
                return ERR_CAPACITY
            stop = pos + size
            name_starts[n_labels] = pos
            name_ends[n_labels] = pos
            value_starts[n_labels] = pos
            value_ends[n_labels] = pos
            while pos < stop:
                tag, pos = varint(data, pos, stop)
                if pos < 0 or tag < 8:
                    return ERR_CORRUPT
                field = tag >> np.int64(3)
                value_start = pos
                pos = skip_value(data, pos, stop, tag & np.int64(7))
                if pos < 0:
                    return ERR_CORRUPT
                if field <= 2:
                    if tag & np.int64(7) != 2:
                        return ERR_CORRUPT
                    _, value_start = varint(data, value_start, stop)
                    if field == 1:
                        name_starts[n_labels] = value_start
                        name_ends[n_labels] = pos
                    else:
                        value_starts[n_labels] = value_start
                        value_ends[n_labels] = pos
            n_labels += 1
        row_ends[i] = n_labels
    return n_labels


@device
def varint(data, pos, end):
    """Value and the position behind it; position -1 where it is cut or longer than 10 bytes."""
    # Small enough to be inlined; the loop is not, and a call costs 10 ns.
    if pos < end and data[pos] < 128:
        return np.int64(data[pos]), pos + 1
    return _long_varint(data, pos, end)


@device
def _long_varint(data, pos, end):
    """As `varint`, for any length."""
    value = np.uint64(0)
    shift = np.uint64(0)
    while pos < end and shift < np.uint64(64):
        byte = np.uint64(data[pos])
        pos += 1
        value |= (byte & np.uint64(127)) << shift
        if byte < np.uint64(128):
            return np.int64(value), pos
        shift += np.uint64(7)
    return np.int64(0), np.int64(-1)


@device
def skip_value(data, pos, end, wire):
    """Position behind a field's value, -1 where it doesn't fit or the wire type is unknown."""
    if wire == 2:
        size, pos = varint(data, pos, end)
        if pos < 0 or size < 0 or size > end - pos:
            return np.int64(-1)
        return pos + size
    if wire == 0:
        _, pos = varint(data, pos, end)
        return pos
    if wire == 1:
        return pos + 8 if end - pos >= 8 else np.int64(-1)
    if wire == 5:
        return pos + 4 if end - pos >= 4 else np.int64(-1)
    return np.int64(-1)


@device
def is_sample_broken(what):
    """Whether `read_sample` met what is no sample."""
    return what == _BROKEN


@device
def _joined(word):
    """The 42 bits of a varint of 6 bytes."""
    word &= ~_UPPER_BITS
    word = (word & np.uint64(0x7F007F007F)) | ((word & np.uint64(0x7F007F007F00)) >> np.uint64(1))
    low = word & np.uint64(0x3FFF)
    middle = (word >> np.uint64(16)) & np.uint64(0x3FFF)
    high = (word >> np.uint64(32)) & np.uint64(0x3FFF)
    return low | (middle << np.uint64(14)) | (high << np.uint64(28))


@device
def read_sample(data, pos, end):
    """(t, bits, what) of a Sample message: 1 is a double, 2 a varint, missing ones are 0.

    Field 3 is the start timestamp of 2.0, and any unknown field in 1.0: ``what`` tells the caller.
    Bits of a NaN that would pass for a histogram's handle (`tsengine.model.histograms`) become
    those of another NaN.
    """
    t = np.int64(0)
    bits = np.uint64(0)
    what = _FINE
    # What nearly all senders write: value, then a time of 2004 to 2109.
    if end - pos == 16 and data[pos] == 9 and data[pos + 9] == 16:
        word = load_u64(data, pos + 8) >> np.uint64(16)
        if word & _UPPER_BITS == _SIX_BYTES:
            bits = load_u64(data, pos + 1)
            if bits >> _TAG_SHIFT == _HANDLE_TAG:
                bits &= _PLAIN
            return np.int64(_joined(word)), bits, what
    while pos < end:
        tag, pos = varint(data, pos, end)
        if pos < 0 or tag < 8:
            return t, bits, _BROKEN
        if tag == 9:
            if end - pos < 8:
                return t, bits, _BROKEN
            bits = load_u64(data, pos)
            pos += 8
        elif tag == 16:
            t, pos = varint(data, pos, end)
            if pos < 0:
                return t, bits, _BROKEN
        else:
            field = tag >> np.int64(3)
            if field <= 2:
                return t, bits, _BROKEN
            if field == 3:
                what = _WITH_START if tag == 24 and what != _ODD_START else _ODD_START
            pos = skip_value(data, pos, end, tag & np.int64(7))
            if pos < 0:
                return t, bits, _BROKEN
    if bits >> _TAG_SHIFT == _HANDLE_TAG:
        bits &= _PLAIN
    return t, bits, what


@device
def _metadata(data, pos, end):
    """(type + 1, help reference, unit reference, ok) of a Metadata message of 2.0."""
    kind = np.int64(0)
    help_ref = np.int64(0)
    unit_ref = np.int64(0)
    while pos < end:
        tag, pos = varint(data, pos, end)
        if pos < 0 or tag < 8:
            return kind, help_ref, unit_ref, False
        if tag == 8 or tag == 24 or tag == 32:
            value, pos = varint(data, pos, end)
            if tag == 8:
                kind = value
            elif tag == 24:
                help_ref = value
            else:
                unit_ref = value
        else:
            field = tag >> np.int64(3)
            if field == 1 or field == 3 or field == 4:
                return kind, help_ref, unit_ref, False
            pos = skip_value(data, pos, end, tag & np.int64(7))
        if pos < 0:
            return kind, help_ref, unit_ref, False
    # Types that don't exist count as unspecified.
    return (kind if 0 <= kind <= 7 else np.int64(0)) + 1, help_ref, unit_ref, True
