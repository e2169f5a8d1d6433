"""Kernels and the twin written from docs/format/axis.md read each other's axes."""

import random

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.codecs import adversary
from tests.reference import axiscode as reference
from tsengine.kernels.axiscode import SCRATCH_BYTES, decode_axes, encode_axes

SEEDS = st.integers(0, 2**32 - 1).map(random.Random)
LENGTHS = st.sampled_from([n for n in adversary.LENGTHS if n < 1023] * 3 + [1024, 1025, 2300])


@settings(max_examples=120, deadline=None)
@given(SEEDS, LENGTHS)
def test_encode_axes_matches_reference(rnd, n):
    t_ms = adversary.axis(rnd, n)
    out = np.empty(12 * n + 64 + SCRATCH_BYTES, np.uint8)
    size = encode_axes(np.array(t_ms), np.array([0, len(t_ms)]), out, np.empty(2, np.int64))
    data = out[:size].tobytes()
    assert reference.decode_axes([data], [len(t_ms)]) == [t_ms]
    (plain,) = reference.encode_axes([t_ms])
    assert len(data) <= 1.03 * len(plain) + 12
    if plain[0] == reference.REGULAR:
        assert data == plain


def test_encode_axes_names_the_axis_that_does_not_ascend():
    t_ms = np.array([1, 2, 2, 2])
    out = np.empty(1000 + SCRATCH_BYTES, np.uint8)
    assert encode_axes(t_ms, np.array([0, 2, 4]), out, np.empty(3, np.int64)) == -2


@settings(max_examples=120, deadline=None)
@given(SEEDS, LENGTHS)
def test_decode_axes_matches_reference(rnd, n):
    t_ms = adversary.axis(rnd, n)
    for choose in (None, rnd.randrange):
        (data,) = reference.encode_axes([t_ms], choose)
        assert reference.decode_axes([data], [len(t_ms)]) == [t_ms]
        out = np.empty(len(t_ms), np.int64)
        status = decode_axes(
            np.frombuffer(data, np.uint8), *(np.array([x]) for x in (0, len(data), len(t_ms))),
            out, np.array([0]), np.zeros(1, np.int64),
        )  # fmt: skip
        assert status == 0
        assert out.tolist() == t_ms
