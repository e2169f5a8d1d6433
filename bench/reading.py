"""How fast samples are read from parts and heads, and parts merged.

    python -m bench.reading [--threads 2]

24 h of 15 s counters in 1,000 series, on one axis and on 1,000 axes with jitter: 5.76 M samples,
page cache warm, nothing decoded is kept. Prints for each scene the wall time, million samples per
second and thread, the time in units of a plain copy of the values by one thread (np.copyto, same
run), bytes per sample, and the time to read only the last 5 minutes. Then reads that can't take the
straight way (gaps, stale markers, sources over each other, heads) and a merge of three parts.
Medians of several runs.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from statistics import median

import numpy as np

from tsengine.model.batch import SampleBatch, SeriesColumns
from tsengine.storage.compaction import merge_parts
from tsengine.storage.filesystem import LocalFileSystem
from tsengine.storage.head import Head
from tsengine.storage.part_reader import PartReader
from tsengine.storage.part_writer import write_part
from tsengine.storage.select import read_frames

N_SERIES = 1000
N_STEPS = 5760
START_MS = 1_700_006_400_000  # midnight UTC


def counters(n_series: int, n_steps: int, *, is_shared: bool, jitter_ms: int) -> SeriesColumns:
    rng = np.random.default_rng(7)
    grid = START_MS + 1 + np.arange(n_steps) * 15_000
    if is_shared:
        t_ms = np.tile(grid + rng.integers(0, jitter_ms + 1, n_steps), n_series)
    else:
        start = rng.integers(0, 15_000, (n_series, 1))
        t_ms = (grid + start + rng.integers(0, jitter_ms + 1, (n_series, n_steps))).ravel()
    values = np.cumsum(rng.integers(0, 100, (n_series, n_steps)), axis=1).astype(np.float64)
    return SeriesColumns(
        np.arange(n_series, dtype=np.uint32),
        np.arange(n_series + 1) * n_steps,
        t_ms,
        values.ravel().view(np.uint64),
    )


def chunks(columns: SeriesColumns, n_series: int):
    for first in range(0, len(columns), n_series):
        last = min(first + n_series, len(columns))
        span = slice(columns.offsets[first], columns.offsets[last])
        yield SeriesColumns(
            columns.refs[first:last],
            columns.offsets[first : last + 1] - columns.offsets[first],
            columns.t_ms[span],
            columns.bits[span],
        )


def median_s(n: int, call) -> float:
    times = []
    for _ in range(n):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return median(times)


def copy_s(n_samples: int) -> float:
    """Median time of a plain copy of that many values."""
    source = np.ones(n_samples)
    target = np.zeros_like(source)
    return median_s(7, lambda: np.copyto(target, source))


def measure(name: str, columns: SeriesColumns, targets, n_threads: int) -> None:
    fs = LocalFileSystem()
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        entry = write_part(
            fs, folder, "0000000001", chunks(columns, 350),
            targets=targets, seq_min=1, seq_max=1, level=0,
        )  # fmt: skip
        wrote = time.perf_counter() - start
        assert entry is not None
        reader = PartReader.open(fs, f"{folder}/0000000001", entry)
        slices = np.array_split(columns.refs, n_threads)
        mint, maxt = entry.mint, entry.maxt
        pool = ThreadPoolExecutor(n_threads)

        def read(refs):
            return read_frames([reader], [], refs, mint, maxt, drop_stale=True)

        took = median_s(9, lambda: list(pool.map(read, slices)))
        tail = median_s(9, lambda: read_frames(
            [reader], [], columns.refs, maxt - 300_000, maxt, drop_stale=True
        ))  # fmt: skip
        n = len(columns.t_ms)
        print(
            f"{name:34s} {took * 1e3:7.1f} ms {n / took / 1e6 / n_threads:6.0f} M samples/s/thread"
            f" {took / copy_s(n):5.1f} x copy"
            f"  last 5 min {tail * 1e3:6.2f} ms  {entry.size_bytes / n:5.3f} B/sample"
            f"  index {reader.index.n_bytes / len(reader.index.block_axis):4.0f} B/block"
            f"  written at {n / wrote / 1e6:4.0f} M/s"
        )
        reader.close()
        pool.shutdown()


def measure_stacks(n_threads: int) -> None:
    """Reads that can't take the straight way, and merging; smaller, 1.44 M samples a source."""
    fs = LocalFileSystem()
    rng = np.random.default_rng(5)
    columns = counters(1000, 1440, is_shared=True, jitter_ms=5)
    refs = columns.refs
    keep = rng.random(len(columns.t_ms)) < 0.9
    rows = np.repeat(np.arange(1000), 1440)
    gaps = SeriesColumns(
        refs,
        np.concatenate([[0], np.cumsum(np.bincount(rows[keep], minlength=1000))]),
        columns.t_ms[keep],
        columns.bits[keep],
    )
    bits = columns.bits.copy()
    bits[rng.integers(0, len(bits), 5000)] = 0x7FF0000000000002
    stale = SeriesColumns(refs, columns.offsets, columns.t_ms, bits)
    head = Head()
    order = np.argsort(columns.t_ms, kind="stable")
    head.append(SampleBatch(refs[rows[order]], columns.t_ms[order], columns.bits[order]), 1)

    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(n_threads) as pool:

        def part(number: int, source: SeriesColumns) -> PartReader:
            name = f"{number:010d}"
            entry = write_part(
                fs, folder, name, [source], targets=lambda r: np.zeros(len(r), np.int64),
                seq_min=number, seq_max=number, level=0,
            )  # fmt: skip
            assert entry is not None
            return PartReader.open(fs, f"{folder}/{name}", entry)

        plain, gappy, marked = part(1, columns), part(2, gaps), part(3, stale)
        scenes = {
            "one part": ([plain], []),
            "a tenth missing at random": ([gappy], []),
            "stale markers in every series": ([marked], []),
            "two parts over each other": ([plain, gappy], []),
            "head only": ([], [head.view()]),
            "head over the same part": ([plain], [head.view()]),
        }
        for name, (parts, heads) in scenes.items():
            mint, maxt = int(columns.t_ms.min()), int(columns.t_ms.max())

            def read(some, parts=parts, heads=heads, mint=mint, maxt=maxt):
                return read_frames(parts, heads, some, mint, maxt, drop_stale=True)

            slices = np.array_split(refs, n_threads)
            took = median_s(7, lambda read=read, slices=slices: list(pool.map(read, slices)))
            n_read = sum(len(read(some).values) for some in slices)
            print(
                f"{name:34s} {took * 1e3:7.1f} ms {n_read / took / 1e6 / n_threads:6.0f} M/s/thread"
                f" {took / copy_s(n_read):5.1f} x copy"
            )
        names = iter(range(10, 20))
        start = time.perf_counter()
        merged = merge_parts(
            fs, [plain, gappy, marked], folder, lambda: f"{next(names):010d}",
            targets=lambda r: np.zeros(len(r), np.int64), cut_before_ms=None, level=1,
        )  # fmt: skip
        took = time.perf_counter() - start
        n_inputs = sum(p.entry.n_samples for p in (plain, gappy, marked))
        print(
            f"{'merging three parts':34s} {took * 1e3:7.1f} ms {n_inputs / took / 1e6:6.0f} M/s in"
        )
        assert merged[0].n_samples == len(columns.t_ms)


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--threads", type=int, default=2)
    n_threads = arguments.parse_args().threads

    def alone(refs):
        return np.arange(len(refs)) + int(refs[0])

    def together(refs):
        return np.zeros(len(refs), np.int64)

    for jitter in (0, 20):
        shared = counters(N_SERIES, N_STEPS, is_shared=True, jitter_ms=jitter)
        measure(f"one axis, jitter {jitter} ms", shared, together, n_threads)
        own = counters(N_SERIES, N_STEPS, is_shared=False, jitter_ms=jitter)
        measure(f"1000 axes, jitter {jitter} ms", own, alone, n_threads)
    many = counters(20_000, 240, is_shared=True, jitter_ms=5)
    measure("20,000 series x 1 h, one axis", many, together, n_threads)
    measure_stacks(n_threads)


if __name__ == "__main__":
    main()
