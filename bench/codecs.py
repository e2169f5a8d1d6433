"""Bytes per sample of our value blocks against Gorilla and zstd, and how fast they are.

    python -m bench.codecs [DATASETS]        default: ../shared/datasets beside the repository

The first table counts value blocks with their checksums; timestamps and the index of a part are in
the second. Every block is decoded and compared to the bit before it is counted. Of the node
recording only series that change are in the first table (constant ones cost everybody next to
nothing), all of them in the second. A series absent from a scrape has one staleness marker, then no
samples. zstd gets the doubles of a block as they are.

Speeds are medians of rounds, in CPU time of the one thread, so that what else the machine does
counts little; each round also copies the same output with np.copyto, and the ratio is the median of
the rounds' ratios.
"""

from __future__ import annotations

import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from statistics import median

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq
import zstandard

from tsengine.codecs.axis import encode_axes
from tsengine.codecs.block import decode_blocks, encode_blocks
from tsengine.codecs.gorilla import CHECKSUM_BYTES, decode_values, encode_times, encode_values
from tsengine.model.batch import SeriesColumns
from tsengine.storage.filesystem import LocalFileSystem
from tsengine.storage.part_writer import write_part

STALE = np.uint64(0x7FF0000000000002)
JOBS = ("node", "prometheus", "vm")
NAB = ("realAWSCloudwatch", "realKnownCause", "realTraffic", "realTweets", "realAdExchange")
BLOCKS = (1024, 8192)
MUST_M_VALUES_S = 600
ROUNDS = 15


def main(folder):
    datasets = dict(load(folder))
    print("Values, bits a sample (ours, Gorilla, zstd-3 and zstd-9 of raw doubles)\n")
    head = "".join(f"{name + ' ' + str(n):>14}" for n in BLOCKS for name in CODECS)
    print(f"{'dataset':24}{head}")
    table = []
    for name, series in datasets.items():
        row = [bits_per_value(series, n, codec) for n in BLOCKS for codec in CODECS.values()]
        table.append(row)
        print(f"{name:24}" + "".join(f"{x:14.2f}" for x in row), flush=True)
    means = np.exp(np.log(np.array(table)).mean(axis=0))
    print(f"{'geometric mean':24}" + "".join(f"{x:14.2f}" for x in means))
    print("\nWhole recordings written as one part, bytes a sample\n")
    whole_parts(folder)
    print(f"\nSpeed, M values/s, medians of {ROUNDS} rounds; blocks of 8192 values\n")
    print(f"{'blocks of':24}{'bits':>8}{'encode':>10}{'decode':>10}{'copyto':>10}{'ratio':>8}")
    slow = [name for name, integers, decode in speeds() if integers and decode < MUST_M_VALUES_S]
    print(
        f"\nmust: integer-coded blocks decode at {MUST_M_VALUES_S} M values/s a core or more: "
        + ("no: " + ", ".join(slow) if slow else "yes")
    )
    return 1 if slow else 0


# ---------------------------------------------------------------------------- datasets


def load(folder):
    """Yield (name, list of u64 arrays)."""
    node = pq.read_table(folder / "node_metrics.parquet")
    jobs = np.array(node["job"].to_pylist())
    in_dev = node["in_dev"].to_numpy()
    for job in JOBS:
        chosen = node.filter((jobs == job) & in_dev)
        series = (present(bits)[1] for bits in bits_of_lists(chosen["values"]))
        yield f"node/{job}", [bits for bits in series if len(bits) and (bits != bits[0]).any()]
    nab = pq.read_table(folder / "nab.parquet")
    names = nab["series"].cast("string")
    for group in NAB:
        chosen = nab.filter(pc.starts_with(names, group + "/"))
        yield (
            f"nab/{group}",
            [
                chosen.filter(pc.equal(chosen["series"].cast("string"), name))["value"]
                .to_numpy()
                .view(np.uint64)
                for name in sorted(set(chosen["series"].to_pylist()))
            ],
        )
    for name in ("alp_food_prices", "alp_gov26"):
        yield name, [pq.read_table(folder / f"{name}.parquet")["value"].to_numpy().view(np.uint64)]


def bits_of_lists(column):
    return [row.values.to_numpy().view(np.uint64) for row in column]


def present(bits):
    """Rows and bits of what a scraper stores: only the first of several staleness markers."""
    stale = bits == STALE
    before = np.concatenate(([True], stale[:-1]))
    rows = np.flatnonzero(~(stale & before))
    return rows, bits[rows]


# ---------------------------------------------------------------------------- sizes


def cut(series, n):
    return [bits[at : at + n] for bits in series for at in range(0, len(bits), n)]


def ours(blocks):
    bits = np.concatenate(blocks)
    offsets = np.cumsum([0, *(len(block) for block in blocks)])
    made = encode_blocks(bits, offsets, np.zeros(len(blocks), np.int64))
    out = np.empty_like(bits)
    decode_all(made, offsets, out)
    assert (out == bits).all(), "lossless"
    return len(made.payload)


def decode_all(made, offsets, out):
    lengths = np.diff(offsets)
    zeros = np.zeros(len(lengths), np.int64)
    decode_blocks(
        made.payload, made.offsets[:-1], np.diff(made.offsets), zeros, lengths, zeros, lengths,
        out, offsets[:-1],
    )  # fmt: skip


def gorilla(blocks):
    total = 0
    for block in blocks:
        data = encode_values(block)
        assert (decode_values(data, len(block)) == block).all(), "lossless"
        total += len(data) - CHECKSUM_BYTES
    return total


