"""``tsengine retention``: what retention would remove, without removing anything."""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import sys

import tsengine

from . import config
from .directories import existing_directory
from .exits import EXIT_OK
from .times import duration_text

_RETENTION = """\
Print what retention would remove: series, samples and bytes of each rule. Changes nothing, and
works beside a running server.

Settings are those of `tsengine serve`: the same flags, TSENGINE_* variables and configuration
file, with the same defaults. So `--retention-rule '{job="ci"}:3d'` shows what a rule would do
before it is put into the file."""

_ACTIONS = {
    "remove": "goes as a whole",
    "rewrite": "is rewritten",
    "hide": "loses them later",
    "wait": "waits for its tiers",
}


def add_verb(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the verb to the command line."""
    parser = verbs.add_parser(
        "retention", help=_RETENTION.splitlines()[0], description=_RETENTION,
        formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False,
    )  # fmt: skip
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--files", action="store_true", help="name the parts too")
    config.add_flags(parser)
    parser.set_defaults(run=run_retention)


def run_retention(arguments: argparse.Namespace) -> int:
    """Print the plan."""
    settings = config.load(arguments, os.environ)
    path = existing_directory(settings.data_dir)
    with tsengine.open(path, settings.options(), read_only=True) as db:
        plan = db.retention_plan()
    if arguments.json:
        found = dataclasses.asdict(plan) | {"freed_bytes": plan.freed_bytes}
        sys.stdout.write(json.dumps(found, indent=2) + "\n")
        return EXIT_OK
    for removal in plan.removals:
        sys.stdout.write(_line(removal) + "\n")
        for file in removal.files if arguments.files else ():
            sys.stdout.write(
                f"  {file.name} {_ACTIONS[file.action]}: {file.samples} samples, "
                f"{file.bytes} bytes\n"
            )
    if not plan.removals:
        sys.stdout.write("nothing is past its retention\n")
    sys.stdout.write(f"{plan.freed_bytes} of {plan.size_bytes} bytes would be freed\n")
    return EXIT_OK


def _line(removal: tsengine.PlannedRemoval) -> str:
    keep = "" if removal.keep_s is None else f" ({duration_text(removal.keep_s)})"
    counts: dict[str, int] = {}
    for file in removal.files:
        counts[file.action] = counts.get(file.action, 0) + 1
    parts = ", ".join(
        f"{n} part{'s' * (n != 1)} {_ACTIONS[action]}" for action, n in counts.items()
    )
    return (
        f"{removal.reason}{keep}: {removal.samples} samples of {removal.series} series, "
        f"{removal.series_lost} of them lose all; {removal.bytes} bytes"
        + (f"; {parts}" if parts else "")
    )
