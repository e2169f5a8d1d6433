"""What else the machine does: said before each phase, so that a figure can be judged."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

BUSY_SHARE_MAX = 0.1
"""Of all cores; above it the machine is not quiet."""
_LOOK_S = 2.0


def _times() -> tuple[int, int]:
    """Ticks that all cores were idle (or waited for a disk), and ticks in all."""
    fields = [int(field) for field in Path("/proc/stat").read_text().split("\n")[0].split()[1:9]]
    return fields[3] + fields[4], sum(fields)


def busy_share(seconds: float = _LOOK_S) -> float:
    """Share of the cores' time that is used for some seconds in which this process only waits."""
    idle, total = _times()
    time.sleep(seconds)
    idle_after, total_after = _times()
    return 1 - (idle_after - idle) / max(1, total_after - total)


def look(wait_s: float = 0.0) -> dict[str, Any]:
    """Load average and busy share, once the machine is quiet or ``wait_s`` are over."""
    end_s = time.monotonic() + wait_s
    while True:
        busy = busy_share()
        if busy <= BUSY_SHARE_MAX or time.monotonic() >= end_s:
            break
    return {
        "load_average": os.getloadavg()[0],
        "busy_share": round(busy, 3),
        "is_quiet": busy <= BUSY_SHARE_MAX,
    }
