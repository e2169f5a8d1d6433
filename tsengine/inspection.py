"""Looks into a database directory without opening it for writing: `check` and `inspect`."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tsengine.errors import CorruptionError, StorageError
from tsengine.options import Options
from tsengine.storage import filenames, manifest
from tsengine.storage.catalog import Catalog
from tsengine.storage.catalog_file import read_catalog_segment
from tsengine.storage.exemplars import read_exemplars
from tsengine.storage.filesystem import FileSystem, LocalFileSystem, storage_error
from tsengine.storage.manifest import ExemplarEntry, Manifest, PartEntry
from tsengine.storage.metadata_store import read_metadata
from tsengine.storage.part_reader import PartReader, component_bytes
from tsengine.storage.recovery import replay_log
from tsengine.storage.wal_reader import list_segments

_PIECE_SAMPLES = 4 * 1024 * 1024

Progress = Callable[[int, int], None]
"""Called with (files or parts checked, in all)."""


@dataclass(frozen=True, slots=True)
class Problem:
    """Damage: acknowledged data that is lost or can't be read."""

    file: str
    offset: int | None
    text: str


@dataclass(slots=True)
class CheckReport:
    """What `check` found. ``notes`` are harmless: torn tails, leftovers of a crash."""

    problems: list[Problem] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    n_parts: int = 0
    n_samples: int = 0
    n_series: int = 0

    def blame(self, error: StorageError, path: str) -> None:
        """Count an error of a file as damage."""
        if isinstance(error, CorruptionError):
            self.problems.append(Problem(error.path or path, error.offset, error.reason))
        else:
            self.problems.append(Problem(path, None, str(error)))


def check(path: str | os.PathLike[str], progress: Progress | None = None) -> CheckReport:
    """Read everything and verify every checksum and every value; changes nothing.

    Raises
    ------
    StorageError
        There is no database, or its manifest can't be read.
    UnsupportedFormat
        It was written by a newer version.

    """
    fs = LocalFileSystem()
    directory = os.fspath(path)
    current = manifest.load(fs, directory)
    report = CheckReport(n_parts=len(current.parts))
    catalog = _check_catalog(fs, directory, current, report)
    if current.metadata_file is not None:
        name = filenames.metadata_path(directory, current.metadata_file)
        _guarded(report, name, lambda: read_metadata(fs, name))
    for file in current.exemplar_files:
        _check_exemplars(fs, directory, file, report)
    for done, entry in enumerate(current.parts):
        _check_part(fs, directory, entry, catalog.next_ref, report)
        if progress is not None:
            progress(done + 1, len(current.parts))
    log = replay_log(fs, directory, current, catalog)
    report.n_samples += log.report.n_replayed_samples
    report.n_series = catalog.next_ref
    report.problems += [Problem(*found) for found in log.report.damage]
    if log.report.n_orphan_samples:
        text = f"{log.report.n_orphan_samples} samples of series that were lost with damage"
        report.problems.append(Problem(filenames.wal_dir(directory), None, text))
    if log.report.n_lost_series:
        text = f"the labels of {log.report.n_lost_series} series were lost with damage"
        report.problems.append(Problem(filenames.wal_dir(directory), None, text))
    for name, offset, size in log.report.torn_tails:
        report.notes.append(f"{name}: unfinished write of {size} bytes at byte {offset}, ignored")
    for name in manifest.orphans(fs, directory, current):
        report.notes.append(f"{name}: left over from a crash, removed at the next start")
    return report


def _check_catalog(
    fs: FileSystem, directory: str, current: Manifest, report: CheckReport
) -> Catalog:
    options = Options()
    catalog = Catalog(
        secret=bytes.fromhex(current.secret), limits=options.labels, max_series=options.max_series
    )
    for name in current.catalog_segments:
        path = filenames.catalog_path(directory, name)

        def read(path: str = path) -> None:
            catalog.decode_series(read_catalog_segment(fs, path))

        _guarded(report, path, read)
    return catalog


def _check_exemplars(
    fs: FileSystem, directory: str, entry: ExemplarEntry, report: CheckReport
) -> None:
    def read() -> None:
        read_exemplars(fs, directory, entry)

    _guarded(report, filenames.exemplar_path(directory, entry.name), read)


def _check_part(
    fs: FileSystem, directory: str, entry: PartEntry, next_ref: int, report: CheckReport
) -> None:
    path = filenames.part_dir(directory, entry.name)

    def read() -> None:
        part = PartReader.open(fs, path, entry)
        try:
            part.verify()
            n_samples = 0
            # Histograms weigh as many samples as they have numbers.
            n_numbers = int(part.series_samples(entry.mint, entry.maxt)[1].sum())
            n_pieces = max(1, n_numbers // _PIECE_SAMPLES)
            for refs in np.array_split(part.refs, min(n_pieces, len(part.refs))):
                columns = part.collect(refs, entry.mint, entry.maxt)
                part.start_times(refs, entry.mint, entry.maxt)
                n_samples += len(columns.t_ms)
                if len(columns.refs) and int(columns.refs[-1]) >= next_ref:
                    raise CorruptionError(
                        f"series {int(columns.refs[-1])} is not in the catalog", path=path
                    )
            if n_samples != entry.n_samples:
                raise CorruptionError(
                    f"{n_samples} samples, the manifest says {entry.n_samples}", path=path
                )
            report.n_samples += n_samples
        finally:
            part.close()

    _guarded(report, path, read)


def _guarded(report: CheckReport, path: str, read: Callable[[], Any]) -> None:
    """Run a reader and count what it raises as damage of `path`."""
    try:
        read()
    except OSError as error:
        report.blame(storage_error(error, "unreadable"), path)
    except StorageError as error:
        report.blame(error, path)


def inspect(path: str | os.PathLike[str]) -> dict[str, Any]:
    """What a directory holds, as plain values: format, parts, sizes, bytes per sample.

    ``component_bytes`` is the share of a part's size that histograms and start timestamps have.
    """
    fs = LocalFileSystem()
    directory = os.fspath(path)
    current = manifest.load(fs, directory)
    parts = [
        {
            "name": entry.name,
            "level": entry.level,
            "mint": entry.mint,
            "maxt": entry.maxt,
            "samples": entry.n_samples,
            "series": entry.n_series,
            "size_bytes": entry.size_bytes,
            "component_bytes": component_bytes(fs, filenames.part_dir(directory, entry.name)),
            "bytes_per_sample": round(entry.size_bytes / max(1, entry.n_samples), 3),
        }
        for entry in current.parts
    ]
    segments = [n for n in list_segments(fs, directory) if n >= current.wal_floor]
    wal_bytes = sum(fs.size(filenames.wal_path(directory, number)) for number in segments)
    catalog_bytes = sum(
        fs.size(filenames.catalog_path(directory, name)) for name in current.catalog_segments
    )
    samples = sum(entry.n_samples for entry in current.parts)
    part_bytes = sum(entry.size_bytes for entry in current.parts)
    return {
        "directory": directory,
        "format_version": current.format_version,
        "database_id": current.database_id,
        "generation": current.generation,
        "series_in_catalog": current.next_ref,
        "catalog_bytes": catalog_bytes,
        "samples_in_parts": samples,
        "part_bytes": part_bytes,
        "bytes_per_sample": round((part_bytes + catalog_bytes) / max(1, samples), 3),
        "wal_segments": len(segments),
        "wal_bytes": wal_bytes,
        "parts": parts,
    }
