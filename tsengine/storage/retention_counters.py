"""What retention has removed since the database was opened."""

from __future__ import annotations

import threading


class RetentionCounters:
    """Files that retention removed or rewrote, and the bytes freed, by reason. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._parts = {"time": 0, "size": 0, "rule": 0}
        self._bytes = dict(self._parts)
        self._held_bytes = 0

    def add(self, reason: str, n_parts: int, n_bytes: int) -> None:
        """Count ``n_parts`` files of ``n_bytes``; reasons are time, size and rule."""
        with self._lock:
            self._parts[reason] += n_parts
            self._bytes[reason] += n_bytes

    def hold(self, n_bytes: int) -> None:
        """What the limit of bytes would take now, but for what overwrites others that stay."""
        self._held_bytes = n_bytes

    def numbers(self) -> dict[str, int]:
        """For stats; keys end with ``:`` and the reason."""
        with self._lock:
            parts = {f"retention_parts:{reason}": n for reason, n in self._parts.items()}
            parts |= {f"retention_bytes:{reason}": n for reason, n in self._bytes.items()}
        return parts | {"retention_held_bytes": self._held_bytes}
