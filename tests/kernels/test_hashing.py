"""Fingerprints against Python's integers, and that the key and every byte matter."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.reference import hashing as reference
from tsengine.kernels import hashing as kernels

words = st.integers(0, 2**64 - 1)


def make_key(seed: int) -> np.ndarray:
    key = np.random.default_rng(seed).integers(0, 2**64, kernels.KEY_WORDS, np.uint64)
    key[[kernels.POINT_1, kernels.POINT_2]] %= kernels.PRIME
    return key


def hash_spans(data: bytes, spans: list[tuple[int, int]], key: np.ndarray) -> list[int]:
    starts, ends = np.array(spans, np.int64).reshape(-1, 2).T.copy()
    out = np.empty(2 * len(spans), np.uint64)
    kernels.hash_spans(np.frombuffer(data, np.uint8), starts, ends, len(spans), key, out)
    return out.tolist()


@given(
    st.binary(max_size=60) | st.integers(0, 3000).map(lambda n: (b"0123456789\xff" * 300)[:n]),
    st.lists(st.tuples(st.integers(0, 3000), st.integers(0, 3000)), max_size=5),
    st.integers(0, 2**32),
)
@settings(deadline=None, max_examples=150)
def test_hash_spans_matches_reference(data, cuts, seed):
    spans = [(0, len(data))]
    spans += [tuple(sorted((a % (len(data) + 1), b % (len(data) + 1)))) for a, b in cuts]
    key = make_key(seed)
    assert hash_spans(data, spans, key) == reference.hash_spans(data, spans, key.tolist())


@given(
    st.lists(st.tuples(st.lists(st.integers(0, 9), max_size=7), st.integers(0, 8)), max_size=5),
    st.integers(0, 300),
    st.integers(0, 2**32),
)
@settings(deadline=None, max_examples=150)
def test_hash_rows_matches_reference(rows_and_tags, n_long, seed):
    rows = [row for row, _ in rows_and_tags] + [[i % 10 for i in range(n_long)]]
    tags = [tag for _, tag in rows_and_tags] + [3]
    key = make_key(seed)
    texts = np.random.default_rng(seed + 1).integers(0, kernels.PRIME, 20, np.uint64)
    out = np.empty(2 * len(rows), np.uint64)
    symbols = np.array([symbol for row in rows for symbol in row], np.uint32)
    row_ends = np.cumsum([len(row) for row in rows])
    kernels.hash_rows(row_ends, symbols, np.array(tags), len(rows), texts, key, out)
    assert out.tolist() == reference.hash_rows(rows, tags, texts.tolist(), key.tolist())


def test_hash_rows_takes_extreme_words():
    key = make_key(1)
    key[:130] = 2**64 - 1
    data = b"\xff" * 2100
    spans = [(0, n) for n in (0, 1, 8, 15, 16, 1023, 1024, 1025, 2048, 2100)]
    assert hash_spans(data, spans, key) == reference.hash_spans(data, spans, key.tolist())


def test_every_bit_and_the_length_change_both_halves():
    key = make_key(2)
    data = bytearray(range(200))
    seen = {tuple(hash_spans(bytes(data), [(0, len(data))], key))}
    for place in range(200):
        for bit in range(8):
            data[place] ^= 1 << bit
            seen.add(tuple(hash_spans(bytes(data), [(0, len(data))], key)))
            data[place] ^= 1 << bit
    zeros = [tuple(hash_spans(bytes(n), [(0, n)], key)) for n in range(70)]
    assert len(seen) == 1601
    assert len({first for first, _ in seen} | {first for first, _ in zeros}) == 1671
    assert len({second for _, second in seen} | {second for _, second in zeros}) == 1671


def test_three_changed_characters_do_not_collide_under_any_key():
    # A multiply-shift hash of this shape collided in a quarter of such tries.
    for seed in range(40):
        key = make_key(seed)
        texts = [
            bytes(32 * a) + b"%d" % b + bytes(29 + 32 * c) for a in (0, 1, 2)
            for b in (100, 101, 999) for c in (0, 1)
        ]  # fmt: skip
        found = {tuple(hash_spans(text, [(0, len(text))], key)) for text in texts}
        assert len(found) == len(set(texts))
