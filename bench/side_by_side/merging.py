"""Runs done in pieces made one: some phases here, some systems there."""

from __future__ import annotations

from typing import Any

Result = dict[str, Any]
_SAME = ("machine", "hosts", "minutes")


class MergeError(Exception):
    """The runs are not pieces of one."""


def empty() -> Result:
    """A result of nothing yet.

    ``systems``: facts by system and phase; `quiet`: how busy the machine was, likewise;
    ``compared``: by peer and query what tells its answer from ours, "" if nothing does.
    """
    return {"systems": {}, "quiet": {}, "compared": {}}


def merge(pieces: list[Result]) -> Result:
    """One result of some, the later ones over the earlier; files of `bench.churn` among them.

    Raises
    ------
    MergeError
        They are of different sizes or machines.

    """
    merged = empty()
    for piece in pieces:
        if "hours" in piece:
            merged["churn_embedded"] = piece
            continue
        for name in _SAME:
            if name in merged and merged[name] != piece[name]:
                raise MergeError(f"{name}: {merged[name]} and {piece[name]}")
        merged |= {key: value for key, value in piece.items() if not isinstance(value, dict)}
        for section in ("systems", "quiet", "compared"):
            for name, found in piece.get(section, {}).items():
                merged[section].setdefault(name, {}).update(found)
        if "churn_embedded" in piece:
            merged["churn_embedded"] = piece["churn_embedded"]
    return merged
