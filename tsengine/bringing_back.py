"""The way back from the quarantine, without an open database: `bring_back`."""

from __future__ import annotations

import os
from collections.abc import Sequence

from tsengine.backup.store import open_cold_store
from tsengine.errors import StorageError
from tsengine.options import Options
from tsengine.promql.parser import parse_selector
from tsengine.storage import manifest
from tsengine.storage.aside import aside_names, read_note
from tsengine.storage.bring_back import Return, Returning
from tsengine.storage.cold import RemoteStore
from tsengine.storage.database import StorageDatabase
from tsengine.storage.filesystem import FileSystem, LocalFileSystem

__all__ = ["Return", "bring_back"]

_OPTIONS = Options(background="merges", cold_cache=0)
"""What is verified is what the object store has, not what was read of it before."""


def bring_back(
    path: str | os.PathLike[str],
    names: Sequence[str] = (),
    *,
    force: bool = False,
    cold_endpoint_url: str | None = None,
) -> list[Return]:
    """Let parts from the quarantine be parts of the database again, each after it was verified.

    Deletes made meanwhile hide what they should, what was stored meanwhile stays, and what
    retention erased up to some time does not come back.

    Parameters
    ----------
    names
        Folders in ``quarantine/``, like ``parts-0000000012``; none for all that have parts.
    force
        Take parts too of which it is not known what was deleted since they were put aside:
        deleted samples may be seen again.
    cold_endpoint_url
        Of the object store that has moved parts; None takes the one that they were moved to.

    Returns
    -------
        What became of each: those that are damaged still, say, stay where they are.

    Raises
    ------
    StorageError
        There is no database or no such folder, or damaged parts are left out: these go first.
    Locked
        Somebody has the directory open for writing.

    """
    directory = os.fspath(path)
    fs = LocalFileSystem()
    manifest.load(fs, directory)  # or a database would be made
    there = aside_names(fs, directory)
    for name in names:
        if name not in there:
            raise StorageError(f"there is no part {name} in the quarantine of {directory}")

    def open_store(url: str, endpoint_url: str | None) -> RemoteStore:
        return open_cold_store(url, cold_endpoint_url or endpoint_url)

    database = StorageDatabase(
        directory, _OPTIONS, parse_selector=parse_selector, open_store=open_store
    )
    try:
        database.maintenance.pause()
        found = []
        returned = database.recovery.returned
        for name in _newest_first(fs, directory, names or there):
            if name in returned:
                found.append(Return(name, returned[name]))
                continue
            returning = Returning(database, name, force=force)
            database.maintenance.run(returning)
            found.append(returning.found)
        return found
    finally:
        database.close()


def _newest_first(fs: FileSystem, directory: str, names: Sequence[str]) -> list[str]:
    """By their last sequences, as far as notes tell: what is newer is to lie on what is older."""

    def last_of(name: str) -> int:
        try:
            entry = read_note(fs, directory, name).entry
        except (StorageError, OSError):
            return -1
        return -1 if entry is None else entry.seq_max

    return sorted(names, key=last_of, reverse=True)
