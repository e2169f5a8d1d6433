"""How much memory objects hold, counted by looking at their arrays."""

from __future__ import annotations

from dataclasses import fields, is_dataclass

import numpy as np

from tsengine.storage.scratch import memory_of

_WALK_DEPTH = 6


def array_bytes(*owners: object) -> int:
    """Bytes of all arrays that objects of this package hold, at any depth, each counted once."""
    seen: set[int] = set()
    return sum(_walk(owner, seen, _WALK_DEPTH) for owner in owners)


def _walk(value: object, seen: set[int], depth: int) -> int:
    if id(value) in seen:
        return 0
    seen.add(id(value))
    if isinstance(value, np.ndarray):
        # A view holds the whole of what it looks at.
        base = value.base
        if isinstance(base, np.ndarray):
            return _walk(base, seen, depth)
        memory = memory_of(value)
        return value.nbytes - (0 if memory is None else memory.n_given_back)
    if depth == 0:
        return 0
    if isinstance(value, (list, tuple)):
        return sum(_walk(item, seen, depth - 1) for item in value)
    if isinstance(value, dict):
        return sum(_walk(item, seen, depth - 1) for item in value.values())
    if not type(value).__module__.startswith("tsengine."):
        return 0
    if is_dataclass(value):
        members = [getattr(value, field.name) for field in fields(value)]
    else:
        members = [*getattr(value, "__dict__", {}).values()]
        members += [getattr(value, name, None) for name in getattr(value, "__slots__", ())]
    return sum(_walk(member, seen, depth - 1) for member in members)
