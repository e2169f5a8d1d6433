"""Work on many series in slices over the query's threads.

The calling thread works too, so a query always makes progress, even when all threads of the pool
are busy with other queries. Between slices the deadline and cancellation are looked at.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future

from tsengine.query.context import QueryContext

SLICE_SAMPLES = 1024 * 1024
"""Samples a slice should hold at most: what is done once for each must not count."""

SHARED_SAMPLES = 256 * 1024
"""Samples from which on all threads get a share."""

SLICE_CELLS = 1024 * 1024
"""Results a slice should hold at most."""


def plan_slices(n_rows: int, *, n_samples: int, n_steps: int, n_threads: int) -> list[range]:
    """Cut rows into even runs; one slice if all is little work."""
    by_samples = -(-n_samples // SLICE_SAMPLES)
    by_cells = -(-n_rows * n_steps // SLICE_CELLS)
    n_slices = max(by_samples, by_cells, 1)
    if n_slices > 1 or n_samples > SHARED_SAMPLES:
        # Even shares for all threads.
        n_slices = -(-n_slices // n_threads) * n_threads
    n_slices = max(1, min(n_slices, n_rows))
    bounds = [n_rows * k // n_slices for k in range(n_slices + 1)]
    return [range(bounds[k], bounds[k + 1]) for k in range(n_slices)]


def run_slices(ctx: QueryContext, slices: list[range], work: Callable[[int, range], None]) -> None:
    """Call ``work(number, rows)`` for every slice, on several threads; raises the first error.

    Slices are handed out in order; after an error no further slice begins.
    """
    if len(slices) == 1 or ctx.pool is None or ctx.n_threads < 2:
        for number, rows in enumerate(slices):
            ctx.check()
            work(number, rows)
        return
    handout = iter(enumerate(slices))
    lock = threading.Lock()
    failed = threading.Event()

    def run() -> None:
        while not failed.is_set():
            with lock:
                task = next(handout, None)
            if task is None:
                return
            try:
                ctx.check()
                work(*task)
            except BaseException:
                failed.set()
                raise

    n_helpers = min(ctx.n_threads, len(slices)) - 1
    helpers: list[Future[None]] = [ctx.pool.submit(run) for _ in range(n_helpers)]
    try:
        run()
    finally:
        # A helper that never started has nothing left to do; one that runs must end before the
        # arrays it writes to are handed on.
        errors = [helper.exception() for helper in helpers if not helper.cancel()]
    for error in errors:
        if error is not None:
            raise error
