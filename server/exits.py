"""What the exit codes of the command mean."""

from __future__ import annotations

EXIT_OK = 0
EXIT_DAMAGE = 1
"""Damaged or refused data, or the machine did not allow what was asked."""
EXIT_USAGE = 2
"""Wrong usage, somebody else has the directory, or a newer version wrote it."""
EXIT_UNREAD = 3
"""Nothing is known to be damaged, but something can't be read: by this process, or from a store."""


class UsageError(Exception):
    """The command was asked for something that can't be; ends it with EXIT_USAGE."""


class RefusedError(Exception):
    """Data was refused or can't be read; ends the command with EXIT_DAMAGE."""
