"""``tsengine import`` and ``tsengine export``: data between files and a directory."""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Mapping
from typing import Any

import tsengine

from .commands_query import parse_moment
from .directories import MERGES_ONLY, add_data_dir, existing_directory
from .exits import EXIT_DAMAGE, EXIT_OK, RefusedError, UsageError
from .progress import Progress, progress_bar
from .times import now_ms

_MODULES = {"openmetrics": "openmetrics", "parquet": "parquet", "csv": "csv_file",
            "arrow": "arrow_file"}  # fmt: skip
_EXPORT_MODULES = {**_MODULES, "parquet-hive": "parquet_hive"}
_SUFFIXES = {".parquet": "parquet", ".om": "openmetrics", ".txt": "openmetrics",
             ".prom": "openmetrics", ".openmetrics": "openmetrics", ".csv": "csv",
             ".arrow": "arrow", ".arrows": "arrow", ".feather": "arrow"}  # fmt: skip

_IMPORT_EPILOG = """\
examples:
  tsengine import metrics.om --data-dir data
  tsengine import dump.parquet samples.csv --data-dir data

CSV has a column per label (__name__ among them), timestamp (Unix seconds or ISO 8601; or
timestamp_ms) and value. Parquet and Arrow have the same, or a map column "labels".

The directory is made when it is absent. No server may be using it: stop it first, or send it the
data by remote write.
"""

_EXPORT_EPILOG = """\
examples:
  tsengine export all.om --data-dir data
  tsengine export cpu.parquet --data-dir data --match 'node_cpu_seconds_total' --start now-1d

parquet-hive makes a folder of Parquet files, date=2026-11-21/metric=up/part-0.parquet, which DuckDB
and others read as they are:
  tsengine export lake --format parquet-hive --data-dir data
  SELECT * FROM read_parquet('lake/**/*.parquet', hive_partitioning = true);

A server may be using the directory. Times are Unix seconds, RFC 3339, now, or now-1h.
"""


def add_verbs(verbs: Any) -> None:
    """Add ``import`` and ``export`` to the command line."""
    add = argparse.RawDescriptionHelpFormatter
    parser = verbs.add_parser(
        "import", help="read OpenMetrics text, Parquet, CSV or Arrow into a directory",
        description="Read files of samples into a database directory.",
        epilog=_IMPORT_EPILOG, formatter_class=add,
    )  # fmt: skip
    parser.add_argument("files", metavar="FILE", nargs="+", help="files to read")
    add_data_dir(parser, "database directory to write to")
    _add_format(parser, _MODULES)
    parser.set_defaults(run=run_import)
    parser = verbs.add_parser(
        "export", help="write a directory's samples as OpenMetrics text, Parquet, CSV or Arrow",
        description="Write samples of a database directory to a file.",
        epilog=_EXPORT_EPILOG, formatter_class=add,
    )  # fmt: skip
    parser.add_argument(
        "file", metavar="FILE", help="file to write, replaced when it exists; or folder"
    )
    add_data_dir(parser, "database directory to read")
    parser.add_argument(
        "--match", metavar="SELECTOR",
        help="series to write, like 'up{job=\"node\"}' (default: all)",
    )  # fmt: skip
    parser.add_argument("--start", metavar="T", help="oldest sample (default: all)")
    parser.add_argument("--end", metavar="T", help="newest sample (default: all)")
    _add_format(parser, _EXPORT_MODULES)
    parser.set_defaults(run=run_export)


def _add_format(parser: argparse.ArgumentParser, modules: Mapping[str, str]) -> None:
    parser.add_argument(
        "--format", choices=modules, help="what the file is (default: by its name's end)"
    )


def run_import(arguments: argparse.Namespace) -> int:
    """Read all files; 1 when a sample of them was refused."""
    formats = [_format_of(name, arguments.format) for name in arguments.files]
    for name in arguments.files:
        if not os.path.isfile(name):
            raise UsageError(f"there is no file {name!r}")
    n_refused = 0
    with tsengine.open(arguments.data_dir, MERGES_ONLY) as database:
        for name, kind in zip(arguments.files, formats, strict=True):
            with progress_bar(f"import {os.path.basename(name)}") as progress:
                report = _import_file(database, name, kind, progress)
            n_refused += _print_report(name, report)
    return EXIT_DAMAGE if n_refused else EXIT_OK


def _import_file(database: Any, name: str, kind: str, progress: Progress | None) -> Any:
    try:
        return _module(kind).import_file(database, name, progress)
    except ValueError as error:  # The file is not what its name says, or cut.
        raise RefusedError(f"{name}: {error}") from None


def run_export(arguments: argparse.Namespace) -> int:
    """Write one file."""
    kind = _format_of(arguments.file, arguments.format)
    now = now_ms()
    start = None if arguments.start is None else parse_moment(arguments.start, "--start", now)
    end = None if arguments.end is None else parse_moment(arguments.end, "--end", now)
    path = existing_directory(arguments.data_dir)
    with (
        tsengine.open(path, read_only=True) as database,
        progress_bar(f"export {os.path.basename(arguments.file)}") as progress,
    ):
        try:
            n_samples = _module(kind).export_file(
                database, arguments.file, arguments.match, start, end, progress
            )
        except ValueError as error:
            raise UsageError(str(error)) from None
    sys.stdout.write(f"{arguments.file}: {n_samples} samples written\n")
    return EXIT_OK


def _format_of(name: str, chosen: str | None) -> str:
    kind = chosen or _SUFFIXES.get(os.path.splitext(name)[1].lower())
    if kind is None:
        raise UsageError(
            f"{name!r}: can't tell the format by the name; add --format {' or '.join(_MODULES)}"
        )
    return kind


def _module(kind: str) -> Any:
    return importlib.import_module(f"tsengine.interop.{_EXPORT_MODULES[kind]}")


def _print_report(name: str, report: Any) -> int:
    """Say what was stored and refused; returns how many samples and series were refused."""
    sys.stdout.write(f"{name}: {report.n_samples} samples of {report.n_series} series stored\n")
    for reason in report.reasons:
        sys.stderr.write(f"refused: {reason}\n")
    if report.n_refused:
        sys.stderr.write(f"{name}: {report.n_refused} samples refused\n")
    return int(report.n_refused) + len(report.reasons)
