"""The thread that runs the jobs of chores: which one next, what to do when one fails or must wait.

One job at a time in the whole database, under one lock, whoever runs it. A job that fails is tried
again later and later, a job that lacks disk space when there is some; neither holds up another.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tsengine.errors import Closed, CorruptionError, ObjectMissing, StorageError, TsengineError
from tsengine.model.machine import give_way
from tsengine.storage.checkpoint import Checkpointer
from tsengine.storage.chores import CancelOf, Chore, Job, JobContext
from tsengine.storage.filesystem import FileSystem, storage_error
from tsengine.storage.replaced_files import ReplacedFiles
from tsengine.storage.throttle import RateLimit, ThrottledFileSystem

if TYPE_CHECKING:
    from tsengine.storage.database import StorageDatabase
    from tsengine.storage.state import State

_LOG = logging.getLogger(__name__)
_TICK_S = 1.0
_PLAN_EVERY_S = 10.0
"""How often chores are asked though nothing has changed: some wait for time to pass."""
_SURVEY_EVERY_S = 1.0
"""How often all chores are asked, for the backlog, while there is work."""
RETRY_S_MIN = 10.0
RETRY_S_MAX = 3600.0


@dataclass(slots=True)
class ChoreStatus:
    """What is known of one chore: counted since the start, the rest as planned last."""

    n_done: int = 0
    n_failures: int = 0
    n_jobs: int = 0
    n_bytes: int = 0
    n_failing: int = 0
    n_blocked: int = 0


@dataclass(frozen=True, slots=True)
class _Retry:
    n_failures: int
    at_s: float


class Worker:
    """Background work of one writable database besides flushes."""

    def __init__(
        self,
        database: StorageDatabase,
        checkpointer: Checkpointer,
        fs: FileSystem,
        chores: Sequence[Chore],
    ) -> None:
        self._database = database
        self._fs = fs
        self._chores = tuple(chores)
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._paused = threading.Event()
        self._wanted = threading.Event()
        self._is_working = threading.Lock()
        cold = database.cold
        self._replaced = ReplacedFiles(fs) if cold is None else ReplacedFiles(fs, cold.is_read)
        self._retries: dict[tuple[str, str], _Retry] = {}
        self._statuses = {chore.name: ChoreStatus() for chore in chores}
        self._planned: tuple[State, float] | None = None
        self._surveyed_s = 0.0
        given_up = CancelOf(self._stopping, self._paused)
        slow = ThrottledFileSystem(fs, RateLimit(self._rate, given_up))
        self._background = JobContext(database, checkpointer, slow, given_up, self._replaced)
        self._foreground = JobContext(database, checkpointer, fs, self._stopping, self._replaced)
        self._thread = threading.Thread(target=self._loop, name="tsengine-work", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()
        self._wanted.set()

    def stop(self) -> None:
        """Stop; a job under way is given up, its files are orphans.

        Returns when no job runs in any thread: one that committed after the directory's lock was
        released would undo what the next owner committed.
        """
        self._stopping.set()
        self._wanted.set()
        if self._thread.ident is not None:  # Else it was never started.
            self._thread.join()
        with self._lock:
            self._replaced.remove_due(everything=True)

    def wake(self) -> None:
        """Something has changed: ask the chores soon."""
        self._planned = None
        self._wanted.set()

    def pause(self) -> None:
        """Give up the job under way and begin no other; returns when none runs.

        Callers of `run_all` are not held up.
        """
        self._paused.set()
        with self._is_working:
            pass

    def resume(self) -> None:
        """Go on after `pause`."""
        self._paused.clear()
        self.wake()

    @property
    def is_paused(self) -> bool:
        """Whether `pause` holds."""
        return self._paused.is_set()

    @property
    def statuses(self) -> dict[str, ChoreStatus]:
        """By name of the chore, in the order of precedence; read only."""
        return self._statuses

    def run_all(self, chore: Chore) -> None:
        """Run the jobs of a chore, listed or not, in this thread until it plans no new one.

        Damaged or missing inputs do not keep the other jobs from running; the first such error is
        raised in the end, any other at once.
        """
        damaged: CorruptionError | ObjectMissing | None = None
        tried: set[str] = set()
        status = self._statuses.setdefault(chore.name, ChoreStatus())
        with self._lock:
            if self._stopping.is_set():
                raise Closed("the database is closed")
            while True:
                due = chore.plan(self._database.state, self._database.now_ms())
                job = next((job for job in due if job.what not in tried), None)
                if job is None:
                    break
                tried.add(job.what)
                self._foreground.check_canceled()
                try:
                    self._check_space(job)
                    job.run(self._foreground)
                    status.n_done += 1
                except (CorruptionError, ObjectMissing) as error:
                    status.n_failures += 1
                    damaged = damaged or error
                except OSError as error:
                    raise storage_error(error, job.what) from error
        self.wake()
        if damaged is not None:
            raise damaged

    # --- thread ---------------------------------------------------------------------------------

    def _loop(self) -> None:
        give_way()
        while not self._stopping.is_set():
            self._wanted.wait(_TICK_S)
            self._wanted.clear()
            if self._stopping.is_set():
                return
            self._replaced.remove_due()
            with self._is_working:
                while self._is_plan_due() and self._run_next():
                    pass

    def _is_plan_due(self) -> bool:
        if self._stopping.is_set():
            return False
        if self._planned is None:
            return True
        state, at_s = self._planned
        return state is not self._database.state or time.monotonic() - at_s > _PLAN_EVERY_S

    def _run_next(self) -> bool:
        """Run the first job that can be run; False if none is to be run now.

        That is when there is none, a caller runs some, or work is paused (the backlog is noted).
        """
        if not self._lock.acquire(timeout=_TICK_S):
            return False
        try:
            state, now_s = self._database.state, time.monotonic()
            found = self._choose(state, now_s)
            if found is None or self._paused.is_set():
                self._planned = (state, now_s)
                return False
            self._planned = None
            chore, job = found
            status = self._statuses[chore]
            try:
                job.run(self._background)
                status.n_done += 1
                self._retries.pop((chore, job.what), None)
            except (TsengineError, OSError) as error:
                if isinstance(error, Closed) and self._background.cancel.is_set():
                    return False
                self._failed(chore, job.what, error)
            except Exception as error:
                _LOG.exception("%s: a fault of ours", job.what)
                self._failed(chore, job.what, error)
            return True
        finally:
            self._lock.release()

    def _choose(self, state: State, now_s: float) -> tuple[str, Job] | None:
        """The first job that is due, fits the disk and does not wait after a failure."""
        is_survey = now_s - self._surveyed_s >= _SURVEY_EVERY_S
        chosen: tuple[str, Job] | None = None
        free = self._free_bytes()
        planned: set[tuple[str, str]] = set()
        for chore in self._chores:
            if chosen is not None and not is_survey:
                break
            jobs = self._plan(chore, state, now_s)
            keys = [(chore.name, job.what) for job in jobs]
            planned.update(keys, [(chore.name, "planning")])
            waiting = {key for key in keys if self._is_waiting(key, now_s)}
            if self._replaced.has_any and any(job.space_bytes > free for job in jobs):
                free = self._free_more()
            self._note(chore.name, jobs, free)
            ready = [
                job for job in jobs
                if job.space_bytes <= free and (chore.name, job.what) not in waiting
            ]  # fmt: skip
            if chosen is None and ready:
                chosen = chore.name, ready[0]
        if chosen is None or is_survey:
            self._surveyed_s = now_s
            self._retries = {key: one for key, one in self._retries.items() if key in planned}
        return chosen

    def _plan(self, chore: Chore, state: State, now_s: float) -> list[Job]:
        if self._is_waiting((chore.name, "planning"), now_s):
            return []
        try:
            return chore.plan(state, self._database.now_ms())
        except Exception as error:
            _LOG.exception("planning %s failed", chore.name)
            self._failed(chore.name, "planning", error)
            return []

    def _is_waiting(self, key: tuple[str, str], now_s: float) -> bool:
        retry = self._retries.get(key)
        return retry is not None and now_s < retry.at_s

    def _failed(self, chore: str, what: str, error: Exception) -> None:
        n_failures = 1
        if (chore, what) in self._retries:
            n_failures += self._retries[chore, what].n_failures
        wait_s = min(RETRY_S_MIN * 2 ** (n_failures - 1), RETRY_S_MAX)
        self._retries[chore, what] = _Retry(n_failures, time.monotonic() + wait_s)
        self._statuses[chore].n_failures += 1
        _LOG.error(
            "%s: %s failed, it is tried again in %.0f s: %s", chore, what, wait_s, error
        )  # fmt: skip

    def _note(self, chore: str, jobs: Sequence[Job], free: int) -> None:
        """Keep the numbers of a plan; say once that jobs lack space, and that they no longer do."""
        status = self._statuses[chore]
        blocked = [job for job in jobs if job.space_bytes > free]
        if blocked and not status.n_blocked:
            _LOG.warning(
                "%s: %s needs %d bytes free, the disk has %d; it waits, and %d more like it",
                chore, blocked[0].what, blocked[0].space_bytes, free, len(blocked) - 1,
            )  # fmt: skip
        elif status.n_blocked and not blocked:
            _LOG.info("%s: there is space again", chore)
        status.n_jobs = len(jobs)
        status.n_bytes = sum(job.size_bytes for job in jobs)
        status.n_blocked = len(blocked)
        status.n_failing = sum((chore, job.what) in self._retries for job in jobs)

    # --- disk -----------------------------------------------------------------------------------

    def _rate(self) -> float:
        return self._database.options.compaction_rate

    def _free_bytes(self) -> int:
        try:
            return self._fs.free_bytes(self._database.directory)
        except OSError as error:
            _LOG.error("the free space of the disk is unknown: %s", error)
            return 0

    def _free_more(self) -> int:
        """Free bytes without replaced files, which else stay a while for other processes."""
        self._replaced.remove_due(everything=True)
        return self._free_bytes()

    def _check_space(self, job: Job) -> None:
        if job.space_bytes:
            free = self._foreground.free_bytes(job.space_bytes)
            if free < job.space_bytes:
                raise StorageError(
                    f"{job.what} needs {job.space_bytes} bytes free, the disk has {free}"
                )
