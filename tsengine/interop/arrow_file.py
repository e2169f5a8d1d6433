"""Arrow IPC in and out, the file format (Feather 2) and the stream; columns as in `tables`."""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import partial
from typing import Any

import pyarrow as pa

from tsengine.interop.importing import ImportReport, Progress, Target
from tsengine.interop.tables import export_batches, import_batches

_FILE_MAGIC = b"ARROW1"


def export_file(
    db: Any,
    path: str | os.PathLike[str],
    selector: str | None = None,
    start: Any = None,
    end: Any = None,
    progress: Progress | None = None,
) -> int:
    """Write the samples of a selector (default: all) as an Arrow file; returns how many.

    The file appears under its name only when it is complete.
    """
    options = pa.ipc.IpcWriteOptions(compression="zstd")
    open_writer = partial(pa.ipc.new_file, options=options)
    return export_batches(db, path, selector, start, end, progress, open_writer)


def import_file(
    db: Target, path: str | os.PathLike[str], progress: Progress | None = None
) -> ImportReport:
    """Store the samples of an Arrow file or stream, as `tables.import_batches` does.

    Raises
    ------
    ValueError
        Columns are missing or of other types; the text names them.
    OSError, pyarrow.ArrowInvalid
        The file can't be read.

    """
    with pa.memory_map(os.fspath(path)) as source:
        if source.read(len(_FILE_MAGIC)) == _FILE_MAGIC:
            return _import_random_access(db, pa.ipc.open_file(source), progress)
        source.seek(0)
        size = source.size()
        note = None if progress is None else (lambda _: progress(source.tell(), size))
        with pa.ipc.open_stream(source) as reader:
            return import_batches(db, reader.schema, reader, note)


def _import_random_access(
    db: Target, reader: pa.RecordBatchFileReader, progress: Progress | None
) -> ImportReport:
    n_batches = reader.num_record_batches

    def batches() -> Iterator[pa.RecordBatch]:
        for number in range(n_batches):
            yield reader.get_batch(number)
            if progress is not None:
                progress(number + 1, n_batches)

    return import_batches(db, reader.schema, batches())
