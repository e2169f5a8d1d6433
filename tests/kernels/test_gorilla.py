import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.codecs import adversary
from tests.reference import gorilla as reference
from tests.reference.packing import MASK, Damaged
from tsengine.kernels.gorilla import TIMES, VALUES, WORD_BYTES_MAX, decode_gorilla, encode_gorilla

SEEDS = st.integers(0, 2**32 - 1).map(random.Random)
LENGTHS = st.sampled_from((1, 2, 3, 25, 128, 500))


def words_of(rnd, kind, n):
    if kind == VALUES:
        return adversary.block(rnd, n)
    if rnd.random() < 0.3:
        return [rnd.getrandbits(64) for _ in range(n)]
    return [t & MASK for t in adversary.axis(rnd, n)]


def encode(words, kind):
    out = np.zeros(WORD_BYTES_MAX * len(words) + 16, np.uint8)
    return out[: encode_gorilla(np.array(words, np.uint64), kind, out)].tobytes()


@pytest.mark.parametrize("kind", [TIMES, VALUES])
@settings(max_examples=100, deadline=None)
@given(SEEDS, LENGTHS)
def test_encode_gorilla_matches_reference(kind, rnd, n):
    words = words_of(rnd, kind, n)
    assert encode(words, kind) == reference.encode_gorilla(words, kind)


@pytest.mark.parametrize("kind", [TIMES, VALUES])
@settings(max_examples=100, deadline=None)
@given(SEEDS, LENGTHS)
def test_decode_gorilla_matches_reference(kind, rnd, n):
    words = words_of(rnd, kind, n)
    data = encode(words, kind)
    for changed in (data, adversary.damaged(rnd, data)):
        out = np.zeros(len(words), np.uint64)
        with adversary.guarded(len(changed)) as payload:
            payload[:] = np.frombuffer(changed, np.uint8)
            status = decode_gorilla(payload, kind, out)
        try:
            expected = reference.decode_gorilla(changed, kind, len(words))
        except Damaged:
            assert status < 0
        else:
            assert status == 0
            assert out.tolist() == expected
        if changed is data:
            assert out.tolist() == words


@pytest.mark.parametrize(
    ("change", "bits"), [(0, 1), (64, 9), (-63, 9), (65, 12), (-255, 12), (257, 16), (2049, 68)]
)
def test_second_differences_take_what_the_paper_says(change, bits):
    words = [0, 60_000, 120_000, 180_000 + change]
    assert len(encode(words, TIMES)) == (64 + 68 + 1 + bits + 7) // 8
