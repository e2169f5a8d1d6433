"""Samples and new series a second through the catalog, Snappy included; and what they take.

Beside each figure stands the time in units of a plain copy of the same bytes (np.copyto of the
decompressed bodies), so that runs on machines of different speed, or on a noisy one, compare.

    python -m bench.kernels.bench_scan [--series 100000] [--rounds 7]
"""

from __future__ import annotations

import argparse
import time

import cramjam
import numpy as np
import zstandard

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


def make_bodies(n_series: int, version: int) -> list[bytes]:
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


def make_catalog() -> Catalog:
    return Catalog(secret=bytes(range(32)), limits=LabelLimits(), max_series=10**8)


def scan_all(catalog: Catalog, bodies: list[bytes], version: int) -> tuple[int, float]:
    """Samples and seconds of one pass."""
    n = 0
    begin = time.perf_counter()
    for body in bodies:
        data = memoryview(cramjam.snappy.decompress_raw(body))
        n += len(catalog.scan_remote_write(data, version=version).batch)
    return n, time.perf_counter() - begin


def copy_all(bodies: list[bytes]) -> float:
    """Seconds to copy the decompressed bytes."""
    raw = [np.frombuffer(cramjam.snappy.decompress_raw(body), np.uint8) for body in bodies]
    out = np.empty(max(map(len, raw)), np.uint8)
    begin = time.perf_counter()
    for data in raw:
        np.copyto(out[: len(data)], data)
    return time.perf_counter() - begin


def report(n_series: int, rounds: int, version: int) -> None:
    bodies = make_bodies(n_series, version)
    warm = make_catalog()
    for _ in range(2):
        scan_all(warm, bodies[:1], version)
    warm.publish()
    copy_s = min(copy_all(bodies) for _ in range(rounds))
    runs = []
    for _ in range(3):
        catalog = make_catalog()
        runs.append(scan_all(catalog, bodies, version))
    n_new, new_s = min(runs, key=lambda run: run[1])
    n, known_s = min(
        (scan_all(catalog, bodies, version) for _ in range(rounds)), key=lambda r: r[1]
    )
    begin = time.perf_counter()
    catalog.publish()
    publish_s = time.perf_counter() - begin
    payload = catalog.encode_series(0, catalog.next_ref)
    packed = zstandard.ZstdCompressor(level=3).compress(payload)
    copy = make_catalog()
    begin = time.perf_counter()
    copy.decode_series(payload)
    replay_s = time.perf_counter() - begin
    a_series = 1e9 / n_new
    print(f"{version}.0 known {n / known_s / 1e6:7.2f} M samples/s {known_s / copy_s:7.1f} x copy")
    print(f"{version}.0 new   {n_new / new_s / 1e3:7.0f} k series/s  {new_s / copy_s:7.1f} x copy")
    print(
        f"    publish {publish_s * a_series:.0f} ns, replay {replay_s * a_series:.0f} ns a series"
    )
    print(f"    log {len(payload) / n_new:.1f}, segment {len(packed) / n_new:.1f} bytes a series")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--series", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    for version in (1, 2):
        report(options.series, options.rounds, version)


if __name__ == "__main__":
    main()
