"""Settings that change while the server runs: SIGHUP and ``/-/reload`` read the file again.

A reload applies all that it may or, if anything is wrong, nothing. What only a start can change
keeps its value, and is named.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from dataclasses import dataclass, fields, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import tsengine

from . import logs
from .config import ConfigError
from .config_settings import SETTINGS, Setting
from .logs import log
from .query_log import QueryLog

if TYPE_CHECKING:
    from .config import Config
    from .state import Server


@dataclass(frozen=True, slots=True)
class ReloadPlan:
    """What a reload does.

    Parameters
    ----------
    config
        What is in effect afterwards.
    changes
        Options of the database that change.
    applied, kept
        Names of settings that change now, and of those that wait for the next start.

    """

    config: Config
    changes: dict[str, Any]
    applied: tuple[str, ...]
    kept: tuple[str, ...]


def plan_reload(current: Config, wanted: Config) -> ReloadPlan:
    """Take over from `wanted` what may change while the server runs."""
    applied: list[str] = []
    kept: list[str] = []
    values: dict[str, Any] = {}
    for setting in SETTINGS:
        if not setting.path:
            continue
        old, new = getattr(current, setting.field), getattr(wanted, setting.field)
        if old == new:
            continue
        if setting.is_live and not _changes_widths(setting, old, new):
            applied.append(setting.path)
            values[setting.field] = new
        else:
            kept.append(setting.path)
    config = replace(current, **values)
    old_options, new_options = current.options(), config.options()
    changes = {
        field.name: getattr(new_options, field.name)
        for field in fields(new_options)
        if getattr(new_options, field.name) != getattr(old_options, field.name)
    }
    return ReloadPlan(config, changes, tuple(applied), tuple(kept))


def _changes_widths(setting: Setting, old: Any, new: Any) -> bool:
    """Whether tiers come or go; their retention may change at any time."""
    return setting.kind.shape == "tiers" and [t.width for t in old] != [t.width for t in new]


async def reload(server: Server) -> ReloadPlan:
    """Read the configuration again and apply it, to the end even if who asked goes away.

    Raises
    ------
    ConfigError, OSError, TsengineError, NotReady
        Nothing was changed.

    """
    return await asyncio.shield(asyncio.ensure_future(_reload_and_tell(server)))


async def _reload_and_tell(server: Server) -> ReloadPlan:
    async with server.reload_lock:
        try:
            plan = await _reload(server)
        except Exception as error:
            server.reload_succeeded = False
            server.reload_failed_at = datetime.now(UTC)
            server.telemetry.reload_successful.set(0)
            file = server.config.config_file
            log(logging.ERROR, "the configuration was not reloaded", file=file, error=error)
            raise
        server.reload_succeeded = True
        server.configured_at_s = time.time()
        server.telemetry.reload_successful.set(1)
        server.telemetry.reload_timestamp.set(server.configured_at_s)
    for name in plan.kept:
        log(logging.WARNING, "a changed setting waits for the next start", setting=name)
    applied = ",".join(plan.applied) or "nothing"
    log(logging.INFO, "configuration reloaded", file=plan.config.config_file, changed=applied)
    return plan


async def _reload(server: Server) -> ReloadPlan:
    wanted = await server.executor.background(_read_again, server)
    plan = plan_reload(server.config, wanted)
    config = plan.config
    # Opened before anything changes: it may fail. Opened anew even if its name is the same, which
    # is what rotating it needs.
    query_log = await server.executor.background(
        QueryLog, config.query_log_file, config.query_slow_s
    )
    try:
        if plan.changes:
            await server.executor.background(_reconfigure, server.database, plan.changes)
    except BaseException:
        query_log.close()
        raise
    if (config.log_level, config.log_format) != (server.config.log_level, server.config.log_format):
        logs.setup(config.log_level, config.log_format)
    server.query_log.take_over(query_log)
    server.apply(config)
    return plan


def _read_again(server: Server) -> Config:
    path = server.config.config_file
    if path is not None and os.path.exists(path) and not os.path.isfile(path):
        # The end of a pipe may never come, and its content comes once.
        raise ConfigError(f"{path}: not a file, which could be read again")
    return server.reread()


def _reconfigure(database: tsengine.Database, changes: dict[str, Any]) -> None:
    database.reconfigure(**changes)


def describe(plan: ReloadPlan) -> str:
    """What was done, in a few lines."""
    lines = []
    if plan.config.config_file is None:
        lines.append("There is no configuration file to reload.")
    if plan.applied:
        lines.append(f"changed: {', '.join(plan.applied)}")
    if plan.kept:
        lines.append(f"not before the next start: {', '.join(plan.kept)}")
    return "\n".join(lines or ["nothing changed"]) + "\n"
