"""Bringing parts back from the quarantine: verified, and in by one commit of an open database.

A part comes back with the sequences it had. So what hides or overwrites its samples still does:
tombstones stay while it is aside (`deleting`), and series too. As a rule its files get links in
their old place. It is written anew where it can't be as it was:

- Parts that overlap it were perhaps merged without it, over it. Such a merge is made again with it,
  the samples of the merge first where times are equal.
- Tiers were perhaps built without it. So that windows count it, it ends with a sequence that is
  newer than they are, as what came late does (`tier_late`).
- What retention has erased meanwhile up to some time (`retention_marks`) it does not bring back.

Then the part's folder in the quarantine goes. If anything breaks off, either the folder is there
and the manifest lacks the part, or the manifest has it; what is left of the folder then goes at the
next start (`aside.finish_returns`).
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from tsengine.errors import CorruptionError, StoreUnavailable
from tsengine.model.times import text_of_ms
from tsengine.storage import filenames
from tsengine.storage.aside import (
    OURS,
    Aside,
    announce_return,
    entry_of_files,
    read_note,
    remove_returned,
)
from tsengine.storage.bring_back_plan import in_order, jumped_over, level_of
from tsengine.storage.checkpoint import targets_of
from tsengine.storage.chores import Job, JobContext
from tsengine.storage.cold import read_stub
from tsengine.storage.compaction import merge_parts
from tsengine.storage.compaction_chores import merge_space
from tsengine.storage.filesystem import FileSystem, remove_tree, storage_error
from tsengine.storage.holes import joined
from tsengine.storage.manifest import Manifest, PartEntry, TierEntry
from tsengine.storage.mask import Mask
from tsengine.storage.part_checking import check_part, check_part_series, check_tier
from tsengine.storage.part_reader import PartReader
from tsengine.storage.retention import SampleFloors, none_for_ever
from tsengine.storage.snapshot import files_below, link_or_copy
from tsengine.storage.state import State, tier_order
from tsengine.storage.tier_reader import TierReader

if TYPE_CHECKING:
    from tsengine.storage.database import StorageDatabase


@dataclass(frozen=True, slots=True)
class Return:
    """What became of a part in the quarantine.

    ``refused`` says why it stays there, None if it is back: with ``n_samples`` (windows of a tier),
    and merged anew with so many parts (``merged_with``).
    """

    name: str
    n_samples: int = 0
    merged_with: int = 0
    refused: str | None = None


class Returning:
    """A chore of one job: brings one part back. Nobody may append or delete meanwhile."""

    name = "bring_back"

    def __init__(self, database: StorageDatabase, name: str, *, force: bool) -> None:
        self._database = database
        self._folder_name = name
        self._force = force
        self._is_planned = False
        self.found = Return(name)

    def plan(self, state: State, now_ms: int) -> list[Job]:
        """See `Chore.plan`."""
        if self._is_planned:
            return []
        self._is_planned = True
        return [Job(f"bringing {self._folder_name} back", 0, self._run)]

    def _run(self, context: JobContext) -> None:
        folder = os.path.join(filenames.quarantine_dir(context.directory), self._folder_name)
        try:
            aside = read_note(context.fs, context.directory, self._folder_name)
            entry = aside.entry or entry_of_files(context.fs, folder, aside)
            self._check(context, aside, entry, folder)
            if isinstance(entry, TierEntry):
                self.found = _enter_tier(context, aside, entry, folder)
            else:
                self.found = _enter_samples(context, aside, entry, folder)
            with contextlib.suppress(OSError):
                # What is left goes at the next start: it says that its part is back.
                remove_returned(context.fs, folder)
        except (CorruptionError, FileNotFoundError) as error:
            text = f"it is damaged: {error}; put good files in its place, from a backup say"
            self.found = Return(self._folder_name, refused=text)
        except StoreUnavailable as error:
            self.found = Return(self._folder_name, refused=f"it can't be read: {error}")
        except _Refused as error:
            self.found = Return(self._folder_name, refused=str(error))
        except OSError as error:
            raise storage_error(error, f"bringing {self._folder_name} back") from error

    def _check(
        self, context: JobContext, aside: Aside, entry: PartEntry | TierEntry, folder: str
    ) -> None:
        """Raise _Refused, CorruptionError or OSError if the part can't come back."""
        current = context.manifest
        if aside.database_id != current.database_id:
            raise _Refused("it is of another database")
        names = {part.name for part in current.parts} | {tier.name for tier in current.tiers}
        if entry.name in names:
            raise _Refused("the database has it")
        number = filenames.parse_part_name(entry.name)
        if number is None or number >= current.next_file_number:
            raise _Refused("it is of a later state of the database")
        if isinstance(entry, PartEntry) and entry.seq_max >= current.next_seq:
            raise _Refused("it is of a later state of the database")
        if aside.name not in current.aside and not self._force:
            raise _Refused(
                f"what was deleted since {text_of_ms(aside.put_aside_ms)} is not known, since an "
                "older version put it aside, or its folder was elsewhere in between; with --force "
                "it comes back, and samples that were deleted may be seen again"
            )
        if isinstance(entry, TierEntry):
            check_tier(context.fs, folder, entry)
        else:
            check_part(context.fs, folder, entry)
        try:
            check_part_series(context.fs, folder, entry, self._database.catalog)
        except CorruptionError as error:
            raise _Refused(
                f"{error.reason} any more: it can't be told whose samples they are"
            ) from None


