"""What happens when the disk is full, read-only or failing: writes are refused until it is not.

`WatchedFileSystem` sees every write of the database, whoever makes it: log, flush, manifest,
merges, tiers. A write that the disk refuses closes the gate (`DiskWatch.check` raises Full), so
that nothing more is acknowledged; reads go on. From then on the disk is probed, at once and then
later and later up to a second: a small file is written, fsynced and removed. Success opens the
gate.

On a full disk a flush must still be possible, because it is what makes room: the log is larger than
the part it becomes. So a file of reserved bytes, the ballast, is removed at the first sign of a
full disk, and the gate opens only when it is back.

Any thread may call anything. A probe that hangs holds up nobody: others are told Full meanwhile.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from tsengine.errors import Full
from tsengine.storage import filenames
from tsengine.storage.filesystem import (
    DISK_FAILURES,
    IO_ERROR,
    NO_SPACE,
    READ_ONLY,
    AppendFile,
    FileSystem,
    ReadFile,
    disk_failure,
)

_LOG = logging.getLogger(__name__)
_PROBE_SIZE = 256 * 1024
_SPARE_SIZE = 1 << 20
"""Space that must be left beside the ballast before writes are taken again."""
_BACKOFF_S = (0.0, 0.05, 0.1, 0.2, 0.4, 0.8, 1.0)
_PROBE_WAIT_S = 0.25
"""How long others wait for a probe that is under way."""
_STOP_S = 5.0
_BALLAST_SHARE = 8
"""The ballast takes at most this part of what was free."""
_UNIT = 1 << 20
_TEXTS = {
    NO_SPACE: "the disk is full",
    READ_ONLY: "the disk is read-only",
    IO_ERROR: "the disk fails",
}


@dataclass(frozen=True, slots=True)
class DiskFailure:
    """Why the gate is closed: one of `DISK_FAILURES`, and a sentence for people."""

    reason: str
    text: str


class DiskWatch:
    """Whether a database's disk takes writes.

    Parameters
    ----------
    fs
        The file system itself, not a watched one.
    directory
        The database's.
    ballast_size
        Bytes of the ballast, less on a small disk; 0 for none.
    on_failing
        Called when the gate closes, after the ballast is gone; must not wait.
    on_recovered
        Called when it opens again; must not wait.

    """

    def __init__(
        self,
        fs: FileSystem,
        directory: str,
        *,
        ballast_size: int,
        on_failing: Callable[[DiskFailure], None],
        on_recovered: Callable[[], None],
    ) -> None:
        self._fs = fs
        self._directory = directory
        self._ballast_size = ballast_size
        self._on_failing = on_failing
        self._on_recovered = on_recovered
        self._ballast_bytes = 0
        self._ballast_wanted: int | None = None
        self._failure: DiskFailure | None = None
        self._n_failures = 0
        self._n_probes = 0
        self._due_s = 0.0
        self._state_lock = threading.Lock()
        self._probing = threading.Lock()
        self._changed = threading.Event()
        self._is_started = False
        self._stopping = False
        self._thread: threading.Thread | None = None

    @property
    def failure(self) -> DiskFailure | None:
        """Why writes are refused; None when they are not."""
        return self._failure

    def counters(self) -> dict[str, int]:
        """Numbers for stats."""
        failure = self._failure
        numbers = {
            f"storage_failing:{reason}": int(failure is not None and failure.reason == reason)
            for reason in DISK_FAILURES
        }
        numbers["storage_failures"] = self._n_failures
        numbers["ballast_bytes"] = self._ballast_bytes
        return numbers

    def start(self) -> None:
        """Make the ballast, in the background. Before that failures are only noted."""
        with contextlib.suppress(OSError):
            if self._fs.exists(filenames.probe_path(self._directory)):
                self._fs.unlink(filenames.probe_path(self._directory))
        self._is_started = True
        if self._ballast_size or self._failure is not None:
            self._wake()

    def stop(self) -> None:
        """Stop probing and remove the ballast: a database at rest has no use for it."""
        with self._state_lock:
            self._stopping = True
            thread = self._thread
        self._changed.set()
        if thread is not None:
            thread.join(_STOP_S)  # Not for ever: the disk may hang.
        if self._ballast_bytes:
            self._drop_ballast()

    def check(self) -> None:
        """Raise Full while the disk takes no writes."""
        if self._failure is None:
            return
        if time.monotonic() >= self._due_s:
            self._probe()
        failure = self._failure
        if failure is not None:
            raise Full(failure.text)

    def report(self, error: OSError, doing: str) -> None:
        """Close the gate if an error is the disk's; called for each failed write."""
        reason = disk_failure(error)
        if reason is None:
            return
        text = (
            f"{_TEXTS[reason]} ({doing}: {error.strerror or error}); nothing is accepted until it "
            "takes writes again, queries go on"
        )
        failure = DiskFailure(reason, text)
        with self._state_lock:
            is_news = self._failure is None
            self._failure = failure
            self._n_failures += 1
            if is_news:
                self._n_probes = 0
                self._due_s = 0.0
        if reason == NO_SPACE:
            self._drop_ballast()
        if is_news:
            _LOG.error("writes are refused: %s", text)
            if self._is_started:
                self._on_failing(failure)
                self._wake()

    # --- the ballast ----------------------------------------------------------------------------

    def _drop_ballast(self) -> None:
        with contextlib.suppress(OSError):
            if self._fs.exists(filenames.ballast_path(self._directory)):
                self._fs.unlink(filenames.ballast_path(self._directory))
        self._ballast_bytes = 0

    def _make_ballast(self) -> None:
        """Reserve the bytes if they are not; raises OSError."""
        path = filenames.ballast_path(self._directory)
        present = self._fs.size(path) if self._fs.exists(path) else 0
        if self._ballast_wanted is None:
            share = (self._fs.free_bytes(self._directory) + present) // _BALLAST_SHARE
            self._ballast_wanted = min(self._ballast_size, share) // _UNIT * _UNIT
        wanted = self._ballast_wanted
        if present != wanted:
            if present:
                self._fs.unlink(path)
            if wanted:
                self._fs.allocate(path, wanted)
        self._ballast_bytes = wanted

    def _make_first_ballast(self) -> None:
        with self._probing:
            try:
                self._make_ballast()
            except OSError as error:
                self._drop_ballast()
                _LOG.warning("there is no room for the ballast: %s", error)

    # --- probing --------------------------------------------------------------------------------

    def _probe(self) -> None:
        """Try the disk, and open the gate if it takes writes. Only one thread does it at a time."""
        if not self._probing.acquire(timeout=_PROBE_WAIT_S):
            return
        try:
            failure = self._failure
            if failure is None or self._stopping or time.monotonic() < self._due_s:
                return
            error = self._try_disk()
            with self._state_lock:
                if error is None and self._failure is failure:
                    self._failure = None
                elif error is None:
                    return  # Another write failed meanwhile: probed again at once.
                else:
                    self._n_probes = min(self._n_probes + 1, len(_BACKOFF_S) - 1)
                    self._due_s = time.monotonic() + _BACKOFF_S[self._n_probes]
                    return
        finally:
            self._probing.release()
        _LOG.warning("the disk takes writes again")
        self._on_recovered()

    def _try_disk(self) -> OSError | None:
        path = filenames.probe_path(self._directory)
        try:
            self._make_ballast()
            if self._fs.free_bytes(self._directory) < _SPARE_SIZE:
                self._drop_ballast()
                return OSError("too little space")
            self._fs.write_file(path, bytes(_PROBE_SIZE))
            self._fs.sync_dir(self._directory)
            self._fs.unlink(path)
        except OSError as error:
            with contextlib.suppress(OSError):
                self._fs.unlink(path)
            if disk_failure(error) == NO_SPACE:
                self._drop_ballast()
            return error
        return None

    def _wake(self) -> None:
        with self._state_lock:
            if self._stopping or not self._is_started:
                return
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="tsengine-disk", daemon=True)
                self._thread.start()
        self._changed.set()

    def _run(self) -> None:
        while not self._stopping:
            self._changed.clear()
            if self._failure is None:
                self._make_first_ballast()
                if self._failure is None and not self._stopping:
                    self._changed.wait()
            else:
                wait_s = self._due_s - time.monotonic()
                if wait_s > 0:
                    self._changed.wait(wait_s)
                else:
                    self._probe()


