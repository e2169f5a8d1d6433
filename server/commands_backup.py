"""``tsengine snapshot``, ``backup`` and ``restore``: copies of a directory."""

from __future__ import annotations

import argparse
import os
import sys
from typing import Any

import tsengine

from .commands_query import parse_moment
from .directories import add_data_dir, existing_directory
from .exits import EXIT_DAMAGE, EXIT_OK, UsageError
from .progress import progress_bar
from .times import now_ms, parse_duration_ms, rfc3339_ms

_SNAPSHOT = """\
Copy a database directory as it is now to a new one, at once and without taking space.

The copy is made of hard links and is a database of its own; on another disk the files are copied.
A server may be using the directory."""

_BACKUP = """\
Add a backup of a database directory to a place: a directory, or object storage.

Only what the place lacks is sent, and read back to compare. A backup counts when all of it is
there; one that was interrupted leaves nothing that looks like one. A server may be using the
directory."""

_BACKUP_EPILOG = """\
examples:
  tsengine backup --data-dir data /mnt/backups
  tsengine backup --data-dir data s3://bucket/metrics --keep 7 --keep-within 30d
  tsengine backup --check s3://bucket/metrics

Credentials and region for s3:// come from the environment as for AWS's own tools
(AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_SESSION_TOKEN, AWS_REGION), or from the instance's
role. It needs: pip install 'tsengine[s3]'.
"""

_RESTORE = """\
Bring a backup back as a new database directory, and check all of it.

An interrupted restore is finished by the same command."""

_RESTORE_EPILOG = """\
examples:
  tsengine restore /mnt/backups --list
  tsengine restore /mnt/backups --data-dir data
  tsengine restore s3://bucket/metrics --data-dir data --at 2026-11-21T16:00:00Z

Times are Unix seconds, RFC 3339, now, or now-1h.
"""

_PLACE = "a directory, or s3://bucket/prefix"


def add_verbs(verbs: Any) -> None:
    """Add the three verbs to the command line."""
    parser = _add(verbs, "snapshot", _SNAPSHOT, "", run_snapshot)
    parser.add_argument("dest", metavar="DEST", help="directory to make; must not exist")
    add_data_dir(parser, "database directory to copy")
    parser.add_argument(
        "--skip-head", action="store_true", help="leave out samples that are only in the log"
    )

    parser = _add(verbs, "backup", _BACKUP, _BACKUP_EPILOG, run_backup)
    parser.add_argument("dest", metavar="DEST", help=_PLACE)
    add_data_dir(parser, "database directory to back up", required=False)
    _add_endpoint(parser)
    parser.add_argument(
        "--keep", metavar="N", type=int, help="afterwards remove all but the newest N backups"
    )
    parser.add_argument(
        "--keep-within", metavar="D",
        help="afterwards remove backups older than this (30d); with --keep, either reason keeps",
    )  # fmt: skip
    parser.add_argument(
        "--verify", choices=("new", "all", "none"), default="new",
        help="what is read back: what was sent (default), all of it, or nothing",
    )  # fmt: skip
    parser.add_argument(
        "--cold-endpoint-url", metavar="URL",
        help="of the service that has moved parts (default: the one they were moved to)",
    )  # fmt: skip
    parser.add_argument(
        "--check", action="store_true",
        help="make no backup; read all backups at DEST back and compare",
    )  # fmt: skip

    parser = _add(verbs, "restore", _RESTORE, _RESTORE_EPILOG, run_restore)
    parser.add_argument("dest", metavar="DEST", help=f"where the backups are: {_PLACE}")
    add_data_dir(parser, "database directory to make; must be absent or empty", required=False)
    _add_endpoint(parser)
    parser.add_argument("--at", metavar="T", help="the newest backup not after this time")
    parser.add_argument("--backup", metavar="NAME", help="this backup (default: the newest)")
    parser.add_argument("--list", action="store_true", help="only show which backups there are")


