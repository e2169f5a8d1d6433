"""The state that readers pin, and what a log entry carries besides its bytes."""

from __future__ import annotations

from dataclasses import dataclass, replace

from tsengine.model.batch import SampleBatch
from tsengine.model.exemplars import ExemplarBatch
from tsengine.model.metadata import MetadataEntry
from tsengine.storage.catalog import CatalogView
from tsengine.storage.head import Head
from tsengine.storage.part_reader import PartReader


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

    """

    head: Head
    wal_floor: int
    next_ref: int
    next_seq: int
    exemplar_mark: int


@dataclass(frozen=True, slots=True)
class State:
    """What is stored and visible; replaced as a whole, never changed.

    ``parts`` ascend in sequence; ``frozen`` oldest first; ``head`` takes appends.
    """

    catalog: CatalogView
    parts: tuple[PartReader, ...]
    frozen: tuple[FrozenHead, ...]
    head: Head

    def with_frozen(self, frozen: FrozenHead) -> State:
        """The active head became `frozen`; a new one takes its place."""
        return replace(self, frozen=(*self.frozen, frozen), head=Head())

    def with_flushed(self, frozen: FrozenHead, part: PartReader | None) -> State:
        """`frozen` became `part` (None if it held no samples)."""
        parts = self.parts if part is None else (*self.parts, part)
        return replace(self, parts=parts, frozen=tuple(f for f in self.frozen if f is not frozen))

    def with_merged(self, removed: frozenset[str], added: tuple[PartReader, ...]) -> State:
        """Parts named in `removed` were replaced by `added`."""
        kept = [part for part in self.parts if part.entry.name not in removed]
        parts = sorted([*kept, *added], key=lambda part: (part.entry.seq_min, part.entry.mint))
        return replace(self, parts=tuple(parts))


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