class WatchedFileSystem:
    """A file system that reports refused writes inside the database's directory."""

    def __init__(self, inner: FileSystem, directory: str, watch: DiskWatch) -> None:
        self._inner = inner
        self._prefix = os.path.join(directory, "")
        self._watch = watch

    def _report(self, error: OSError, doing: str, path: str) -> None:
        # Snapshots and the like may be on another disk, which is not ours to judge.
        if path.startswith(self._prefix) or os.path.join(path, "") == self._prefix:
            self._watch.report(error, f"{doing} {path.removeprefix(self._prefix)}")

    def open_append(self, path: str) -> AppendFile:
        """See `FileSystem.open_append`."""
        try:
            return _WatchedFile(self._inner.open_append(path), self, path)
        except OSError as error:
            self._report(error, "making", path)
            raise

    def write_file(self, path: str, data: bytes) -> None:
        """See `FileSystem.write_file`."""
        try:
            self._inner.write_file(path, data)
        except OSError as error:
            self._report(error, "writing", path)
            raise

    def allocate(self, path: str, size: int) -> None:
        """See `FileSystem.allocate`."""
        self._inner.allocate(path, size)

    def rename(self, source: str, target: str) -> None:
        """See `FileSystem.rename`."""
        try:
            self._inner.rename(source, target)
        except OSError as error:
            self._report(error, "renaming to", target)
            raise

    def link(self, source: str, target: str) -> None:
        """See `FileSystem.link`."""
        try:
            self._inner.link(source, target)
        except OSError as error:
            self._report(error, "linking", target)
            raise

    def unlink(self, path: str) -> None:
        """See `FileSystem.unlink`."""
        try:
            self._inner.unlink(path)
        except OSError as error:
            self._report(error, "removing", path)
            raise

    def rmdir(self, path: str) -> None:
        """See `FileSystem.rmdir`."""
        try:
            self._inner.rmdir(path)
        except OSError as error:
            self._report(error, "removing", path)
            raise

    def mkdir(self, path: str) -> None:
        """See `FileSystem.mkdir`."""
        try:
            self._inner.mkdir(path)
        except OSError as error:
            self._report(error, "making", path)
            raise

    def sync_dir(self, path: str) -> None:
        """See `FileSystem.sync_dir`."""
        try:
            self._inner.sync_dir(path)
        except OSError as error:
            self._report(error, "syncing", path)
            raise

    def open_read(self, path: str) -> ReadFile:
        """See `FileSystem.open_read`."""
        return self._inner.open_read(path)

    def map_file(self, path: str) -> memoryview:
        """See `FileSystem.map_file`."""
        return self._inner.map_file(path)

    def read_file(self, path: str) -> bytes:
        """See `FileSystem.read_file`."""
        return self._inner.read_file(path)

    def listdir(self, path: str) -> list[str]:
        """See `FileSystem.listdir`."""
        return self._inner.listdir(path)

    def exists(self, path: str) -> bool:
        """See `FileSystem.exists`."""
        return self._inner.exists(path)

    def size(self, path: str) -> int:
        """See `FileSystem.size`."""
        return self._inner.size(path)

    def free_bytes(self, path: str) -> int:
        """See `FileSystem.free_bytes`."""
        return self._inner.free_bytes(path)


class _WatchedFile:
    def __init__(self, inner: AppendFile, fs: WatchedFileSystem, path: str) -> None:
        self._inner = inner
        self._fs = fs
        self._path = path

    @property
    def size(self) -> int:
        return self._inner.size

    @size.setter
    def size(self, size: int) -> None:
        self._inner.size = size

    def write(self, data: bytes) -> None:
        try:
            self._inner.write(data)
        except OSError as error:
            self._fs._report(error, "writing", self._path)
            raise

    def datasync(self) -> None:
        try:
            self._inner.datasync()
        except OSError as error:
            self._fs._report(error, "syncing", self._path)
            raise

    def close(self) -> None:
        self._inner.close()
