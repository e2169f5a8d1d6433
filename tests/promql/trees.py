"""Comparing trees without their positions."""

import dataclasses
import math
import struct


def shape(node):
    """A tree as nested tuples without spans; numbers as bits, all NaNs alike."""
    if isinstance(node, tuple):
        return tuple(shape(child) for child in node)
    if dataclasses.is_dataclass(node):
        fields = [f.name for f in dataclasses.fields(node) if f.name != "span"]
        return (type(node).__name__, *((name, shape(getattr(node, name))) for name in fields))
    if isinstance(node, float):
        # The text "NaN" has no sign, while folding -NaN gives one.
        if math.isnan(node):
            return "NaN"
        return struct.pack("<d", node)
    return node


def nodes(root):
    """All nodes of a tree that have a span, the root first."""
    found = []
    waiting = [root]
    while waiting:
        node = waiting.pop()
        if isinstance(node, tuple):
            waiting.extend(node)
        elif dataclasses.is_dataclass(node):
            if hasattr(node, "span"):
                found.append(node)
            waiting.extend(getattr(node, field.name) for field in dataclasses.fields(node))
    return found
