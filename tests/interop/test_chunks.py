"""Chunks of the TSDB's encodings, read back by slow readers."""

from __future__ import annotations

import dataclasses
import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.interop.histogram_rows import native_histograms
from tests.reference import xorchunk as reference
from tsengine.interop import chunks
from tsengine.interop.chunks import make_chunks
from tsengine.model.histogram_values import NativeHistogram, from_list
from tsengine.model.histograms import handles


def columns(rows):
    """Times, values with handles, offsets and table of rows of [(t, float or histogram)]."""
    flat = [sample for row in rows for sample in row]
    found = [value for _, value in flat if isinstance(value, NativeHistogram)]
    values = np.array([0.0 if isinstance(v, NativeHistogram) else v for _, v in flat], float)
    is_histogram = np.array([isinstance(v, NativeHistogram) for _, v in flat], bool)
    values[is_histogram] = handles(np.arange(len(found))).view(float)
    offsets = np.cumsum([0] + [len(row) for row in rows])
    t_ms = np.array([t for t, _ in flat], np.int64)
    return t_ms, values, offsets, from_list(found) if found else None


def decoded(made):
    """[(first, end, flag or None, [(t, float or fields)])] of chunks."""
    out = []
    for c in range(len(made.starts)):
        data = made.data[made.begins[c] : made.begins[c] + made.sizes[c]].tobytes()
        place = int(made.starts[c]), int(made.ends[c])
        if made.types[c] == chunks.XOR:
            found = reference.decode_xor_chunk(data)
            out.append((*place, None, [(t, reference.to_float(word)) for t, word in found]))
        else:
            assert made.types[c] == chunks.FLOAT_HISTOGRAM
            out.append((*place, *reference.encode_histogram_chunks(data)))
    return out


def fields(row):
    """A histogram as the reader gives it: the hint is the chunk's."""
    found = dataclasses.asdict(row)
    del found["hint"]
    return found


def same(a, b):
    return repr(sorted_fields(a)) == repr(sorted_fields(b))


def sorted_fields(value):
    if isinstance(value, float):
        return value
    return {
        k: dict(sorted(v.items())) if isinstance(v, dict) else v for k, v in sorted(value.items())
    }


@st.composite
def series(draw):
    """Samples of a few series: floats, histograms that grow and ones that don't."""
    rows = []
    for _ in range(draw(st.integers(1, 3))):
        t, row, before = draw(st.integers(-5, 10**13)), [], None
        for _ in range(draw(st.integers(0, 8))):
            t += draw(st.integers(1, 70_000))
            kind = draw(st.integers(0, 5))
            if kind == 0 or before is None:
                row.append((t, draw(st.floats(allow_nan=False))))
                before = draw(native_histograms())
                continue
            if kind == 1:
                before = draw(native_histograms())
            elif kind < 5:
                more = {i: n + draw(st.integers(0, 3)) for i, n in before.positive.items()}
                if before.schema != -53:
                    more.setdefault(draw(st.integers(-9, 9)), 1.5)
                before = dataclasses.replace(
                    before, positive=more, count=before.count + 5, sum=draw(st.floats(-5, 5))
                )
            row.append((t, before))
        rows.append(row)
    return rows


@given(series(), st.sampled_from([1, 2, 3, 120]))
@settings(deadline=None, max_examples=100)
def test_everything_is_read_back(rows, at_most):
    t_ms, values, offsets, table = columns(rows)
    before = chunks.CHUNK_SAMPLES
    chunks.CHUNK_SAMPLES = at_most
    try:
        found = decoded(make_chunks(t_ms, values, offsets, table))
    finally:
        chunks.CHUNK_SAMPLES = before
    flat = [sample for row in rows for sample in row]
    got = [sample for _, _, _, samples in found for sample in samples]
    assert [t for t, _ in got] == [t for t, _ in flat]
    for (_, value), (_, expected) in zip(got, flat, strict=True):
        if isinstance(expected, NativeHistogram):
            assert same(value, fields(expected))
        else:
            assert struct.pack("<d", value) == struct.pack("<d", expected)
    assert [(first, end, flag) for first, end, flag, _ in found] == expected_cuts(rows, at_most)


def expected_cuts(rows, at_most):
    """Chunks of runs of one kind inside each row."""
    out, first = [], 0
    for row in rows:
        k = 0
        while k < len(row):
            is_histogram = isinstance(row[k][1], NativeHistogram)
            end = k
            while end < len(row) and isinstance(row[end][1], NativeHistogram) == is_histogram:
                end += 1
            if is_histogram:
                run = [value for _, value in row[k:end]]
                cuts = reference.cut_histogram_chunks(run, at_most)
            else:
                edges = [*range(0, end - k, at_most), end - k]
                cuts = [(a, b, None) for a, b in zip(edges[:-1], edges[1:], strict=True)]
            out += [(first + k + a, first + k + b, flag) for a, b, flag in cuts]
            k = end
        first += len(row)
    return out


def test_resets_and_gauges_are_flagged():
    one = NativeHistogram(schema=0, count=5.0, sum=1.0, positive={1: 2.0, 4: 3.0})
    more = dataclasses.replace(one, count=9.0, positive={1: 2.0, 3: 1.0, 4: 6.0})
    moved = dataclasses.replace(more, count=10.0, positive={1: 1.0, 3: 3.0, 4: 6.0})
    told = dataclasses.replace(moved, count=20.0, hint="reset")
    gauge = dataclasses.replace(one, hint="gauge")
    rows = [[(k * 1000, row) for k, row in enumerate((one, more, moved, told, gauge, one))]]
    found = decoded(make_chunks(*columns(rows)))
    assert [(first, end, flag) for first, end, flag, _ in found] == [
        (0, 2, 0), (2, 3, 0x80), (3, 4, 0x80), (4, 5, 0xC0), (5, 6, 0),
    ]  # fmt: skip


@pytest.mark.parametrize("buffer_size", [1, 3000])
def test_any_buffer_gives_the_same_chunks(monkeypatch, buffer_size):
    one = NativeHistogram(schema=3, count=500.0, sum=1.0, positive=dict.fromkeys(range(100), 2.0))
    rows = [
        [(k * 1000, dataclasses.replace(one, sum=0.1 * k, hint=hint)) for k in range(300)]
        for hint in ("gauge", "not_reset")
    ]
    whole = make_chunks(*columns(rows))
    assert whole.ends.tolist() == [120, 240, 300, 420, 540, 600]
    monkeypatch.setattr(chunks, "_BUFFER_SIZE", buffer_size)
    again = make_chunks(*columns(rows))
    assert again.data.tobytes() == whole.data.tobytes()
    assert again.begins.tolist() == whole.begins.tolist()


def test_custom_bounds_are_short_or_exact():
    bounds = (-1.0, 0.001, 0.5, 33554.43, 33554.431, 0.1 + 0.2e-9 + 40000)
    row = NativeHistogram(
        schema=-53, count=2.0, sum=3.0, positive={0: 1.0, 6: 1.0}, custom_bounds=bounds
    )
    ((_, _, flag, samples),) = decoded(make_chunks(*columns([[(7, row)]])))
    assert flag == 0
    assert samples == [(7, fields(row))]
