"""Labels shared between neighbouring rows against rows read one by one."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.kernels.test_protowire import damaged
from tests.reference import labelwire as reference
from tests.reference import remote_write as wire
from tests.reference.protowire import BrokenError
from tsengine.kernels import labelwire as kernels
from tsengine.kernels.jit import ERR_CAPACITY, ERR_CORRUPT

texts = st.sampled_from(
    [b"", b"a", b"b", b"a" * 8, b"b" * 8, b"a" * 7 + b"b", b"ab" * 20, b"x" * 9]
)
rows_of_labels = st.lists(st.lists(st.tuples(texts, texts), max_size=6), max_size=6)


def parsed(data: bytes, spans: list[tuple[int, int]], capacity: int = 128):
    """(rows, distinct labels), or the status code."""
    n = len(spans)
    starts, ends = np.array(spans, np.int64).reshape(-1, 2).T.copy()
    row_ends = np.empty(n, np.int64)
    labels, label_starts, label_ends, names, values = np.empty((5, capacity), np.int64)
    text_starts, text_ends = np.empty((2, 2 * capacity), np.int64)
    counts = np.zeros(kernels.COUNTS_SIZE, np.int64)
    found = kernels.parse_label_rows(
        np.frombuffer(data, np.uint8), starts, ends, n, row_ends, labels, label_starts, label_ends,
        names, values, text_starts, text_ends, counts,
    )  # fmt: skip
    if found < 0:
        return found
    text = [
        data[start:end]
        for start, end in zip(text_starts, text_ends, strict=True)
    ][: counts[kernels.N_TEXTS]]  # fmt: skip
    distinct = [
        (text[name], text[value])
        for name, value in zip(
            names[: counts[kernels.N_DISTINCT]], values[: counts[kernels.N_DISTINCT]], strict=True
        )
    ]
    assert found == (row_ends[-1] if n else 0)
    return rows(labels, row_ends, distinct), distinct


def rows(labels, row_ends, distinct):
    borders = [0, *row_ends.tolist()]
    return [
        [distinct[label] for label in labels[start:end]]
        for start, end in zip(borders[:-1], borders[1:], strict=True)
    ]


def encoded(given_rows) -> tuple[bytes, list[tuple[int, int]]]:
    data, spans = b"", []
    for row in given_rows:
        start = len(data)
        data += b"".join(wire.label_v1(name, value) for name, value in row)
        spans.append((start, len(data)))
    return data, spans


@given(rows_of_labels)
@settings(deadline=None, max_examples=400)
def test_parse_label_rows_matches_reference(given_rows):
    data, spans = encoded(given_rows)
    found, distinct = parsed(data, spans)
    assert found == reference.parse_label_rows(data, spans) == given_rows
    assert len(distinct) <= sum(map(len, given_rows))


@given(damaged(), st.integers(0, 64))
@settings(deadline=None, max_examples=400)
def test_parse_label_rows_of_damaged_messages(data, middle):
    middle = min(middle, len(data))
    # The whole twice: what the first row holds is what the second repeats.
    spans = [(0, len(data)), (0, len(data)), (0, middle), (middle, len(data))]
    try:
        expected = reference.parse_label_rows(data, spans)
    except BrokenError:
        assert parsed(data, spans) == ERR_CORRUPT
    else:
        assert parsed(data, spans)[0] == expected


def test_what_neighbours_repeat_is_one_label():
    row = [(b"__name__", b"m"), (b"instance", b"host-1"), (b"job", b"node"), (b"mode", b"idle")]
    other = [(b"__name__", b"m"), (b"instance", b"host-1"), (b"job", b"node"), (b"mode", b"user")]
    longer = [other[0], (b"cpu", b"0"), *other[1:]]
    found, distinct = parsed(*encoded([row, other, longer, row]))
    assert found == [row, other, longer, row]
    # Of the second row one is new, of the third one, of the last again one: `mode` of two before.
    assert len(distinct) == 4 + 1 + 1 + 1


def test_there_may_be_no_room():
    data, spans = encoded([[(b"a", b"b")] * 3])
    assert parsed(data, spans, capacity=2) == ERR_CAPACITY


@given(st.lists(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), max_size=5), max_size=5))
@settings(deadline=None, max_examples=400)
def test_share_label_rows_matches_reference(given_rows):
    symbols, spans = [7], []
    for row in given_rows:
        spans.append((len(symbols), len(row)))
        symbols += [symbol for label in row for symbol in label]
        symbols += [9, 9]
    starts, sizes = np.array(spans, np.int64).reshape(-1, 2).T.copy()
    n_labels = int(sizes.sum())
    row_ends = np.empty(len(spans), np.int64)
    labels, names, values = np.empty((3, n_labels), np.int64)
    counts = np.zeros(kernels.COUNTS_SIZE, np.int64)
    found = kernels.share_label_rows(
        np.array(symbols, np.uint32), starts, sizes, len(spans), row_ends, labels, names, values,
        counts,
    )  # fmt: skip
    n = counts[kernels.N_DISTINCT]
    assert found == n_labels
    distinct = list(zip(names[:n].tolist(), values[:n].tolist(), strict=True))
    expected = reference.share_label_rows(symbols, spans)
    assert rows(labels, row_ends, distinct) == expected == given_rows
    assert n <= n_labels
