"""Postings with sorted() and sets."""

from __future__ import annotations


def sort_postings(rows: list[list[int]], first: int, last: int) -> list[tuple[int, int]]:
    return sorted((key, ref) for ref in range(first, last) for key in rows[ref])


def bucket_postings(rows: list[list[int]], first: int, last: int) -> dict[int, list[int]]:
    found: dict[int, list[int]] = {}
    for key, ref in sort_postings(rows, first, last):
        found.setdefault(key, []).append(ref)
    return found


def gather_rows(rows: list[list[int]], refs: list[int]) -> list[list[int]]:
    return [rows[ref] for ref in refs]


def find_in_rows(rows: list[list[int]], refs: list[int], pair_names: list[int], name: int):
    return [next((pair for pair in rows[ref] if pair_names[pair] == name), -1) for ref in refs]


def mark_runs(refs: list[int], runs: list[tuple[int, int]], value: bool, marks: list[bool]):
    marked = {ref for start, end in runs for ref in refs[start:end]}
    return [value if ref in marked else mark for ref, mark in enumerate(marks)]


def match_texts(texts: list[bytes], symbols: list[int], needle: bytes, mode: int) -> list[bool]:
    test = (bytes.startswith, bytes.endswith, bytes.__contains__)[mode]
    return [test(texts[symbol], needle) for symbol in symbols]
