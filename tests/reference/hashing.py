"""The fingerprints with Python's integers, from the definition at the top of
tsengine/kernels/hashing.py."""

from __future__ import annotations

PRIME = (1 << 61) - 1
BLOCK_WORDS = 128
WORD = (1 << 64) - 1


def fingerprint(first_words, second_words, length: int, key: list[int]) -> tuple[int, int]:
    """Both halves of two sequences of words (equal ones for a span), padded to full pairs."""
    return _half(first_words, length, key, 0, key[130]), _half(
        second_words, length, key, 2, key[131]
    )


def _half(words: list[int], length: int, key: list[int], shift: int, point: int) -> int:
    state = 0
    for begin in range(0, max(len(words), 1), BLOCK_WORDS):
        block = words[begin : begin + BLOCK_WORDS]
        total = 0
        for i in range(0, len(block), 2):
            total += (block[i] + key[shift + i] & WORD) * (block[i + 1] + key[shift + i + 1] & WORD)
        total &= (1 << 128) - 1
        for coefficient in (total & (1 << 48) - 1, (total >> 48) & (1 << 48) - 1, total >> 96):
            state = (state * point + coefficient) % PRIME
    return (state * point + length) % PRIME


def hash_spans(data: bytes, spans: list[tuple[int, int]], key: list[int]) -> list[int]:
    out = []
    for start, end in spans:
        text = data[start:end]
        padded = text + bytes(-len(text) % 16)
        words = [int.from_bytes(padded[i : i + 8], "little") for i in range(0, len(padded), 8)]
        out += fingerprint(words, words, len(text), key)
    return out


def hash_rows(
    rows: list[list[int]], tags: list[int], symbol_hashes: list[int], key: list[int]
) -> list[int]:
    out = []
    for row, tag in zip(rows, tags, strict=True):
        paired = row[: len(row) // 2 * 2]
        length = len(row) | tag << 32 | 1 << 40
        first = [symbol_hashes[2 * symbol] for symbol in paired]
        second = [symbol_hashes[2 * symbol + 1] for symbol in paired]
        out += fingerprint(first, second, length, key)
    return out
