"""What stands deeper in remote write bodies, against a slow reader."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.kernels.test_protowire import damaged, expected, scan_v1, scan_v2
from tests.reference import nestedwire as reference
from tests.reference import remote_write as wire
from tsengine.kernels import nestedwire as kernels
from tsengine.kernels import protowire


def find(bodies: list[bytes], version: int):
    data = b"".join(bodies)
    ends = np.cumsum(np.array([len(body) for body in bodies], np.int64))
    starts = ends - np.array([len(body) for body in bodies], np.int64)
    field_histogram, field_exemplar = (4, 3) if version == 1 else (3, 4)
    n = {2: 0, field_histogram: 0, field_exemplar: 0}
    for start, end in zip(starts.tolist(), ends.tolist(), strict=True):
        for field, wire_type, *_ in reference.fields(data, start, end, {}):
            if field in n and wire_type == 2:
                n[field] += 1
    histograms = np.empty((3, n[field_histogram]), np.int64)
    exemplars = np.empty((3, n[field_exemplar]), np.int64)
    start_ms = np.empty(n[2], np.int64)
    histogram_start_ms = np.empty(n[field_histogram], np.int64)
    status = kernels.find_nested(
        np.frombuffer(data, np.uint8), starts, ends, len(bodies), version, histograms, exemplars,
        start_ms, histogram_start_ms,
    )  # fmt: skip
    assert status == 0
    spans = list(zip(starts.tolist(), ends.tolist(), strict=True))
    found = [[tuple(column) for column in table.T.tolist()] for table in (histograms, exemplars)]
    return (*found, start_ms.tolist(), histogram_start_ms.tolist()), data, spans


def scans_fine(body: bytes, version: int) -> bool:
    scanned = scan_v1(body) if version == 1 else scan_v2(body, 300)
    return isinstance(scanned, tuple)


@given(st.lists(damaged(), max_size=3), st.sampled_from([1, 2]))
@settings(deadline=None, max_examples=200)
def test_find_nested_matches_reference(bodies, version):
    bodies = [body for body in bodies if scans_fine(body, version)]
    found, data, spans = find(bodies, version)
    assert found == reference.find_nested(data, spans, version)


def test_start_timestamps_are_those_of_the_sample_then_of_the_series():
    plain = wire.length_field(2, wire.sample(5, 1))
    own = wire.length_field(2, wire.sample(6, 1) + wire.varint_field(3, 3))
    histogram = wire.length_field(3, b"")
    created = wire.varint_field(6, 7)
    exemplar = wire.length_field(4, b"")
    bodies = [plain + own, plain + own + histogram + created, exemplar, histogram]
    (histograms, exemplars, starts, histogram_starts), data, _ = find(bodies, 2)
    assert starts == [0, 3, 7, 3]
    assert histogram_starts == [7, 0]
    assert [row for *_, row in histograms] == [1, 3]
    assert [row for *_, row in exemplars] == [2]
    # To 1.0 these fields mean nothing.
    assert find([plain + own], 1)[0][2] == [0, 0]
    assert data[slice(*histograms[0][:2])] == b""


def parse_exemplars(data: bytes, version: int, n_symbols: int):
    columns = np.empty((3, 1), np.int64)
    bits = np.empty(1, np.uint64)
    symbols = np.empty(len(data), np.uint32)
    totals = np.zeros(protowire.TOTALS_SIZE, np.int64)
    span = np.array([0, len(data)])
    t_ms, symbol_ends, statuses = columns
    n = kernels.parse_exemplars(
        np.frombuffer(data, np.uint8), span[:1], span[1:], 1, version, n_symbols, t_ms, bits,
        symbol_ends, symbols, statuses, totals,
    )  # fmt: skip
    if n < 0:
        return n
    assert n == symbol_ends[0]
    return [(int(t_ms[0]), int(bits[0]), symbols[:n].tolist(), int(statuses[0]))]


@given(damaged(), st.sampled_from([1, 2]), st.integers(0, 30))
@settings(deadline=None, max_examples=300)
def test_parse_exemplars_matches_reference(data, version, n_symbols):
    wanted = expected(reference.parse_exemplars, data, [(0, len(data))], version, n_symbols)
    assert parse_exemplars(data, version, n_symbols) == wanted
