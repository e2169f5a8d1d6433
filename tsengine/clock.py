"""The wall clock as a value that can be passed in (tests pass a fake one)."""

from __future__ import annotations

import time
from collections.abc import Callable

Clock = Callable[[], int]
"""Returns milliseconds since the Unix epoch, UTC."""


def system_clock() -> int:
    """Milliseconds since the Unix epoch by the machine's clock."""
    return time.time_ns() // 1_000_000
