"""Which parts are past the retention. Pure; the wall clock decides, never the data."""

from __future__ import annotations

from collections.abc import Sequence

from tsengine.storage.manifest import PartEntry


def expired_parts(parts: Sequence[PartEntry], floor_ms: int) -> list[PartEntry]:
    """Parts all of whose samples lie before ``floor_ms`` (which itself is kept).

    Parts that reach over the floor stay; reads clip them and a merge cuts them.
    """
    return [part for part in parts if part.maxt < floor_ms]
