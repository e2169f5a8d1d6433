"""``tsengine delete``: samples out of a directory that no server is using."""

from __future__ import annotations

import argparse
import sys
from typing import Any

import tsengine

from .commands_query import parse_moment
from .directories import MERGES_ONLY, add_data_dir, existing_directory
from .exits import EXIT_OK, UsageError
from .times import now_ms

_DESCRIPTION = """\
Delete samples and exemplars of all series that a selector matches.

They are gone for every reader at once, and from the disk when the parts that hold them are
rewritten: by and by, or at once with --clean."""

_EPILOG = """\
examples:
  tsengine delete 'up{job="old"}' --data-dir data
  tsengine delete temp_celsius --data-dir data --start 1700000000 --end now-1d --clean

Both ends of the range are deleted. Times are Unix seconds, RFC 3339, now, or now-1h. No server may
be using the directory: with one, call POST /api/v1/admin/tsdb/delete_series of it.
"""


def add_verb(verbs: Any) -> None:
    """Add ``delete`` to the command line."""
    parser = verbs.add_parser(
        "delete", help="delete samples of the matching series", description=_DESCRIPTION,
        epilog=_EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument(
        "selectors", metavar="SELECTOR", nargs="+", help="like 'up{job=\"x\"}'; any may match"
    )
    add_data_dir(parser, "database directory")
    parser.add_argument("--start", metavar="T", help="first time to delete (default: all)")
    parser.add_argument("--end", metavar="T", help="last time to delete (default: all)")
    parser.add_argument(
        "--clean", action="store_true", help="also take the bytes from the disk now"
    )
    parser.set_defaults(run=run_delete)


def run_delete(arguments: argparse.Namespace) -> int:
    """Delete, and say of how many series."""
    now = now_ms()
    start = None if arguments.start is None else parse_moment(arguments.start, "--start", now)
    end = None if arguments.end is None else parse_moment(arguments.end, "--end", now)
    if start is not None and end is not None and end < start:
        raise UsageError("--end is before --start")
    with tsengine.open(existing_directory(arguments.data_dir), MERGES_ONLY) as database:
        n_series = database.delete_series(arguments.selectors, start, end)
        if arguments.clean:
            database.clean_tombstones()
    sys.stdout.write(f"deleted samples of {n_series} series\n")
    return EXIT_OK
