"""Labels of remote write to distinct labels: senders repeat most labels of a series in the next.

A label that stands in the row before, about where it is expected, is recognised by its bytes or its
references; everything else counts as new. So few labels are parsed, checked, hashed and looked up,
and a body in which nothing repeats only loses some comparisons.
"""

from __future__ import annotations

import numpy as np

from tsengine.kernels.bits import load_u64
from tsengine.kernels.jit import (
    ERR_CAPACITY,
    ERR_CORRUPT,
    I64_IN,
    I64_OUT,
    U8_IN,
    U32_IN,
    device,
    i64,
    kernel,
)
from tsengine.kernels.protowire import skip_value, varint

# Cells of `counts`.
N_DISTINCT = 0
N_TEXTS = 1
BREAK = 2
COUNTS_SIZE = 3

_LOOK_AHEAD = 3
_LENGTH_1 = np.int64(0x0A)


@kernel(
    i64(U8_IN, I64_IN, I64_IN, i64, I64_OUT, I64_OUT, I64_OUT, I64_OUT, I64_OUT, I64_OUT, I64_OUT,
        I64_OUT, I64_OUT)
)  # fmt: skip
def parse_label_rows(
    data, starts, ends, n, row_ends, labels, label_starts, label_ends, names, values,
    text_starts, text_ends, counts,
):  # fmt: skip
    """Labels (fields 1, Label messages) of n spans of data, one row each.

    Row r is ``labels[row_ends[r - 1]:row_ends[r]]``, numbers of distinct labels; label d is the
    pair of texts ``names[d], values[d]``, text t is ``data[text_starts[t]:text_ends[t]]``. Equal
    labels and texts may have several numbers.

    Shapes: starts, ends i64[>= n], row_ends i64[>= n], labels, label_starts, label_ends (scratch),
    names, values i64[capacity], texts i64[2 * capacity], counts i64[COUNTS_SIZE].
    Returns the number of labels in all rows; ERR_CORRUPT with ``counts[BREAK]``, or ERR_CAPACITY.
    """
    n_labels = 0
    n_distinct = 0
    n_texts = 0
    row_start = 0
    for i in range(n):
        pos = starts[i]
        end = ends[i]
        before = row_start
        row_start = n_labels
        while pos < end:
            counts[BREAK] = pos
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
            if n_labels == labels.shape[0]:
                return ERR_CAPACITY
            stop = pos + size
            found = np.int64(-1)
            for k in range(before, min(before + _LOOK_AHEAD, row_start)):
                d = labels[k]
                if label_ends[d] - label_starts[d] == size and _equal(
                    data, label_starts[d], pos, size
                ):
                    found = d
                    before = k + 1
                    break
            if found < 0:
                name_start, name_end, value_start, value_end = _label(data, pos, stop)
                if name_start < 0:
                    return ERR_CORRUPT
                found = n_distinct
                label_starts[found] = pos
                label_ends[found] = stop
                name = np.int64(-1)
                if before < row_start:
                    name = names[labels[before]]
                    size = name_end - name_start
                    if text_ends[name] - text_starts[name] == size and _equal(
                        data, text_starts[name], name_start, size
                    ):
                        before += 1
                    else:
                        name = np.int64(-1)
                if name < 0:
                    name = n_texts
                    text_starts[n_texts] = name_start
                    text_ends[n_texts] = name_end
                    n_texts += 1
                text_starts[n_texts] = value_start
                text_ends[n_texts] = value_end
                names[found] = name
                values[found] = n_texts
                n_texts += 1
                n_distinct += 1
            labels[n_labels] = found
            n_labels += 1
            pos = stop
        row_ends[i] = n_labels
    counts[N_DISTINCT] = n_distinct
    counts[N_TEXTS] = n_texts
    return n_labels


@kernel(i64(U32_IN, I64_IN, I64_IN, i64, I64_OUT, I64_OUT, I64_OUT, I64_OUT, I64_OUT))
def share_label_rows(symbols, row_starts, row_sizes, n, row_ends, labels, names, values, counts):
    """As `parse_label_rows`, of rows of references: a name's, its value's, the next name's.

    Row r has ``row_sizes[r]`` labels, references from ``symbols[row_starts[r]]`` on; texts are the
    symbols. Shapes: symbols u32[.], row_starts, row_sizes, row_ends i64[n], labels, names, values
    i64[>= sum of the sizes], counts i64[COUNTS_SIZE]. Returns the number of labels in all rows.
    """
    n_labels = 0
    n_distinct = 0
    row_start = 0
    for i in range(n):
        before = row_start
        row_start = n_labels
        for at in range(row_starts[i], row_starts[i] + 2 * row_sizes[i], 2):
            name = np.int64(symbols[at])
            value = np.int64(symbols[at + 1])
            found = np.int64(-1)
            for k in range(before, min(before + _LOOK_AHEAD, row_start)):
                d = labels[k]
                if names[d] == name:
                    before = k + 1
                    if values[d] == value:
                        found = d
                    break
            if found < 0:
                found = n_distinct
                names[found] = name
                values[found] = value
                n_distinct += 1
            labels[n_labels] = found
            n_labels += 1
        row_ends[i] = n_labels
    counts[N_DISTINCT] = n_distinct
    return n_labels


@device
def _label(data, pos, stop):
    """Spans of name and value of a Label message; the first is -1 where it breaks."""
    name_start = pos
    name_end = pos
    value_start = pos
    value_end = pos
    while pos < stop:
        tag, pos = varint(data, pos, stop)
        if pos < 0 or tag < 8:
            return np.int64(-1), name_end, value_start, value_end
        field = tag >> np.int64(3)
        start = pos
        pos = skip_value(data, pos, stop, tag & np.int64(7))
        if pos < 0:
            return np.int64(-1), name_end, value_start, value_end
        if field <= 2:
            if tag & np.int64(7) != 2:
                return np.int64(-1), name_end, value_start, value_end
            _, start = varint(data, start, stop)
            if field == 1:
                name_start = start
                name_end = pos
            else:
                value_start = start
                value_end = pos
    return name_start, name_end, value_start, value_end


@device
def _equal(data, a, b, size):
    """Whether two spans of equal size have the same bytes."""
    if size < 8:
        for k in range(size):
            if data[a + k] != data[b + k]:
                return False
        return True
    # The end first: there labels of one name differ most often.
    if load_u64(data, a + size - 8) != load_u64(data, b + size - 8):
        return False
    for k in range(0, size - 8, 8):
        if load_u64(data, a + k) != load_u64(data, b + k):
            return False
    return True
