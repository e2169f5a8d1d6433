"""Slow twin of `tsengine.kernels.labeltexts`."""

from __future__ import annotations

import json

Pair = tuple[bytes, bytes]


def order_rows(rows: list[list[Pair]]) -> list[int]:
    """Positions of the rows in the order of their labels."""
    return sorted(range(len(rows)), key=lambda row: rows[row])


def write_pairs(pairs: list[Pair]) -> list[bytes] | None:
    """JSON of each pair; None if one of them has to be escaped."""
    made = [b'"' + name + b'":"' + value + b'"' for name, value in pairs]
    plain = [
        json.dumps(name.decode(), ensure_ascii=False)
        + ":"
        + json.dumps(value.decode(), ensure_ascii=False)
        for name, value in pairs
    ]
    return made if [text.encode() for text in plain] == made else None
