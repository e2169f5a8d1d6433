"""Files that no manifest names any more, kept a while for readers of other processes."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Sequence

from tsengine.storage.filesystem import FileSystem, remove_tree

_LOG = logging.getLogger(__name__)
GRACE_S = 60.0
"""How long replaced files stay."""


class ReplacedFiles:
    """Paths with the time at which they go. Thread-safe."""

    def __init__(self, fs: FileSystem) -> None:
        self._fs = fs
        self._due: list[tuple[float, str]] = []
        self._lock = threading.Lock()

    @property
    def has_any(self) -> bool:
        """Whether something is kept."""
        return bool(self._due)

    def add(self, paths: Sequence[str]) -> None:
        """Let these files or folders go after the grace."""
        at = time.monotonic() + GRACE_S
        with self._lock:
            self._due += [(at, path) for path in paths]

    def remove_due(self, *, everything: bool = False) -> None:
        """Remove what is due; what can't be removed is an orphan that the next start removes."""
        now = time.monotonic()
        with self._lock:
            due = [path for at, path in self._due if everything or at <= now]
            self._due = [(at, path) for at, path in self._due if not (everything or at <= now)]
        for path in due:
            try:
                remove_tree(self._fs, path)
            except FileNotFoundError:
                pass  # with the folder it was in
            except OSError as error:
                _LOG.warning("could not remove %s: %s", path, error)
