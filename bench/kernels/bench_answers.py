"""What the cells of an answer still go through, and what remote read makes of samples.

elementwise.py, labeltexts.py, numbers.py, xorchunk.py, histogramwire.py: what calls them, and each
alone.
"""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest

from tsengine.interop.chunks import make_chunks
from tsengine.interop.histogram_messages import histogram_fields
from tsengine.interop.prometheus_json import JsonHistograms, JsonSeries, matrix_json
from tsengine.kernels import histogramwire, labeltexts, numbers, xorchunk
from tsengine.kernels.elementwise import clamp_cells
from tsengine.model.histograms import HINT_GAUGE, KEY_BIAS, Histograms, handles
from tsengine.model.labels import LabelRows

N_SERIES = 1000
N_STEPS = 1000


def texts_of(pairs):
    """Names and values of pair ids."""
    return [f"label_{pair % 4}" for pair in pairs], [f"value-{pair}" for pair in pairs]


def bench_clamp_cells(measure):
    values = np.random.default_rng(1).normal(size=(N_SERIES, N_STEPS))
    low, high, out = np.full(N_STEPS, -1.0), np.full(N_STEPS, 1.0), np.empty_like(values)
    n_bytes = values.nbytes
    measure(lambda: clamp_cells(values, low, high, out), values.size, unit="cells", n_bytes=n_bytes)


def json_size(values):
    """Bytes of a range query's answer of series with 1,000 steps."""
    n_series = len(values) // N_STEPS
    rows = LabelRows(np.arange(n_series + 1) * 4, np.arange(4 * n_series, dtype=np.uint32))
    stamps = 1_700_000_000_000 + np.arange(N_STEPS) * 15_000
    series = JsonSeries(rows, texts_of, values, np.arange(n_series + 1) * N_STEPS, stamps, None)
    return sum(map(len, matrix_json(series)))


