"""Each kernel from bytes of remote write to series and the log, alone, as it is called there.

Bodies of 2,000 series with ten labels, of 500 histograms, and a catalog that sees them for the
first time or again. What they cost together is in `bench_scan`. Symbols, pairs and series are
looked up again, as their insertion stops now and then for a table to grow.
"""

from __future__ import annotations

from functools import cache, partial

import cramjam
import numpy as np
import pytest

from bench.bodies import T_MS, labels_of, make_bodies
from bench.kernels.bench_scan import make_catalog, make_native_bodies
from tsengine.kernels import (
    catalog,
    hashing,
    histogramscan,
    knownseries,
    labelwire,
    logcolumns,
    nestedwire,
    protowire,
)

N_SERIES = 2000
N_HISTOGRAMS = 500


@cache
def body_of(kind: str) -> bytes:
    version = int(kind[-1])
    made = make_native_bodies(version) if "native" in kind else make_bodies(N_SERIES, version)
    return bytes(cramjam.snappy.decompress_raw(made[0]))


@cache
def label_sets() -> list[dict[str, str]]:
    """Of 2,000 pods: two labels that no other has."""
    return [
        {name.decode(): value.decode() for name, value in labels_of(i)}
        | {"pod": f"checkout-{i:08x}", "uid": f"{i * 7919:032x}"}
        for i in range(N_SERIES)
    ]


def scan(kind: str, n_times: int) -> None:
    made = make_catalog()
    for _ in range(n_times):
        made.scan_remote_write(body_of(kind), version=int(kind[-1]))


def new(kind: str):
    return lambda: scan(kind, 1)


def known(kind: str):
    return lambda: scan(kind, 2)


def found_again() -> None:
    made = make_catalog()
    made.series_refs(label_sets())
    made.series_refs(label_sets())


CASES = {
    "scan_known_v1": (knownseries.scan_known_v1, known("1"), N_SERIES, "samples"),
    "split_fields": (protowire.split_fields, new("1"), N_SERIES, "series"),
    "scan_series_v1": (protowire.scan_series_v1, new("1"), N_SERIES, "series"),
    "scan_series_v2": (protowire.scan_series_v2, known("2"), N_SERIES, "series"),
    "hash_spans": (hashing.hash_spans, new("1"), N_SERIES, "series"),
    "hash_rows": (hashing.hash_rows, new("2"), N_SERIES, "series"),
    "memo_find": (catalog.memo_find, known("2"), N_SERIES, "series"),
    "memo_insert": (catalog.memo_insert, new("1"), lambda hashes, refs, n, *rest: n, "series"),
    "parse_label_rows": (labelwire.parse_label_rows, new("1"), N_SERIES, "series"),
    "share_label_rows": (labelwire.share_label_rows, new("2"), N_SERIES, "series"),
    "check_labels": (catalog.check_labels, new("1"), N_SERIES, "series"),
    "intern_symbols": (
        catalog.intern_symbols, found_again,
        lambda data, starts, ends, hashes, begin, n, *rest: n - begin, "symbols",
    ),
    "intern_pairs": (
        catalog.intern_pairs, found_again,
        lambda names, values, keys, begin, n, *rest: n - begin, "pairs",
    ),
    "intern_series": (
        catalog.intern_series, found_again,
        lambda ends, pairs, keys, begin, n, *rest: n - begin, "series",
    ),
    "grow_table": (catalog.grow_table, new("1"), lambda old, grown: len(old), "places"),
    "find_nested": (nestedwire.find_nested, new("native 1"), N_HISTOGRAMS, "histograms"),
    "parse_histograms": (
        histogramscan.parse_histograms, new("native 1"), N_HISTOGRAMS, "histograms"
    ),
    "parse_exemplars": (nestedwire.parse_exemplars, new("native 1"), N_HISTOGRAMS, "exemplars"),
    "parse_labels": (protowire.parse_labels, new("native 1"), N_HISTOGRAMS, "exemplars"),
}  # fmt: skip


@pytest.mark.parametrize("order", ["by series", "any"])
def bench_write_columns(measure, order):
    """Times and refs of a body for the log; of hosts whose clocks differ."""
    refs = 100_000 + np.arange(N_SERIES, dtype=np.uint32)
    if order == "any":
        refs = np.random.default_rng(1).permutation(refs)
    t_ms = T_MS + np.arange(N_SERIES) // 100 * 379
    out, layout = np.empty(12 * N_SERIES, np.uint8), np.empty(6, np.int64)
    call = partial(logcolumns.write_columns, t_ms, refs, out, layout)
    measure(call, N_SERIES, n_bytes=t_ms.nbytes + refs.nbytes)


@pytest.mark.parametrize("case", CASES)
def bench_wire(measure_inside, case):
    kernel, run, n_items, unit = CASES[case]
    measure_inside(kernel, run, n_items, unit=unit)
