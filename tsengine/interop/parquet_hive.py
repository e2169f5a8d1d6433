"""Samples as Parquet files in folders by date and metric, which SQL engines read as they are.

    DIR/date=2026-11-21/metric=up/part-0.parquet

One row a sample: ``labels`` (a map of strings, without the name), ``timestamp`` (ms, UTC),
``value`` (float64, bit-exact) and, if there are native histograms in the range, ``histogram``. All
files have the same columns. The date is that of the timestamp in UTC; names are percent-encoded in
paths.
In DuckDB: ``SELECT * FROM read_parquet('DIR/**/*.parquet', hive_partitioning = true)``.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from tsengine.interop.arrow import LABELS, TIMESTAMP, read_slices, row_times
from tsengine.interop.histogram_columns import HISTOGRAM, floats_of, histogram_array
from tsengine.interop.importing import Progress
from tsengine.interop.tables import write_whole
from tsengine.model.frame import FrameBatch
from tsengine.model.labels import label_dicts

_DAY_MS = 86_400_000
_NAME = "__name__"
_FILE = "part-0.parquet"


def export_file(
    db: Any,
    path: str | os.PathLike[str],
    selector: str | None = None,
    start: Any = None,
    end: Any = None,
    progress: Progress | None = None,
) -> int:
    """Write the samples of a selector (default: all) and time range; returns how many.

    ``path`` is the folder; it is made, and must be empty if it is there. A file appears under its
    name only when it is complete.

    Raises
    ------
    ValueError
        The folder has something in it.

    """
    if os.path.isdir(path) and os.listdir(path):
        raise ValueError(f"{os.fspath(path)!r} is not empty; an export needs a folder of its own")
    os.makedirs(path, exist_ok=True)
    view, matchers, mint, maxt = db.pin(selector, start, end)
    bounds = view.bounds
    if bounds is None:
        return 0
    mint, maxt = max(mint, bounds[0]), min(maxt, bounds[1])
    refs = view.find(matchers, mint, maxt)
    expected = max(1, view.count_samples(refs, mint, maxt))
    schema = _schema(view.has_histograms(refs, mint, maxt))
    n_samples = 0
    for day in range(mint // _DAY_MS, maxt // _DAY_MS + 1):
        first, last = max(mint, day * _DAY_MS), min(maxt, (day + 1) * _DAY_MS - 1)
        for metric, own in _by_metric(view, view.find(matchers, first, last)):
            folder = os.path.join(path, f"date={_date(day)}", f"metric={quote(metric, safe='')}")
            n_samples += _write_metric(view, own, (first, last), folder, schema)
            if progress is not None:
                progress(min(n_samples, expected), expected)
    return n_samples


def _schema(has_histograms: bool) -> pa.Schema:
    fields = [
        pa.field("labels", LABELS, nullable=False),
        pa.field("timestamp", TIMESTAMP, nullable=False),
        pa.field("value", pa.float64(), nullable=False),
    ]
    return pa.schema(fields + [pa.field("histogram", HISTOGRAM)] * has_histograms)


def _date(day: int) -> str:
    return str(np.datetime64(day, "D"))


def _by_metric(
    view: Any, refs: npt.NDArray[np.uint32]
) -> Iterator[tuple[str, npt.NDArray[np.uint32]]]:
    """Metrics by name, with their series ascending."""
    members: dict[str, list[int]] = {}
    sets = label_dicts(view.dictionary, view.labels(refs))
    for ref, labels in zip(refs.tolist(), sets, strict=True):
        members.setdefault(labels.get(_NAME, ""), []).append(ref)
    for metric in sorted(members):
        yield metric, np.array(members[metric], np.uint32)


def _write_metric(
    view: Any,
    refs: npt.NDArray[np.uint32],
    span: tuple[int, int],
    folder: str,
    schema: pa.Schema,
) -> int:
    """One file with the samples of some series in a closed range; none if there are no samples."""
    slices = read_slices(view, refs, *span)
    head = next(slices, None)
    if head is None:
        return 0
    os.makedirs(folder, exist_ok=True)

    def write(temporary: str) -> int:
        n_samples = 0
        with pq.ParquetWriter(temporary, schema, compression="zstd") as writer:
            item: tuple[int, int, FrameBatch] | None = head
            while item is not None:
                start, stop, frames = item
                writer.write_batch(_batch(view, refs[start:stop], frames, schema))
                n_samples += len(frames.values)
                item = next(slices, None)
        return n_samples

    return write_whole(os.path.join(folder, _FILE), write)


def _batch(
    view: Any, refs: npt.NDArray[np.uint32], frames: FrameBatch, schema: pa.Schema
) -> pa.RecordBatch:
    sets = label_dicts(view.dictionary, view.labels(refs))
    own = [[item for item in labels.items() if item[0] != _NAME] for labels in sets]
    rows = np.repeat(np.arange(len(refs)), np.diff(frames.row_offsets))
    times = pa.array(row_times(frames)).cast(pa.timestamp("ms")).cast(TIMESTAMP)
    columns = [pa.array(own, LABELS).take(pa.array(rows)), times, pa.array(frames.values)]
    if len(schema) > len(columns):
        bits = frames.values.view(np.uint64)
        columns[2:] = [pa.array(floats_of(bits)), histogram_array(bits, frames.histograms)]
    return pa.record_batch(columns, schema=schema)
