"""Bringing parts back from the quarantine: verified, and in by one commit of an open database.

A part comes back with the sequences it had. So what hides or overwrites its samples still does:
tombstones stay while it is aside (`deleting`), and series too. Parts that overlap it were perhaps
merged without it, over it: such a merge is made again with it, the samples of the merge first where
times are equal. Then the part's folder in the quarantine goes. If anything breaks off, either the
folder is there and the manifest lacks the part, or the manifest has it.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from tsengine.errors import CorruptionError, StoreUnavailable
from tsengine.storage import filenames
from tsengine.storage.aside import NOTE, Aside, entry_of_files, read_note
from tsengine.storage.checkpoint import targets_of
from tsengine.storage.chores import Job, JobContext
from tsengine.storage.compaction import merge_parts
from tsengine.storage.filesystem import FileSystem, remove_tree, storage_error
from tsengine.storage.holes import joined
from tsengine.storage.manifest import Manifest, PartEntry, TierEntry
from tsengine.storage.mask import Mask
from tsengine.storage.part_checking import check_part, check_part_series, check_tier
from tsengine.storage.part_reader import PartReader
from tsengine.storage.snapshot import files_below, link_or_copy
from tsengine.storage.state import State, tier_order
from tsengine.storage.tier_reader import TierReader

if TYPE_CHECKING:
    from tsengine.storage.database import StorageDatabase


@dataclass(frozen=True, slots=True)
class Return:
    """What became of a part in the quarantine.

    ``refused`` says why it stays there, None if it is back; ``merged_with`` counts the parts that
    were merged anew with it.
    """

    name: str
    n_samples: int = 0
    merged_with: int = 0
    refused: str | None = None


class Returning:
    """A chore of one job: brings one part back."""

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
            self.found = _enter(context, aside, entry, folder)
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
            since = datetime.fromtimestamp(aside.put_aside_ms / 1000, UTC)
            raise _Refused(
                f"what was deleted since {since:%Y-%m-%dT%H:%M:%SZ} is not known, since an "
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


def _enter(context: JobContext, aside: Aside, entry: PartEntry | TierEntry, folder: str) -> Return:
    if isinstance(entry, TierEntry):
        _enter_tier(context, aside, entry, folder)
        merged: Sequence[PartEntry] = ()
    else:
        merged = jumped_over(entry, [part.entry for part in context.state.parts])
        if merged:
            _merge_anew(context, aside, entry, folder, merged)
        else:
            _enter_part(context, aside, entry, folder)
    with contextlib.suppress(OSError):  # The note's part is in the manifest; it would be refused.
        remove_tree(context.fs, folder)
    return Return(aside.name, entry.n_samples, len(merged))


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


def _enter_part(context: JobContext, aside: Aside, entry: PartEntry, folder: str) -> None:
    path = filenames.part_dir(context.directory, entry.name)
    _give_second_names(context.fs, folder, path)
    part = PartReader.open(context.fs, path, entry)
    context.commit(
        lambda current: _changed(aside, current, parts=(*current.parts, entry)),
        lambda state: _without_hole(context, state.with_merged(frozenset(), (part,))),
        new_paths=[path],
    )


def _merge_anew(
    context: JobContext, aside: Aside, entry: PartEntry, folder: str, merged: Sequence[PartEntry]
) -> None:
    """Merge parts with one that they should not have been merged without; it gives way to them."""
    names = frozenset(part.name for part in merged)
    state = context.state
    part = PartReader.open(context.fs, folder, entry)
    try:
        readers = [part, *(reader for reader in state.parts if reader.entry.name in names)]
        added = merge_parts(
            context.fs,
            readers,
            os.path.join(context.directory, filenames.PARTS_DIR),
            context.new_part_name,
            targets=lambda refs: targets_of(state.catalog, refs),
            cut_before_ms=None,
            level=max(member.level for member in (entry, *merged)) + 1,
            cancel=context.cancel,
            mask=Mask(state.tombstones),
        )
    finally:
        part.close()
    paths = [filenames.part_dir(context.directory, one.name) for one in added]
    opened = tuple(
        PartReader.open(context.fs, path, one) for path, one in zip(paths, added, strict=True)
    )
    context.commit(
        lambda current: _changed(
            aside, current,
            parts=(*(one for one in current.parts if one.name not in names), *added),
        ),
        lambda state: _without_hole(context, state.with_merged(names, opened)),
        new_paths=paths,
        replaced_paths=[filenames.part_dir(context.directory, name) for name in names],
    )  # fmt: skip


def _enter_tier(context: JobContext, aside: Aside, entry: TierEntry, folder: str) -> None:
    path = filenames.tier_dir(context.directory, entry.name)
    _give_second_names(context.fs, folder, path)
    tier = TierReader.open(context.fs, path, entry)
    context.commit(
        lambda current: _changed(
            aside, current, tiers=tuple(sorted((*current.tiers, entry), key=tier_order))
        ),
        lambda state: state.with_tiers(frozenset(), [tier]),
        new_paths=[path],
    )


def _changed(
    aside: Aside,
    current: Manifest,
    *,
    parts: tuple[PartEntry, ...] | None = None,
    tiers: tuple[TierEntry, ...] | None = None,
) -> Manifest:
    """The manifest with a part that came back, and without the hole that it left."""
    return current.with_changes(
        parts=current.parts if parts is None else parts,
        tiers=current.tiers if tiers is None else tiers,
        aside=tuple(name for name in current.aside if name != aside.name),
        holes={name: span for name, span in current.holes.items() if name != aside.name},
    )


def _without_hole(context: JobContext, state: State) -> State:
    return replace(state, holes=joined(context.manifest.holes.values()))


def _give_second_names(fs: FileSystem, source: str, target: str) -> None:
    """Links to a part's files in a folder of its own, durable."""
    if fs.exists(target):
        remove_tree(fs, target)  # An attempt that broke off.
    parent, name = os.path.split(source)
    folders = {target}
    fs.mkdir(target)
    for path in sorted(files_below(fs, parent, name)):
        own = os.path.relpath(path, name)
        if own == NOTE:
            continue
        folder = os.path.dirname(os.path.join(target, own))
        if folder not in folders:
            fs.mkdir(folder)
            folders.add(folder)
        link_or_copy(fs, os.path.join(parent, path), os.path.join(target, own))
    for folder in sorted(folders, key=len, reverse=True):
        fs.sync_dir(folder)
    fs.sync_dir(os.path.dirname(target))
