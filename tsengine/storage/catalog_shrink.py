"""Series without data leave the catalog and memory, as a chore.

What is left is written as one catalog segment that replaces all segments, in one swap of the
manifest; then a catalog made of it takes the place of the one in memory. Refs keep their numbers
and are never used again: a series that comes back is a new one, logged with its labels.

Appends go on meanwhile. Series that they use are seen (`Catalog.watch_use`), those that they make
are caught up with; only for the swap itself the lane is held, as long as it takes to commit.
See docs/decisions/0006-dead-series-leave.md.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from tsengine.model.machine import give_back_memory
from tsengine.storage import filenames
from tsengine.storage.catalog import Catalog
from tsengine.storage.catalog_file import write_catalog_segment
from tsengine.storage.catalog_payload import encode_sparse
from tsengine.storage.chores import Job, JobContext
from tsengine.storage.filesystem import storage_error
from tsengine.storage.manifest import Manifest
from tsengine.storage.memo import MemoEntries
from tsengine.storage.refused_refs import RefusedRefs
from tsengine.storage.state import State

if TYPE_CHECKING:
    from tsengine.storage.database import StorageDatabase

_LOG = logging.getLogger(__name__)
DEAD_SHARE_MIN = 0.1
N_DEAD_MIN = 1000
_LOOK_EVERY_S = 600.0
_TRIES = 4
_BYTES_PER_SERIES = 100
"""About what a series takes in memory; only for the backlog."""

BoolArray = npt.NDArray[np.bool_]
_WorthIt = Callable[[int, int], bool]


class CatalogShrink:
    """Due when enough series are dead: so many of them, and such a share of the catalog."""

    name = "catalog_shrink"

    def __init__(
        self,
        database: StorageDatabase,
        *,
        n_dead_min: int = N_DEAD_MIN,
        share_min: float = DEAD_SHARE_MIN,
        look_every_s: float = _LOOK_EVERY_S,
    ) -> None:
        self._database = database
        self._n_dead_min = max(1, n_dead_min)
        self._share_min = share_min
        self._look_every_s = look_every_s
        self._looked_s = -float("inf")
        self._looked_at: frozenset[str] | None = None
        self._n_dead = 0

    def plan(self, state: State, now_ms: int) -> list[Job]:
        """See `Chore.plan`. Looks through the sources now and then, and only if some are gone."""
        catalog = state.catalog
        if catalog.n_series < self._n_dead_min:
            return []
        names = frozenset([p.entry.name for p in state.parts] + [t.entry.name for t in state.tiers])
        is_time = time.monotonic() - self._looked_s >= self._look_every_s
        if is_time and (self._looked_at is None or self._looked_at - names):
            self._looked_s, self._looked_at = time.monotonic(), names
            live = live_refs(self._database, state, catalog.next_ref)
            self._n_dead = catalog.n_series - int(np.count_nonzero(live[catalog.all_refs()]))
        if not self._is_worth_it(self._n_dead, catalog.n_series):
            return []
        size = self._n_dead * _BYTES_PER_SERIES
        return [Job("removing series without data from the catalog", size, self._run)]

    def _is_worth_it(self, n_dead: int, n_series: int) -> bool:
        return n_dead >= self._n_dead_min and n_dead >= self._share_min * n_series

    def _run(self, context: JobContext) -> None:
        self._n_dead = 0
        if shrink_catalog(context, self._is_worth_it):
            give_back_memory()
        else:
            self._looked_at = None


def live_refs(database: StorageDatabase, state: State, n: int) -> BoolArray:
    """Which of the refs below ``n`` have something stored, or are held: bool[n].

    Raises OSError if a file of exemplars can't be read.
    """
    live = np.zeros(n, np.bool_)
    for refs in _refs_of_sources(database, state):
        live[refs[refs < n]] = True
    return live


def _refs_of_sources(database: StorageDatabase, state: State) -> Iterable[npt.NDArray[np.uint32]]:
    for part in state.parts:
        yield part.refs
    for tier in state.tiers:
        yield tier.refs
    for head in (*(frozen.head for frozen in state.frozen), state.head):
        yield head.view().refs()
    yield from database.exemplars.refs(database.exemplar_floor())
    yield database.held_refs.all()
    if database.recovery.aside:
        yield state.catalog.all_refs()  # Of a part that may come back any series may be.


def shrink_catalog(context: JobContext, is_worth_it: _WorthIt) -> int:
    """Drop the series without data if it is worth it; returns how many went.

    ``is_worth_it(n_dead, n_series)`` decides. If dead series come back each time while the new
    catalog is made, they are refused during the last try. Raises StorageError, OSError and Closed;
    after an error memory and disk are as before, or dead series are refused until a commit tells
    what holds.
    """
    database = context.database
    with database.lane:
        database.catalog.watch_use()
        entries = database.catalog.memo_entries()
        base = context.manifest
    guard: RefusedRefs | None = None
    try:
        database.pass_log()
        for n_left in reversed(range(_TRIES)):
            view = database.catalog.view()
            candidates = view.all_refs()
            candidates = candidates[candidates < base.next_ref]
            live = live_refs(database, context.state, base.next_ref)
            with database.lane:
                live |= database.catalog.used[: base.next_ref]
                if n_left == 0:
                    guard = RefusedRefs(~live, lambda: False)
                    database.catalog.refuse(guard)
            kept = candidates[live[candidates]]
            n_dead = len(candidates) - len(kept)
            if not is_worth_it(n_dead, view.n_series):
                return 0
            if _replace(context, base, kept, live, entries):
                database.pass_log()
                _LOG.info("%d series without data left the catalog of %d", n_dead, view.n_series)
                return n_dead
        return 0
    finally:
        with database.lane:
            database.catalog.end_watch(guard)


def _replace(
    context: JobContext,
    base: Manifest,
    kept: npt.NDArray[np.uint32],
    live: BoolArray,
    entries: MemoEntries,
) -> bool:
    """Commit and take a catalog whose refs below ``len(live)`` are ``kept``.

    False if dead series came back meanwhile.
    """
    database = context.database
    view = database.catalog.view()
    payload = encode_sparse(view.state, view.refs, kept, base.next_ref)
    context.check_canceled()
    fresh = _catalog_of(database.catalog, payload, entries)
    name = context.new_catalog_name()
    path = filenames.catalog_path(context.directory, name)
    try:
        write_catalog_segment(context.fs, path, payload)
        context.fs.sync_dir(os.path.dirname(path))
        # Most of what came meanwhile, so that little is left to do in the lane.
        fresh.catch_up(database.catalog.view())
        fresh.publish()
        context.check_canceled()
    except BaseException as error:
        context.discard([path])
        if isinstance(error, OSError):
            raise storage_error(error, "writing the catalog") from error
        raise
    with database.lane:
        has_returned = bool((database.catalog.used[: len(live)] & ~live).any())
        if not has_returned:
            database.catalog.publish()
            fresh.catch_up(database.catalog.view())
            fresh.publish()
            _commit(context, base, name, live)
            database.take_catalog(fresh)
    if has_returned:
        context.discard([path])
    return not has_returned


def _catalog_of(catalog: Catalog, payload: bytes, entries: MemoEntries) -> Catalog:
    fresh = catalog.empty_copy()
    fresh.decode_series(payload)
    fresh.catch_up(catalog.view())
    fresh.recall(entries)
    return fresh


def _commit(context: JobContext, base: Manifest, name: str, live: BoolArray) -> None:
    """Swap the segments of ``base`` for one; those that flushes added since then stay."""
    replaced = frozenset(base.catalog_segments)

    def change(current: Manifest) -> Manifest:
        added = tuple(s for s in current.catalog_segments if s not in replaced)
        return current.with_changes(catalog_segments=(name, *added))

    paths = [filenames.catalog_path(context.directory, segment) for segment in replaced]
    n_commits = context.n_commits
    try:
        context.commit(
            change,
            lambda state: state,
            new_paths=[filenames.catalog_path(context.directory, name)],
            replaced_paths=sorted(paths),
        )
    except BaseException:
        # The manifest may be in place though the commit failed. Any later one puts an end to that.
        context.database.catalog.refuse(RefusedRefs(~live, lambda: context.n_commits > n_commits))
        raise
