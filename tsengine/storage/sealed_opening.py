"""Opening the files that a manifest names, leaving out those that are damaged.

A part that can't be read is left out: the rest of the database answers, and what the part held is
missing, never wrong. Its entry stays in the manifest. Catalog segments and tombstones are not
left out: without them samples would have wrong names, and deleted ones would come back.
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from functools import partial
from typing import TypeVar

from tsengine.errors import CorruptionError
from tsengine.storage import filenames
from tsengine.storage.filesystem import FileSystem
from tsengine.storage.manifest import Manifest
from tsengine.storage.metadata_store import MetadataStore, read_metadata
from tsengine.storage.part_reader import PartReader
from tsengine.storage.state import tier_order
from tsengine.storage.tier_reader import TierReader

_Opened = TypeVar("_Opened")


class SealedFiles:
    """Opens what a manifest names; `unreadable` has what was left out and why.

    Parameters
    ----------
    missing_is_damage
        Whether a missing file is damage. If not, FileNotFoundError is raised: beside a running
        writer the file was replaced, and the manifest with it.

    """

    def __init__(self, fs: FileSystem, directory: str, *, missing_is_damage: bool) -> None:
        self._fs = fs
        self._directory = directory
        self._missing_is_damage = missing_is_damage
        self.unreadable: list[tuple[str, int | None, str]] = []

    def metadata(self, current: Manifest) -> MetadataStore:
        """Types, helps and units, as far as they can be read."""
        store = MetadataStore()
        if current.metadata_file is not None:
            path = filenames.metadata_path(self._directory, current.metadata_file)
            entries = self._open(path, partial(read_metadata, self._fs, path))
            if entries is not None:
                store.update(entries)
                store.is_dirty = False
        return store

    def parts(self, current: Manifest) -> tuple[PartReader, ...]:
        """Parts in the order of their sequences."""
        opened = []
        for entry in sorted(current.parts, key=lambda entry: (entry.seq_min, entry.mint)):
            path = filenames.part_dir(self._directory, entry.name)
            part = self._open(path, partial(PartReader.open, self._fs, path, entry))
            if part is not None:
                opened.append(part)
        return tuple(opened)

    def tiers(self, current: Manifest) -> tuple[TierReader, ...]:
        """Parts of tiers in the order of `tier_order`."""
        opened = []
        for entry in sorted(current.tiers, key=tier_order):
            path = filenames.tier_dir(self._directory, entry.name)
            tier = self._open(path, partial(TierReader.open, self._fs, path, entry))
            if tier is not None:
                opened.append(tier)
        return tuple(opened)

    def _open(self, path: str, opening: Callable[[], _Opened]) -> _Opened | None:
        try:
            return opening()
        except CorruptionError as error:
            self.unreadable.append((error.path or path, error.offset, error.reason))
        except FileNotFoundError as error:
            if not self._missing_is_damage:
                raise
            self.unreadable.append((str(error.filename or path), None, "the file is missing"))
        except OSError as error:
            if error.errno != errno.EIO:
                raise  # Too many open files, no permission: nothing is wrong with the file.
            self.unreadable.append((str(error.filename or path), None, str(error.strerror)))
        return None
