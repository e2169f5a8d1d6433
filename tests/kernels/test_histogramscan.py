"""Histogram messages against a slow reader: valid ones, invalid ones, damaged bytes."""

from __future__ import annotations

import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.reference import histogramscan as reference
from tests.reference import remote_write as wire
from tests.reference.histogram_strategies import messages
from tests.reference.histogramscan import BIAS, STALE, Message, encode
from tsengine.kernels import histogramscan as kernels
from tsengine.kernels import protowire
from tsengine.kernels.jit import ERR_CORRUPT

NAN = 0x7FF8000000000001


def bits(value: float) -> int:
    return wire.bits_of(value)


def parse(data: bytes, spans: list[tuple[int, int]], version: int = 2):
    """Rows of (status, t, start, numbers, value bits, buckets, bounds), or the status code."""
    n = len(spans)
    starts, ends = (np.array(spans, np.int64).T if n else np.empty((2, 0), np.int64)).copy()
    statuses, t_ms, start_ms = np.zeros((3, n), np.int64)
    numbers, values = np.empty((3, n), np.int64), np.empty((4, n))
    offsets, bounds_offsets = np.empty((2, n + 1), np.int64)
    size = sum(end - start for start, end in spans)
    keys, counts, bounds = np.empty(size, np.int32), np.empty(size), np.empty(size // 8)
    longest = min(max([0, *(end - start for start, end in spans)]), kernels.MESSAGE_SIZE_MAX)
    scratch = np.empty((2, kernels.SCRATCH_ROWS, longest), np.int64)
    totals = np.zeros(protowire.TOTALS_SIZE, np.int64)
    found = kernels.parse_histograms(
        np.frombuffer(data, np.uint8), starts, ends, n, version, statuses, t_ms, start_ms, numbers,
        values, offsets, keys, counts, bounds_offsets, bounds, scratch[0], scratch[1], totals,
    )  # fmt: skip
    if found < 0:
        return found
    assert found == n
    assert totals[kernels.N_KEYS] == offsets[n]
    rows = []
    for row in range(n):
        which = slice(*offsets[row : row + 2])
        own_counts = counts[which].view(np.uint64).tolist()
        bounds_id = int(numbers[2, row])
        own = bounds[slice(*bounds_offsets[bounds_id : bounds_id + 2])] if bounds_id >= 0 else None
        rows.append(
            (
                int(statuses[row]), int(t_ms[row]), int(start_ms[row]),
                numbers[:2, row].tolist(), values[:, row].view(np.uint64).tolist(),
                dict(zip(keys[which].tolist(), own_counts, strict=True)),
                None if own is None else own.tolist(),
            )
        )  # fmt: skip
    return rows


def expected(data: bytes, spans: list[tuple[int, int]], version: int = 2):
    try:
        found = reference.parse_histograms(data, spans, version)
    except reference.BrokenError:
        return ERR_CORRUPT
    rows = []
    for status, message, keys in found:
        counts = [message.count, message.zero_count]
        if not message.is_float:
            counts = [bits(float(count)) for count in counts]
        is_kept = status == 0 and message.sum != STALE
        is_custom = is_kept and message.schema == -53
        schema = 8 if is_kept and message.schema > 8 else message.schema
        rows.append(
            (
                status, message.t_ms, message.start_ms if version == 2 else 0,
                [schema, message.hint],
                [counts[0], message.sum, message.threshold, counts[1]],
                {key: bits(count) for key, count in keys.items()},
                [reference.double(b) for b in message.custom] if is_custom else None,
            )
        )  # fmt: skip
    return rows


def same(found, wanted) -> None:
    if isinstance(found, int | np.integer) or isinstance(wanted, int):
        assert found == wanted
        return
    for row, other in zip(found, wanted, strict=True):
        if row[0] == reference.LARGE == other[0]:
            continue
        assert row == other


def joined(parts: list[bytes]) -> tuple[bytes, list[tuple[int, int]]]:
    data, spans = b"", []
    for part in parts:
        spans.append((len(data), len(data) + len(part)))
        data += part
    return data, spans


@given(st.lists(st.tuples(messages(), st.booleans()), max_size=4), st.sampled_from([1, 2]))
@settings(deadline=None, max_examples=150)
def test_parse_histograms_matches_reference(sent, version):
    data, spans = joined([encode(message, packed=packed) for message, packed in sent])
    same(parse(data, spans, version), expected(data, spans, version))


@given(messages(), st.data(), st.sampled_from([1, 2]))
@settings(deadline=None, max_examples=250)
def test_damaged_messages_match_reference(message, data, version):
    body = bytearray(encode(message, packed=data.draw(st.booleans())))
    for _ in range(data.draw(st.integers(1, 3))):
        body[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))
    del body[data.draw(st.integers(0, 2 * len(body))) :]
    spans = [(0, len(body))]
    same(parse(bytes(body), spans, version), expected(bytes(body), spans, version))


@given(messages(faults=False))
@settings(deadline=None, max_examples=100)
def test_valid_messages_are_taken(message):
    data = encode(message)
    [row] = parse(data, [(0, len(data))])
    assert row[0] == 0


