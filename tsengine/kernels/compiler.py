"""Compiles all kernels ahead of use, in child processes, so that a server's first request is fast.

The work is compilation, which holds the GIL; so it is spread over processes, one per core. Each
child takes one kernel name per line on its standard input and answers one line when it is done.
"""

from __future__ import annotations

import gc
import os
import queue
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO, Literal

from tsengine.kernels import jit

_CHILD = (
    "import sys; sys.path.insert(0, sys.argv[1]); "
    "from tsengine.kernels.compiler import serve; serve()"
)

_KEEP_GENERATION_S = 86_400

Progress = Callable[[int, int], None]
"""Called with (kernels done, kernels in all)."""


def missing_kernel_count() -> int:
    """How many kernels have no machine code in the cache yet."""
    if jit.is_complete():
        return 0
    n_missing = sum(1 for _ in jit.missing_kernels())
    if not n_missing:
        jit.mark_complete()
    return n_missing


def warmup(progress: Progress | None = None, *, cpu: Literal["host", "generic"] = "host") -> int:
    """Compile the kernels that the cache lacks; returns how many that were.

    Parameters
    ----------
    progress
        Called from this thread's children's readers, one call at a time.
    cpu
        ``generic`` makes code for any CPU of this architecture, for images that run elsewhere.

    Raises
    ------
    RuntimeError
        A child could not compile a kernel; its message is in the text.

    """
    mark = jit.cache_dir() / jit.GENERIC_MARK
    if cpu == "generic" and not mark.exists():
        for stale in jit.cache_dir().glob("*/*.code"):
            stale.unlink()
        mark.touch()
    if jit.is_complete():
        return 0
    names = [made.name for made in jit.missing_kernels()]
    if names:
        _compile(names, progress, cpu)
    jit.mark_complete()
    return len(names)


def _compile(names: list[str], progress: Progress | None, cpu: str) -> None:
    _remove_old_generations()
    todo: queue.SimpleQueue[list[str]] = queue.SimpleQueue()
    for batch in _batches(names):
        todo.put(batch)
    tally = _Tally(len(names), progress)
    threads = [
        threading.Thread(target=_drive_child, args=(todo, tally, cpu), daemon=True)
        for _ in range(min(os.cpu_count() or 1, todo.qsize()))
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if tally.failures:
        raise RuntimeError("; ".join(tally.failures))


def _batches(names: list[str]) -> list[list[str]]:
    """The kernels of each module, which share helpers; the largest module first."""
    modules: dict[str, list[str]] = {}
    for name in names:
        modules.setdefault(name.split(".")[0], []).append(name)
    folder = Path(__file__).parent
    return sorted(
        modules.values(),
        key=lambda batch: -(folder / f"{batch[0].split('.')[0]}.py").stat().st_size,
    )


def _remove_old_generations() -> None:
    """Remove machine code of sources that were replaced a day ago or earlier."""
    root = jit.cache_dir()
    current = {jit.module_cache_dir(made.name.split(".")[0]) for made in jit.import_all_kernels()}
    for folder in [*root.parent.iterdir(), *root.iterdir()]:
        if not folder.is_dir() or folder == root or folder in current:
            continue
        if time.time() - folder.stat().st_mtime > _KEEP_GENERATION_S:
            shutil.rmtree(folder, ignore_errors=True)


class _Tally:
    """Counts finished kernels over all children."""

    def __init__(self, total: int, progress: Progress | None) -> None:
        self._lock = threading.Lock()
        self._done = 0
        self._total = total
        self._progress = progress
        self.failures: list[str] = []

    def finish(self, name: str, answer: str) -> None:
        with self._lock:
            self._done += 1
            if answer != "ok":
                self.failures.append(f"{name}: {answer or 'the compiling process died'}")
            if self._progress is not None:
                self._progress(self._done, self._total)


def _drive_child(todo: queue.SimpleQueue[list[str]], tally: _Tally, cpu: str) -> None:
    environment = dict(os.environ)
    if cpu == "generic":
        environment["NUMBA_CPU_NAME"] = "generic"
    # -P and the path: the child must import this very package, not one in the current folder.
    command = [sys.executable, "-P", "-c", _CHILD, str(Path(__file__).parents[2])]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    ) as child:
        assert child.stdin is not None, "opened as a pipe"
        assert child.stdout is not None, "opened as a pipe"
        while True:
            try:
                batch = todo.get_nowait()
            except queue.Empty:
                child.stdin.close()
                return
            for name in batch:
                tally.finish(name, _ask(child.stdin, child.stdout, name))


def _ask(to_child: IO[str], from_child: IO[str], name: str) -> str:
    """The child's answer to a kernel's name; empty when it died."""
    try:
        to_child.write(name + "\n")
        to_child.flush()
    except BrokenPipeError:
        return ""
    return from_child.readline().strip()


def serve() -> None:
    """Body of a child: compile each kernel named on standard input."""
    kernels = {made.name: made for made in jit.import_all_kernels()}
    # The compiler makes millions of objects and keeps many: looking at them less often saves time.
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)
    for line in sys.stdin:
        try:
            kernels[line.strip()].compile()
            answer = "ok"
        except Exception as error:  # the parent reports it with the kernel's name
            answer = " ".join(f"{type(error).__name__}: {error}".split())[:2000]
        sys.stdout.write(answer + "\n")
        sys.stdout.flush()
