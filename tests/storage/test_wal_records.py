"""Payloads of the log: every value comes back to the bit, damaged bytes raise."""

import contextlib
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tsengine.errors import CorruptionError, UnsupportedFormat
from tsengine.model.batch import SampleBatch
from tsengine.storage import wal_records
from tsengine.storage.wal_records import (
    check_type,
    decode_floats,
    decode_metadata,
    encode_floats,
    encode_metadata,
)

u64 = st.integers(0, 2**64 - 1)
i64_columns = st.one_of(
    st.integers(-(2**63), 2**63 - 1),
    st.sampled_from([-(2**63), 2**63 - 1, 0, -1, 1_700_000_000_000]),
)


@st.composite
def batches(draw):
    n = draw(st.integers(0, 50))
    shape = draw(st.sampled_from(["scrape", "run", "any", "near"]))
    bits = draw(hnp.arrays(np.uint64, n, elements=u64))
    if shape == "scrape":
        first = draw(st.integers(0, 2**32 - 100))
        refs = np.arange(first, first + n, dtype=np.uint32)
        t = np.full(n, draw(i64_columns), np.int64)
    elif shape == "run":
        refs = np.full(n, draw(st.integers(0, 2**32 - 1)), np.uint32)
        t = 1_700_000_000_000 + 15_000 * np.arange(n, dtype=np.int64)
    elif shape == "near":
        base = draw(st.integers(0, 2**32 - 1))
        near = draw(hnp.arrays(np.uint32, n, elements=st.integers(0, 300)))
        refs = near + np.uint32(base)  # may wrap around
        t = np.sort(draw(hnp.arrays(np.int64, n, elements=st.integers(-400, 70_000))))
    else:
        refs = draw(hnp.arrays(np.uint32, n, elements=st.integers(0, 2**32 - 1)))
        t = draw(hnp.arrays(np.int64, n, elements=i64_columns))
    return SampleBatch(refs, t, bits)


def assert_same(found: SampleBatch, wanted: SampleBatch) -> None:
    for name in ("refs", "t_ms", "bits"):
        ours, theirs = getattr(found, name), getattr(wanted, name)
        assert ours.dtype == theirs.dtype
        assert ours.flags.c_contiguous
        assert ours.flags.aligned
        np.testing.assert_array_equal(ours, theirs)


@given(batches())
@settings(max_examples=300, deadline=None)
def test_floats_round_trip(batch):
    assert_same(decode_floats(encode_floats(batch)), batch)


@given(batches())
@settings(max_examples=50, deadline=None)
def test_floats_cut_or_longer_are_corrupt(batch):
    payload = encode_floats(batch)
    for size in range(len(payload)):
        with pytest.raises(CorruptionError):
            decode_floats(payload[:size])
    with pytest.raises(CorruptionError):
        decode_floats(payload + b"\0")


@given(batches(), st.data())
@settings(max_examples=100, deadline=None)
def test_floats_with_flipped_bits_decode_or_raise_ours(batch, data):
    payload = bytearray(encode_floats(batch))
    for _ in range(data.draw(st.integers(1, 3))):
        payload[data.draw(st.integers(0, min(len(payload), 44) - 1))] ^= 1 << data.draw(
            st.integers(0, 7)
        )
    with contextlib.suppress(CorruptionError, UnsupportedFormat):
        decode_floats(bytes(payload))


@given(st.binary(max_size=200))
def test_floats_of_random_bytes_raise_ours(payload):
    with contextlib.suppress(CorruptionError, UnsupportedFormat):
        decode_floats(payload)


def test_a_scrape_costs_eight_bytes_a_sample():
    n = 1000
    batch = SampleBatch(
        np.arange(70_000, 70_000 + n, dtype=np.uint32),
        np.full(n, 1_700_000_000_123, np.int64),
        np.arange(n, dtype=np.uint64),
    )
    assert len(encode_floats(batch)) == 8 * n + 40


def test_strided_columns_are_taken():
    wide = np.arange(40, dtype=np.uint32)
    batch = SampleBatch(wide[::4], np.arange(40)[::4], np.arange(40, dtype=np.uint64)[::4])
    assert_same(decode_floats(encode_floats(batch)), batch)


def test_an_unaligned_payload_is_copied():
    batch = SampleBatch(np.arange(3, dtype=np.uint32), np.arange(3), np.arange(3, dtype=np.uint64))
    shifted = memoryview(b"x" + encode_floats(batch))[1:]
    assert_same(decode_floats(shifted), batch)


@given(batches(), st.data())
@settings(max_examples=100, deadline=None)
def test_floats_with_start_timestamps_round_trip(batch, data):
    n = len(batch)
    start_ms = data.draw(hnp.arrays(np.int64, n, elements=st.just(0) | i64_columns))
    batch = replace(batch, start_ms=start_ms)
    payload = encode_floats(batch)
    found = decode_floats(payload)
    assert_same(found, batch)
    np.testing.assert_array_equal(found.start_ms, start_ms)
    for size in range(len(payload) - 40, len(payload)):
        with pytest.raises(CorruptionError):
            decode_floats(payload[:size])
    with pytest.raises(CorruptionError):
        decode_floats(payload + b"x")


def test_flags_that_are_not_known_are_refused():
    payload = bytearray(encode_floats(SampleBatch(*(np.zeros(1, d) for d in ("u4", "i8", "u8")))))
    for flags in (2, 3, 0x80):
        payload[0] = flags
        with pytest.raises(UnsupportedFormat, match="unknown flags"):
            decode_floats(bytes(payload))


texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
entries = st.lists(st.tuples(texts, texts, texts, texts), max_size=8)


@given(entries)
def test_metadata_round_trip(wanted):
    assert decode_metadata(encode_metadata(wanted)) == wanted


@given(entries)
@settings(max_examples=30)
def test_metadata_cut_or_longer_is_corrupt(wanted):
    payload = encode_metadata(wanted)
    for size in range(len(payload)):
        with pytest.raises(CorruptionError):
            decode_metadata(payload[:size])
    with pytest.raises(CorruptionError):
        decode_metadata(payload + b"x")


def test_metadata_that_is_not_utf8_is_corrupt():
    payload = encode_metadata([("up", "gauge", "", "")]).replace(b"up", b"\xff\xff")
    with pytest.raises(CorruptionError, match="UTF-8"):
        decode_metadata(payload)


def test_metadata_of_a_newer_version_is_refused():
    with pytest.raises(UnsupportedFormat):
        decode_metadata(b"\1" + encode_metadata([])[1:])


def test_unknown_and_reserved_types_are_named():
    for known in (1, 2, 3, 4, 5, 6):
        check_type(known)
    with pytest.raises(UnsupportedFormat, match=r"type 7 .unknown."):
        check_type(7)
    with pytest.raises(UnsupportedFormat, match=r"file: record type 77 .unknown."):
        check_type(77, where="file: ")
    with pytest.raises(UnsupportedFormat, match="flags 0x2"):
        check_type(wal_records.FLOATS, flags=2)
