"""Kernels and the twin written from docs/format/block.md read each other's blocks."""

import random

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.codecs import adversary
from tests.reference import blockcode as reference
from tsengine.kernels.blockcode import SCRATCH_BYTES, decode_blocks, encode_blocks

SEEDS = st.integers(0, 2**32 - 1).map(random.Random)
LENGTHS = st.sampled_from([n for n in adversary.LENGTHS if n < 1023] * 3 + [1024, 1025, 2300])


def encode(bits, first_row):
    n = len(bits)
    out = np.empty(16 * n + 160 * (n // 1024 + 2) + SCRATCH_BYTES, np.uint8)
    size = encode_blocks(
        np.array(bits, np.uint64), np.array([0, n]), np.array([first_row]), out,
        np.empty(2, np.int64), np.empty((6, 1)), np.empty((2, 1), np.int64),
    )  # fmt: skip
    return out[:size].tobytes()


def decode(data, n, first_row, lo, hi):
    out = np.empty(hi - lo, np.uint64)
    columns = (np.array([x]) for x in (0, len(data), first_row, n, lo, hi))
    payload = np.frombuffer(data, np.uint8)
    status = decode_blocks(payload, *columns, out, np.array([0]), np.zeros(2, np.int64))
    return out.tolist() if status == 0 else status


@settings(max_examples=100, deadline=None)
@given(SEEDS, LENGTHS, st.sampled_from(adversary.FIRST_ROWS))
def test_encode_blocks_matches_reference(rnd, n, first_row):
    bits = adversary.block(rnd, n)
    data = encode(bits, first_row)
    assert reference.decode_blocks([data], [first_row], [n], [0], [n]) == [bits]
    # The twin tries all plain forms; the kernel guesses, but has exceptions, residuals and pieces.
    # It looks for something better than decimals only where they take more than 32 bits a value.
    (plain,) = reference.encode_blocks([bits], [first_row])
    assert len(data) <= max(1.03 * len(plain), 4 * n) + 24


@settings(max_examples=150, deadline=None)
@given(SEEDS, LENGTHS, st.sampled_from(adversary.FIRST_ROWS))
def test_decode_blocks_matches_reference(rnd, n, first_row):
    """Forms that the format allows and that our encoder would never choose are read as well."""
    bits = adversary.block(rnd, n)
    lo = rnd.randrange(n)
    hi = rnd.randrange(lo, n) + 1
    for choose in (None, rnd.randrange):
        (data,) = reference.encode_blocks([bits], [first_row], choose)
        assert decode(data, n, first_row, 0, n) == bits
        assert decode(data, n, first_row, lo, hi) == bits[lo:hi]
        assert reference.decode_blocks([data], [first_row], [n], [lo], [hi]) == [bits[lo:hi]]
