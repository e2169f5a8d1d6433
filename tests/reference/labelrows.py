"""Slow twin of `tsengine.kernels.labelrows`."""

from __future__ import annotations


def group_rows(rows: list[tuple[int, ...]]) -> tuple[list[int], list[int]]:
    """Group of each row and first row of each group, groups in order of first appearance."""
    groups: dict[tuple[int, ...], int] = {}
    first: list[int] = []
    group_of_row = []
    for at, row in enumerate(rows):
        if row not in groups:
            groups[row] = len(first)
            first.append(at)
        group_of_row.append(groups[row])
    return group_of_row, first


def filter_rows(
    rows: list[tuple[int, ...]], names: dict[int, int], wanted: set[int], *, keep: bool
) -> list[tuple[int, ...]]:
    """Rows with only the pairs whose name is wanted, or with the others."""
    return [tuple(pair for pair in row if (names[pair] in wanted) == keep) for row in rows]
