"""Parquet files in and out; see `tsengine.interop.tables` for the columns."""

from __future__ import annotations

import os
from functools import partial
from typing import Any

import pyarrow.parquet as pq

from tsengine.interop.importing import ImportReport, Progress, Target
from tsengine.interop.tables import BATCH_ROWS, export_batches, import_batches


def export_file(
    db: Any,
    path: str | os.PathLike[str],
    selector: str | None = None,
    start: Any = None,
    end: Any = None,
    progress: Progress | None = None,
) -> int:
    """Write the samples of a selector (default: all) and time range; returns how many.

    The file appears under its name only when it is complete.
    """
    open_writer = partial(pq.ParquetWriter, compression="zstd")
    return export_batches(db, path, selector, start, end, progress, open_writer)


def import_file(
    db: Target, path: str | os.PathLike[str], progress: Progress | None = None
) -> ImportReport:
    """Store the samples of a Parquet file; refused series are counted, the rest is stored.

    Raises
    ------
    ValueError
        Columns are missing or of other types; the text names them.
    OSError, pyarrow.ArrowInvalid
        The file can't be read.

    """
    with pq.ParquetFile(path) as file:
        n_rows = file.metadata.num_rows
        note = None if progress is None else (lambda done: progress(done, n_rows))
        return import_batches(db, file.schema_arrow, file.iter_batches(BATCH_ROWS), note)
