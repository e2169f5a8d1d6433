"""The flag ``--data-dir`` of the verbs that work on a directory, and how they open it to write."""

from __future__ import annotations

import os
from typing import Any

import tsengine

from .exits import UsageError

MERGES_ONLY = tsengine.Options(background="merges")
"""A verb does not know the tiers and retention of the server, which does what these ask for."""


def add_data_dir(parser: Any, text: str, *, required: bool = True) -> None:
    """Add the flag to a parser or a group."""
    if required:
        parser.add_argument("--data-dir", metavar="DIR", required=True, help=text)
    else:
        parser.add_argument("--data-dir", metavar="DIR", help=text)


def existing_directory(path: str) -> str:
    """`path`, or UsageError when nothing is there to read."""
    if not os.path.isdir(path):
        raise UsageError(f"--data-dir: there is no directory {path!r}")
    return path
