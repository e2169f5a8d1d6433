"""What the machine has."""

from __future__ import annotations

import ctypes
import os

_CGROUP_FILES = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")


GIVE_BACK_SAMPLES = 256 * 1024
"""Work on fewer samples leaves too little free memory behind to be worth the milliseconds."""


def give_back_memory() -> None:
    """Let the C library return freed memory to the system, where it can (glibc)."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if os.name == "posix" else None
    if trim is not None:
        trim(0)


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
