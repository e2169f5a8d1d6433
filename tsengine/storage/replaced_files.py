"""Files that no manifest names any more, kept a while for readers of other processes.

Readers of this process have local files open, which may lose their names. What is in an object
store can't be held that way: those stay until the last reader is gone.
"""

from __future__ import annotations

import gc
import logging
import threading
import time
from collections.abc import Callable, Sequence

from tsengine.storage.filesystem import FileSystem, remove_tree

_LOG = logging.getLogger(__name__)
GRACE_S = 60.0
"""How long replaced files stay."""


class ReplacedFiles:
    """Paths with the time at which they go. Thread-safe.

    Parameters
    ----------
    is_read
        Whether a reader of this process needs a path.

    """

    def __init__(self, fs: FileSystem, is_read: Callable[[str], bool] = lambda path: False) -> None:
        self._fs = fs
        self._is_read = is_read
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
        """Remove what is due and not read; the next start removes what is never removed.

        ``everything`` is due, too, whose time has not come.
        """
        now = time.monotonic()
        due: list[str] = []
        with self._lock:
            if everything and any(self._is_read(path) for _, path in self._due):
                gc.collect()  # views that ended are parts of cycles
            kept = []
            for at, path in self._due:
                if (everything or at <= now) and not self._is_read(path):
                    due.append(path)
                else:
                    kept.append((at, path))
            self._due = kept
        for path in due:
            try:
                remove_tree(self._fs, path)
            except FileNotFoundError:
                pass  # with the folder it was in
            except OSError as error:
                _LOG.warning("could not remove %s: %s", path, error)
