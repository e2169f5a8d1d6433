"""Decompressed requests into the database, counted. Runs in the write pool."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import tsengine

    from .telemetry import Telemetry


def append_message(
    database: tsengine.Database,
    telemetry: Telemetry,
    message: memoryview,
    *,
    version: Literal[1, 2],
    sender: str,
) -> tsengine.WriteResult:
    """Store a remote-write message; returns after its fsync.

    Raises what `Database.append_remote_write` raises; nothing is counted then.
    """
    result = database.append_remote_write(message, version=version, sender=sender)
    telemetry.count_write(version=version, message_size=len(message), result=result)
    return result
