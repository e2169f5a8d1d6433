"""Bodies of writes: read on the event loop under a budget, stored and counted in the write pool."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Literal, TypeVar

from .api.params import read_body
from .errors import TooBusy

if TYPE_CHECKING:
    from aiohttp import web

    import tsengine

    from .state import Server
    from .telemetry import Telemetry

T = TypeVar("T")


async def receive(
    server: Server,
    request: web.Request,
    need: Callable[[bytes], int],
    store: Callable[[bytes], T],
) -> T:
    """Read a body and hand it to `store` in the write pool; its bytes are in the budget meanwhile.

    Bytes count when they arrive: a client that announces much and sends nothing holds nothing.
    ``need`` says how many bytes more `store` will take for a body, or refuses it.

    Raises
    ------
    TooBusy
        The writes in flight leave no room; further what `read_body`, `need` and `store` raise.

    """
    limits = server.limits
    held = 0

    def hold(size: int) -> None:
        nonlocal held
        if not server.write_budget.take(size):
            raise TooBusy.of(server.write_budget)
        held += size

    try:
        body = await read_body(request, limits.write_body_size_max, limits, hold)
        hold(need(body))
    except BaseException:
        server.write_budget.give_back(held)
        raise
    # From here the bytes belong to the thread, however long it takes and whoever still waits.
    return await server.executor.write(
        partial(store, body), on_end=partial(server.write_budget.give_back, held)
    )


def append_message(
    database: tsengine.Database,
    telemetry: Telemetry,
    message: memoryview,
    *,
    version: Literal[1, 2],
    sender: str,
    protocol: str | None = None,
) -> tsengine.WriteResult:
    """Store a remote-write message; returns after its fsync.

    It is counted under `protocol`, by default that of its version.

    Raises what `Database.append_remote_write` raises; nothing is counted then.
    """
    result = database.append_remote_write(message, version=version, sender=sender)
    telemetry.count_write(
        protocol=protocol or f"{version}.0", message_size=len(message), result=result
    )
    return result
