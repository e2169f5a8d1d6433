import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.codecs import adversary
from tsengine.codecs.gorilla import decode_times, decode_values, encode_times, encode_values
from tsengine.errors import CorruptionError

SEEDS = st.integers(0, 2**32 - 1).map(random.Random)


@settings(max_examples=100, deadline=None)
@given(SEEDS, st.sampled_from(adversary.LENGTHS))
def test_what_was_written_comes_back(rnd, n):
    bits = adversary.block(rnd, n)
    assert decode_values(encode_values(np.array(bits, np.uint64)), n).tolist() == bits
    t_ms = adversary.axis(rnd, n)
    assert decode_times(encode_times(np.array(t_ms)), len(t_ms)).tolist() == t_ms


def test_damage_raises():
    t_ms = np.array([0, 15_000, 30_001, 45_000])
    for data, decode in (
        (encode_times(t_ms), decode_times),
        (encode_values(np.array([1.5, 1.5, 1.7, -0.0]).view(np.uint64)), decode_values),
    ):
        for i in range(len(data)):
            for k in range(8):
                changed = bytearray(data)
                changed[i] ^= 1 << k
                with pytest.raises(CorruptionError) as caught:
                    decode(bytes(changed), 4, path="p", offset=5)
                assert (caught.value.path, caught.value.offset) == ("p", 5)
            with pytest.raises(CorruptionError):
                decode(data[:i], 4)
        with pytest.raises(CorruptionError):
            decode(data, 5)


def test_wrong_calls_are_refused():
    with pytest.raises(ValueError):
        encode_times(np.zeros(0, np.int64))
    with pytest.raises(ValueError):
        decode_values(b"", 0)
