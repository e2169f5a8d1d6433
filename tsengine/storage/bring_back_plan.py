"""With what a part that comes back is merged, and in which order. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, TypeVar

from tsengine.storage.compaction_plan import partition_of
from tsengine.storage.manifest import PartEntry


class _Reader(Protocol):
    @property
    def entry(self) -> PartEntry: ...


Reader = TypeVar("Reader", bound=_Reader)


def jumped_over(entry: PartEntry, parts: Sequence[PartEntry]) -> list[PartEntry]:
    """Parts with samples from before and after a part that they overlap, and what lies among them.

    In the order of their sequences.
    """
    merged: list[PartEntry] = []
    while True:
        members = [entry, *merged]
        low, high = min(m.seq_min for m in members), max(m.seq_max for m in members)
        mint, maxt = min(m.mint for m in members), max(m.maxt for m in members)
        found = [
            part
            for part in parts
            if part.mint <= maxt and part.maxt >= mint
            and part.seq_min <= high and part.seq_max >= low
        ]  # fmt: skip
        if len(found) == len(merged):
            return sorted(found, key=lambda part: (part.seq_min, part.mint))
        merged = found


def in_order(entry: PartEntry, own: Sequence[Reader], others: Sequence[Reader]) -> list[Reader]:
    """A part's readers before others that are not all older; these are in their own order."""
    n_older = next(
        (k for k, other in enumerate(others) if other.entry.seq_max >= entry.seq_min), len(others)
    )
    return [*others[:n_older], *own, *others[n_older:]]


def level_of(entry: PartEntry, merged: Sequence[PartEntry]) -> int:
    """The level of what is written of a part and those merged with it."""
    is_whole = partition_of(entry.mint) == partition_of(entry.maxt)
    if is_whole and not merged:
        return entry.level
    return max(member.level for member in (entry, *merged)) + 1
