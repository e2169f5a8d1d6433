"""Bytes per native histogram in a part, and how fast they are written and read.

    python -m bench.histograms

A scrape target has histograms with 40 buckets at every 15 s; each observation falls into a bucket
by a normal law. Counters keep all that was observed, gauges only what came since the sample before.
Sizes are those of the whole part, samples and index included; speeds are CPU time of one thread,
medians of rounds, read from the page cache through `read_frames`.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from statistics import median

import numpy as np

from tsengine.model.batch import SeriesColumns
from tsengine.model.histograms import KEY_BIAS, Histograms, handles
from tsengine.model.ragged import offsets_of
from tsengine.storage.filesystem import LocalFileSystem
from tsengine.storage.part_reader import PartReader
from tsengine.storage.part_writer import write_part
from tsengine.storage.select import read_frames

N_BUCKETS = 40
N_STEPS = 1000
STEP_MS = 15_000
ROUNDS = 7


def main():
    head = f"{'histograms':46}{'samples':>9}{'bytes each':>12}{'write k/s':>11}{'read k/s':>10}"
    print(head + f"{'buckets M/s':>13}")
    for rate in (10, 1000):
        for kind in ("counter", "gauge"):
            for n_series in (1, 100):
                name = f"{kind}, {rate} observations a step, {n_series} series"
                show(name, scrape(n_series, rate, kind))


def scrape(n_series, rate, kind):
    """Histograms of some series as a chunk."""
    rng = np.random.default_rng(7)
    weights = np.exp(-0.5 * np.linspace(-2.5, 2.5, N_BUCKETS) ** 2)
    share = weights / weights.sum()
    counts = rng.poisson(rate * share, (n_series, N_STEPS, N_BUCKETS)).astype(np.float64)
    # So that all have 40 buckets from the start.
    counts[:, 0, :] += 1
    middle = np.exp(np.linspace(-2.5, 2.5, N_BUCKETS))
    sums = (counts * middle).sum(axis=2) * rng.normal(1, 0.01, (n_series, N_STEPS))
    if kind == "counter":
        counts, sums = counts.cumsum(axis=1), sums.cumsum(axis=1)
    counts = counts.reshape(-1, N_BUCKETS)
    n = len(counts)
    is_full = counts > 0
    keys = np.broadcast_to(np.arange(N_BUCKETS, dtype=np.int32) + KEY_BIAS, counts.shape)
    table = Histograms(
        schema=np.full(n, 3, np.int8),
        hint=np.full(n, 3 if kind == "gauge" else 0, np.uint8),
        count=counts.sum(axis=1),
        sum=sums.reshape(-1),
        zero_threshold=np.full(n, 2.0**-128),
        zero_count=np.zeros(n),
        offsets=offsets_of(is_full.sum(axis=1)),
        keys=keys[is_full].astype(np.int32),
        counts=counts[is_full],
        bounds_id=np.full(n, -1, np.int32),
        bounds_offsets=np.zeros(1, np.int64),
        bounds=np.empty(0),
    )
    return SeriesColumns(
        np.arange(n_series, dtype=np.uint32),
        np.arange(n_series + 1) * N_STEPS,
        np.tile(1_700_000_000_000 + STEP_MS * np.arange(N_STEPS), n_series),
        handles(np.arange(n)),
        table,
    )


def show(name, chunk):
    """Write the chunk as a part, read it back, compare, print."""
    fs = LocalFileSystem()
    with tempfile.TemporaryDirectory() as folder:
        writes = []
        for round_ in range(ROUNDS):
            began = time.process_time()
            entry = write_part(
                fs, folder, f"{round_:010d}", [chunk],
                targets=lambda refs: np.zeros(len(refs), np.int64), seq_min=0, seq_max=0, level=0,
            )  # fmt: skip
            writes.append(time.process_time() - began)
        reader = PartReader.open(fs, str(Path(folder) / entry.name), entry)
        reads = []
        for _ in range(ROUNDS):
            began = time.process_time()
            frames = read_frames([reader], [], chunk.refs, entry.mint, entry.maxt, drop_stale=False)
            reads.append(time.process_time() - began)
        reader.close()
    assert (frames.histograms.counts == chunk.histograms.counts).all()
    assert (frames.histograms.keys == chunk.histograms.keys).all()
    assert (frames.histograms.sum == chunk.histograms.sum).all()
    n = len(chunk.t_ms)
    n_buckets = len(chunk.histograms.keys)
    print(
        f"{name:46}{n:9}{entry.size_bytes / n:12.1f}{n / median(writes) / 1e3:11.0f}"
        f"{n / median(reads) / 1e3:10.0f}{n_buckets / median(reads) / 1e6:13.1f}",
        flush=True,
    )


if __name__ == "__main__":
    main()
