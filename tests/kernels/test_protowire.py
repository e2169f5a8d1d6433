"""Walks of remote write bytes against a slow reader, on whole and on damaged messages."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.reference import protowire as reference
from tests.reference import remote_write as wire
from tsengine.kernels import protowire as kernels
from tsengine.kernels.jit import ERR_CAPACITY, ERR_CORRUPT

field_numbers = st.integers(1, 6) | st.just(40)
scalars = st.integers(0, 20) | st.integers(0, 2**64 - 1)


@st.composite
def messages(draw, depth=3):
    """Bytes that look like a message: any fields, contents nested at random."""
    out = b""
    for _ in range(draw(st.integers(0, 5))):
        number = draw(field_numbers)
        kind = draw(st.sampled_from("vdlllp"))
        if kind == "v":
            out += wire.varint_field(number, draw(scalars))
        elif kind == "d":
            out += wire.double_field(number, draw(scalars))
        elif kind == "p":
            packed = draw(st.lists(st.integers(0, 300), max_size=6))
            out += wire.length_field(number, b"".join(map(wire.varint, packed)))
        else:
            inner = draw(messages(depth=depth - 1)) if depth else draw(st.binary(max_size=6))
            out += wire.length_field(number, inner)
    return out


@st.composite
def damaged(draw):
    data = bytearray(draw(messages()))
    if data and draw(st.booleans()):
        data[draw(st.integers(0, len(data) - 1))] = draw(st.integers(0, 255))
    if data and draw(st.booleans()):
        del data[draw(st.integers(0, len(data))) :]
    return bytes(data)


def spans_of(data: bytes, field_a: int, field_b: int, capacity: int = 64):
    """(a spans, b spans), or the status code."""
    arrays = np.empty((4, capacity), np.int64)
    counts = np.zeros(3, np.int64)
    status = kernels.split_fields(np.frombuffer(data, np.uint8), field_a, field_b, *arrays, counts)
    if status < 0:
        return status
    n_a, n_b = counts[:2]
    a_starts, a_ends, b_starts, b_ends = arrays.tolist()
    return (
        list(zip(a_starts[:n_a], a_ends[:n_a], strict=True)),
        list(zip(b_starts[:n_b], b_ends[:n_b], strict=True)),
    )


def expected(call, *args):
    try:
        return call(*args)
    except reference.BrokenError:
        return ERR_CORRUPT


@given(damaged(), st.sampled_from([(1, 3), (5, 4)]))
@settings(deadline=None, max_examples=400)
def test_split_fields_matches_reference(data, numbers):
    assert spans_of(data, *numbers) == expected(reference.split_fields, data, *numbers)


def test_split_fields_says_when_a_list_is_full():
    body = wire.length_field(1, b"") * 65
    assert spans_of(body, 1, 3) == ERR_CAPACITY
    assert spans_of(body, 3, 1) == ERR_CAPACITY
    assert len(spans_of(body, 1, 3, capacity=65)[0]) == 65


def scan_v1(data: bytes, capacity: int = 64):
    n = 1
    rows = np.empty((5, n), np.int64)
    t_ms, bits = np.empty(capacity, np.int64), np.empty(capacity, np.uint64)
    totals = np.zeros(kernels.TOTALS_SIZE, np.int64)
    span = np.array([0, len(data)])
    found = kernels.scan_series_v1(
        np.frombuffer(data, np.uint8), span[:1], span[1:], n, *rows, t_ms, bits, totals
    )
    if found < 0:
        return found
    made = []
    first = 0
    for start, end, n_labels, sample_end, n_histograms in rows.T[:found].tolist():
        samples = list(
            zip(t_ms[first:sample_end].tolist(), bits[first:sample_end].tolist(), strict=True)
        )
        span = (start, end) if n_labels else (0, 0)
        made.append((span, n_labels, samples, n_histograms))
        first = sample_end
    return made, totals[kernels.N_EXEMPLARS]


@given(damaged())
@settings(deadline=None, max_examples=400)
def test_scan_series_v1_matches_reference(data):
    assert scan_v1(data) == expected(reference.scan_series_v1, data, [(0, len(data))])


def scan_v2(data: bytes, n_symbols: int, capacity: int = 256):
    symbol_ends, types, statuses, sample_ends, n_histograms = np.empty((5, 1), np.int64)
    symbols = np.empty(capacity, np.uint32)
    t_ms, bits = np.empty(capacity, np.int64), np.empty(capacity, np.uint64)
    totals = np.zeros(kernels.TOTALS_SIZE, np.int64)
    span = np.array([0, len(data)])
    found = kernels.scan_series_v2(
        np.frombuffer(data, np.uint8), span[:1], span[1:], 1, n_symbols, symbol_ends, symbols,
        types, statuses, sample_ends, n_histograms, t_ms, bits, totals,
    )  # fmt: skip
    if found < 0:
        return found
    n = int(sample_ends[0])
    samples = list(zip(t_ms[:n].tolist(), bits[:n].tolist(), strict=True))
    row = symbols[: symbol_ends[0]].tolist()
    made = (row, int(types[0]), int(statuses[0]), samples, int(n_histograms[0]))
    return [made], totals[kernels.N_EXEMPLARS]


@given(damaged(), st.integers(1, 30))
@settings(deadline=None, max_examples=400)
def test_scan_series_v2_matches_reference(data, n_symbols):
    found = scan_v2(data, n_symbols)
    assert found == expected(reference.scan_series_v2, data, [(0, len(data))], n_symbols)


def test_scans_say_when_there_is_no_room():
    sample = wire.length_field(2, wire.sample(1, 2))
    assert scan_v1(sample * 5, capacity=4) == ERR_CAPACITY
    assert scan_v2(sample * 5, 1, capacity=4) == ERR_CAPACITY
    assert scan_v2(wire.length_field(1, bytes(3)), 1, capacity=4) == ERR_CAPACITY
    assert scan_v2(b"", 1, capacity=1) == ERR_CAPACITY
    assert scan_v2(wire.length_field(1, bytes(2)), 1, capacity=4)[0][0][0] == [0, 0, 0, 0]


def labels_in(data: bytes, capacity: int = 64):
    row_ends = np.empty(1, np.int64)
    spans = np.empty((4, capacity), np.int64)
    span = np.array([0, len(data)])
    totals = np.zeros(kernels.TOTALS_SIZE, np.int64)
    n = kernels.parse_labels(
        np.frombuffer(data, np.uint8), span[:1], span[1:], 1, row_ends, *spans, totals
    )
    if n < 0:
        return n
    assert row_ends[0] == n
    return [[(data[a:b], data[c:d]) for a, b, c, d in spans.T[:n].tolist()]]


@given(damaged())
@settings(deadline=None, max_examples=400)
def test_parse_labels_matches_reference(data):
    assert labels_in(data) == expected(reference.parse_labels, data, [(0, len(data))])


def test_parse_labels_says_when_there_is_no_room():
    assert labels_in(wire.label_v1(b"a", b"b") * 3, capacity=2) == ERR_CAPACITY
