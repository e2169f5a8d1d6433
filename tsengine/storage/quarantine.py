"""Putting damaged files aside: into `quarantine/`, out of the manifest, by one commit.

For whoever holds the directory's lock. Files first get a second name in the quarantine, then the
manifest is replaced, then the first names go; so whatever breaks off in between, nothing is lost
and the next attempt finishes it.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from tsengine.storage import filenames, manifest
from tsengine.storage.aside import NOTE
from tsengine.storage.filesystem import FileSystem, remove_tree, storage_error
from tsengine.storage.manifest import Manifest, PartEntry, TierEntry
from tsengine.storage.snapshot import files_below, link_or_copy


@dataclass(frozen=True, slots=True)
class Damaged:
    """A file or part that is damaged: the folder it is in, its name there, and what was found."""

    folder: str
    name: str
    problems: tuple[str, ...]

    @property
    def can_go(self) -> bool:
        """Whether the rest means the same without it.

        Without a catalog segment samples would have no names, without a tombstone deleted ones
        would come back.
        """
        return self.folder in _CAN_GO

    @property
    def kept_as(self) -> str:
        """The name of its folder in the quarantine."""
        return f"{self.folder}-{self.name}"


OF_PARTS = frozenset({filenames.PARTS_DIR, filenames.TIERS_DIR})
_CAN_GO = OF_PARTS | {filenames.EXEMPLARS_DIR, filenames.METADATA_DIR}


def put_aside(
    fs: FileSystem, directory: str, current: Manifest, damaged: Sequence[Damaged], now_ms: int
) -> list[str]:
    """Move damaged files to the quarantine and commit a manifest without them.

    Parameters
    ----------
    damaged
        Those that can go.

    Returns
    -------
        The new folders; each has the files and a note that says what they were.

    Raises
    ------
    Full, StorageError
        The manifest that is in place has all of them, or none.

    """
    assert all(item.can_go for item in damaged), "the rest must mean the same"
    if not damaged:
        return []
    try:
        folders = [_keep(fs, directory, current, item, now_ms) for item in damaged]
        fs.sync_dir(filenames.quarantine_dir(directory))
        fs.sync_dir(directory)
    except OSError as error:
        raise storage_error(error, "putting damaged files aside") from error
    manifest.swap(fs, directory, without(current, damaged))
    for item in damaged:
        with contextlib.suppress(OSError):  # An orphan; the next start removes it.
            remove_tree(fs, os.path.join(directory, item.folder, item.name))
    return folders


def named(current: Manifest) -> set[tuple[str, str]]:
    """``(folder, name)`` of all files and parts that a manifest names."""
    listed = [
        (filenames.CATALOG_DIR, current.catalog_segments),
        (filenames.METADATA_DIR, [current.metadata_file] if current.metadata_file else []),
    ]
    for folder, entries in (
        (filenames.PARTS_DIR, current.parts),
        (filenames.TIERS_DIR, current.tiers),
        (filenames.EXEMPLARS_DIR, current.exemplar_files),
        (filenames.TOMBSTONES_DIR, current.tombstones),
    ):
        listed.append((folder, [entry.name for entry in entries]))
    return {(folder, name) for folder, names in listed for name in names}


def without(current: Manifest, damaged: Sequence[Damaged]) -> Manifest:
    """The manifest that no longer names some files.

    What samples were in parts that go leaves a hole: windows of tiers are not made without them.
    """
    gone = {(item.folder, item.name) for item in damaged}
    metadata_file = current.metadata_file
    if (filenames.METADATA_DIR, metadata_file) in gone:
        metadata_file = None
    return current.with_changes(
        parts=tuple(e for e in current.parts if (filenames.PARTS_DIR, e.name) not in gone),
        tiers=tuple(e for e in current.tiers if (filenames.TIERS_DIR, e.name) not in gone),
        exemplar_files=tuple(
            e for e in current.exemplar_files if (filenames.EXEMPLARS_DIR, e.name) not in gone
        ),
        metadata_file=metadata_file,
        holes=_holes_with(current, damaged, gone),
        aside=_aside_with(current, damaged),
    )


def _aside_with(current: Manifest, damaged: Sequence[Damaged]) -> tuple[str, ...]:
    """The parts that may come back, with those that go now."""
    going = {item.kept_as for item in damaged if item.folder in OF_PARTS}
    return tuple(sorted(going.union(current.aside)))


def _holes_with(
    current: Manifest, damaged: Sequence[Damaged], gone: Collection[tuple[str, str]]
) -> dict[str, tuple[int, int]]:
    """Where samples are missing, with those of the parts that go now."""
    kept_as = {(item.folder, item.name): item.kept_as for item in damaged}
    own = [(e, (filenames.PARTS_DIR, e.name)) for e in current.parts]
    new = {kept_as[key]: (e.mint, e.maxt) for e, key in own if key in gone}
    return {**current.holes, **new}


def _keep(fs: FileSystem, directory: str, current: Manifest, item: Damaged, now_ms: int) -> str:
    """Give what is there of a damaged item second names, and write the note."""
    folder = os.path.join(filenames.quarantine_dir(directory), item.kept_as)
    source = os.path.join(directory, item.folder, item.name)
    fs.mkdir(folder)
    for path, kept_as in _files_of(fs, source):
        target = os.path.join(folder, kept_as)
        fs.mkdir(os.path.dirname(target))
        with contextlib.suppress(FileExistsError):  # an earlier attempt came that far
            link_or_copy(fs, path, target)
        fs.sync_dir(os.path.dirname(target))
    note = {
        "was": f"{item.folder}/{item.name}",
        "put_aside_ms": now_ms,
        "generation": current.generation,
        "database_id": current.database_id,
        "next_file_number": current.next_file_number,
        # Without any an old version may have erased samples; the next start guesses how far.
        "erased": dict(current.erased) if current.erased or not current.tiers else None,
        "problems": list(item.problems),
        "entry": _entry_of(current, item),
    }
    fs.write_file(os.path.join(folder, NOTE), json.dumps(note, indent=2).encode() + b"\n")
    fs.sync_dir(folder)
    return folder


def _entry_of(current: Manifest, item: Damaged) -> dict[str, Any] | None:
    """What the manifest said of a part; None for what is none."""
    listed: dict[str, Sequence[PartEntry | TierEntry]] = {
        filenames.PARTS_DIR: current.parts,
        filenames.TIERS_DIR: current.tiers,
    }
    for entry in listed.get(item.folder, ()):
        if entry.name == item.name:
            return asdict(entry)
    return None


def _files_of(fs: FileSystem, source: str) -> list[tuple[str, str]]:
    """``(path, name to keep it under)`` of a file, or of all files in a part's folder."""
    if not fs.exists(source):
        return []
    parent, name = os.path.split(source)
    try:
        paths = [os.path.join(parent, path) for path in files_below(fs, parent, name)]
    except NotADirectoryError:
        return [(source, name)]
    return [(path, os.path.relpath(path, source)) for path in paths]
