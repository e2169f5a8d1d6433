"""From the command line to a ready server, and back to nothing.

Start: listen (readiness says why not yet), compile kernels, open the database, say where it is.
Stop (SIGTERM, SIGINT, /-/quit): refuse new requests, let writes finish and queries end, flush,
close. What the flush can't finish in time is in the log, which the next start replays.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import resource
import signal
import sys
import time
from collections.abc import Callable
from typing import Any

from aiohttp import web

import tsengine
from tsengine import errors

from . import feature_switches, logs, selfscrape
from .allocator import keep_small_memory
from .app import make_app
from .config import Config
from .exits import EXIT_DAMAGE, EXIT_OK, EXIT_USAGE
from .hints import hints_text
from .logs import log
from .progress import progress_bar
from .rehearsal import rehearse
from .reload import reload
from .state import Server
from .write_site import WriteSite

tsengine.open  # noqa: B018  The engine is loaded here, with all else, not when it is first needed.

_KEEPALIVE_S = 75.0
_DRAIN_S = 2.0
_PROGRESS_LOG_S = 5.0
_SWITCH_INTERVAL_S = 0.001


def serve(config: Config, reread: Callable[[], Config] | None = None) -> int:
    """Run a server until it is told to stop; returns the exit code of the process.

    `reread` gives the configuration for a reload (SIGHUP, /-/reload), see `Server`.
    """
    logs.setup(config.log_level, config.log_format)
    _raise_file_limit()
    # The event loop wants the interpreter many times for a request, and waits this long each time
    # while a query's thread runs Python code.
    sys.setswitchinterval(_SWITCH_INTERVAL_S)
    keep_small_memory()
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        code, is_clean = runner.run(_serve(config, reread))
        _ignore_signals(runner.get_loop())
        if not is_clean:
            # A thread still flushes or queries. All it would write is in the log already, and
            # waiting for it would outlast the patience of whoever sent the signal.
            sys.stdout.flush()
            logging.shutdown()
            os._exit(code)
    return code


def _raise_file_limit() -> None:
    """Allow as many open files as the system lets us: a part holds two, a client one."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _ignore_signals(loop: asyncio.AbstractEventLoop) -> None:
    """Closing the loop gives signals their default back: a second SIGTERM would spoil the end."""
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        loop.remove_signal_handler(number)
        signal.signal(number, signal.SIG_IGN)


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """Uvloop where it is installed: about twice as fast for small requests."""
    try:
        import uvloop
    except ImportError:
        return None
    factory: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
    return factory


async def _serve(config: Config, reread: Callable[[], Config] | None) -> tuple[int, bool]:
    """Exit code, and whether no thread was left behind."""
    started = time.monotonic()
    try:
        server = Server(config, reread)
    except OSError as error:
        log(logging.ERROR, "can't open the query log", file=config.query_log_file, error=error)
        return EXIT_USAGE, True
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, server.stop)
    loop.add_signal_handler(signal.SIGHUP, _reload_soon, server)
    runner = make_runner(server)
    await runner.setup()
    try:
        address = await _listen(server, runner)
    except OSError as error:
        log(logging.ERROR, "can't listen", address=f"{config.host}:{config.port}", error=error)
        await runner.cleanup()
        return EXIT_USAGE, True
    opening = asyncio.ensure_future(_open(server))
    stopping = asyncio.ensure_future(server.wait_for_stop())
    await asyncio.wait((opening, stopping), return_when=asyncio.FIRST_COMPLETED)
    if not opening.done():
        log(logging.INFO, "stopped before the start was complete")
        stopping.cancel()
        return EXIT_OK, False
    database = opening.result()
    if isinstance(database, int):
        stopping.cancel()
        await runner.cleanup()
        server.executor.close()
        return database, True
    # What is there now stays: the collector need not look at it over and over, which takes it a
    # third of a second in which nothing else runs.
    gc.collect()
    gc.freeze()
    server.set_ready(database)
    server.telemetry.start_seconds.set(time.monotonic() - started)
    log(logging.INFO, "ready", address=address, data_dir=config.data_dir, version=server.version)
    announce(config, address)
    scraping = _start_self_scrape(server, address)
    await stopping
    return EXIT_OK, await _stop(server, runner, database, scraping)


def _reload_soon(server: Server) -> None:
    task = asyncio.ensure_future(reload(server))
    # What went wrong is in the log already.
    task.add_done_callback(lambda done: done.cancelled() or done.exception())


def make_runner(server: Server) -> web.AppRunner:
    """Aiohttp's runner with the server's limits. Client disconnects cancel handlers."""
    return web.AppRunner(
        make_app(server),
        access_log=None,
        handler_cancellation=True,
        shutdown_timeout=_DRAIN_S,
        keepalive_timeout=_KEEPALIVE_S,
        max_line_size=server.limits.url_size_max,
        max_field_size=server.limits.header_size_max,
        auto_decompress=False,
    )


