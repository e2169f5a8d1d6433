"""What all handlers of one server share."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import tsengine

from .active_queries import ActiveQueries
from .errors import NotReady
from .executor import Executor
from .limits import ByteBudget
from .query_log import QueryLog
from .telemetry import Telemetry

if TYPE_CHECKING:
    from .config import Config


class Server:
    """One server: its settings, threads, metrics and, while it is ready, its database.

    Made and used on the event loop; `database` may be handed to threads.

    Parameters
    ----------
    config
        What it was started with.
    reread
        Gives the configuration as it would be at a start now, for a reload; may block, and raises
        what `config.load` raises.

    """

    def __init__(self, config: Config, reread: Callable[[], Config] | None = None) -> None:
        self.config = config
        self.started_at = datetime.now(UTC)
        self.reread = reread or (lambda: config)
        self.reload_lock = asyncio.Lock()
        self.reload_succeeded = True
        self.reload_failed_at = self.started_at
        self.configured_at_s = time.time()
        self.limits = config.limits()
        self.version = tsengine.__version__
        self.executor = Executor(self.limits)
        self.telemetry = Telemetry(self.version)
        self.write_budget = ByteBudget(self.limits.writes_in_flight_size_max)
        self.telemetry.reload_successful.set(1)
        self.telemetry.reload_timestamp.set(self.configured_at_s)
        self.telemetry.watch(self.executor, self.write_budget, self._database_stats)
        self.active_queries = ActiveQueries()
        self.query_log = QueryLog(config.query_log_file, config.query_slow_s)
        self.reads = asyncio.Semaphore(self.limits.reads_running_max)
        self.not_ready_reason = "starting"
        self._database: tsengine.Database | None = None
        self._stop = asyncio.Event()

    @property
    def database(self) -> tsengine.Database:
        """The open database; NotReady before the start is complete and after the end began."""
        if self._database is None or self.not_ready_reason:
            raise NotReady(self.not_ready_reason)
        return self._database

    def set_ready(self, database: tsengine.Database) -> None:
        """Serve `database` from now on."""
        self._database = database
        self.not_ready_reason = ""
        self.telemetry.ready.set(1)

    def set_not_ready(self, reason: str) -> None:
        """Answer 503 with `reason` from now on."""
        self.not_ready_reason = reason
        self.telemetry.ready.set(0)

    def apply(self, config: Config) -> None:
        """Serve by other settings from now on."""
        self.config = config
        self.limits = config.limits()

    def stop(self) -> None:
        """Ask the process to end, as SIGTERM does."""
        self._stop.set()

    async def wait_for_stop(self) -> None:
        """Return when someone called `stop`."""
        await self._stop.wait()

    def _database_stats(self) -> dict[str, float]:
        if self._database is None or self.not_ready_reason:
            return {}
        stats: dict[str, float] = self._database.stats()
        return stats
