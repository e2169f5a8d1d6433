"""Tables of samples in files: what the readers and writers of the file formats share.

Written: one row a sample with ``labels`` (map of strings), ``timestamp`` (ms, UTC), ``value``
(float64, bit-exact) and, if there are native histograms, ``histogram`` (a struct, null for floats,
whose value is NaN; see `tsengine.interop.histogram_columns`). Read: the same, or a table whose
string columns are the labels.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from tsengine.interop.arrow import LABELS, select_reader
from tsengine.interop.histogram_columns import samples_of
from tsengine.interop.importing import ImportReport, Progress, SeriesTable, Target, store
from tsengine.model.times import times_to_ms

BATCH_ROWS = 256 * 1024


def export_batches(
    db: Any,
    path: str | os.PathLike[str],
    selector: str | None,
    start: Any,
    end: Any,
    progress: Progress | None,
    open_writer: Callable[[str, pa.Schema], Any],
) -> int:
    """Write the samples of a selector (None: all) to a file; returns how many.

    ``open_writer`` takes a file's name and gives a context manager that has ``write_batch``. The
    file appears under its name only when it is complete.
    """
    schema, batches = _exported_batches(db, selector, start, end, progress)

    def write(temporary: str) -> int:
        n_samples = 0
        with open_writer(temporary, schema) as writer:
            for batch in batches:
                writer.write_batch(batch)
                n_samples += batch.num_rows
        return n_samples

    return write_whole(path, write)


def _exported_batches(
    db: Any, selector: str | None, start: Any, end: Any, progress: Progress | None
) -> tuple[pa.Schema, Iterator[pa.RecordBatch]]:
    """Schema and batches of what is written."""
    view, matchers, mint, maxt = db.pin(selector, start, end)
    expected = max(1, view.count_samples(view.find(matchers, mint, maxt), mint, maxt))
    reader = select_reader(view, matchers, mint, maxt)
    schema = pa.schema([pa.field("labels", LABELS), *list(reader.schema)[1:]])

    def batches() -> Iterator[pa.RecordBatch]:
        n_samples = 0
        for batch in reader:
            columns = [batch.column("labels").dictionary_decode(), *batch.columns[1:]]
            yield pa.record_batch(columns, schema=schema)
            n_samples += batch.num_rows
            if progress is not None:
                progress(min(n_samples, expected), expected)

    return schema, batches()


def write_whole(path: str | os.PathLike[str], write: Callable[[str], int]) -> int:
    """Call ``write`` with a temporary name; the file gets its own name when it is complete."""
    temporary = f"{os.fspath(path)}.tmp"
    try:
        n_samples = write(temporary)
        os.replace(temporary, path)
    except BaseException:
        if os.path.exists(temporary):
            os.unlink(temporary)
        raise
    return n_samples


def import_batches(
    db: Target,
    schema: pa.Schema,
    batches: Iterable[pa.RecordBatch],
    note_done: Callable[[int], None] | None = None,
) -> ImportReport:
    """Store the rows of record batches; refused series are counted, the rest is stored.

    Columns: ``timestamp`` (a timestamp, integer ms or float s), ``value`` (a number), and either
    ``labels`` (a map of strings) or one string column per label (``__name__`` among them). Where a
    column ``histogram`` of structs is not null, the sample is that native histogram. Other rows
    without a value are passed over. ``note_done`` is called with the rows done so far.

    Raises
    ------
    ValueError
        Columns are missing or of other types, or a histogram is none; the text names them.

    """
    report = ImportReport()
    table = SeriesTable(db, report)
    label_columns = _check_schema(schema)
    has_histograms = _has_histograms(schema)
    done = 0
    for batch in batches:
        refs = _refs(batch, label_columns, table, done)
        t_ms = _times(batch.column("timestamp"))
        values = batch.column("value").cast(pa.float64()).to_numpy(zero_copy_only=False)
        values, histograms = np.ascontiguousarray(values), None
        is_sample = batch.column("value").is_valid().to_numpy(zero_copy_only=False)
        if has_histograms:
            column = batch.column("histogram")
            values, histograms = samples_of(values, column)
            is_sample |= column.is_valid().to_numpy(zero_copy_only=False)
        store(db, report, refs[is_sample], t_ms[is_sample], values[is_sample], histograms)
        done += batch.num_rows
        if note_done is not None:
            note_done(done)
    return report


def _check_schema(schema: pa.Schema) -> list[str]:
    """Names of the label columns; [] if there is a ``labels`` map."""
    for name in ("timestamp", "value"):
        if name not in schema.names:
            raise ValueError(f"the file has no column {name!r}; it has {', '.join(schema.names)}")
    kind = schema.field("timestamp").type
    if not (pa.types.is_timestamp(kind) or pa.types.is_integer(kind) or pa.types.is_floating(kind)):
        raise ValueError(f"column 'timestamp' can't have the type {kind}")
    kind = schema.field("value").type
    if not (pa.types.is_integer(kind) or pa.types.is_floating(kind)):
        raise ValueError(f"column 'value' must hold numbers, not {kind}")
    if "labels" in schema.names:
        if not pa.types.is_map(schema.field("labels").type):
            raise ValueError(f"column 'labels' must be a map, not {schema.field('labels').type}")
        return []
    known = {"timestamp", "value"} | ({"histogram"} if _has_histograms(schema) else set())
    columns = [name for name in schema.names if name not in known]
    for name in columns:
        kind = schema.field(name).type
        if pa.types.is_dictionary(kind):
            kind = kind.value_type
        if not (pa.types.is_string(kind) or pa.types.is_large_string(kind)):
            raise ValueError(f"label column {name!r} must hold strings, not {kind}")
    if not columns:
        raise ValueError("the file has no labels: neither a column 'labels' nor string columns")
    return columns


def _has_histograms(schema: pa.Schema) -> bool:
    """Whether there is a column of histograms; a label may have that name too."""
    return "histogram" in schema.names and pa.types.is_struct(schema.field("histogram").type)


def _refs(
    batch: pa.RecordBatch, label_columns: list[str], table: SeriesTable, first_row: int
) -> npt.NDArray[np.int64]:
    """Series ref of each row, -1 where the labels are refused; Python runs once per label set."""
    if label_columns:
        columns = [
            batch.column(name).cast(pa.string()).dictionary_encode() for name in label_columns
        ]
        codes = np.stack([c.indices.fill_null(-1).to_numpy(zero_copy_only=False) for c in columns])
        distinct, inverse = np.unique(codes, axis=1, return_inverse=True)
        texts = [c.dictionary.to_pylist() for c in columns]
        sets = [
            tuple(
                (name, texts[i][code])
                for i, (name, code) in enumerate(zip(label_columns, column, strict=True))
                if code >= 0 and texts[i][code]
            )
            for column in distinct.T.tolist()
        ]
    else:
        sets, inverse = _map_sets(batch.column("labels"))
    refs = np.array([table.ref(labels, f"row {first_row}") for labels in sets], np.int64)
    rows: npt.NDArray[np.int64] = refs[inverse.reshape(-1)]
    return rows


def _map_sets(
    column: pa.MapArray,
) -> tuple[list[tuple[tuple[str, str], ...]], npt.NDArray[np.int64]]:
    """Distinct label sets of a map column, and which one each row has."""
    keys = column.keys.cast(pa.string()).dictionary_encode()
    items = column.items.cast(pa.string()).dictionary_encode()
    n_items = max(1, len(items.dictionary))
    codes = keys.indices.to_numpy(zero_copy_only=False).astype(
        np.int64
    ) * n_items + items.indices.fill_null(0).to_numpy(zero_copy_only=False)
    offsets = column.offsets.to_numpy(zero_copy_only=False).astype(np.int64)
    offsets -= offsets[0]
    lengths = np.diff(offsets)
    # Rows of equal bytes are equal sets; a void view lets numpy compare them whole.
    width = int(lengths.max(initial=0))
    padded = np.full((len(lengths), max(1, width)), -1, np.int64)
    rows = np.repeat(np.arange(len(lengths)), lengths)
    padded[rows, np.arange(len(codes)) - np.repeat(offsets[:-1], lengths)] = codes
    changed = np.ones(len(padded), bool)
    changed[1:] = (padded[1:] != padded[:-1]).any(axis=1)
    runs = padded[changed]
    distinct, inverse = np.unique(runs, axis=0, return_inverse=True)
    run_of_row = np.cumsum(changed) - 1
    names, values = keys.dictionary.to_pylist(), items.dictionary.to_pylist()
    sets = [
        tuple((names[c // n_items], values[c % n_items]) for c in row if c >= 0)
        for row in distinct.tolist()
    ]
    return sets, inverse.reshape(-1)[run_of_row]


def _times(column: pa.Array) -> npt.NDArray[np.int64]:
    if column.null_count:
        raise ValueError("column 'timestamp' has empty rows")
    if pa.types.is_timestamp(column.type):
        ms = column.cast(pa.timestamp("ms", tz=column.type.tz), safe=False)
        times: npt.NDArray[np.int64] = ms.cast(pa.int64()).to_numpy(zero_copy_only=False)
        return times
    return times_to_ms(column.to_numpy(zero_copy_only=False))
