"""The state that readers pin, and what a log entry carries besides its bytes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from tsengine.model.batch import SampleBatch
from tsengine.model.exemplars import ExemplarBatch
from tsengine.model.metadata import MetadataEntry
from tsengine.storage.catalog import CatalogView
from tsengine.storage.head import Head
from tsengine.storage.manifest import TierEntry
from tsengine.storage.part_reader import PartReader
from tsengine.storage.retention_taken import Taken
from tsengine.storage.tier_map import Span, TierMap
from tsengine.storage.tier_reader import TierReader
from tsengine.storage.tier_stretches import Unseen
from tsengine.storage.tombstones import Tombstone


@dataclass(frozen=True, slots=True)
class FrozenHead:
    """A head that waits for its flush.

    Parameters
    ----------
    head
        No longer appended to.
    wal_floor
        First log segment that holds nothing of this head.
    next_ref, next_seq
        Series and log sequences below these were durable when the head froze.
    exemplar_mark
        Exemplars below it have their records in the segments before ``wal_floor``.
    tombstone_seq
        So have tombstones up to this sequence.

    """

    head: Head
    wal_floor: int
    next_ref: int
    next_seq: int
    exemplar_mark: int
    tombstone_seq: int = -1


class _MapMemo:
    """The map of tiers made last; states that have the same sources share it."""

    __slots__ = ("_made",)

    def __init__(self) -> None:
        self._made: tuple[object, object, object, TierMap] | None = None

    def of(self, state: State) -> TierMap:
        made = self._made
        sources = (state.tiers, state.parts, state.tombstones)
        if made is None or any(old is not new for old, new in zip(made[:3], sources, strict=True)):
            before = None if made is None else made[3]
            made = self._made = (*sources, TierMap(*sources, before))
        return made[3]


@dataclass(frozen=True, slots=True)
class State:
    """What is stored and visible; replaced as a whole, never changed.

    ``parts`` ascend in sequence; ``frozen`` oldest first; ``head`` takes appends; ``tombstones``
    ascend in sequence; ``tiers`` by width, then time covered, then sequence; ``erased`` and
    ``taken`` as in the manifest. In ``holes``, ascending and disjoint, samples are missing whose
    part was put aside; of ``awaited``, likewise, parts of tiers that may come back. ``unseen`` is
    all that may.
    """

    catalog: CatalogView
    parts: tuple[PartReader, ...]
    frozen: tuple[FrozenHead, ...]
    head: Head
    tombstones: tuple[Tombstone, ...] = ()
    tiers: tuple[TierReader, ...] = ()
    erased: Mapping[str, int] = field(default_factory=dict)
    holes: tuple[Span, ...] = ()
    awaited: tuple[Span, ...] = ()
    unseen: tuple[Unseen, ...] = ()
    taken: tuple[Taken, ...] = ()
    _map_memo: _MapMemo = field(default_factory=_MapMemo, repr=False, compare=False)

    @property
    def tier_map(self) -> TierMap:
        """Who of the tiers answers for which times; heads aside."""
        return self._map_memo.of(self)

    def with_frozen(self, frozen: FrozenHead) -> State:
        """The active head became `frozen`; a new one takes its place."""
        return replace(self, frozen=(*self.frozen, frozen), head=self.head.successor())

    def with_flushed(
        self, frozen: FrozenHead, part: PartReader | None, saved: Sequence[Tombstone] = ()
    ) -> State:
        """`frozen` became `part` (None if it held no samples), tombstones `saved` have files."""
        parts = self.parts if part is None else (*self.parts, part)
        heads = tuple(waiting for waiting in self.frozen if waiting is not frozen)
        return replace(self, parts=parts, frozen=heads).with_tombstones(saved)

    def with_tombstones(
        self, added: Sequence[Tombstone], removed: frozenset[int] = frozenset()
    ) -> State:
        """Tombstones came, or came to have files; those with sequences in `removed` went."""
        if not added and not removed:
            return self
        kept = {tombstone.seq: tombstone for tombstone in (*self.tombstones, *added)}
        kept = {seq: tombstone for seq, tombstone in kept.items() if seq not in removed}
        return replace(self, tombstones=tuple(kept[seq] for seq in sorted(kept)))

    def with_merged(self, removed: frozenset[str], added: tuple[PartReader, ...]) -> State:
        """Parts named in `removed` were replaced by `added`."""
        kept = [part for part in self.parts if part.entry.name not in removed]
        parts = sorted([*kept, *added], key=lambda part: (part.entry.seq_min, part.entry.mint))
        return replace(self, parts=tuple(parts))

    def with_erased(self, erased: Mapping[str, int], holes: tuple[Span, ...]) -> State:
        """Samples were dropped by their retention; of the holes these are left."""
        if (erased, holes) == (self.erased, self.holes):
            return self
        return replace(self, erased=erased, holes=holes)

    def with_taken(self, taken: tuple[Taken, ...]) -> State:
        """Retention rules took something, or what they took needs no memory any more."""
        return self if taken == self.taken else replace(self, taken=taken)

    def with_tiers(self, removed: frozenset[str], added: Sequence[TierReader]) -> State:
        """Parts of tiers named in `removed` were replaced by `added`."""
        kept = [tier for tier in self.tiers if tier.entry.name not in removed]
        tiers = sorted([*kept, *added], key=lambda tier: tier_order(tier.entry))
        return replace(self, tiers=tuple(tiers))


def tier_order(entry: TierEntry) -> tuple[int, int, int]:
    """By what the parts of tiers are sorted."""
    return entry.width_ms, entry.cover_min, entry.seq_max


@dataclass(frozen=True, slots=True)
class DeleteItem:
    """What the log hands back once a tombstone is durable, which then gets its sequence."""

    refs: npt.NDArray[np.uint32]
    mint: int
    maxt: int


@dataclass(frozen=True, slots=True)
class AppendItem:
    """What the log hands back once an entry is durable.

    ``catalog`` shows all series up to ``next_ref``, which the entry and its forerunners logged.
    """

    batch: SampleBatch
    exemplars: ExemplarBatch | None
    metadata: tuple[MetadataEntry, ...]
    catalog: CatalogView
    next_ref: int