def test_a_histogram_as_prometheus_shows_it():
    message = Message(
        count=21, sum=bits(18.4), schema=1, threshold=bits(0.001), zero_count=2, hint=2, t_ms=1234,
        start_ms=1000, positive_spans=[(0, 2), (1, 2)], positive=[1, 1, -1, 0],
        negative_spans=[(-3, 1), (4, 2)], negative=[4, 1, -1],
    )  # fmt: skip
    [row] = parse(encode(message), [(0, len(encode(message)))])
    assert row[:4] == (7, 1234, 1000, [1, 2])
    assert row[6] is None
    message.count = 2 + 1 + 2 + 1 + 1 + 4 + 5 + 4
    [row] = parse(encode(message), [(0, len(encode(message)))])
    assert row[0] == 0
    counts = {key: struct.unpack("<d", struct.pack("<Q", c))[0] for key, c in row[5].items()}
    assert list(counts.items()) == [
        (-(BIAS + 3), 4.0), (-(BIAS + 2), 5.0), (-(BIAS - 3), 4.0),
        (BIAS, 1.0), (BIAS + 1, 2.0), (BIAS + 3, 1.0), (BIAS + 4, 1.0),
    ]  # fmt: skip


BROKEN = {
    "schema": (Message(schema=-5), reference.SCHEMA),
    "large schema": (Message(schema=53), reference.SCHEMA),
    "other schema": (Message(schema=-54), reference.SCHEMA),
    "too few buckets": (Message(positive_spans=[(0, 2)], positive=[0]), reference.SPANS),
    "too many buckets": (Message(negative_spans=[(0, 1)], negative=[0, 0]), reference.SPANS),
    "offset": (
        Message(positive_spans=[(0, 1), (-1, 1)], positive=[0, 0]),
        reference.OFFSET,
    ),
    "negative bucket": (Message(positive_spans=[(0, 1)], positive=[-1]), reference.BUCKET),
    "negative count": (Message(count=bits(-1.0), is_float=True), reference.COUNT),
    "negative zero count": (Message(zero_count=bits(-1.0), is_float=True), reference.COUNT),
    "too small": (
        Message(sum=NAN, positive_spans=[(0, 1)], positive=[2], count=1),
        reference.SMALL,
    ),
    "not equal": (Message(count=1), reference.MISMATCH),
    "falling bounds": (Message(schema=-53, custom=[bits(1.0), bits(1.0)]), reference.BOUNDS),
    "NaN bound": (Message(schema=-53, custom=[NAN, bits(1.0)]), reference.BOUNDS),
    "+Inf bound": (Message(schema=-53, custom=[bits(np.inf)]), reference.BOUNDS),
    "-Inf bound": (Message(schema=-53, custom=[bits(-np.inf)]), reference.BOUNDS),
    "few bounds": (
        Message(schema=-53, custom=[0], positive_spans=[(2, 1)], positive=[0]),
        reference.FEW,
    ),
    "custom offset": (
        Message(schema=-53, custom=[0], positive_spans=[(-1, 1)], positive=[0]),
        reference.OFFSET,
    ),
    "custom zero count": (Message(schema=-53, zero_count=1, count=1), reference.ZERO),
    "custom zero threshold": (Message(schema=-53, threshold=bits(0.1)), reference.ZERO),
    "custom negative": (Message(schema=-53, negative_spans=[(0, 0)]), reference.NEGATIVE),
    "bounds": (Message(custom=[0]), reference.UNWANTED),
    "index": (Message(positive_spans=[(BIAS, 1)], positive=[1], count=1), reference.INDEX),
    "low index": (Message(negative_spans=[(-BIAS, 1)], negative=[1], count=1), reference.INDEX),
}


@pytest.mark.parametrize("name", BROKEN)
def test_what_prometheus_refuses_is_refused(name):
    message, status = BROKEN[name]
    good = Message(positive_spans=[(0, 1)], positive=[3], count=3)
    data, spans = joined([encode(good), encode(message), encode(good)])
    found = parse(data, spans)
    assert [row[0] for row in found] == [0, status, 0]
    assert [row[5] for row in found] == [{BIAS: bits(3.0)}, {}, {BIAS: bits(3.0)}]
    same(found, expected(data, spans))


def test_observations_of_nan_are_in_no_bucket():
    message = Message(sum=NAN, positive_spans=[(0, 1)], positive=[2], count=5)
    assert parse(encode(message), [(0, len(encode(message)))])[0][0] == 0


def test_fine_schemas_are_brought_down_to_8():
    # Of schema 10, indexes -3..0 lie in bucket 0 of schema 8, 1..4 in bucket 1.
    message = Message(schema=10, positive_spans=[(-4, 10)], positive=[1] + [0] * 9, count=10)
    [row] = parse(encode(message), [(0, len(encode(message)))])
    assert row[3] == [8, 0]
    assert row[5] == {
        BIAS - 1: bits(1.0), BIAS: bits(4.0), BIAS + 1: bits(4.0), BIAS + 2: bits(1.0)
    }  # fmt: skip


def test_equal_bounds_in_a_row_are_kept_once():
    one = encode(Message(schema=-53, custom=[bits(1.0), bits(2.5)]))
    two = encode(Message(schema=-53, custom=[bits(1.0)]))
    data, spans = joined([one, one, encode(Message()), one, two, two, one])
    found = parse(data, spans)
    assert [row[6] for row in found] == [
        [1.0, 2.5], [1.0, 2.5], None, [1.0, 2.5], [1.0], [1.0], [1.0, 2.5]
    ]  # fmt: skip


def test_bounds_are_compared_by_their_bits():
    data, spans = joined([encode(Message(schema=-53, custom=[zero])) for zero in (0, 1 << 63)])
    assert [str(row[6]) for row in parse(data, spans)] == ["[0.0]", "[-0.0]"]


def test_a_huge_message_is_refused_without_being_read():
    data = b"\xff" * ((1 << 20) + 1)
    assert parse(data, [(0, len(data))])[0][0] == reference.LARGE