async def _listen(server: Server, runner: web.AppRunner) -> str:
    """Start to listen; returns ``HOST:PORT`` with the port that was given."""
    site = WriteSite(server, runner, server.config.host, server.config.port)
    await site.start()
    host, port = runner.addresses[0][:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


async def _open(server: Server) -> tsengine.Database | int:
    """Compile what is missing and open the database; an exit code when that is impossible."""
    config = server.config
    try:
        server.set_not_ready("compiling kernels (only once per machine)")
        await server.executor.background(_warm_up, server)
        server.set_not_ready("opening the database")
        opening = server.executor.background(open_database, config)
        # At the same time: the first requests would compete with it for the interpreter.
        database, _ = await asyncio.gather(opening, _prepare(server))
        return database
    except (
        errors.Locked, errors.OptionsError, errors.UnsupportedFormat, PermissionError,
        NotADirectoryError,
    ) as error:  # fmt: skip
        log(logging.ERROR, "can't open the database", data_dir=config.data_dir, error=error)
        return EXIT_USAGE
    except Exception as error:  # A task border: the process ends with this line.
        log(
            logging.ERROR, "can't open the database", data_dir=config.data_dir,
            exc_info=not isinstance(error, errors.TsengineError), error=error,
        )  # fmt: skip
        return EXIT_DAMAGE


def open_database(config: Config) -> tsengine.Database:
    """The database with the options that the server's flags mean."""
    if os.path.exists(config.data_dir) and not os.path.isdir(config.data_dir):
        raise NotADirectoryError(f"{config.data_dir} is not a directory")
    feature_switches.log_unusual(config.features)
    database = tsengine.open(config.data_dir, options=config.options())
    for problem in database.recovery_problems:
        log(logging.ERROR, "damage found at start; the rest is served", problem=problem)
    return database


def _warm_up(server: Server) -> None:
    """Compile missing kernels: a bar on a terminal, a log line every few seconds elsewhere."""
    n_missing = tsengine.missing_kernel_count()
    if not n_missing:
        return
    log(logging.INFO, "compiling kernels, once per machine", kernels=n_missing)
    last_log = time.monotonic()
    with progress_bar("compile kernels") as draw:

        def report(n_done: int, n_total: int) -> None:
            nonlocal last_log
            server.not_ready_reason = f"compiling kernels: {n_done} of {n_total}"
            now = time.monotonic()
            if draw is not None:
                draw(n_done, n_total)
            elif n_done == n_total or now - last_log >= _PROGRESS_LOG_S:
                last_log = now
                log(logging.INFO, "compiling kernels", done=n_done, of=n_total)

        try:
            tsengine.warmup(report)
        except RuntimeError as error:
            # A full disk, say. What is not stored is made where it is needed.
            log(logging.ERROR, "can't compile all kernels ahead", error=error)


async def _prepare(server: Server) -> None:
    """Load all kernels, so that no request waits for one, and rehearse."""
    try:
        await server.executor.background(tsengine.load_kernels)
        await rehearse(server.config)
    except Exception as error:  # A task border: who needs a kernel will tell.
        log(logging.ERROR, "can't prepare for requests", exc_info=True, error=error)


def announce(config: Config, address: str) -> None:
    """Print the URL, and what to try next when somebody may be reading."""
    host, _, port = address.rpartition(":")
    shown = {"0.0.0.0": "127.0.0.1", "[::]": "[::1]"}.get(host, host)
    url = f"http://{shown}:{port}"
    _print(f"tsengine is ready: {url}\n")
    if config.hints or sys.stdout.isatty():
        _print(hints_text(url, config))


def _print(text: str) -> None:
    with contextlib.suppress(BrokenPipeError):
        sys.stdout.write(text)
        sys.stdout.flush()


def _start_self_scrape(server: Server, address: str) -> asyncio.Task[None] | None:
    if server.config.self_scrape_s is None:
        return None
    return asyncio.create_task(selfscrape.run(server, address))


async def _stop(
    server: Server,
    runner: web.AppRunner,
    database: tsengine.Database,
    scraping: asyncio.Task[None] | None,
) -> bool:
    """Shut down within the limit; False when a thread was left behind."""
    deadline = time.monotonic() + server.limits.shutdown_s
    log(logging.INFO, "stopping: finishing requests, then flushing")
    server.set_not_ready("shutting down")
    server.executor.cancel_queries()
    if scraping is not None:
        scraping.cancel()
    for site in list(runner.sites):
        await site.stop()
    is_drained = await server.executor.drain(_DRAIN_S)
    is_closed = await _finish(_flush_and_close, database, deadline - time.monotonic())
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(max(deadline - time.monotonic(), 0.2)):
            await runner.cleanup()
    server.executor.close()
    if is_closed:
        log(logging.INFO, "stopped")
    else:
        log(logging.WARNING, "stopped before the flush was complete; the log holds the rest")
    return is_drained and is_closed


async def _finish(call: Callable[[Any], None], argument: Any, timeout_s: float) -> bool:
    """Run a call in a thread of its own; False when it takes too long or fails."""
    try:
        async with asyncio.timeout(max(timeout_s, 0.1)):
            await asyncio.to_thread(call, argument)
    except TimeoutError:
        return False
    except Exception as error:  # The process ends anyway; the log must say why not cleanly.
        log(logging.ERROR, "the end was not clean", exc_info=True, error=error)
        return False
    return True


def _flush_and_close(database: tsengine.Database) -> None:
    try:
        database.flush()
    finally:
        database.close()
