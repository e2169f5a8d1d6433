"""Memory that was freed goes back to the system, where the C library does not do it by itself.

glibc keeps freed arrays for later in pools, several for many threads; after a few large answers the
process would look as if it still held them all. But what a small query takes and gives back, the
next one wants again: that stays, for getting fresh pages takes longer than the query.

There is one pool for all threads: what one gives back the next one uses, and only of this one
`malloc_trim` returns all that is free. Of others the end stays, as large as it ever was: memory
would go up for days with each merge that is larger than those before it.
"""

from __future__ import annotations

import ctypes

TRIM_AT_BYTES = 32 * 1024 * 1024
"""Calls that held less leave too little behind to be worth the milliseconds."""


_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -2, -3, -8
_KEPT_BYTES = 32 * 1024 * 1024
_GROWTH_BYTES = 1024 * 1024
_OWN_PAGES_AT_BYTES = 32 * 1024 * 1024


def _find(name: str) -> ctypes._NamedFuncPointer | None:
    try:
        found: ctypes._NamedFuncPointer = getattr(ctypes.CDLL(None), name)
    except (OSError, AttributeError, TypeError):
        return None
    return found


_malloc_trim = _find("malloc_trim")


def keep_small_memory() -> None:
    """Let one pool keep up to 32 MiB from the start; glibc learns so much only by and by.

    Before there are threads: a pool that is there stays.
    """
    if _malloc_trim is None:
        return  # Another C library.
    mallopt = _find("mallopt")
    if mallopt is not None:
        mallopt(_M_ARENA_MAX, 1)
        mallopt(_M_TRIM_THRESHOLD, _KEPT_BYTES)
        mallopt(_M_TOP_PAD, _GROWTH_BYTES)
        mallopt(_M_MMAP_THRESHOLD, _OWN_PAGES_AT_BYTES)


def give_back_free_memory() -> None:
    """Return what is free to the system; nothing where that can't be asked for. Any thread."""
    if _malloc_trim is not None:
        _malloc_trim(0)
