"""Rows of labels as plain lists: what sharing must not change."""

from __future__ import annotations

from tests.reference import protowire


def parse_label_rows(data: bytes, spans: list[tuple[int, int]]) -> list[list[tuple[bytes, bytes]]]:
    return protowire.parse_labels(data, spans)


def share_label_rows(symbols: list[int], rows: list[tuple[int, int]]) -> list[list[tuple]]:
    """Rows are (start, labels); a label is a pair of symbols."""
    return [
        [(symbols[k], symbols[k + 1]) for k in range(start, start + 2 * size, 2)]
        for start, size in rows
    ]
