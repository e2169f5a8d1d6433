"""Answers kept on disk, so that systems that ran at different times can be compared."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

from bench.side_by_side import queries

Result = dict[str, Any]
_BY_NAME = {query.name: query for query in queries.QUERIES}


def keep(work: Path, system: str, load: str, size: str, answers: dict[str, Any]) -> None:
    """Keep the answers of a system on a load of some size."""
    with gzip.open(_path(work, system, load, size), "wt", compresslevel=1) as file:
        json.dump(answers, file)


def compare(work: Path, load: str, size: str, peers: list[str]) -> dict[str, dict[str, str]]:
    """By peer and query: what tells its answer from tsengine's, empty if nothing does.

    Peers whose answers are not there are left out.
    """
    if not _path(work, "tsengine", load, size).exists():
        return {}
    ours = _read(work, "tsengine", load, size)
    found = {}
    for peer in peers:
        if _path(work, peer, load, size).exists():
            theirs = _read(work, peer, load, size)
            found[peer] = {
                name: queries.difference(_BY_NAME[name], ours[name], theirs[name])
                for name in ours
                if name in theirs
            }
    return found


def _path(work: Path, system: str, load: str, size: str) -> Path:
    return work / f"answers-{system}-{load}-{size}.json.gz"


def _read(work: Path, system: str, load: str, size: str) -> Any:
    with gzip.open(_path(work, system, load, size), "rt") as file:
        return json.load(file)
