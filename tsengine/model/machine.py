"""What the machine has."""

from __future__ import annotations

import contextlib
import ctypes
import os
import sys
import threading

_CGROUP_FILES = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")

GIVE_WAY_NICENESS = 5
GIVE_BACK_SAMPLES = 256 * 1024
"""Work on fewer samples leaves too little free memory behind to be worth the milliseconds."""


def give_back_memory() -> None:
    """Let the C library return freed memory to the system, where it can (glibc)."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if os.name == "posix" else None
    if trim is not None:
        trim(0)


def give_way() -> None:
    """Let this thread have less of the cores than others want; for work that can wait. Linux only.

    A third of another thread's share: of less it might be kept from a core while it has the
    interpreter, for which all others wait.
    """
    if sys.platform == "linux":
        thread = threading.get_native_id()
        with contextlib.suppress(OSError):
            niceness = os.getpriority(os.PRIO_PROCESS, thread)
            os.setpriority(os.PRIO_PROCESS, thread, niceness + GIVE_WAY_NICENESS)


def machine_memory() -> int:
    """Bytes of memory this process may use: the machine's, or less if its cgroup has a limit."""
    size = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for path in _CGROUP_FILES:
        try:
            with open(path, encoding="ascii") as file:
                text = file.read().strip()
        except (OSError, UnicodeDecodeError):
            continue
        if text.isdecimal():
            size = min(size, int(text))
    return size
