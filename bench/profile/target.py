"""The process that is profiled: the command ``tsengine``, in which kernels have names.

    python -m bench.profile.target serve --data-dir DIR

All kernels are called by one Python function, so a stack would not tell them apart. Here each is
called through a function of its own that bears its name and counts the CPU time of the call; that
costs about a microsecond. What was counted is written to the file whose path comes through the
named pipe TSENGINE_PROFILE_PIPE. And any process of this user may trace this one, where the system
leaves that to it (Yama).
"""

from __future__ import annotations

import ctypes
import json
import os
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from time import thread_time_ns
from typing import Any

KERNEL_FILE = "kernel"
"""What stands for the file in frames of kernels."""
PIPE = "TSENGINE_PROFILE_PIPE"
_PR_SET_PTRACER = 0x59616D61
_ANY = ctypes.c_ulong(-1)


_spent: dict[str, dict[int, int]] = {}
"""CPU nanoseconds by kernel and thread."""


def named(name: str, call: Callable[..., Any]) -> Callable[..., Any]:
    """A function of that name that makes the call and counts its CPU time."""
    spent = _spent.setdefault(name, {})
    thread_of = threading.get_native_id

    def frame(*arguments: Any) -> Any:
        before = thread_time_ns()
        try:
            return call(*arguments)
        finally:
            thread = thread_of()
            spent[thread] = spent.get(thread, 0) + thread_time_ns() - before

    frame.__code__ = frame.__code__.replace(co_name=name, co_qualname=name, co_filename=KERNEL_FILE)
    return frame


def name_kernels() -> None:
    """From now on kernels that are loaded get frames of their names."""
    from tsengine.kernels.jit import Kernel

    load = Kernel.compile

    def compile_and_name(kernel: Kernel) -> bool:
        is_new = kernel._call is None
        hit = load(kernel)
        call = kernel._call
        # Two threads may come here at once; a frame too many would do no harm.
        if is_new and call is not None:
            kernel._call = named(kernel.name, call)
        return hit

    Kernel.compile = compile_and_name  # type: ignore[method-assign]


def allow_tracing() -> None:
    """Let other processes of this user look into this one."""
    ctypes.CDLL(None).prctl(_PR_SET_PTRACER, _ANY, 0, 0, 0)


def tell_what_was_spent(pipe: str) -> None:
    """Answer to each path that comes through a pipe by writing that file; a thread, for ever."""
    while True:
        with open(pipe) as paths:
            for line in paths:
                path = Path(line.strip())
                found = {name: dict(threads) for name, threads in list(_spent.items())}
                path.with_suffix(".new").write_text(json.dumps(found))
                path.with_suffix(".new").rename(path)


def main() -> int:
    """The command."""
    allow_tracing()
    if PIPE in os.environ:
        arguments = (os.environ.pop(PIPE),)
        threading.Thread(target=tell_what_was_spent, args=arguments, daemon=True).start()
    name_kernels()
    from server.cli import main as command

    return command()


if __name__ == "__main__":
    sys.exit(main())
