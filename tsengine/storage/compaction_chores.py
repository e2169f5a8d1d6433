"""Compaction as chores: merges that are due, merges that can't wait, and everything at once."""

from __future__ import annotations

from collections.abc import Sequence

from tsengine.model.machine import GIVE_BACK_SAMPLES, give_back_memory
from tsengine.storage.chores import Job, JobContext
from tsengine.storage.compaction_plan import (
    NO_BARRIERS,
    Barriers,
    Merge,
    plan_compaction,
    plan_full_merge,
    plan_urgent_compaction,
)
from tsengine.storage.manifest import PartEntry
from tsengine.storage.state import State

LIVE_PARTS_MAX = 2000
"""Above it merges that leave fewer parts go first; at twice that appends slow down."""
_SPARE_BYTES = 256 * 1024 * 1024


class UrgentCompaction:
    """Makes one part of the days that have the most, while there are too many parts."""

    name = "urgent_compaction"

    def __init__(self) -> None:
        self._n_excess = 0

    @property
    def n_excess(self) -> int:
        """Live parts above the limit, 0 if merges could not make them fewer; as planned last."""
        return self._n_excess

    def plan(self, state: State, now_ms: int) -> list[Job]:
        """See `Chore.plan`."""
        n_parts = len(state.parts)
        if n_parts <= LIVE_PARTS_MAX:
            self._n_excess = 0
            return []
        merges = plan_urgent_compaction(live_parts(state), barriers=barriers_of(state))
        self._n_excess = n_parts - LIVE_PARTS_MAX if merges else 0
        return _jobs(merges)


class Compaction:
    """Merges of parts of one size; one part per day in the end."""

    name = "compaction"

    def plan(self, state: State, now_ms: int) -> list[Job]:
        """See `Chore.plan`."""
        return _jobs(plan_compaction(live_parts(state), barriers=barriers_of(state)))


class FullMerge:
    """Everything with sequences up to ``seq_max`` as one part per day, for callers of `compact`."""

    name = "full_merge"

    def __init__(self, seq_max: int) -> None:
        self._seq_max = seq_max

    def plan(self, state: State, now_ms: int) -> list[Job]:
        """See `Chore.plan`. What is flushed meanwhile is left alone, so it comes to an end."""
        parts = [entry for entry in live_parts(state) if entry.seq_max <= self._seq_max]
        return _jobs(plan_full_merge(parts, barriers=barriers_of(state)))


def barriers_of(state: State) -> Barriers:
    """What merges must keep apart: see `Barriers`."""
    ends = [*state.erased.values(), *(last + 1 for _, last in state.holes)]
    ends += [t_ms for taken in state.taken for t_ms in taken.samples_ms]
    before_ms = max(ends, default=None)
    if before_ms is None or not state.tiers:
        return NO_BARRIERS
    seqs = set()
    for width_ms in state.tier_map.widths_ms:
        for owned in state.tier_map.owned(width_ms):
            seq = state.tiers[owned.tier].entry.seq_max
            last = min(owned.maxt, before_ms - 1)
            if seq not in seqs and _is_behind(state, seq, owned.mint, last):
                seqs.add(seq)
    return Barriers(before_ms, tuple(sorted(seqs)))


def _is_behind(state: State, seq: int, mint: int, maxt: int) -> bool:
    """Whether a part has something of a closed range after a sequence."""
    for part in state.parts:
        entry = part.entry
        if entry.seq_max > seq and entry.mint <= maxt and entry.maxt >= mint:
            spans = state.tier_map.touched(part)
            if ((spans[:, 0] <= maxt) & (spans[:, 1] >= mint)).any():
                return True
    return False


def live_parts(state: State) -> list[PartEntry]:
    """Parts that merges and retention may replace.

    Those of the state, not of the manifest: between a flush's commit and its publication the
    manifest names a part that no merge can read yet, and would be dropped as if it were merged.
    """
    return [part.entry for part in state.parts]


def merge_space(inputs: Sequence[PartEntry]) -> int:
    """Bytes that must be free to merge these parts."""
    return sum(entry.size_bytes for entry in inputs) * 21 // 20 + _SPARE_BYTES


def _jobs(merges: Sequence[Merge]) -> list[Job]:
    return [
        Job(
            what=_describe(merge.inputs),
            size_bytes=sum(entry.size_bytes for entry in merge.inputs),
            run=_Run(merge),
            space_bytes=merge_space(merge.inputs),
        )
        for merge in merges
    ]


def _describe(inputs: Sequence[PartEntry]) -> str:
    names = [entry.name.lstrip("0") for entry in inputs]
    return f"merging parts {' '.join(names)}" if len(names) > 1 else f"splitting part {names[0]}"


class _Run:
    def __init__(self, merge: Merge) -> None:
        self._merge = merge

    def __call__(self, context: JobContext) -> None:
        context.merge(self._merge.inputs, self._merge.level)
        if sum(entry.n_samples for entry in self._merge.inputs) >= GIVE_BACK_SAMPLES:
            give_back_memory()
