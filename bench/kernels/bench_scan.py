"""Samples and new series a second through the catalog, Snappy included; and what they take.

Beside each figure: the time a plain copy of the same decompressed bytes takes (np.copyto), so that
runs on machines of different speed, or on a noisy one, can be compared.

    python -m bench.kernels.bench_scan [--series 100000] [--rounds 5]
"""

from __future__ import annotations

import argparse
import time

import cramjam
import numpy as np

from tests.reference import remote_write as wire
from tsengine.options import LabelLimits
from tsengine.storage.catalog import Catalog

SERIES_PER_BODY = 2000
T_MS = 1_700_000_000_000


def labels_of(host: int, metric: int) -> list[tuple[bytes, bytes]]:
    """Ten labels, about 256 bytes on the wire of 1.0."""
    labels = {
        "__name__": f"node_cpu_metric_{metric}_total",
        "arch": "x86_64",
        "datacenter": f"eu-west-1{host % 3}",
        "env": "production",
        "instance": f"host-{host:05d}.eu-west-1.compute.internal:9100",
        "job": "node-exporter",
        "os": "Ubuntu22.04",
        "region": "eu-west-1",
        "service": f"service-{host % 29}",
        "team": f"team-{host % 17}",
    }
    return [(name.encode(), value.encode()) for name, value in labels.items()]


def bodies(n_series: int, version: int) -> list[bytes]:
    """Snappy-compressed bodies of all series, one sample each."""
    made = []
    for first in range(0, n_series, SERIES_PER_BODY):
        series = [
            wire.Series(
                labels_of(i // 100, i % 100),
                [(T_MS, wire.bits_of(i / 7))],
                metadata=(1, b"Seconds the CPUs spent in each mode.", b"seconds"),
            )
            for i in range(first, min(n_series, first + SERIES_PER_BODY))
        ]
        body = wire.encode_v1(series) if version == 1 else wire.encode_v2(series)
        made.append(bytes(cramjam.snappy.compress_raw(body)))
    return made


def resident_bytes() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096


def scan_all(catalog: Catalog, compressed: list[bytes], version: int) -> tuple[int, float]:
    n = 0
    begin = time.perf_counter()
    for body in compressed:
        data = bytes(cramjam.snappy.decompress_raw(body))
        n += len(catalog.scan_remote_write(data, version=version).batch)
    return n, time.perf_counter() - begin


def copy_s(compressed: list[bytes]) -> float:
    raw = [
        np.frombuffer(bytes(cramjam.snappy.decompress_raw(body)), np.uint8) for body in compressed
    ]
    out = np.empty(max(map(len, raw)), np.uint8)
    begin = time.perf_counter()
    for data in raw:
        np.copyto(out[: len(data)], data)
    return time.perf_counter() - begin


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--series", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    for version in (1, 2):
        compressed = bodies(options.series, version)
        warm = Catalog(secret=bytes(32), limits=LabelLimits(), max_series=10**7)
        scan_all(warm, compressed[:1], version)
        catalog = Catalog(secret=bytes(range(32)), limits=LabelLimits(), max_series=10**8)
        before = resident_bytes()
        n_new, new_s = scan_all(catalog, compressed, version)
        begin = time.perf_counter()
        catalog.publish()
        catalog.view().series_of_pairs.count(np.zeros(1, np.uint32))
        publish_s = time.perf_counter() - begin
        grown = resident_bytes() - before
        runs = [scan_all(catalog, compressed, version) for _ in range(options.rounds)]
        n, best = min(runs, key=lambda run: run[1])
        copy = min(copy_s(compressed) for _ in range(3))
        print(
            f"{version}.0  known: {n / best / 1e6:5.2f} M samples/s ({best / copy:5.1f} x copy)   "
            f"new: {n_new / new_s / 1e3:4.0f} k series/s ({new_s / copy:5.1f} x copy), "
            f"publish {publish_s * 1e3:.0f} ms, {grown / n_new:.0f} resident bytes/series with memo"
        )
        payload = catalog.encode_series(0, catalog.next_ref)
        import zstandard

        packed = zstandard.ZstdCompressor(level=3).compress(payload)
        begin = time.perf_counter()
        again = Catalog(secret=bytes(32), limits=LabelLimits(), max_series=10**8)
        again.decode_series(payload)
        again.publish()
        print(
            f"     payload {len(payload) / n_new:.1f}, zstd {len(packed) / n_new:.1f} bytes/series, "
            f"replay {n_new / (time.perf_counter() - begin) / 1e3:.0f} k series/s"
        )


if __name__ == "__main__":
    main()
