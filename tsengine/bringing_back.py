"""The way back from the quarantine, without an open database: `bring_back`."""

from __future__ import annotations

import os
from collections.abc import Sequence

from tsengine.backup.store import open_cold_store
from tsengine.errors import StorageError
from tsengine.options import Options
from tsengine.storage import manifest
from tsengine.storage.aside import aside_names
from tsengine.storage.bring_back import Return, Returning
from tsengine.storage.database import StorageDatabase
from tsengine.storage.filesystem import LocalFileSystem

__all__ = ["Return", "bring_back"]


def bring_back(
    path: str | os.PathLike[str], names: Sequence[str] = (), *, force: bool = False
) -> list[Return]:
    """Let parts from the quarantine be parts of the database again, each after it was verified.

    Deletes made meanwhile hide what they should; where a sample is there by now, that one stays.

    Parameters
    ----------
    names
        Folders in ``quarantine/``, like ``parts-0000000012``; none for all that have parts.
    force
        Take parts too of which it is not known what was deleted since they were put aside:
        deleted samples may be seen again.

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
    database = StorageDatabase(directory, Options(background="merges"), open_store=open_cold_store)
    try:
        database.maintenance.pause()
        found = []
        for name in names or there:
            returning = Returning(database, name, force=force)
            database.maintenance.run(returning)
            found.append(returning.found)
        return found
    finally:
        database.close()
