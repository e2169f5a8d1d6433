"""Comparing trees without their positions."""

import dataclasses
import struct


def shape(node):
    """A tree as nested tuples without spans; numbers as bits, so that NaN equals itself."""
    if isinstance(node, tuple):
        return tuple(shape(child) for child in node)
    if dataclasses.is_dataclass(node):
        fields = [f.name for f in dataclasses.fields(node) if f.name != "span"]
        return (type(node).__name__, *((name, shape(getattr(node, name))) for name in fields))
    if isinstance(node, float):
        return struct.pack("<d", node)
    return node


def spans(node, found=None):
    """All (node, span) pairs of a tree."""
    found = [] if found is None else found
    if isinstance(node, tuple):
        for child in node:
            spans(child, found)
    elif dataclasses.is_dataclass(node):
        if hasattr(node, "span"):
            found.append((node, node.span))
        for field in dataclasses.fields(node):
            spans(getattr(node, field.name), found)
    return found