def _add(verbs: Any, name: str, text: str, epilog: str, run: Any) -> Any:
    parser = verbs.add_parser(
        name, help=text.splitlines()[0], description=text, epilog=epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.set_defaults(run=run)
    return parser


def _add_endpoint(parser: Any) -> None:
    parser.add_argument(
        "--endpoint-url", metavar="URL",
        help="of an S3-compatible service that is not Amazon's (default: AWS_ENDPOINT_URL)",
    )  # fmt: skip


def _store_options(arguments: argparse.Namespace) -> tsengine.StoreOptions:
    url = arguments.endpoint_url or os.environ.get("AWS_ENDPOINT_URL")
    return tsengine.StoreOptions(endpoint_url=url)


def run_snapshot(arguments: argparse.Namespace) -> int:
    """Make a snapshot."""
    path = existing_directory(arguments.data_dir)
    if os.path.lexists(arguments.dest):
        raise UsageError(f"{arguments.dest!r} is there already; a snapshot needs a new name")
    tsengine.snapshot(path, arguments.dest, skip_head=arguments.skip_head)
    sys.stdout.write(f"{arguments.dest}: made\n")
    return EXIT_OK


def run_backup(arguments: argparse.Namespace) -> int:
    """Make a backup and prune, or check what is there."""
    options = _store_options(arguments)
    if arguments.check:
        return _check(arguments.dest, options)
    if arguments.data_dir is None:
        raise UsageError("give the directory to back up with --data-dir, or --check")
    if arguments.keep is not None and arguments.keep < 1:
        raise UsageError("--keep must be at least 1")
    within_ms = None
    if arguments.keep_within is not None:
        within_ms = parse_duration_ms(arguments.keep_within)
        if within_ms is None:
            raise UsageError(f"--keep-within: {arguments.keep_within!r} is no duration like 30d")
    path = existing_directory(arguments.data_dir)
    with progress_bar("back up") as progress:
        report = tsengine.make_backup(
            path, arguments.dest, options=options, verify=arguments.verify, progress=progress,
            cold_endpoint_of=lambda url: arguments.cold_endpoint_url,
        )  # fmt: skip
    made = report.record
    sys.stdout.write(
        f"{made.name}: {len(made.files)} files, {_size(made.size_bytes)}; sent {report.n_sent} "
        f"files, {_size(made.new_bytes)}; read back {report.n_verified}\n"
    )
    if arguments.keep is not None or within_ms is not None:
        pruned = tsengine.prune_backups(
            arguments.dest, keep=arguments.keep, keep_within_ms=within_ms, options=options,
            protect=[made.name],
        )  # fmt: skip
        for name in pruned.removed:
            sys.stdout.write(f"removed {name}\n")
        if pruned.is_postponed:
            sys.stdout.write("another backup is made or read; unused files go the next time\n")
        elif pruned.n_contents:
            sys.stdout.write(f"freed {_size(pruned.n_bytes)}\n")
    return EXIT_OK


def _check(dest: str, options: tsengine.StoreOptions) -> int:
    with progress_bar("check backups") as progress:
        report = tsengine.check_backups(dest, options, progress)
    for note in report.notes:
        sys.stdout.write(f"note: {note}\n")
    for key, text in report.problems:
        sys.stdout.write(f"damage: {key}: {text}\n")
    n_problems = len(report.problems)
    sys.stdout.write(
        f"{report.n_backups} backups, {report.n_contents} files, {_size(report.n_bytes)} read: "
        f"{n_problems or 'no'} problem{'s' * (n_problems != 1)} found\n"
    )
    return EXIT_DAMAGE if report.problems else EXIT_OK


def run_restore(arguments: argparse.Namespace) -> int:
    """Restore a backup, or list what there is."""
    options = _store_options(arguments)
    if arguments.list:
        return _list(arguments.dest, options)
    if arguments.data_dir is None:
        raise UsageError("give the directory to make with --data-dir, or --list")
    if arguments.at is not None and arguments.backup is not None:
        raise UsageError("give --at or --backup, not both")
    at_ms = None if arguments.at is None else parse_moment(arguments.at, "--at", now_ms())
    with progress_bar("restore") as progress:
        restored = tsengine.restore_backup(
            arguments.dest, arguments.data_dir, at_ms=at_ms, name=arguments.backup,
            options=options, progress=progress,
        )  # fmt: skip
    with progress_bar("check parts") as progress:
        report = tsengine.check(arguments.data_dir, progress)
    for problem in report.problems:
        sys.stdout.write(f"damage: {problem.file}: {problem.text}\n")
    sys.stdout.write(
        f"{arguments.data_dir}: restored {restored.name}, {report.n_samples} samples of "
        f"{report.n_series} series\n"
    )
    return EXIT_DAMAGE if report.problems else EXIT_OK


def _list(dest: str, options: tsengine.StoreOptions) -> int:
    damaged: list[tuple[str, Exception]] = []
    listed = tsengine.list_backups(
        dest, options, on_damaged=lambda key, error: damaged.append((key, error))
    )
    for found in listed:
        sys.stdout.write(
            f"{found.name}  {found.n_samples} samples in parts  {_range(found)}  "
            f"{_size(found.size_bytes)} (new {_size(found.new_bytes)})\n"
        )
    for key, error in damaged:
        sys.stdout.write(f"damage: {key}: {error}\n")
    if not listed and not damaged:
        sys.stdout.write("no backups yet\n")
    return EXIT_DAMAGE if damaged else EXIT_OK


def _range(found: tsengine.BackupRecord) -> str:
    if found.mint is None or found.maxt is None:
        return "no parts"
    return f"{rfc3339_ms(found.mint)} to {rfc3339_ms(found.maxt)}"


def _size(n_bytes: int) -> str:
    """Bytes for a reader: 1.5 MiB."""
    size = float(n_bytes)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} TiB"