class _Refused(Exception):
    """Why a part stays in the quarantine."""


def _enter_samples(context: JobContext, aside: Aside, entry: PartEntry, folder: str) -> Return:
    """Commit a part of samples as it is, or written anew: see the module."""
    state = context.state
    is_unseen = _is_unseen(context, aside, entry)
    merged = _merged_with(context, aside, entry, is_unseen=is_unseen)
    # Those that are committed: what an old version erased is guessed from what is left.
    erased = context.database.retention.raised_since(
        state.catalog, context.manifest.erased, aside.erased
    )
    is_cut = entry.mint < erased.highest_ms
    if not (merged or is_cut or is_unseen):
        _enter_as_it_was(context, aside, entry, folder)
        return Return(aside.name, entry.n_samples)
    _check_space(context, [entry] * (1 + (is_cut and bool(merged))), merged)
    _forget_blocks(context, folder)
    part = PartReader.open(context.fs, folder, entry)
    cut: list[PartReader] = []
    try:
        own = [part]
        if is_cut and merged:
            # Apart from the others, which may have what came after it was erased.
            own = cut = _written(context, [part], entry.level, erased=erased)
        names = frozenset(one.name for one in merged) if own else frozenset[str]()
        added = _written(
            context,
            in_order(entry, own, [one for one in state.parts if one.entry.name in names]),
            level_of(entry, merged),
            erased=erased if is_cut and not merged else None,
            seq_max=context.database.new_sequence() if is_unseen else None,
        )
    finally:
        part.close()
        for reader in cut:
            reader.close()
        context.discard([filenames.part_dir(context.directory, one.entry.name) for one in cut])
    n_samples = sum(one.entry.n_samples for one in (own if merged else added))
    _commit(context, aside, entry, names, added, n_samples)
    return Return(aside.name, n_samples, len(names))


def _merged_with(
    context: JobContext, aside: Aside, entry: PartEntry, *, is_unseen: bool
) -> list[PartEntry]:
    """The parts to be merged with one that comes back.

    One that gets a new last sequence takes along what is newer and overlaps it: nothing may lie
    among its sequences. Raises _Refused if such a part is aside.
    """
    parts = [part.entry for part in context.state.parts]
    if not is_unseen:
        return jumped_over(entry, parts)
    asides = context.database.recovery.aside
    waiting = [
        (other.name, other.entry)
        for other in asides
        if isinstance(other.entry, PartEntry)
        and other.name in context.manifest.aside
        and other.name != aside.name
    ]
    last = max([entry.seq_max, *(part.seq_max for part in [*parts, *(e for _, e in waiting)])])
    whole = replace(entry, seq_max=last)
    merged = jumped_over(whole, parts)
    found = {one.name for one in jumped_over(whole, [*merged, *(e for _, e in waiting)])}
    newer = [
        name for name, other in waiting if other.name in found and other.seq_max > entry.seq_max
    ]
    if newer:
        raise _Refused(f"{newer[-1]} is newer and must come back before it")
    return merged


def _is_unseen(context: JobContext, aside: Aside, entry: PartEntry) -> bool:
    """Whether a tier may have been built without a part, and look as if it had seen it."""
    tiers = [tier.entry for tier in context.state.tiers]
    others = [other.entry for other in context.database.recovery.aside]
    tiers += [other for other in others if isinstance(other, TierEntry)]
    return any(
        tier.seq_max >= entry.seq_max
        and tier.cover_min <= entry.maxt
        and tier.cover_max >= entry.mint
        and not aside.went_after(tier.name)
        for tier in tiers
    )


def _check_space(
    context: JobContext, own: Sequence[PartEntry], merged: Sequence[PartEntry]
) -> None:
    """Raise _Refused if a part can't be written anew for want of space."""
    wanted = merge_space([*own, *merged])
    free = context.free_bytes(wanted)
    if free < wanted:
        others = f" with {len(merged)} others" if merged else ""
        raise _Refused(f"to write it anew{others} needs {wanted} bytes free, the disk has {free}")


def _written(
    context: JobContext,
    readers: Sequence[PartReader],
    level: int,
    *,
    erased: SampleFloors | None = None,
    seq_max: int | None = None,
) -> list[PartReader]:
    """New parts, open, with what parts have but for what deletes hide and what was erased."""
    state = context.state
    folder = os.path.join(context.directory, filenames.PARTS_DIR)
    entries = merge_parts(
        context.fs,
        readers,
        folder,
        context.new_part_name,
        targets=lambda refs: targets_of(state.catalog, refs),
        cut_before_ms=None if erased is None else none_for_ever(erased.lowest_ms),
        level=level,
        cancel=context.cancel,
        mask=Mask(state.tombstones) if erased is None else erased.mask(state.tombstones),
        seq_max=seq_max,
    )
    paths = [os.path.join(folder, one.name) for one in entries]
    opened: list[PartReader] = []
    try:
        for path, one in zip(paths, entries, strict=True):
            opened.append(PartReader.open(context.fs, path, one))
    except BaseException:
        for reader in opened:
            reader.close()
        context.discard(paths)
        raise
    return opened


