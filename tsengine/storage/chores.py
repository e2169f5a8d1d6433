"""What background work is made of: chores that plan jobs, and jobs that the worker runs.

A chore looks at a state and says what is due; planning is cheap, and pure but for options. A job
does one thing and commits it by itself, so that a crash or a pause loses no more than that job.
Jobs run one at a time under one lock (the worker's, or a caller's of `compact` and the like); only
the flusher commits beside them. Who writes a chore registers it in `maintenance.chores_of`.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol

from tsengine.errors import Closed
from tsengine.storage import filenames
from tsengine.storage.checkpoint import Checkpointer, targets_of
from tsengine.storage.compaction import Cancel, merge_parts
from tsengine.storage.filesystem import FileSystem, storage_error
from tsengine.storage.holes import joined, not_passed
from tsengine.storage.manifest import Manifest, PartEntry, TierEntry
from tsengine.storage.part_reader import PartReader
from tsengine.storage.replaced_files import ReplacedFiles
from tsengine.storage.retention import none_for_ever
from tsengine.storage.retention_marks import NEVER_MS, NOTHING_MS, Raise
from tsengine.storage.retention_overlaps import Overlaps, rules_in
from tsengine.storage.retention_taken import Taken, still_needed, with_more
from tsengine.storage.state import State, tier_order
from tsengine.storage.tier_reader import TierReader

if TYPE_CHECKING:
    from tsengine.options import Options
    from tsengine.storage.database import StorageDatabase


@dataclass(frozen=True, slots=True)
class Job:
    """One piece of background work.

    Parameters
    ----------
    what
        What is done, to what; the same job planned again has the same text. A job that failed is
        told by it, and tried again later and later while others go on.
    size_bytes
        What will be read or removed: the backlog.
    run
        Does and commits it. May raise TsengineError and OSError, and Closed when the context's
        ``cancel`` is set; nothing is committed then.
    space_bytes
        Bytes that must be free on the disk. A job that does not fit is left for later.

    """

    what: str
    size_bytes: int
    run: Callable[[JobContext], None]
    space_bytes: int = 0


class Chore(Protocol):
    """One kind of background work."""

    name: str
    """In metrics and logs."""

    def plan(self, state: State, now_ms: int) -> list[Job]:
        """Jobs that are due, most useful first; each may be run on its own, then it is asked again.

        Called once a second at most, so it should look at entries and not at samples.
        """
        ...


class JobContext:
    """What a job works with. Its file system may be slowed down (`compaction_rate`)."""

    def __init__(
        self,
        database: StorageDatabase,
        checkpointer: Checkpointer,
        fs: FileSystem,
        cancel: Cancel,
        replaced: ReplacedFiles,
    ) -> None:
        self.database = database
        self.fs = fs
        self.cancel = cancel
        self._checkpointer = checkpointer
        self._replaced = replaced

    @property
    def state(self) -> State:
        """The present state."""
        return self.database.state

    @property
    def options(self) -> Options:
        """Those in force now."""
        return self.database.options

    @property
    def directory(self) -> str:
        """The database's folder."""
        return self.database.directory

    def check_canceled(self) -> None:
        """Raise Closed if the job is to be given up."""
        if self.cancel.is_set():
            raise Closed("background work was given up, the database closes or pauses it")

    @property
    def manifest(self) -> Manifest:
        """What is committed."""
        return self._checkpointer.manifest

    @property
    def n_commits(self) -> int:
        """Manifests that were swapped in for sure since the database was opened."""
        return self._checkpointer.n_commits

    def free_bytes(self, wanted: int) -> int:
        """Bytes that are free on the disk; to have as many as wanted, replaced files go early.

        Raises OSError.
        """
        free = self.fs.free_bytes(self.directory)
        if free < wanted and self._replaced.has_any:
            self._replaced.remove_due(everything=True)
            free = self.fs.free_bytes(self.directory)
        return free

    def new_catalog_name(self) -> str:
        """A name for a catalog segment that was never used."""
        return filenames.catalog_name(self._checkpointer.new_file_number())

    def new_part_name(self) -> str:
        """A name for a part of samples or of a tier that was never used."""
        return filenames.part_name(self._checkpointer.new_file_number())

    def discard(self, paths: Sequence[str]) -> None:
        """Remove files and folders that no manifest names."""
        self._checkpointer.discard(paths)

    def commit(
        self,
        change: Callable[[Manifest], Manifest],
        publish: Callable[[State], State],
        *,
        new_paths: Sequence[str] = (),
        replaced_paths: Sequence[str] = (),
    ) -> None:
        """Swap the manifest, then the state; what is replaced goes when no reader needs it.

        ``new_paths`` are durable and named for the first time; they are removed if the swap fails.
        """
        self._checkpointer.commit(change, new_paths)
        self.database.change_state(publish)
        self._replaced.add(replaced_paths)

    def replace_parts(
        self, removed: frozenset[str], added: Sequence[PartEntry], raised: Raise | None = None
    ) -> None:
        """Let parts that were written take the place of live ones (named), in one commit.

        ``raised``: samples were dropped by their retention.
        """
        paths = [filenames.part_dir(self.directory, entry.name) for entry in added]
        opened: list[PartReader] = []
        try:
            for path, entry in zip(paths, added, strict=True):
                opened.append(PartReader.open(self.fs, path, entry))
        except BaseException:
            for part in opened:
                part.close()
            self.discard(paths)
            raise

        def change(current: Manifest) -> Manifest:
            changed = current.with_changes(
                parts=(*(e for e in current.parts if e.name not in removed), *added)
            )
            if raised is None:
                return changed
            erased = raised.applied(current.erased)
            changed = replace(changed, erased=erased, holes=not_passed(current.holes, erased))
            return _remembering(changed, raised.taken)

        def publish(state: State) -> State:
            state = state.with_merged(removed, tuple(opened))
            if raised is None:
                return state
            current = self.manifest
            state = state.with_erased(current.erased, joined(current.holes.values()))
            return state.with_taken(current.taken)

        self.commit(
            change,
            publish,
            new_paths=paths,
            replaced_paths=[filenames.part_dir(self.directory, name) for name in removed],
        )

    def replace_tiers(
        self, removed: frozenset[str], added: Sequence[TierEntry], taken: Taken | None = None
    ) -> None:
        """Let parts of tiers that were written take the place of live ones, in one commit.

        ``taken``: rules hid windows that are left out.
        """
        paths = [filenames.tier_dir(self.directory, entry.name) for entry in added]
        opened: list[TierReader] = []
        try:
            for path, entry in zip(paths, added, strict=True):
                opened.append(TierReader.open(self.fs, path, entry))
        except BaseException:
            for tier in opened:
                tier.close()
            self.discard(paths)
            raise

        def change(current: Manifest) -> Manifest:
            kept = [entry for entry in current.tiers if entry.name not in removed]
            tiers = tuple(sorted((*kept, *added), key=tier_order))
            return _remembering(current.with_changes(tiers=tiers), taken)

        self.commit(
            change,
            lambda state: state.with_tiers(removed, opened).with_taken(self.manifest.taken),
            new_paths=paths,
            replaced_paths=[filenames.tier_dir(self.directory, name) for name in removed],
        )

    def merge(self, inputs: Sequence[PartEntry], level: int) -> None:
        """Rewrite live parts (ascending sequence) as one part per day, without what may be erased.

        One input is a rewrite. What lies on others that stay as they are stays too. Raises as
        `merge_parts` does, with StorageError for OSError.
        """
        names = frozenset(entry.name for entry in inputs)
        state = self.state
        retention = self.database.retention
        floors = retention.erase_floors(state)
        overlaps = Overlaps(
            state.parts, self.database.recovery.lost, lambda part: rules_in(part, floors.groups)
        )
        lowered = retention.lowered(floors, overlaps.first_kept(inputs))
        readers = [part for part in state.parts if part.entry.name in names]
        try:
            added = merge_parts(
                self.fs,
                readers,
                os.path.join(self.directory, filenames.PARTS_DIR),
                self.new_part_name,
                targets=lambda refs: targets_of(state.catalog, refs),
                cut_before_ms=none_for_ever(lowered.lowest_ms),
                level=level,
                cancel=self.cancel,
                mask=lowered.mask(state.tombstones),
            )
            spans = [(entry.mint, entry.maxt) for entry in inputs]
            self.replace_parts(names, added, retention.raised(lowered, spans))
        except OSError as error:
            raise storage_error(error, "merging parts") from error


def _remembering(current: Manifest, taken: Taken | None) -> Manifest:
    """A manifest that remembers what rules take by it, and no more of that than is needed."""
    first_ms = min((tier.cover_min for tier in current.tiers), default=NEVER_MS)
    if current.aside:
        first_ms = NOTHING_MS  # Windows of any time may come back.
    return replace(
        current, taken=still_needed(with_more(current.taken, taken), current.erased, first_ms)
    )


class CancelOf:
    """Set when one of several events is."""

    def __init__(self, *events: threading.Event) -> None:
        self._events = events

    def is_set(self) -> bool:
        """Whether to give up."""
        return any(event.is_set() for event in self._events)
