"""Remote write through the catalog, Snappy included: protowire.py, hashing.py, catalog.py.

Bodies of 2,000 series with ten labels, about 256 label bytes, one sample each, 50 bodies a round:
known series (`split_fields`, `scan_series_v1`, `scan_series_v2`, `hash_spans`, `hash_rows`,
`memo_find`), and a database that sees them for the first time (besides these `parse_label_rows`,
`share_label_rows`, `check_labels`, `intern_symbols`, `intern_pairs`, `intern_series`, `grow_table`,
`memo_insert`). Must-show: 6 M known samples/s and 400,000 new series/s on one core.

Also bodies of 500 histograms of 60 buckets with one exemplar each (`find_nested`,
`parse_histograms`, `parse_exemplars`), and samples with start timestamps.

    python -m bench.kernels.bench_scan
"""

from __future__ import annotations

import sys
from functools import cache

import cramjam
import pytest

from bench.bodies import T_MS, labels_of, make_bodies
from tests.reference import histogramscan as native
from tests.reference import remote_write as wire
from tsengine.options import LabelLimits
from tsengine.storage.catalog import Catalog

N_SERIES = 100_000
cached_bodies = cache(make_bodies)


def make_catalog() -> Catalog:
    return Catalog(secret=bytes(range(32)), limits=LabelLimits(), max_series=10**8)


def scan_all(catalog: Catalog, bodies: list[bytes], version: int) -> int:
    """Samples of one pass over all bodies."""
    n = 0
    for body in bodies:
        data = memoryview(cramjam.snappy.decompress_raw(body))
        n += len(catalog.scan_remote_write(data, version=version).batch)
    return n


def message_bytes(bodies: list[bytes]) -> int:
    return sum(len(cramjam.snappy.decompress_raw(body)) for body in bodies)


@pytest.mark.parametrize("version", [1, 2])
def bench_known_series(measure, version):
    bodies = cached_bodies(N_SERIES, version)
    catalog = make_catalog()
    assert scan_all(catalog, bodies, version) == N_SERIES
    measure(
        lambda: scan_all(catalog, bodies, version), N_SERIES, n_bytes=message_bytes(bodies),
        n_rounds=15,
    )  # fmt: skip


@pytest.mark.parametrize("version", [1, 2])
def bench_new_series(measure, version):
    bodies = cached_bodies(N_SERIES, version)
    measure(
        lambda catalog: scan_all(catalog, bodies, version), N_SERIES, unit="series",
        n_bytes=message_bytes(bodies), prepare=lambda: (make_catalog(),), n_rounds=5,
    )  # fmt: skip


def make_native_bodies(version: int) -> list[bytes]:
    encode = wire.encode_v1 if version == 1 else wire.encode_v2
    deltas = [k % 7 - (k - 1) % 7 if k else 1 for k in range(60)]
    count = sum(1 + k % 7 for k in range(60))
    made = []
    for first in range(0, 10_000, 500):
        series = []
        for i in range(first, first + 500):
            message = native.Message(
                count, wire.bits_of(i / 7), 3, positive_spans=[(-20, 30), (4, 30)],
                positive=deltas, t_ms=T_MS,
            )  # fmt: skip
            exemplar = wire.Exemplar([(b"trace_id", b"%032d" % i)], T_MS, wire.bits_of(0.5))
            one = wire.Series(labels_of(i), histograms=[native.encode(message)])
            one.exemplars.append(exemplar)
            series.append(one)
        made.append(bytes(cramjam.snappy.compress_raw(encode(series))))
    return made


@pytest.mark.parametrize("version", [1, 2])
def bench_known_histograms(measure, version):
    bodies = make_native_bodies(version)
    catalog = make_catalog()
    assert scan_all(catalog, bodies, version) == 10_000
    measure(
        lambda: scan_all(catalog, bodies, version), 60 * 10_000, unit="buckets",
        n_bytes=message_bytes(bodies), n_rounds=5,
    )  # fmt: skip


def bench_known_series_with_start_timestamps(measure):
    series = [
        wire.Series(labels_of(i), [(T_MS, wire.bits_of(i / 7))], starts=[T_MS - i])
        for i in range(20_000)
    ]
    bodies = [
        bytes(cramjam.snappy.compress_raw(wire.encode_v2(series[first : first + 2000])))
        for first in range(0, 20_000, 2000)
    ]
    catalog = make_catalog()
    assert scan_all(catalog, bodies, 2) == 20_000
    measure(lambda: scan_all(catalog, bodies, 2), 20_000, n_bytes=message_bytes(bodies), n_rounds=9)


@pytest.mark.parametrize("case", ["publish", "encode for the log", "replay of the log"])
def bench_series_life(measure, case):
    bodies = cached_bodies(N_SERIES, 1)
    catalog = make_catalog()
    scan_all(catalog, bodies, 1)
    payload = catalog.encode_series(0, N_SERIES)

    def filled():
        catalog = make_catalog()
        scan_all(catalog, bodies, 1)
        return (catalog,)

    call, prepare = {
        "publish": (lambda catalog: catalog.publish(), filled),
        "encode for the log": (lambda: catalog.encode_series(0, N_SERIES), None),
        "replay of the log": (
            lambda fresh: fresh.decode_series(payload),
            lambda: (make_catalog(),),
        ),
    }[case]
    measure(
        call, N_SERIES, unit="series", n_bytes=message_bytes(bodies), prepare=prepare, n_rounds=5
    )


if __name__ == "__main__":
    sys.exit(pytest.main([__file__]))
