"""Bytes of tiers against those of the samples they sum up, and how fast both are.

    python -m bench.tier_sizes [DATASETS]        default: ../shared/datasets beside the repository

Each set is written as the engine writes it: samples as one part a day, tiers as one part of 30 days
(widths below 30 min) or 360 days. The first set are hosts as in `bench.side_by_side`, 30 days at
15 s, and must stay below 0.35 and 0.05; the others are shared recordings of every second or of
minutes, their samples taken to be 15 s apart. Every window is read back and compared to the bit.

Last, windows of 200 series over two years at 1 h are read, in CPU time of one thread.
"""

from __future__ import annotations

import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from statistics import median

import numpy as np
import pyarrow.parquet as pq

from bench.codecs import JOBS, bits_of_lists, present
from bench.side_by_side.dataset import SERIES_PER_HOST, Hosts
from tsengine.model.batch import SeriesColumns
from tsengine.model.ragged import offsets_of
from tsengine.model.windows import Column
from tsengine.storage.filesystem import LocalFileSystem
from tsengine.storage.part_reader import PartReader
from tsengine.storage.part_writer import write_part
from tsengine.storage.tier_format import STORED_COLUMNS
from tsengine.storage.tier_reader import TierReader
from tsengine.storage.tier_windows import join
from tsengine.storage.tier_writer import write_tier_part
from tsengine.storage.view import DatabaseView

FS = LocalFileSystem()
DAY_MS = 86_400_000
STEP_MS = 15_000
START_MS = 1_699_920_000_000 // (360 * DAY_MS) * 360 * DAY_MS
WIDTHS_MS = {300_000: 0.35, 3_600_000: 0.05}
"""What share of the samples' bytes each tier may take."""
N_HOSTS, N_DAYS = 3, 30
ROUNDS = 9


def main(folder: Path) -> int:
    """Print the tables; 1 if the hosts' tiers are too large or a read is too slow."""
    print("Bytes of tiers, as shares of those of the samples\n")
    print(f"{'set':14}{'series':>8}{'samples':>12}{'bytes each':>12}{'5m':>9}{'1h':>9}")
    missed = print_shares("hosts", *hosts())
    for name, columns, targets in recordings(folder):
        print_shares(name, columns, targets)
    print("\nReading 200 series of 2 years at 1 h, ms of one thread\n")
    missed |= print_times()
    return int(missed)


# ---------------------------------------------------------------------------- data


