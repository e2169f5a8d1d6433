"""The fixture that all benches measure with, and the table they end in.

Every figure is the median CPU time of several runs (wall time on a busy machine measures the
neighbours), and stands beside the time that a plain reference, np.copyto of the same number of
bytes, takes right after it in the same process: between machines the ratio says more.
"""

from __future__ import annotations

import time
from statistics import median

import numpy as np
import pytest

from tsengine.kernels.jit import Kernel

N_ROUNDS = 7


@pytest.fixture
def measure(benchmark):
    """A function ``(call, n_items, *, unit, n_bytes, prepare)`` that measures `call`.

    `prepare` runs before each round, outside the time, and returns the arguments of `call`.
    `n_bytes` are those that a plain copy would have to move: the input's, as a rule.
    """

    def run(call, n_items, *, n_bytes, unit="samples", prepare=None, n_rounds=N_ROUNDS):
        setup = None if prepare is None else lambda: (prepare(), {})
        benchmark.pedantic(call, setup=setup, rounds=n_rounds, warmup_rounds=1)
        if benchmark.stats is None:
            return  # --benchmark-disable: the call alone was wanted.
        seconds = benchmark.stats.stats.median
        copy_s = copy_seconds(n_bytes)
        benchmark.extra_info[f"{unit}/s"] = n_items / seconds
        benchmark.extra_info.setdefault("bytes/s", n_bytes / seconds)
        benchmark.extra_info["x copy"] = seconds / copy_s

    return run


@pytest.fixture
def measure_inside(measure):
    """A function ``(kernel, run, n_items, *, unit)`` that measures a kernel alone, as it is used.

    `run` is called; of the calls of the kernel that it makes, the one with most items (or the
    largest arrays) is repeated, each time with copies of the arrays as they were before it.
    `n_items` is a number, a function of the arguments, or None: what the kernel returns.
    """

    def run_inside(kernel, run, n_items, *, unit="samples"):
        arguments = largest_call(kernel, run, n_items if callable(n_items) else bytes_of)
        n = n_items
        if n is None:
            n = kernel(*map(_copied, arguments))
            assert n > 0, "it returns a count"
        elif callable(n):
            n = n(*arguments)
        measure(
            kernel, n, unit=unit, n_bytes=bytes_of(*arguments), n_rounds=21,
            prepare=lambda: tuple(map(_copied, arguments)),
        )  # fmt: skip

    return run_inside


def bytes_of(*values):
    """Bytes of all arrays among some values."""
    return sum(value.nbytes for value in values if isinstance(value, np.ndarray))


def largest_call(kernel, run, size_of):
    """Arguments of the largest call of a kernel while `run` runs; arrays as they were before it."""
    calls = []
    call = Kernel.__call__

    def note(called, *arguments):
        if called is kernel:
            calls.append(tuple(map(_copied, arguments)))
        return call(called, *arguments)

    Kernel.__call__ = note
    try:
        run()
    finally:
        Kernel.__call__ = call
    assert calls, f"{kernel.name} was not called"
    # Of several the last one: those before may have been given up for want of room.
    return max(reversed(calls), key=lambda arguments: size_of(*arguments))


def _copied(value):
    return value.copy() if isinstance(value, np.ndarray) else value


def copy_seconds(n_bytes):
    """Median time of a plain copy of that many bytes."""
    source = np.full(max(1, n_bytes // 8), 1.5)  # Zeros would be one page, read from the cache.
    target = np.zeros_like(source)
    target[:] = 0.0
    n_repeats = max(
        1, 1_000_000 // max(1, n_bytes)
    )  # A copy of few bytes is too short for the clock.
    times = []
    for _ in range(N_ROUNDS):
        started = time.process_time()
        for _ in range(n_repeats):
            np.copyto(target, source)
        times.append((time.process_time() - started) / n_repeats)
    return median(times)


def pytest_terminal_summary(terminalreporter, config):
    session = getattr(config, "_benchmarksession", None)
    made = [bench for bench in (session.benchmarks if session else ()) if bench]
    write = terminalreporter.write_line
    width = max((len(bench.name) for bench in made), default=0)
    file = None
    for bench in made:
        name = bench.fullname.partition("::")[0]
        if name != file:
            file = name
            write("")
            write(f"{name:{width}}  median ms      M/s  of          x copy")
        info = dict(bench.extra_info)
        ratio = info.pop("x copy", None)
        unit, speed = next(((k, v) for k, v in info.items() if k.endswith("/s")), ("", None))
        rate = "" if speed is None else f"{speed / 1e6:.4g}"
        times = "" if ratio is None else f"{ratio:.1f}"
        write(
            f"{bench.name:{width}} {bench.stats.median * 1e3:10.2f} {rate:>8}"
            f"  {unit.removesuffix('/s'):10} {times:>7}"
        )