def _commit(
    context: JobContext,
    aside: Aside,
    entry: PartEntry,
    names: frozenset[str],
    added: Sequence[PartReader],
    n_samples: int,
) -> None:
    """Let parts take the place of one that is aside and of live ones (named)."""
    entries = [one.entry for one in added]
    paths = [filenames.part_dir(context.directory, one.name) for one in entries]
    _announce(context, aside, entries, paths, n_samples)
    context.commit(
        lambda current: _changed(
            aside, entry, current,
            parts=(*(one for one in current.parts if one.name not in names), *entries),
            next_seq=max([current.next_seq, *(one.seq_max + 1 for one in entries)]),
        ),
        lambda state: _without_hole(context, state.with_merged(names, tuple(added))),
        new_paths=paths,
        replaced_paths=[filenames.part_dir(context.directory, name) for name in names],
    )  # fmt: skip


def _announce(
    context: JobContext,
    aside: Aside,
    became: Sequence[PartEntry | TierEntry],
    paths: Sequence[str],
    n_samples: int,
) -> None:
    """Say what comes with the commit that follows, so that a start may know it was there."""
    folder = os.path.join(filenames.quarantine_dir(context.directory), aside.name)
    is_known = aside.name in context.manifest.aside
    try:
        announce_return(context.fs, folder, became, n_samples=n_samples, is_known=is_known)
    except OSError:
        context.discard(paths)
        raise


def _enter_as_it_was(context: JobContext, aside: Aside, entry: PartEntry, folder: str) -> None:
    path = filenames.part_dir(context.directory, entry.name)
    _forget_blocks(context, folder)
    _give_second_names(context.fs, folder, path)
    part = PartReader.open(context.fs, path, entry)
    _commit(context, aside, entry, frozenset(), [part], entry.n_samples)


def _enter_tier(context: JobContext, aside: Aside, entry: TierEntry, folder: str) -> Return:
    path = filenames.tier_dir(context.directory, entry.name)
    _give_second_names(context.fs, folder, path)
    tier = TierReader.open(context.fs, path, entry)
    _announce(context, aside, [entry], [path], entry.n_samples)
    context.commit(
        lambda current: _changed(
            aside, entry, current, tiers=tuple(sorted((*current.tiers, entry), key=tier_order))
        ),
        lambda state: state.with_tiers(frozenset(), [tier]),
        new_paths=[path],
    )
    return Return(aside.name, entry.n_samples)


def _changed(
    aside: Aside, entry: PartEntry | TierEntry, current: Manifest, **changes: object
) -> Manifest:
    """The manifest with a part that came back, and without the hole that it left."""
    # A folder that was copied has another name than the one it was put aside under.
    names = {aside.name, f"{aside.kind}-{entry.name}"}
    return current.with_changes(
        aside=tuple(name for name in current.aside if name not in names),
        holes={name: span for name, span in current.holes.items() if name not in names},
        **changes,
    )


def _without_hole(context: JobContext, state: State) -> State:
    return replace(state, holes=joined(context.manifest.holes.values()))


def _forget_blocks(context: JobContext, folder: str) -> None:
    """Drop what the cache has of a part's files in an object store: it may be what was damaged."""
    cold = context.database.cold
    parent, name = os.path.split(folder)
    for path in _stubbed(files_below(context.fs, parent, name)):
        stub = read_stub(context.fs, os.path.join(parent, path))
        if stub is not None and cold is not None:
            cold.cache.forget(stub.sha256)


def _stubbed(paths: Iterable[str]) -> list[str]:
    """The files that have stubs."""
    return [path.removesuffix(filenames.STUB_SUFFIX) for path in paths if filenames.is_stub(path)]


def _give_second_names(fs: FileSystem, source: str, target: str) -> None:
    """Links to a part's files in a folder of its own, durable."""
    if fs.exists(target):
        remove_tree(fs, target)  # An attempt that broke off.
    parent, name = os.path.split(source)
    folders = {target}
    fs.mkdir(target)
    for path in sorted(files_below(fs, parent, name)):
        own = os.path.relpath(path, name)
        if own in OURS:
            continue
        folder = os.path.dirname(os.path.join(target, own))
        if folder not in folders:
            fs.mkdir(folder)
            folders.add(folder)
        link_or_copy(fs, os.path.join(parent, path), os.path.join(target, own))
    for folder in sorted(folders, key=len, reverse=True):
        fs.sync_dir(folder)
    fs.sync_dir(os.path.dirname(target))
