"""Moving old parts to an object store, as a chore.

The files are sent and read back, stubs take their places, the part is opened anew from these, and
the local files go when nobody needs them. A crash in between leaves objects that nothing needs, or
local files beside their stubs, which the next run removes. Indexes and tiers stay: searching and
long ranges need them.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
from typing import TYPE_CHECKING

from tsengine.errors import StorageError
from tsengine.storage import filenames, part_format
from tsengine.storage.chores import Job, JobContext
from tsengine.storage.cold import HEAD_BYTES, ColdFileSystem, RemoteStore, Stub, read_stub
from tsengine.storage.compaction_chores import barriers_of, live_parts
from tsengine.storage.compaction_plan import plan_compaction
from tsengine.storage.filesystem import FileSystem, storage_error
from tsengine.storage.manifest import PartEntry
from tsengine.storage.part_reader import PartReader
from tsengine.storage.state import State

if TYPE_CHECKING:
    from tsengine.storage.database import StorageDatabase

MOVED_FILES = (
    part_format.AXES_FILE,
    part_format.VALUES_FILE,
    os.path.join(part_format.COMPONENTS_DIR, part_format.AXES_FILE),
    os.path.join(part_format.COMPONENTS_DIR, part_format.VALUES_FILE),
)
_CREATE_BYTES = 32 << 20
"""Larger files are sent in pieces, for which stores have no conditional create."""
_PIECE_BYTES = 4 << 20


class ColdMoves:
    """Moves parts whose newest sample is older than `Options.cold_after`."""

    name = "cold_moves"

    def __init__(self, database: StorageDatabase) -> None:
        self._database = database
        self._moved: set[str] = set()

    def plan(self, state: State, now_ms: int) -> list[Job]:
        """See `Chore.plan`."""
        options, cold = self._database.options, self._database.cold
        if options.cold_url is None or options.cold_after is None or cold is None:
            return []
        floor = now_ms - int(options.cold_after * 1000)
        entries = live_parts(state)
        self._note_moved(state, cold)
        old = [e for e in entries if e.maxt < floor and e.name not in self._moved]
        if not old:
            return []
        merges = plan_compaction(entries, barriers=barriers_of(state))
        merging = {entry.name for merge in merges for entry in merge.inputs}
        return [
            self._job(entry, cold)
            for entry in sorted(old, key=lambda entry: entry.mint)
            if entry.name not in merging
        ]

    def _note_moved(self, state: State, cold: ColdFileSystem) -> None:
        """Remember which parts need no look: files here are looked for once."""
        self._moved &= {part.entry.name for part in state.parts}
        for part in state.parts:
            name = part.entry.name
            if part.remote_bytes and name not in self._moved:
                directory = filenames.part_dir(self._database.directory, name)
                if not _local_files(cold.inner, directory):
                    self._moved.add(name)

    def _job(self, entry: PartEntry, cold: ColdFileSystem) -> Job:
        def run(context: JobContext) -> None:
            move_part(context, cold, entry)
            self._moved.add(entry.name)  # its local files are going

        name = entry.name.lstrip("0")
        return Job(f"moving part {name} to the object store", entry.size_bytes, run)


def move_part(context: JobContext, cold: ColdFileSystem, entry: PartEntry) -> None:
    """Send a part's files, put stubs in their places, and open it from these.

    Raises StorageError: the store does not answer, or what was read back differs.
    """
    url = context.options.cold_url
    assert url is not None, "the chore plans nothing without"
    directory = filenames.part_dir(context.directory, entry.name)
    local = _local_files(cold.inner, directory)
    if not local:
        return
    store = cold.store(url, context.options.cold_endpoint_url)
    # A new prefix each time: no object is ever overwritten, and none is shared by two databases.
    prefix = f"{context.manifest.database_id}/{entry.name}-{secrets.token_hex(8)}"
    try:
        for path in local:
            context.check_canceled()
            if read_stub(cold.inner, path) is None:
                key = f"{prefix}/{os.path.relpath(path, directory)}"
                stub = _send(cold.inner, store, path, url, context.options.cold_endpoint_url, key)
                _put_stub(cold.inner, directory, path, stub)
        for folder in {os.path.dirname(path) for path in local}:
            cold.inner.sync_dir(folder)
        reopened = PartReader.open(cold, directory, entry)
    except OSError as error:
        raise storage_error(error, f"moving part {entry.name}") from error
    context.commit(
        lambda current: current.with_changes(),
        lambda state: state.with_merged(frozenset({entry.name}), (reopened,)),
        replaced_paths=local,
    )


def _put_stub(fs: FileSystem, directory: str, path: str, stub: Stub) -> None:
    """Put a stub beside a file of a part, whole or not at all."""
    # Not in the part's folder, where every file counts; one that a crash leaves is an orphan.
    temporary = directory + filenames.TMP_SUFFIX
    try:
        fs.write_file(temporary, stub.encode())
        fs.rename(temporary, filenames.stub_path(path))
    except OSError:
        with contextlib.suppress(OSError):
            fs.unlink(temporary)
        raise


def _local_files(fs: FileSystem, directory: str) -> list[str]:
    """Files of a part's folder that would move and are here."""
    paths = [os.path.join(directory, name) for name in MOVED_FILES]
    return [path for path in paths if fs.exists(path)]


def _send(
    fs: FileSystem,
    store: RemoteStore,
    path: str,
    url: str,
    endpoint_url: str | None,
    key: str,
) -> Stub:
    """Send one file and read it back."""
    size = fs.size(path)
    digest = hashlib.sha256()
    file = fs.open_read(path)
    try:
        head = file.pread(0, HEAD_BYTES)
        for offset in range(0, size, _PIECE_BYTES):
            digest.update(file.pread(offset, _PIECE_BYTES))
    finally:
        file.close()
    if size > _CREATE_BYTES:
        store.upload(key, path)
    elif not store.create(key, fs.read_file(path)):
        raise StorageError(f"{url}/{key} is there already")
    found = hashlib.sha256()
    for piece in store.stream(key):
        found.update(piece)
    if found.digest() != digest.digest():
        store.delete([key])
        raise StorageError(f"{url}/{key} was read back differently")
    return Stub(url, endpoint_url, key, size, digest.hexdigest(), head.hex())