def hosts(n_hosts: int = N_HOSTS, n_days: int = N_DAYS) -> tuple[SeriesColumns, np.ndarray]:
    """Samples of hosts, ref by ref, and the target of each."""
    source = Hosts(n_hosts, START_MS + 1, seed=7)
    scrapes = [source.scrape() for _ in range(n_days * DAY_MS // STEP_MS)]
    t_ms = np.stack([scrape.t_ms for scrape in scrapes], axis=1)
    values = np.stack([scrape.values for scrape in scrapes], axis=2)
    n = t_ms.shape[1]
    n_series = n_hosts * SERIES_PER_HOST
    columns = SeriesColumns(
        np.arange(n_series, dtype=np.uint32),
        n * np.arange(n_series + 1),
        np.repeat(t_ms, SERIES_PER_HOST, axis=0).reshape(-1),
        np.ascontiguousarray(values).reshape(-1).view(np.uint64),
    )
    return columns, np.repeat(np.arange(n_hosts), SERIES_PER_HOST)


def recordings(folder: Path):
    """Yield (name, samples, target of each series) of the shared recordings."""
    node = pq.read_table(folder / "node_metrics.parquet")
    jobs = np.array(node["job"].to_pylist())
    for job in JOBS:
        series = [present(bits) for bits in bits_of_lists(node.filter(jobs == job)["values"])]
        yield f"node/{job}", *spaced([s for s in series if len(s[1])], one_target=True)
    nab = pq.read_table(folder / "nab.parquet")
    names = np.array(nab["series"].to_pylist())
    values = nab["value"].to_numpy().view(np.uint64)
    series = [values[names == name] for name in np.unique(names)]
    yield "nab", *spaced([(np.arange(len(x)), x) for x in series], one_target=False)


def spaced(series, *, one_target: bool) -> tuple[SeriesColumns, np.ndarray]:
    """Rows and bits of series as samples 15 s apart."""
    columns = SeriesColumns(
        np.arange(len(series), dtype=np.uint32),
        offsets_of(np.array([len(bits) for _, bits in series])),
        np.concatenate([START_MS + STEP_MS * (1 + rows) for rows, _ in series]),
        np.concatenate([bits for _, bits in series]),
    )
    every = np.arange(len(series))
    return columns, np.zeros(len(series), np.int64) if one_target else every


# ---------------------------------------------------------------------------- sizes


def print_shares(name: str, columns: SeriesColumns, targets: np.ndarray) -> bool:
    """A line of the table; whether a share is missed."""
    with tempfile.TemporaryDirectory() as place:
        parts, raw_bytes = write_days(place, columns, targets)
        cover = span_of(columns)
        view = DatabaseView(None, parts, [], None)
        shares = []
        for number, width_ms in enumerate(WIDTHS_MS):
            reader = build(place, f"{number + 1_000_000:010d}", view, width_ms, cover, targets)
            shares.append(reader.entry.size_bytes / raw_bytes)
            compare(reader, view, columns.refs, width_ms, cover)
            reader.close()
        for part in parts:
            part.close()
    n = len(columns.t_ms)
    line = f"{name:14}{len(columns):8}{n:12}{raw_bytes / n:12.4f}"
    print(line + "".join(f"{share:9.4f}" for share in shares), flush=True)
    return any(s > most for s, most in zip(shares, WIDTHS_MS.values(), strict=True))


def span_of(columns: SeriesColumns) -> tuple[int, int]:
    """Whole days around all samples."""
    first = (int(columns.t_ms.min()) - 1) // DAY_MS * DAY_MS
    return first + 1, -(-int(columns.t_ms.max()) // DAY_MS) * DAY_MS


def write_days(place: str, columns: SeriesColumns, targets: np.ndarray):
    """One part for each day: ``(open parts, bytes of all)``."""
    parts = []
    day = (columns.t_ms - 1) // DAY_MS
    row = np.repeat(np.arange(len(columns)), np.diff(columns.offsets))
    for number in np.unique(day).tolist():
        kept = np.flatnonzero(day == number)
        sizes = np.bincount(row[kept], minlength=len(columns))
        rows = np.flatnonzero(sizes)
        chunk = SeriesColumns(
            columns.refs[rows], offsets_of(sizes[rows]), columns.t_ms[kept], columns.bits[kept]
        )
        entry = write_part(
            FS, place, f"{number:010d}", [chunk], targets=lambda refs: targets[refs],
            seq_min=1, seq_max=1, level=1,
        )  # fmt: skip
        parts.append(PartReader.open(FS, f"{place}/{entry.name}", entry))
    return parts, sum(part.entry.size_bytes for part in parts)


def build(place, name, view, width_ms, cover, targets, n_refs=100) -> TierReader:
    """A tier's part of all series."""
    refs = np.arange(len(targets), dtype=np.uint32)
    chunks = [refs[k : k + n_refs] for k in range(0, len(refs), n_refs)]
    entry = write_tier_part(
        FS, place, name,
        ((own, view.read_windows(own, width_ms, *cover, STORED_COLUMNS)) for own in chunks),
        width_ms=width_ms, cover=cover, targets=lambda refs: targets[refs], seq_max=1, level=1,
    )  # fmt: skip
    return TierReader.open(FS, f"{place}/{entry.name}", entry)


def compare(reader: TierReader, view: DatabaseView, refs, width_ms: int, cover) -> None:
    """The tier gives what samples give."""
    for own in np.array_split(refs, 1 + len(refs) // 100):
        found = reader.read(own, *cover, STORED_COLUMNS)
        expected = view.read_windows(own, width_ms, *cover, STORED_COLUMNS)
        assert np.array_equal(found.row_offsets, expected.row_offsets)
        for column in STORED_COLUMNS:
            a, b = (batch.columns[column].view(np.uint64) for batch in (found, expected))
            assert np.array_equal(a, b), column.name


# ---------------------------------------------------------------------------- speed

READS = (
    ("COUNT, SUM", (Column.COUNT, Column.SUM), 30),
    (
        "COUNT, FIRST, LAST, FIRST_T, LAST_T, RESETS",
        (Column.COUNT, Column.FIRST, Column.LAST, Column.FIRST_T, Column.LAST_T, Column.RESETS),
        60,
    ),
    ("MIN, MAX", (Column.MIN, Column.MAX), 60),
)


def print_times() -> bool:
    """Read windows of the kinds of series that hosts have; whether a limit is missed."""
    columns, targets = hosts(2, N_DAYS)
    with tempfile.TemporaryDirectory() as place:
        parts, _ = write_days(place, columns, targets)
        view = DatabaseView(None, parts, [], None)
        month = view.read_windows(columns.refs, 3_600_000, *span_of(columns), STORED_COLUMNS)
        for part in parts:
            part.close()
        reader = repeated(place, month, columns.refs, targets, 24)
        missed = False
        for name, wanted, limit_ms in READS:
            times = []
            for _ in range(ROUNDS):
                before = time.process_time()
                found = reader.read(columns.refs, *reader_span(reader), wanted)
                times.append(1000 * (time.process_time() - before))
            late = median(times) > limit_ms
            missed |= late
            print(
                f"{name:46}{found.n_windows:10} windows {median(times):7.1f} of {limit_ms}"
                + (" too slow" if late else "")
            )
        reader.close()
    return missed


def reader_span(reader: TierReader) -> tuple[int, int]:
    """The range that a part covers."""
    return reader.entry.cover_min, reader.entry.cover_max


def repeated(place, month, refs, targets, n_months) -> TierReader:
    """A tier of as many months, all like one."""
    batches = [shifted(month, k * N_DAYS * DAY_MS) for k in range(n_months)]
    cover = (START_MS + 1, START_MS + n_months * N_DAYS * DAY_MS)
    entry = write_tier_part(
        FS, place, "2000000000", [(refs, join(batches, STORED_COLUMNS))], width_ms=month.width_ms,
        cover=cover, targets=lambda refs: targets[refs], seq_max=1, level=1,
    )  # fmt: skip
    return TierReader.open(FS, f"{place}/{entry.name}", entry)


def shifted(windows, by_ms: int):
    """The same windows later."""
    columns = dict(windows.columns)
    for column in (Column.FIRST_T, Column.LAST_T):
        columns[column] = np.where(columns[column] == 0, 0, columns[column] + by_ms)
    return replace(windows, end_ms=windows.end_ms + by_ms, columns=columns)


if __name__ == "__main__":
    given = sys.argv[1:]
    sys.exit(main(Path(given[0]) if given else Path(__file__).parents[2] / "shared" / "datasets"))
