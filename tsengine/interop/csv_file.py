"""CSV files in and out: a column per label, ``timestamp`` and ``value``.

Times are Unix seconds with up to three decimals, or ISO 8601; in a column ``timestamp_ms`` they
are milliseconds. An empty label is none, a row with an empty value is passed over. Text has no
staleness markers, no payloads of NaNs and no native histograms: export leaves markers and
histograms out.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pc_csv

from tsengine.interop.arrow import read_slices, row_times
from tsengine.interop.csv import csv_header, csv_lines
from tsengine.interop.importing import ImportReport, Progress, Target
from tsengine.interop.tables import import_batches, write_whole
from tsengine.kernels.bits import STALE_BITS
from tsengine.model.histograms import is_handle
from tsengine.model.labels import label_dicts
from tsengine.model.ragged import offsets_of

_TIME_COLUMNS = ("timestamp", "timestamp_ms")
_BLOCK_SIZE = 4 * 1024 * 1024


def export_file(
    db: Any,
    path: str | os.PathLike[str],
    selector: str | None = None,
    start: Any = None,
    end: Any = None,
    progress: Progress | None = None,
) -> int:
    """Write the samples of a selector (default: all) as CSV; returns how many.

    The file appears under its name only when it is complete.
    """
    view, matchers, mint, maxt = db.pin(selector, start, end)
    refs = view.find(matchers, mint, maxt)
    names = view.catalog.label_names(refs)

    def write(temporary: str) -> int:
        n_samples = 0
        with open(temporary, "wb") as file:
            file.write(csv_header(names))
            for first, last, frames in read_slices(view, refs, mint, maxt):
                bits = frames.values.view(np.uint64)
                kept = (bits != STALE_BITS) & ~is_handle(bits)
                rows = np.repeat(np.arange(last - first), np.diff(frames.row_offsets))[kept]
                offsets = offsets_of(np.bincount(rows, minlength=last - first))
                labels = label_dicts(view.catalog, view.labels(refs[first:last]))
                times = row_times(frames)[kept]
                for piece in csv_lines(names, labels, offsets, times, frames.values[kept]):
                    file.write(piece)
                n_samples += len(rows)
                if progress is not None:
                    progress(last, len(refs))
        return n_samples

    return write_whole(path, write)


def import_file(
    db: Target, path: str | os.PathLike[str], progress: Progress | None = None
) -> ImportReport:
    """Store the samples of a CSV file; refused series are counted, the rest is stored.

    Raises
    ------
    ValueError
        The header lacks a column, or a time or value can't be read; the text names it and the
        line. What stood before is stored.
    OSError
        As the file system does.

    """
    size = max(1, os.path.getsize(path))
    with open(path, "rb") as file:
        options = pc_csv.ConvertOptions(
            column_types={name: pa.string() for name in _header(path)},
            strings_can_be_null=True,
            quoted_strings_can_be_null=True,
            null_values=[""],
        )
        read_options = pc_csv.ReadOptions(block_size=_BLOCK_SIZE, use_threads=False)
        with pc_csv.open_csv(file, read_options, convert_options=options) as reader:
            schema = _schema(reader.schema)
            note = None if progress is None else (lambda _: progress(file.tell(), size))
            return import_batches(db, schema, _typed(reader, schema), note)


def _header(path: str | os.PathLike[str]) -> list[str]:
    """Column names of a CSV file."""
    with pc_csv.open_csv(path, pc_csv.ReadOptions(use_threads=False)) as reader:
        names: list[str] = reader.schema.names
    if len(set(names)) < len(names):
        raise ValueError(f"a column occurs twice in the header: {', '.join(names)}")
    if not set(_TIME_COLUMNS) & set(names):
        raise ValueError(f"the file has no column 'timestamp'; it has {', '.join(names)}")
    return names


def _schema(schema: pa.Schema) -> pa.Schema:
    """Types of the columns after `_typed`."""
    types = {"timestamp": pa.int64(), "timestamp_ms": pa.int64(), "value": pa.float64()}
    fields = [(n.removesuffix("_ms") if n in types else n, types.get(n, pa.string()))
              for n in schema.names]  # fmt: skip
    return pa.schema(fields)


def _typed(reader: pc_csv.CSVStreamingReader, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    first_line = 2
    for batch in reader:
        columns = []
        for name, column in zip(batch.schema.names, batch.columns, strict=True):
            if name == "value":
                column = _numbers(column, first_line)
            elif name == "timestamp_ms":
                column = _cast(column, pa.int64(), name, first_line)
            elif name == "timestamp":
                column = _times(column, first_line)
            columns.append(column)
        yield pa.record_batch(columns, schema=schema)
        first_line += batch.num_rows


def _numbers(texts: pa.Array, first_line: int) -> pa.Array:
    # Arrow reads "inf" and "nan" in any case, but no plus sign.
    bare = pc.replace_substring_regex(texts, pattern=r"^\+", replacement="")
    return _cast(bare, pa.float64(), "value", first_line)


def _times(texts: pa.Array, first_line: int) -> pa.Array:
    """Seconds or ISO 8601 as integer ms; every row of a block is of one kind."""
    if pc.any(pc.match_substring_regex(texts, r"^\s*\d{4}-")).as_py():
        stamps = _cast(texts, pa.timestamp("ms", tz="UTC"), "timestamp", first_line)
        return pc.cast(stamps, pa.int64())
    # Decimal128 keeps the milliseconds exact, whatever the seconds are.
    exact = _cast(texts, pa.decimal128(38, 9), "timestamp", first_line)
    thousand = pa.scalar(1000, pa.decimal128(4, 0))
    ms = pc.round(pc.multiply(pc.cast(exact, pa.decimal128(33, 9)), thousand), 0)
    return pc.cast(ms, pa.int64(), safe=False)


def _cast(texts: pa.Array, kind: pa.DataType, name: str, first_line: int) -> pa.Array:
    try:
        return pc.cast(texts, kind)
    except pa.ArrowInvalid:
        pass
    for place, text in enumerate(texts):
        try:
            pc.cast(pa.array([text.as_py()], pa.string()), kind)
        except pa.ArrowInvalid:
            line = first_line + place
            raise ValueError(
                f"line {line}: {name} {text.as_py()!r} is not a {_KINDS[name]}"
            ) from None
    raise AssertionError("one of the rows can't be read")


_KINDS = {"value": "number", "timestamp": "time", "timestamp_ms": "whole number"}
