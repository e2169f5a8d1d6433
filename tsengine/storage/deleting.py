"""How deleted samples leave the disk, and tombstones with them, as a chore.

Every merge leaves out what is deleted. Parts that no merge is due for are rewritten alone, after a
while: who deletes much often does so piece by piece. A tombstone goes when nothing that is older
holds samples of its series in its range: no frozen head, no part, no part of a tier, no exemplars.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from tsengine.errors import CorruptionError, ObjectMissing, StoreUnavailable
from tsengine.storage import filenames
from tsengine.storage.chores import Job, JobContext
from tsengine.storage.compaction_chores import merge_space
from tsengine.storage.compaction_plan import partition_of
from tsengine.storage.head import Head
from tsengine.storage.head_read import is_among
from tsengine.storage.manifest import PartEntry, TierEntry
from tsengine.storage.mask import Mask
from tsengine.storage.part_reader import PartReader
from tsengine.storage.pieces import U32Array
from tsengine.storage.retention import MIN_MS, SampleFloors
from tsengine.storage.state import State
from tsengine.storage.tier_reader import TierReader
from tsengine.storage.tiering import build_range, is_buildable
from tsengine.storage.tiering_plan import TierRange, kept_range
from tsengine.storage.tombstones import Tombstone

if TYPE_CHECKING:
    from tsengine.storage.database import StorageDatabase

QUIET_MS = 60_000
"""A part is left alone so long after a delete that touches it."""
SMALL_SHARE = 1 / 20
"""Less than that of a part is no reason to rewrite it ..."""
PATIENCE_MS = 3_600_000
"""... until its tombstone is that old."""
_ASK_AGAIN_MS = 600_000
"""What an object store did not give is asked for again after that."""
_REFS_AT_ONCE = 1 << 16
_LOG = logging.getLogger(__name__)


class Erasing:
    """Rewrites parts that hold deleted samples, and drops tombstones that hide nothing any more.

    Parameters
    ----------
    at_once
        Wait for nothing; for callers of `clean_tombstones`.

    """

    name = "erasing"

    def __init__(self, database: StorageDatabase, *, at_once: bool = False) -> None:
        self._database = database
        self._at_once = at_once
        self._first_seen_ms: dict[int, int] = {}
        self._n_hidden: dict[tuple[str, int], int] = {}
        # By part: when to ask the object store again for what it lacks, or for anything.
        self._missing_until_ms: dict[str, int] = {}
        self._away_until_ms: int | None = None
        self._shares: dict[tuple[str, int], float] = {}

    def plan(self, state: State, now_ms: int) -> list[Job]:
        """See `Chore.plan`. Axes of parts are read once for each tombstone that touches them."""
        self._forget(state, now_ms)
        for tombstone in state.tombstones:
            seen_ms = self._first_seen_ms.get(tombstone.seq, now_ms)
            # A clock that was ahead and is put right must not make it recent for ever.
            self._first_seen_ms[tombstone.seq] = min(seen_ms, now_ms)
        due = [part for part in state.parts if self._is_due(part, state, now_ms)]
        jobs = [_rewriting(part.entry) for part in due if not part.remote_bytes]
        jobs += [
            _rebuilding(tier.entry)
            for tier in state.tiers
            if self._is_tier_due(tier, state, now_ms) and self._is_buildable(tier.entry, state)
        ]
        # Last: of what an object store has, something may be missing, or all of it.
        jobs += [_rewriting(part.entry) for part in due if part.remote_bytes]
        dead = [tombstone for tombstone in state.tombstones if not self._hides(tombstone, state)]
        if dead:
            jobs.insert(0, _dropping(dead))
        return jobs

    def _is_buildable(self, entry: TierEntry, state: State) -> bool:
        """Whether what the retention of its tier keeps of a part can be written again."""
        kept = kept_range(_range_of(entry), self._database.tier_floors())
        return kept is not None and is_buildable(self._database, state, kept)

    def _is_due(self, part: PartReader, state: State, now_ms: int) -> bool:
        hiding = [t for t in state.tombstones if self._count(part, t)]
        n_hidden = sum(self._count(part, tombstone) for tombstone in hiding)
        return self._is_time(hiding, n_hidden / max(1, part.entry.n_samples), now_ms)

    def _is_tier_due(self, tier: TierReader, state: State, now_ms: int) -> bool:
        hiding = [t for t in state.tombstones if self._share(tier, t)]
        share = sum(self._share(tier, tombstone) for tombstone in hiding)
        return self._is_time(hiding, share, now_ms)

    def _is_time(self, hiding: Sequence[Tombstone], share: float, now_ms: int) -> bool:
        """Whether something of which tombstones hide a share is to be rewritten now."""
        if not hiding or self._at_once:
            return bool(hiding)
        seen_ms = [self._first_seen_ms[tombstone.seq] for tombstone in hiding]
        if now_ms - max(seen_ms) < QUIET_MS:
            return False
        return share >= SMALL_SHARE or now_ms - min(seen_ms) >= PATIENCE_MS

    def _hides(self, tombstone: Tombstone, state: State) -> bool:
        """Whether something older than a tombstone may hold what it hides."""
        return (
            any(frozen.tombstone_seq < tombstone.seq for frozen in state.frozen)
            or any(self._count(part, tombstone) for part in state.parts)
            or any(self._share(tier, tombstone) for tier in state.tiers)
            or self._database.exemplars.is_hidden_by(tombstone)
            or any(
                _may_come_back(aside.entry, tombstone) for aside in self._database.recovery.aside
            )
        )

    def _count(self, part: PartReader, tombstone: Tombstone) -> int:
        """Samples of a part that a tombstone hides."""
        if not _is_older(part.entry, tombstone):
            return 0
        key = part.entry.name, tombstone.seq
        if key not in self._n_hidden:
            if part.remote_bytes and self._is_out_of_reach(part):
                return 1
            try:
                self._n_hidden[key] = count_hidden(part, tombstone)
            except CorruptionError as error:
                # Who repairs the part must find it still hidden.
                _LOG.error("what is deleted of a part is not known: %s", error)
                self._n_hidden[key] = 1
            except StoreUnavailable as error:
                self._note_out_of_reach(part, error)
                return 1
        return self._n_hidden[key]

    def _is_out_of_reach(self, part: PartReader) -> bool:
        """Whether the object store did not give what a part has there, a short while ago."""
        return self._away_until_ms is not None or part.entry.name in self._missing_until_ms

    def _note_out_of_reach(self, part: PartReader, error: StoreUnavailable) -> None:
        """What is deleted of a part counts as still there; other parts go on."""
        until_ms = self._database.now_ms() + _ASK_AGAIN_MS
        if isinstance(error, ObjectMissing):
            self._missing_until_ms[part.entry.name] = until_ms
        else:
            self._away_until_ms = until_ms
        _LOG.error("what is deleted of part %s is not known: %s", part.entry.name, error)

    def _share(self, tier: TierReader, tombstone: Tombstone) -> float:
        """About how much of a part of a tier a tombstone hides; 0 if nothing."""
        key = tier.entry.name, tombstone.seq
        if key not in self._shares:
            self._shares[key] = _share_of_windows(tier, tombstone)
        return self._shares[key]

    def _forget(self, state: State, now_ms: int) -> None:
        """Drop what is known of parts and tombstones that are no more, or was long ago."""
        names = {part.entry.name for part in state.parts}
        soon = range(now_ms + 1, now_ms + _ASK_AGAIN_MS + 1)  # later: the clock was put back
        self._missing_until_ms = {
            name: t_ms for name, t_ms in self._missing_until_ms.items() if t_ms in soon
        }
        if self._away_until_ms not in soon:
            self._away_until_ms = None
        tiers = {tier.entry.name for tier in state.tiers}
        live = {tombstone.seq for tombstone in state.tombstones}
        self._first_seen_ms = {s: t for s, t in self._first_seen_ms.items() if s in live}
        self._n_hidden = {
            key: n for key, n in self._n_hidden.items() if key[0] in names and key[1] in live
        }
        self._shares = {
            key: share for key, share in self._shares.items() if key[0] in tiers and key[1] in live
        }


def held(database: StorageDatabase, state: State, refs: U32Array, mint: int, maxt: int) -> U32Array:
    """Those of the series ``refs`` (ascending) of which a state may hold data of a closed range.

    What deletes hide does not count, what retention hides does. Raises StorageError.
    """
    if database.recovery.has_lost_parts or database.recovery.aside:
        # A damaged part that was left out or put aside may have any of them, and may come back.
        return refs
    kept_for_ever = SampleFloors(MIN_MS, None, ())
    found = database.view_of(state, kept_for_ever).live(refs, mint, maxt)
    deletes = Mask(state.tombstones)
    for tier in state.tiers:
        found = np.union1d(found, _with_windows(tier, refs, deletes, mint, maxt))
    rest = np.setdiff1d(refs, found, assume_unique=True)
    return np.union1d(found, database.exemplars.series_among(rest, mint, maxt))


def _with_windows(
    tier: TierReader, refs: U32Array, deletes: Mask, mint: int, maxt: int
) -> U32Array:
    """Series with windows in a closed range that deletes leave, as far as the index tells."""
    low, high = max(mint, _first_time(tier.entry)), min(maxt, tier.entry.maxt)
    if low > high:
        return refs[:0]
    here = refs[is_among(refs, tier.refs)]
    hidden = deletes.touching(here, low, high)
    left = None if hidden is None else hidden.windows(tier.entry.seq_max)
    if left is None:
        return here
    is_left = np.zeros(len(here), np.bool_)
    for rows, _, _ in left:
        is_left[rows] = True
    return here[is_left]


def count_hidden(part: PartReader, tombstone: Tombstone) -> int:
    """Samples of a part that a tombstone hides; reads axes, no values. Raises CorruptionError."""
    if not _is_older(part.entry, tombstone):
        return 0
    refs = part.refs[is_among(part.refs, tombstone.refs)]
    return sum(
        part.pieces(refs[first : first + _REFS_AT_ONCE], tombstone.mint, tombstone.maxt).n_samples
        for first in range(0, len(refs), _REFS_AT_ONCE)
    )


def hidden_by(tombstone: Tombstone, state: State) -> tuple[int, int]:
    """``(samples, bytes)`` that a tombstone hides in heads and parts; bytes of parts, about.

    Reads axes. Raises CorruptionError.
    """
    n_samples = n_bytes = 0
    for part in state.parts:
        n_hidden = count_hidden(part, tombstone)
        n_samples += n_hidden
        n_bytes += part.entry.size_bytes * n_hidden // max(1, part.entry.n_samples)
    for frozen in state.frozen:
        if _may_hold(frozen.head, tombstone):
            view = frozen.head.view()
            refs = view.refs()[is_among(view.refs(), tombstone.refs)]
            columns = view.collect_bits(refs, tombstone.mint, tombstone.maxt)
            n_samples += len(columns.t_ms)
    return n_samples, n_bytes


def _is_older(entry: PartEntry, tombstone: Tombstone) -> bool:
    return entry.seq_max < tombstone.seq and tombstone.touches(entry.mint, entry.maxt)


def _may_come_back(entry: PartEntry | TierEntry | None, tombstone: Tombstone) -> bool:
    """Whether a part that was put aside, None for an unknown one, may hold what one hides."""
    if entry is None:
        return True
    if entry.seq_max >= tombstone.seq:
        return False
    first = entry.mint if isinstance(entry, PartEntry) else _first_time(entry)
    return tombstone.touches(first, entry.maxt)


def _may_hold(head: Head, tombstone: Tombstone) -> bool:
    return head.seq_max < tombstone.seq and tombstone.touches(head.mint, head.maxt)


def _share_of_windows(tier: TierReader, tombstone: Tombstone) -> float:
    """About how much of a part of a tier a tombstone hides, by series and time; 0 if nothing."""
    entry = tier.entry
    first = _first_time(entry)
    if entry.seq_max >= tombstone.seq or not tombstone.touches(first, entry.maxt):
        return 0.0
    n_series = int(is_among(tier.refs, tombstone.refs).sum())
    span_ms = min(entry.maxt, tombstone.maxt) - max(first, tombstone.mint) + 1
    return n_series * span_ms / (max(1, len(tier.refs)) * (entry.maxt - first + 1))


def _first_time(entry: TierEntry) -> int:
    """The first time that its windows cover; its ``mint`` is the end of the first one."""
    return entry.mint - entry.width_ms + 1


def _range_of(entry: TierEntry) -> TierRange:
    return TierRange(entry.width_ms, entry.cover_min, entry.cover_max)


def _rebuilding(entry: TierEntry) -> Job:
    """Windows are read through the mask, and written as a part that is newer than all deletes."""
    return Job(
        f"erasing deleted windows of part {entry.name.lstrip('0')}",
        entry.size_bytes,
        lambda context: build_range(context, _range_of(entry)),
        2 * entry.size_bytes,
    )


def _rewriting(entry: PartEntry) -> Job:
    """A merge of one part, which splits it if it is of several days."""
    is_whole = partition_of(entry.mint) == partition_of(entry.maxt)
    level = entry.level if is_whole else entry.level + 1

    def run(context: JobContext) -> None:
        context.merge([entry], level)

    return Job(
        f"erasing deleted samples of part {entry.name.lstrip('0')}",
        entry.size_bytes,
        run,
        merge_space([entry]),
    )


def _dropping(dead: list[Tombstone]) -> Job:
    gone = frozenset(tombstone.seq for tombstone in dead)
    names = [tombstone.entry.name for tombstone in dead if tombstone.entry is not None]

    def run(context: JobContext) -> None:
        context.commit(
            lambda current: current.with_changes(
                tombstones=tuple(t for t in current.tombstones if t.seq not in gone)
            ),
            lambda state: state.with_tombstones((), gone),
            replaced_paths=[filenames.tombstone_path(context.directory, name) for name in names],
        )

    size = sum(tombstone.entry.size_bytes for tombstone in dead if tombstone.entry is not None)
    return Job(f"dropping tombstones {sorted(gone)}", size, run)
