"""``tsengine inspect``, ``check`` and ``warmup``."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from typing import Any

import tsengine

from .directories import add_data_dir, existing_directory
from .exits import EXIT_DAMAGE, EXIT_OK, EXIT_UNREAD, UsageError
from .progress import progress_bar

_INSPECT = "Show what a database directory holds: parts, log, series, samples, sizes."
_CHECK = """\
Read every file of a database directory and verify checksums and invariants.

Damage is named with file and offset and ends with exit code 1. What a crash leaves behind (a torn
end of the log) is normal: it is noted, and the exit code is 0. What is missing from an object store
or can't be reached there, and what this process can't open, is no damage, never put aside: it is
named, and the exit code is 3.

--bring-back is the way back from the quarantine: each part is verified and becomes part of the
database again, unless it is damaged still. Deletes made meanwhile hide what they should."""
_WARMUP = """\
Compile all kernels now, so that the first start of a server or program here is fast.

--cpu generic makes code that runs on every CPU of this architecture: for images that are built on
one machine and run on another."""


def add_verbs(verbs: Any) -> None:
    """Add the three verbs to the command line."""
    for name, text, run in (
        ("inspect", _INSPECT, run_inspect),
        ("check", _CHECK, run_check),
    ):
        parser = verbs.add_parser(
            name, help=text.splitlines()[0], description=text,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )  # fmt: skip
        add_data_dir(parser, "database directory; a server may be using it")
        parser.add_argument("--json", action="store_true", help="print JSON")
        if name == "check":
            parser.add_argument(
                "--quarantine", action="store_true",
                help="move damaged parts to DIR/quarantine, so that the rest works without them; "
                "no server may be using the directory",
            )  # fmt: skip
            parser.add_argument(
                "--bring-back", metavar="NAME", nargs="?", const="",
                help="instead: bring the part DIR/quarantine/NAME back, or all that are there; no "
                "server may be using the directory",
            )  # fmt: skip
            parser.add_argument(
                "--force", action="store_true",
                help="with --bring-back: also where it is not known what was deleted meanwhile; "
                "deleted samples may be seen again",
            )  # fmt: skip
            parser.add_argument(
                "--cold-endpoint-url", metavar="URL",
                help="of the service that has moved parts (default: the one they were moved to)",
            )  # fmt: skip
        if name == "inspect":
            parser.add_argument(
                "--tombstones", action="store_true",
                help="also list deletes, and what each still hides on the disk",
            )  # fmt: skip
        parser.set_defaults(run=run)
    parser = verbs.add_parser(
        "warmup", help=_WARMUP.splitlines()[0], description=_WARMUP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument(
        "--cpu", choices=("host", "generic"), default="host",
        help="host: this machine's CPU (default); generic: any CPU of its architecture",
    )  # fmt: skip
    parser.set_defaults(run=run_warmup)


def run_inspect(arguments: argparse.Namespace) -> int:
    """Print what `tsengine.inspect` found."""
    path = existing_directory(arguments.data_dir)
    found = tsengine.inspect(path, tombstones=arguments.tombstones)
    if arguments.json:
        sys.stdout.write(json.dumps(found, indent=2, default=str) + "\n")
        return EXIT_OK
    for line in _as_lines(found, ""):
        sys.stdout.write(line + "\n")
    return EXIT_OK


def _as_lines(value: Any, indent: str) -> Iterator[str]:
    """Nested dicts and lists as indented lines, a list's plain dicts on one line each."""
    for key, item in value.items():
        if isinstance(item, dict):
            yield f"{indent}{key}:"
            yield from _as_lines(item, indent + "  ")
        elif isinstance(item, list):
            yield f"{indent}{key}: {len(item)}"
            for entry in item:
                text = entry
                if isinstance(entry, dict):
                    text = "  ".join(f"{name}={part}" for name, part in entry.items())
                yield f"{indent}  - {text}"
        else:
            yield f"{indent}{key}: {item}"


def run_check(arguments: argparse.Namespace) -> int:
    """Print what `tsengine.check` found; 1 when something is damaged, 3 when it can't be read."""
    path = existing_directory(arguments.data_dir)
    if arguments.force and arguments.bring_back is None:
        raise UsageError("--force goes with --bring-back")
    if arguments.bring_back is not None:
        if arguments.quarantine:
            raise UsageError("give --quarantine or --bring-back, not both")
        return _bring_back(path, arguments)
    with progress_bar("check parts") as progress:
        report = tsengine.check(
            path, progress, quarantine=arguments.quarantine,
            cold_endpoint_url=arguments.cold_endpoint_url,
        )  # fmt: skip
    if arguments.json:
        problems = [
            {"kind": p.kind, "file": p.file, "offset": p.offset, "text": p.text}
            for p in report.problems
        ]
        found = {
            "problems": problems,
            "notes": list(report.notes),
            "quarantined": list(report.quarantined),
        }
        sys.stdout.write(json.dumps(found, indent=2) + "\n")
    else:
        for note in report.notes:
            sys.stdout.write(f"note: {note}\n")
        for problem in report.problems:
            at = "" if problem.offset is None else f" at byte {problem.offset}"
            sys.stdout.write(f"{problem.kind}: {problem.file}{at}: {problem.text}\n")
        for folder in report.quarantined:
            sys.stdout.write(f"put aside: {folder}\n")
        n_problems = len(report.problems)
        sys.stdout.write(f"{n_problems or 'no'} problem{'s' * (n_problems != 1)} found\n")
    if any(problem.kind == "damage" for problem in report.problems):
        return EXIT_DAMAGE
    return EXIT_UNREAD if report.problems else EXIT_OK


def _bring_back(path: str, arguments: argparse.Namespace) -> int:
    """Print what became of parts in the quarantine; 1 when one stays there."""
    names = [arguments.bring_back] if arguments.bring_back else []
    found = tsengine.bring_back(
        path, names, force=arguments.force, cold_endpoint_url=arguments.cold_endpoint_url
    )
    if arguments.json:
        listed = [
            {"name": one.name, "samples": one.n_samples, "merged_with": one.merged_with,
             "refused": one.refused}
            for one in found
        ]  # fmt: skip
        sys.stdout.write(json.dumps({"brought_back": listed}, indent=2) + "\n")
    else:
        for one in found:
            if one.refused is None:
                sys.stdout.write(f"brought back: {one.name}\n")
            else:
                sys.stdout.write(f"stays aside: {one.name}: {one.refused}\n")
        if not found:
            sys.stdout.write("there are no parts in the quarantine\n")
    return EXIT_DAMAGE if any(one.refused is not None for one in found) else EXIT_OK


def run_warmup(arguments: argparse.Namespace) -> int:
    """Compile what is missing."""
    with progress_bar("compile kernels") as progress:
        n_compiled = tsengine.warmup(progress, cpu=arguments.cpu)
    sys.stdout.write(f"{n_compiled} kernels compiled; all are ready\n")
    return EXIT_OK
