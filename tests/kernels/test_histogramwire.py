"""kernels/histogramwire.py, read back by a slow reader."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.interop.histogram_rows import native_histograms
from tests.reference import histogramwire as reference
from tsengine.interop.histogram_messages import histogram_fields
from tsengine.model.histogram_values import NativeHistogram, from_list

times = st.integers(-(2**63), 2**63 - 1)


def fields(rows, t_ms):
    table = from_list(rows)
    data, ends = histogram_fields(table, np.arange(len(rows)), np.array(t_ms, np.int64))
    assert len(data) == (ends[-1] if len(ends) else 0)
    return data.tobytes(), ends


@given(st.lists(st.tuples(times, native_histograms()), max_size=5))
@settings(deadline=None)
def test_messages_are_read_back(samples):
    data, ends = fields([row for _, row in samples], [t for t, _ in samples])
    found = reference.write_histograms(data)
    assert [t for t, _ in found] == [t for t, _ in samples]
    for (_, got), (_, expected) in zip(found, samples, strict=True):
        assert repr(got) == repr(sorted_buckets(expected))
    starts = [0, *ends.tolist()]
    for k, expected in enumerate(found):
        assert repr(reference.write_histograms(data[starts[k] : starts[k + 1]])) == repr([expected])


def sorted_buckets(row):
    import dataclasses

    return dataclasses.replace(
        row,
        positive=dict(sorted(row.positive.items())),
        negative=dict(sorted(row.negative.items())),
    )


def test_a_message_by_hand():
    row = NativeHistogram(
        schema=-1, count=6.5, sum=-1.5, zero_threshold=0.5, zero_count=1.0,
        positive={-1: 1.0, 0: 2.0, 3: 1.0}, negative={2: 1.0}, hint="gauge",
    )  # fmt: skip
    data, _ = fields([row], [5])
    one, two = "000000000000f03f", "0000000000000040"
    body = (
        "11 0000000000001a40 19 000000000000f8bf 20 01 29 000000000000e03f 39" + one
        + "42 04 0804 1001 52 08" + one
        + "5a 04 0801 1002 5a 04 0804 1001 6a 18" + one + two + one
        + "70 03 78 05"
    )  # fmt: skip
    expected = bytes.fromhex(body)
    assert data == bytes([0x22, len(expected)]) + expected


def test_custom_buckets_by_hand():
    row = NativeHistogram(schema=-53, count=2.0, sum=0.0, positive={0: 2.0}, custom_bounds=(0.5,))
    data, _ = fields([row], [0])
    expected = bytes.fromhex("08 02 20 69 30 00 5a 02 1001 62 01 04 8201 08 000000000000e03f")
    assert data == bytes([0x22, len(expected)]) + expected


def test_integers_by_hand():
    row = NativeHistogram(
        schema=2, count=309.0, sum=1.0, zero_threshold=0.5, zero_count=300.0,
        positive={5: 1.0, 6: 3.0, 8: 2.0}, negative={0: 1.0, 1: 2.0}, hint="not_reset",
    )  # fmt: skip
    data, _ = fields([row], [-1])
    expected = bytes.fromhex(
        "08 b502 19 000000000000f03f 20 04 29 000000000000e03f 30 ac02"
        "42 02 1002 4a 02 0202 5a 04 080a 1002 5a 04 0802 1001 62 03 020401"
        "70 02 78 ffffffffffffffffff01"
    )
    assert data == bytes([0x22, len(expected)]) + expected
