"""Memory that was freed goes back to the system, where the C library does not do it by itself.

glibc keeps freed arrays for later in pools, several for many threads; after a few large answers the
process would look as if it still held them all.
"""

from __future__ import annotations

import ctypes

TRIM_AT_BYTES = 32 * 1024 * 1024
"""Calls that held less leave too little behind to be worth the milliseconds."""


def _find_trim() -> ctypes._NamedFuncPointer | None:
    try:
        return ctypes.CDLL(None).malloc_trim
    except (OSError, AttributeError, TypeError):
        return None


_malloc_trim = _find_trim()


def give_back_free_memory() -> None:
    """Return what is free to the system; nothing where that can't be asked for. Any thread."""
    if _malloc_trim is not None:
        _malloc_trim(0)
