"""What the log costs: payload coding, framing, group commit, replay, preallocation.

    python -m bench.wal [DIRECTORY]

DIRECTORY (default: a temporary folder) decides which disk is measured, and for appends the disk
matters more than anything else. Prints four tables: payload coding (CPU time; the last column is
encoding in units of a plain copy of the batch's bytes), appends by threads and fsync mode with
entries per group and waits, replay, and fdatasync after three ways to grow a file. Medians.
"""

from __future__ import annotations

import os
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable

import numpy as np

from tsengine.codecs.records import crc32c
from tsengine.model.batch import SampleBatch
from tsengine.storage import filenames, wal_records
from tsengine.storage.filesystem import LocalFileSystem
from tsengine.storage.ingest_log import LogEntry
from tsengine.storage.wal import Wal
from tsengine.storage.wal_reader import replay

DATABASE_ID = "00" * 16
T0 = 1_700_000_000_000


def batches(n: int) -> dict[str, SampleBatch]:
    """Shapes that arrive: a scrape, requests of many targets, backfill of one series, chaos."""
    rng = np.random.default_rng(1)
    bits = rng.random(n).view(np.uint64)
    refs = np.arange(n, dtype=np.uint32)
    t = np.full(n, T0, np.int64)
    shards = rng.permutation(n).astype(np.uint32) * np.uint32(3)
    return {
        "scrape": SampleBatch(refs, t, bits),
        "targets": SampleBatch(shards, T0 + rng.integers(0, 15_000, n), bits),
        "backfill": SampleBatch(np.zeros(n, np.uint32), T0 + 15_000 * np.arange(n), bits),
        "chaos": SampleBatch(
            rng.integers(0, 2**32, n).astype(np.uint32), rng.integers(-(2**62), 2**62, n), bits
        ),
    }


def seconds(call: Callable[[], object], repeats: int = 15) -> float:
    """Median CPU time of a call, so that a busy machine does not blur it."""
    taken = []
    for _ in range(repeats):
        started = time.process_time()
        call()
        taken.append(time.process_time() - started)
    return statistics.median(taken)


def bench_payloads() -> None:
    print("payloads          n     bytes/sample  encode M/s  decode M/s  crc GB/s  encode x copy")
    for n in (1_000, 10_000, 200_000):
        for name, batch in batches(n).items():
            payload = wal_records.encode_floats(batch)
            repeats = max(15, 2_000_000 // n // 20)
            encode_s = seconds(lambda b=batch: wal_records.encode_floats(b), repeats)
            decode_s = seconds(lambda p=payload: wal_records.decode_floats(p), repeats)
            crc_s = seconds(lambda p=payload: crc32c(p), repeats)
            columns = np.ones(20 * n // 8)
            target = np.zeros_like(columns)
            copy_s = seconds(lambda c=columns, t=target: np.copyto(t, c), repeats)
            print(
                f"  {name:9} {n:9,} {len(payload) / n:12.2f} {n / encode_s / 1e6:11.0f}"
                f" {n / decode_s / 1e6:11.0f} {len(payload) / crc_s / 1e9:9.1f}"
                f" {encode_s / copy_s:14.1f}"
            )


def bench_appends(directory: str) -> None:
    print(
        "appends      threads  samples/entry   entries/s  M samples/s  entries/group   ms p50   p99"
    )
    for fsync in ("always", "interval"):
        for n_threads, n in ((1, 1), (1, 1_000), (8, 1_000), (64, 1_000), (2, 100_000)):
            _append(directory, fsync, n_threads, n)


def _append(directory: str, fsync: str, n_threads: int, n: int) -> None:
    with tempfile.TemporaryDirectory(dir=directory) as folder:
        log = _open(folder, fsync)
        batch = batches(n)["scrape"]
        waits: list[float] = []
        stop_s = time.monotonic() + 1.5

        def run() -> None:
            while time.monotonic() < stop_s:
                started = time.perf_counter()
                payload = wal_records.encode_floats(batch)
                log.append(LogEntry(((wal_records.FLOATS, payload),), len(payload))).wait()
                waits.append(time.perf_counter() - started)

        threads = [threading.Thread(target=run) for _ in range(n_threads)]
        started = time.perf_counter()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        taken = time.perf_counter() - started
        stats = log.stats
        log.close()
        p50, p99 = np.percentile(waits, [50, 99]) * 1e3
        rate = stats.n_entries / taken
        print(
            f"  {fsync:9} {n_threads:7} {n:14,} {rate:10,.0f} {rate * n / 1e6:12.1f}"
            f" {stats.n_entries / stats.n_groups:14.1f} {p50:8.2f} {p99:5.1f}"
        )


def bench_replay(directory: str) -> None:
    n, n_entries = 1_000, 20_000
    with tempfile.TemporaryDirectory(dir=directory) as folder:
        log = _open(folder, "interval")
        payload = wal_records.encode_floats(batches(n)["scrape"])
        for _ in range(0, n_entries, 1000):
            entries = [LogEntry(((wal_records.FLOATS, payload),), 1) for _ in range(1000)]
            tickets = [log.append(entry) for entry in entries]
            tickets[-1].wait()
        log.close()

        def run(decode: bool) -> None:
            for record in replay(
                LocalFileSystem(), folder, first_segment=1, database_id=DATABASE_ID
            ):
                if decode:
                    wal_records.decode_floats(record.payload)

        size = n_entries * len(payload)
        for name, decode in (("read and check", False), ("and decode", True)):
            taken = seconds(lambda d=decode: run(d), 3)
            print(
                f"replay  {name:15} {size / taken / 1e9:6.2f} GB/s"
                f" {n * n_entries / taken / 1e6:8.0f} M samples/s"
            )


def bench_preallocation(directory: str) -> None:
    print("fdatasync after a write, ms (p50, p95): growing file, fallocate before, zeros before")
    for size in (4096, 65536, 1 << 20):
        found = []
        for how in ("growing", "fallocate", "zeros"):
            with tempfile.NamedTemporaryFile(dir=directory) as file:
                if how == "fallocate":
                    os.posix_fallocate(file.fileno(), 0, 64 << 20)
                elif how == "zeros":
                    os.pwrite(file.fileno(), bytes(64 << 20), 0)
                os.fsync(file.fileno())
                found.append(_sync_times(file.fileno(), size))
        print(f"  {size:9,} " + "  ".join(f"{p50:6.3f} {p95:6.3f}" for p50, p95 in found))


def _sync_times(fd: int, size: int) -> tuple[float, float]:
    data = os.urandom(size)
    taken = []
    for i in range(min(200, (64 << 20) // size)):
        os.pwrite(fd, data, i * size)
        started = time.perf_counter()
        os.fdatasync(fd)
        taken.append((time.perf_counter() - started) * 1e3)
    p50, p95 = np.percentile(taken, [50, 95])
    return float(p50), float(p95)


def _open(folder: str, fsync: str) -> Wal:
    os.makedirs(filenames.wal_dir(folder), exist_ok=True)
    return Wal(
        LocalFileSystem(),
        folder,
        database_id=DATABASE_ID,
        next_segment=1,
        next_seq=0,
        fsync=fsync,  # type: ignore[arg-type]
        queue_size_bytes_max=64 << 20,
        on_durable=lambda entries: None,
    )


def main() -> None:
    directory = sys.argv[1] if len(sys.argv) > 1 else tempfile.gettempdir()
    bench_payloads()
    bench_appends(directory)
    bench_replay(directory)
    bench_preallocation(directory)


if __name__ == "__main__":
    main()
