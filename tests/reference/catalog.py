"""Interning and label checks with dicts, sets and sorted()."""

from __future__ import annotations

NONE = 0xFFFFFFFF
OK, EMPTY_NAME, BAD_NAME, BAD_VALUE, DUPLICATE, NO_METRIC, TOO_MANY = range(7)
NAME_TOO_LONG, VALUE_TOO_LONG, SERIES_TOO_LARGE = 7, 8, 9


def check_labels(rows: list[list[tuple[bytes, bytes]]], limits: tuple[int, int, int, int]):
    """(labels kept in order, status) of each row."""
    return [_checked(row, *limits) for row in rows]


def _checked(row, n_labels_max, name_size_max, value_size_max, series_size_max):
    if sum(1 for _, value in row if value) > n_labels_max:
        return [], TOO_MANY
    size = 0
    for name, value in row:
        size += len(name) + len(value)
        broken = [
            (not name, EMPTY_NAME),
            (len(name) > name_size_max, NAME_TOO_LONG),
            (len(value) > value_size_max, VALUE_TOO_LONG),
            (size > series_size_max, SERIES_TOO_LARGE),
            (not is_utf8(name), BAD_NAME),
            (not is_utf8(value), BAD_VALUE),
        ]
        for is_broken, status in broken:
            if is_broken:
                return [], status
    if len({name for name, _ in row}) < len(row):
        return [], DUPLICATE
    if not dict(row).get(b"__name__"):
        return [], NO_METRIC
    return sorted((name, value) for name, value in row if value), OK


def is_utf8(text: bytes) -> bool:
    try:
        text.decode()
    except UnicodeDecodeError:
        return False
    return True


def _interned(known: dict, keys: list, insert: bool) -> list[int]:
    """Numbers in order of first appearance; None is never known."""
    found = []
    for key in keys:
        if insert and key is not None:
            known.setdefault(key, len(known))
        found.append(NONE if key is None else known.get(key, NONE))
    return found


def intern_symbols(known: dict, texts: list[bytes], insert: bool) -> list[int]:
    return _interned(known, texts, insert)


def intern_pairs(known: dict, pairs: list[tuple[int, int]], insert: bool) -> list[int]:
    return _interned(known, [None if NONE in pair else pair for pair in pairs], insert)


def intern_series(known: dict, rows: list[tuple[int, ...]], insert: bool) -> list[int]:
    return _interned(known, [None if not row or NONE in row else row for row in rows], insert)


def grow_table(entries: list[int], n_slots: int) -> dict[int, set[int]]:
    """Tags and numbers by tag: what a table of any size must still hold."""
    assert len(entries) < n_slots
    held: dict[int, set[int]] = {}
    for entry in entries:
        held.setdefault(entry >> 32, set()).add(entry & 0xFFFFFFFF)
    return held


def memo_insert(memo: dict, keys: list, refs: list[int]) -> None:
    """A memo without a bound."""
    memo.update((key, ref) for key, ref in zip(keys, refs, strict=True) if ref != NONE)


def memo_find(memo: dict, keys: list) -> list[int]:
    return [memo.get(key, NONE) for key in keys]
