"""Histograms in the log: every value comes back to the bit, damaged bytes raise."""

from __future__ import annotations

import contextlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.reference.histogram_tables import plain_histograms, plain_rows, table_of
from tsengine.errors import CorruptionError, UnsupportedFormat
from tsengine.model.batch import SampleBatch
from tsengine.model.histograms import handles
from tsengine.storage import wal_histograms
from tsengine.storage.wal_histograms import decode_histograms, encode_histograms, pieces_of

times = st.integers(-(2**63), 2**63 - 1) | st.just(1_700_000_000_000)
rows = st.lists(
    st.tuples(st.integers(0, 2**32 - 1), times, times, plain_histograms), max_size=6
)  # fmt: skip


def batch_of(samples, *, with_starts: bool) -> SampleBatch:
    refs, t_ms, starts, histograms = zip(*samples, strict=True) if samples else ((),) * 4
    return SampleBatch(
        np.array(refs, np.uint32),
        np.array(t_ms, np.int64),
        handles(np.arange(len(samples))),
        table_of(list(histograms)),
        np.array(starts, np.int64) if with_starts else None,
    )


def plain(batch: SampleBatch) -> list:
    starts = [None] * len(batch) if batch.start_ms is None else batch.start_ms.tolist()
    columns = (batch.refs.tolist(), batch.t_ms.tolist(), batch.bits.tolist(), starts)
    return list(zip(*columns, plain_rows(batch.histograms), strict=True))


@given(rows, st.booleans())
@settings(max_examples=100, deadline=None)
def test_histograms_round_trip(samples, with_starts):
    batch = batch_of(samples, with_starts=with_starts)
    found = decode_histograms(encode_histograms(batch))
    assert plain(found) == plain(batch)
    assert (found.refs.dtype, found.t_ms.dtype, found.bits.dtype) == ("u4", "i8", "u8")


@given(rows, st.booleans())
@settings(max_examples=15, deadline=None)
def test_payloads_cut_or_longer_are_corrupt(samples, with_starts):
    payload = encode_histograms(batch_of(samples, with_starts=with_starts))
    for size in range(len(payload)):
        with pytest.raises(CorruptionError):
            decode_histograms(payload[:size])
    with pytest.raises(CorruptionError):
        decode_histograms(payload + b"\0")


@given(rows, st.data())
@settings(max_examples=300, deadline=None)
def test_flipped_bits_decode_to_normal_form_or_raise_ours(samples, data):
    payload = bytearray(encode_histograms(batch_of(samples, with_starts=True)))
    for _ in range(data.draw(st.integers(1, 3))):
        payload[data.draw(st.integers(0, len(payload) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    with contextlib.suppress(CorruptionError, UnsupportedFormat):
        plain(decode_histograms(bytes(payload)))


@given(st.binary(max_size=400))
@settings(deadline=None)
def test_random_bytes_raise_ours(payload):
    with contextlib.suppress(CorruptionError, UnsupportedFormat):
        decode_histograms(payload)


def test_newer_flags_are_refused():
    payload = bytearray(encode_histograms(batch_of([], with_starts=False)))
    payload[0] = 2
    with pytest.raises(UnsupportedFormat, match="flags 0x2"):
        decode_histograms(bytes(payload))


@given(rows, st.integers(1, 60))
@settings(max_examples=50, deadline=None)
def test_large_batches_are_cut_into_pieces(samples, size):
    batch = batch_of(samples, with_starts=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(wal_histograms, "PIECE_NUMBERS_MAX", size)
        pieces = pieces_of(batch)
    found = [row for piece in pieces for row in plain(decode_histograms(encode_histograms(piece)))]
    kept = [0, 1, 3, 4]
    assert [[row[k] for k in kept] for row in found] == [
        [row[k] for k in kept] for row in plain(batch)
    ]


def test_a_scrape_of_integer_histograms_is_compact():
    buckets = tuple((key, int(np.float64(7).view(np.uint64))) for key in range(2**20, 2**20 + 60))
    one = (3, 0, int(np.float64(420).view(np.uint64)), 1, 0, 0, buckets, None)
    batch = batch_of([(ref, 10**12, 0, one) for ref in range(500)], with_starts=False)
    assert len(encode_histograms(batch)) < 500 * 75