@pytest.mark.parametrize("kind", ["integers", "two decimals", "full precision"])
def bench_json(measure, kind):
    """A range query's answer as JSON, in pieces."""
    values = np.random.default_rng(1).uniform(0, 1e6, N_SERIES * N_STEPS // 4)
    if kind != "full precision":
        values = np.round(values, 0 if kind == "integers" else 2)
    call = partial(json_size, values)
    measure(call, len(values), unit="values", n_bytes=values.nbytes)


def label_texts(n_hosts):
    """A dictionary's arrays of two names and as many instances as there are hosts."""
    texts = [
        b"__name__",
        b"up",
        b"instance",
        *(b"host-%06d.example:9100" % k for k in range(n_hosts)),
    ]
    offsets = np.cumsum([0, *map(len, texts)])
    names = np.array([0, *[2] * n_hosts], np.uint32)
    values = np.array([1, *range(3, n_hosts + 3)], np.uint32)
    return np.frombuffer(b"".join(texts), np.uint8), offsets, names, values


N_HOSTS = 10_000


def bench_order_rows(measure):
    """Series of hosts in no order."""
    hosts = np.random.default_rng(1).permutation(N_HOSTS)
    pairs = np.stack((np.zeros(N_HOSTS, np.int64), 1 + hosts), axis=1).astype(np.uint32).ravel()
    outs = np.empty((2, N_HOSTS), np.int64)
    offsets = 2 * np.arange(N_HOSTS + 1)
    call = partial(labeltexts.order_rows, *label_texts(N_HOSTS), offsets, pairs, *outs)
    measure(call, N_HOSTS, unit="series", n_bytes=pairs.nbytes)


def bench_write_pairs(measure):
    texts = label_texts(N_HOSTS)
    out, offsets = np.empty(64 * N_HOSTS, np.uint8), np.empty(N_HOSTS + 2, np.int64)
    pairs = np.arange(N_HOSTS + 1, dtype=np.uint32)
    call = partial(labeltexts.write_pairs, *texts, pairs, out, offsets)
    measure(call, len(pairs), unit="pairs", n_bytes=len(texts[0]))


N_HISTOGRAMS = 2_000
N_BUCKETS = 50


def many_histograms():
    """Gauges of 50 buckets each."""
    n = N_HISTOGRAMS
    counts = np.random.default_rng(1).integers(1, 1000, (n, N_BUCKETS)).astype(float)
    offsets = np.arange(n + 1) * N_BUCKETS
    keys = np.tile(np.arange(N_BUCKETS, dtype=np.int32) + KEY_BIAS, n)
    return Histograms(
        schema=np.full(n, 3, np.int8), hint=np.full(n, HINT_GAUGE, np.uint8),
        count=counts.sum(axis=1), sum=counts.sum(axis=1) / 7, zero_threshold=np.zeros(n),
        zero_count=np.zeros(n), offsets=offsets, keys=keys, counts=counts.ravel(),
        bounds_id=np.full(n, -1, np.int32), bounds_offsets=np.zeros(1, np.int64),
        bounds=np.empty(0),
    )  # fmt: skip


def bench_json_of_histograms(measure):
    """Items are buckets."""
    table = many_histograms()
    n_items = len(table.keys)
    lowers = np.exp2((table.keys - KEY_BIAS - 1) / 8)
    shown = JsonHistograms(
        table.count, table.sum, table.offsets, np.zeros(n_items, np.uint8), lowers,
        lowers * 2**0.125, table.counts,
    )  # fmt: skip
    rows = LabelRows(np.zeros(2, np.int64), np.empty(0, np.uint32))
    series = JsonSeries(
        rows, texts_of, handles(np.arange(len(table))).view(np.float64),
        np.array([0, len(table)]), np.arange(len(table)) * 15_000, None, shown,
    )  # fmt: skip
    measure(
        lambda: sum(map(len, matrix_json(series))), n_items, unit="buckets", n_bytes=n_items * 24
    )


@pytest.mark.parametrize("kind", ["integers", "full precision"])
def bench_xor_chunks(measure, kind):
    n = N_SERIES * N_STEPS
    values = np.random.default_rng(1).uniform(0, 1e6, n)
    if kind == "integers":
        values = np.round(values)
    t_ms = np.tile(1_700_000_000_000 + np.arange(N_STEPS) * 15_000, N_SERIES)
    offsets = np.arange(N_SERIES + 1) * N_STEPS
    measure(
        lambda: make_chunks(t_ms, values, offsets, None), n, unit="samples", n_bytes=values.nbytes
    )


def bench_histogram_chunks(measure):
    """Items are buckets."""
    table = many_histograms()
    values = handles(np.arange(len(table))).view(np.float64)
    t_ms = np.arange(len(table)) * 15_000
    offsets = np.array([0, len(table)])
    measure(
        lambda: make_chunks(t_ms, values, offsets, table), len(table.keys), unit="buckets",
        n_bytes=table.n_bytes,
    )  # fmt: skip


def bench_histogram_messages(measure):
    """Items are buckets."""
    table = many_histograms()
    rows, t_ms = np.arange(len(table)), np.arange(len(table)) * 15_000
    measure(
        lambda: histogram_fields(table, rows, t_ms), len(table.keys), unit="buckets",
        n_bytes=table.n_bytes,
    )  # fmt: skip


def gauges():
    """Chunks of a hundred series with 1,000 samples each."""
    n = 100 * N_STEPS
    values = np.round(np.random.default_rng(1).uniform(0, 1e6, n), 2)
    t_ms = np.tile(1_700_000_000_000 + np.arange(N_STEPS) * 15_000, 100)
    return make_chunks(t_ms, values, np.arange(101) * N_STEPS, None)


def histogram_chunks():
    """Chunks of one series of histograms."""
    table = many_histograms()
    values = handles(np.arange(len(table))).view(np.float64)
    return make_chunks(np.arange(len(table)) * 15_000, values, np.array([0, len(table)]), table)


def histogram_messages():
    """Messages of remote read."""
    table = many_histograms()
    return histogram_fields(table, np.arange(len(table)), np.arange(len(table)) * 15_000)


PIECE = np.round(np.random.default_rng(1).uniform(0, 1e6, 50 * N_STEPS), 2)
ALONE = {
    "write_series": (numbers.write_series, partial(json_size, PIECE), None, "bytes"),
    "write_stamps": (numbers.write_stamps, partial(json_size, PIECE), N_STEPS, "times"),
    "encode_xor_chunks": (xorchunk.encode_xor_chunks, gauges, 100 * N_STEPS, "samples"),
    "cut_histogram_chunks": (
        xorchunk.cut_histogram_chunks, histogram_chunks, N_HISTOGRAMS, "histograms"
    ),
    "encode_histogram_chunks": (
        xorchunk.encode_histogram_chunks, histogram_chunks, N_HISTOGRAMS, "histograms"
    ),
    "write_histograms": (
        histogramwire.write_histograms, histogram_messages, N_HISTOGRAMS, "histograms"
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", ALONE)
def bench_alone(measure_inside, case):
    kernel, run, n_items, unit = ALONE[case]
    measure_inside(kernel, run, n_items, unit=unit)
