"""What can be read of a database: views, exemplars, floors of retention, sizes and counts.

Any thread; nothing here changes anything. A reader pins one immutable `State`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from tsengine.model.exemplars import ExemplarBatch
from tsengine.storage import filenames, manifest
from tsengine.storage.database_core import DatabaseCore
from tsengine.storage.filesystem import storage_error
from tsengine.storage.retention import SampleFloors, none_for_ever
from tsengine.storage.retention_report import RetentionPlan, plan_retention
from tsengine.storage.state import State
from tsengine.storage.view import DatabaseView
from tsengine.storage.wal_reader import list_segments


class DatabaseReads(DatabaseCore):
    """Reads of a database."""

    def view(self) -> DatabaseView:
        """Pin the present state for reading."""
        self._check_open()
        return self.view_of(self._state)

    def view_of(self, state: State, floors: SampleFloors | None = None) -> DatabaseView:
        """What a state holds; of its last head what that holds now.

        ``floors`` take the place of those of samples.
        """
        if floors is None:
            floors = self.retention.floors_of(state)
        heads = [frozen.head.view() for frozen in state.frozen]
        heads.append(state.head.view())
        for part in state.parts:
            part.keep_axes(self.axis_cache)
        return DatabaseView(
            state.catalog,
            state.parts,
            heads,
            none_for_ever(floors.lowest_ms),
            floors.mask(state.tombstones),
            state.tiers,
            state.tier_map,
            self.retention.kept_from(),
            none_for_ever(floors.complete_ms),
            [(refs, none_for_ever(from_ms)) for refs, from_ms in floors.longer],
            state.holes,
            state.unseen,
            tuple(floors.losses),
        )

    def find_exemplars(self, refs: npt.NDArray[np.uint32], mint: int, maxt: int) -> ExemplarBatch:
        """Exemplars of the series ``refs`` (ascending) in a closed range, ordered by both.

        Those that rules no longer keep are left out. Raises StorageError.
        """
        self._check_open()
        found = self.exemplars.view().find(refs, mint, maxt)
        floors = self.retention.sample_floors(self._state.catalog)
        if floors.groups is None:
            return found
        kept = found.t_ms >= floors.of_tiers().of_refs(found.refs)
        return found.take(np.flatnonzero(kept))

    def retention_plan(self, changes: Mapping[str, Any]) -> RetentionPlan:
        """What retention would remove if some options were others; removes nothing.

        Raises OptionsError, CorruptionError, and StorageError if a file can't be read.
        """
        self._check_open()
        options = replace(self.options, **changes)
        options.validate()
        state = self._state
        try:
            return plan_retention(
                state,
                self.retention.with_options(options),
                size_bytes=self.size_bytes(state),
                size_limit=options.retention_size,
                lost=self.recovery.lost,
            )
        except OSError as error:
            raise storage_error(error, "planning retention") from error

    def stats(self) -> dict[str, int | float]:
        """Counts and sizes as plain numbers; keys are stable."""
        state = self._state
        frozen = sum(waiting.head.n_samples for waiting in state.frozen)
        parts = [part.entry for part in state.parts]
        numbers: dict[str, int | float] = {
            "head_samples": state.head.n_samples + frozen,
            "head_bytes": state.head.n_bytes + sum(f.head.n_bytes for f in state.frozen),
            "parts": len(parts),
            "part_samples": sum(entry.n_samples for entry in parts),
            "part_bytes": sum(entry.size_bytes for entry in parts),
            "cold_parts": sum(part.remote_bytes > 0 for part in state.parts),
            "cold_bytes": sum(part.remote_bytes for part in state.parts),
            "cold_cache_bytes": 0 if self.cold is None else self.cold.cache.n_bytes,
            "tier_parts": len(state.tiers),
            "tier_bytes": sum(tier.entry.size_bytes for tier in state.tiers),
            "series": state.catalog.n_series,
            "exemplars": self.exemplars.n_exemplars,
            "metadata_dropped": self.metadata.n_dropped,
            "tombstones": len(state.tombstones),
            "log_bytes": self.log_size_bytes,
            "damaged_files": self.recovery.n_damaged_files,
        }
        numbers |= self.retention.counters.numbers()
        if self._maintenance is not None:
            numbers |= self._maintenance.counters()
            numbers |= self.disk.counters()
        numbers |= {f"memory_bytes:{kind}": n for kind, n in self.memory.by_kind().items()}
        numbers["memory_limit_bytes"] = self.memory.budget
        numbers["shed_series"] = self._n_shed
        return numbers

    def size_bytes(self, state: State) -> int:
        """Bytes of all local files that a state, its catalog and its log have. Raises OSError."""
        entries = [part.entry.size_bytes - part.remote_bytes for part in state.parts]
        entries += [tier.entry.size_bytes for tier in state.tiers]
        entries += [t.entry.size_bytes for t in state.tombstones if t.entry is not None]
        entries += [file.size_bytes for file in self.exemplars.view().files]
        current = manifest.load(self._fs, self.directory)
        paths = [filenames.catalog_path(self.directory, name) for name in current.catalog_segments]
        paths += [
            filenames.wal_path(self.directory, number)
            for number in list_segments(self._fs, self.directory)
        ]
        size = sum(entries)
        for path in paths:
            with contextlib.suppress(FileNotFoundError):  # Trimmed, or replaced, meanwhile.
                size += self._fs.size(path)
        return size

    @property
    def log_size_bytes(self) -> int:
        """Bytes written to the log since its last cut."""
        return 0 if self._log is None else self._log.stats.size_since_cut_bytes

    @property
    def log_queue_bytes(self) -> int:
        """Bytes of appends that wait for the log."""
        return 0 if self._log is None else self._log.stats.queue_size_bytes

    def retention_floor(self) -> int | None:
        """Samples of series without a rule before it are past the retention; None keeps all."""
        return self.retention.common_floor()

    def exemplar_floor(self) -> int | None:
        """Exemplars before it are past their retention or that of samples; None keeps all."""
        floor = self.retention_floor()
        if self.options.exemplar_retention is None:
            return floor
        own = self._clock() - int(self.options.exemplar_retention * 1000)
        return own if floor is None else max(own, floor)

    def tier_floors(self) -> dict[int, int]:
        """By width in ms: windows that begin before it are past the retention of their tier."""
        return self.retention.tier_floors()

    def stored_from(self, state: State) -> int | None:
        """From when on samples of series without a rule are complete on disk; None: all are."""
        return none_for_ever(self.retention.build_floors(state).complete_ms)