def zstd(level, blocks):
    compress = zstandard.ZstdCompressor(level=level, write_content_size=False).compress
    return sum(len(compress(block.tobytes())) for block in blocks)


CODECS = {"ours": ours, "Gorilla": gorilla, "zstd-3": partial(zstd, 3), "zstd-9": partial(zstd, 9)}


def bits_per_value(series, n, codec):
    return 8 * codec(cut(series, n)) / sum(len(bits) for bits in series)


def whole_parts(folder):
    """Whole recordings written as parts: what values, axes and index take."""
    node = pq.read_table(folder / "node_metrics.parquet")
    times = pq.read_table(folder / "node_metrics_ts.parquet")
    jobs, time_jobs = np.array(node["job"].to_pylist()), np.array(times["job"].to_pylist())
    head = ("series", "samples", "values", "axes", "index", "all", "Gorilla t", "Gorilla v")
    print(f"{'recording':12}" + "".join(f"{x:>11}" for x in head))
    for job in (*JOBS, "all"):
        of_job = [j for j in JOBS if job in (j, "all")]
        columns, targets = [], []
        for number, name in enumerate(of_job):
            t_ms = times["ts_ms"].to_numpy()[time_jobs == name]
            for bits in bits_of_lists(node.filter(jobs == name)["values"]):
                rows, kept = present(bits)
                if len(kept):
                    columns.append((t_ms[rows], kept))
                    targets.append(number)
        print_part(job, columns, np.array(targets))


def print_part(name, columns, targets):
    offsets = np.cumsum([0, *(len(t_ms) for t_ms, _ in columns)])
    chunk = SeriesColumns(
        np.arange(len(columns), dtype=np.uint32),
        offsets.astype(np.int64),
        np.concatenate([t_ms for t_ms, _ in columns]),
        np.concatenate([bits for _, bits in columns]),
    )
    n = int(offsets[-1])
    with tempfile.TemporaryDirectory() as place:
        write_part(
            LocalFileSystem(), place, "p", [chunk], targets=lambda refs: targets[refs],
            seq_min=0, seq_max=0, level=0,
        )  # fmt: skip
        sizes = [(Path(place) / "p" / file).stat().st_size for file in ("values", "axes", "index")]
    theirs = [
        sum(len(encode(column[k])) - CHECKSUM_BYTES for column in columns)
        for k, encode in ((0, encode_times), (1, encode_values))
    ]
    shares = (x / n for x in (*sizes, sum(sizes), *theirs))
    print(f"{name:12}{len(columns):11}{n:11}" + "".join(f"{x:11.4f}" for x in shares), flush=True)


# ---------------------------------------------------------------------------- speed


def recordings(n):
    """Yield (name, whether values are stored as integers, f64[n])."""
    rng = np.random.default_rng(1)
    steps = rng.integers(0, 100, n)
    yield "counters, steps < 100", True, np.cumsum(steps).astype(float)
    yield "counters, steps < 10^6", True, np.cumsum(rng.integers(0, 10**6, n)).astype(float)
    yield "gauges, 2 decimals", True, np.round(20 + np.cumsum(rng.normal(0, 0.05, n)), 2)
    yield "rare changes", True, np.cumsum(steps * (rng.random(n) < 0.01)).astype(float)
    yield "bytes in pages", True, 4096.0 * rng.integers(10**5, 10**5 + 200, n)
    yield "float sums (residuals)", False, np.cumsum(np.round(rng.random(n), 3))
    yield "noise (ordered bits)", False, rng.normal(size=n)
    yield "constant", True, np.full(n, 7.0)


def timed(call, *args):
    begin = time.thread_time()
    call(*args)
    return time.thread_time() - begin


def speeds():
    n_blocks = 128
    n = 8192 * n_blocks
    offsets = np.arange(n_blocks + 1) * 8192
    first_rows = np.zeros(n_blocks, np.int64)
    out, copy = np.zeros(n, np.uint64), np.zeros(n, np.uint64)
    for name, integers, values in recordings(n):
        bits = values.view(np.uint64)
        made = encode_blocks(bits, offsets, first_rows)
        encode_s = [timed(encode_blocks, bits, offsets, first_rows) for _ in range(3)]
        rounds = [
            (timed(decode_all, made, offsets, out), timed(np.copyto, copy, bits))
            for _ in range(ROUNDS)
        ]
        assert (out == bits).all(), "lossless"
        decode = n / median(a for a, _ in rounds) / 1e6
        copyto = n / median(b for _, b in rounds) / 1e6
        ratio = median(b / a for a, b in rounds)
        size = 8 * len(made.payload) / n
        encode = n / median(encode_s) / 1e6
        print(f"{name:24}{size:8.2f}{encode:10.0f}{decode:10.0f}{copyto:10.0f}{ratio:8.2f}")
        yield name, integers, decode
    t_ms = 1_700_000_000_000 + 15_000 * np.arange(n) + np.random.default_rng(2).integers(-9, 9, n)
    seconds = median(timed(encode_axes, t_ms, offsets) for _ in range(3))
    size = 8 * len(encode_axes(t_ms, offsets)[0]) / n
    print(f"{'jittered axes':24}{size:8.2f}{n / seconds / 1e6:10.0f}")


if __name__ == "__main__":
    default = Path(__file__).parents[2] / "shared" / "datasets"
    sys.exit(main(Path(sys.argv[1]) if len(sys.argv) > 1 else default))
