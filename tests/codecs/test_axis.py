"""Axes come back; damaged ones raise, with file and offset."""

import random
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.codecs import adversary
from tests.reference import axiscode as reference
from tests.reference.packing import seal
from tsengine.codecs.axis import MAX_AXIS_ROWS, decode_axes, encode_axes
from tsengine.errors import CorruptionError

SEEDS = st.integers(0, 2**32 - 1).map(random.Random)
I64 = st.integers(-(2**63), 2**63 - 1)
PAGE = Path(__file__).parents[2] / "docs" / "format" / "axis.md"


def encode_one(t_ms):
    payload, positions = encode_axes(np.array(t_ms, np.int64), np.array([0, len(t_ms)]))
    assert positions.tolist() == [0, len(payload)]
    return payload.tobytes()


def decode_one(data, n, **where):
    payload = np.frombuffer(data, np.uint8) if isinstance(data, bytes) else data
    out = np.full(n + 16, 77, np.int64)
    try:
        decode_axes(payload, [0], [len(payload)], [n], out, [8], **where)
    finally:
        assert (out[:8] == 77).all()
        assert (out[8 + n :] == 77).all()
    return out[8 : 8 + n].tolist()


@settings(max_examples=100, deadline=None)
@given(SEEDS, st.lists(st.sampled_from(adversary.LENGTHS), max_size=5))
def test_many_axes_come_back(rnd, lengths):
    axes = [adversary.axis(rnd, n) for n in lengths]
    offsets = np.cumsum([0, *(len(axis) for axis in axes)])
    t_ms = np.array([t for axis in axes for t in axis], np.int64)
    payload, positions = encode_axes(t_ms, offsets)
    out = np.zeros(len(t_ms), np.int64)
    order = rnd.sample(range(len(axes)), len(axes))
    decode_axes(
        payload, positions[:-1][order], np.diff(positions)[order], np.diff(offsets)[order],
        out, offsets[:-1][order],
    )  # fmt: skip
    np.testing.assert_array_equal(out, t_ms)


@settings(max_examples=300, deadline=None)
@given(st.lists(I64 | st.integers(-50, 50), min_size=1, max_size=40, unique=True).map(sorted))
def test_any_ascending_timestamps_come_back(t_ms):
    assert decode_one(encode_one(t_ms), len(t_ms)) == t_ms


@pytest.mark.parametrize("n", [5000, 8192])
def test_long_axes_come_back(n):
    rnd = random.Random(n)
    for _ in range(8):
        t_ms = adversary.axis(rnd, n)
        assert decode_one(encode_one(t_ms), len(t_ms)) == t_ms


def test_sizes():
    regular = [1_700_000_000_000 + 15_000 * i for i in range(8192)]
    assert len(encode_one(regular)) <= 15
    rng = np.random.default_rng(1)
    jittered = np.array(regular) + rng.integers(-8, 8, 8192)
    # A line leaves 16 values of jitter; differences would have 31.
    assert len(encode_one(jittered)) <= 8192 * 4.2 / 8 + 100


@pytest.mark.parametrize("t_ms", [[5], [1000, 2000, 3001, 4000], [-(2**63), 0, 2**63 - 1]])
def test_every_flipped_bit_and_every_cut_raises(t_ms):
    data = encode_one(t_ms)
    for i in range(len(data)):
        for k in range(8):
            changed = bytearray(data)
            changed[i] ^= 1 << k
            with pytest.raises(CorruptionError) as caught:
                decode_one(bytes(changed), len(t_ms), path="axes", base_offset=16)
            assert (caught.value.path, caught.value.offset) == ("axes", 16)
        with pytest.raises(CorruptionError):
            decode_one(data[:i], len(t_ms))
    for n in (len(t_ms) + 1, len(t_ms) + 1024):
        with pytest.raises(CorruptionError):
            decode_one(data, n)


def test_random_flips_in_large_axes_raise():
    rnd = random.Random(2)
    data = encode_one([15_000 * i + rnd.randrange(-300, 300) for i in range(8192)])
    for _ in range(300):
        changed = bytearray(data)
        changed[rnd.randrange(len(data))] ^= 1 << rnd.randrange(8)
        with pytest.raises(CorruptionError):
            decode_one(bytes(changed), 8192)


@settings(max_examples=150, deadline=None)
@given(SEEDS)
def test_forged_checksums_never_lead_outside_of_the_bytes(rnd):
    t_ms = adversary.axis(rnd, rnd.choice(adversary.LENGTHS))
    n = len(t_ms)
    other = reference.encode_axes([t_ms], rnd.randrange)[0]
    for body in (encode_one(t_ms)[:-4], other[:-4]):
        forged = seal(adversary.damaged(rnd, body), n)
        try:
            wanted = reference.decode_axes([forged], [n])[0]
        except reference.Damaged:
            wanted = None
        with adversary.guarded(len(forged)) as payload:
            payload[:] = np.frombuffer(forged, np.uint8)
            if wanted is None:
                with pytest.raises(CorruptionError):
                    decode_one(payload, n)
            else:
                assert decode_one(payload, n) == wanted


@pytest.mark.parametrize(
    "body",
    [
        bytes([0, 0, 1]),
        bytes([3, 0, 1]),
        bytes([1, 0, 0]),
        bytes([2, 0, 1, 0x00, 0, 2, 0, 0]),
        bytes([2, 0, 1, 0x03, 0, 2, 0, 0]),
        bytes([2, 0, 1, 0x31, 0, 0, 0, 0, 0]),
    ],
)
def test_reserved_kinds_and_orders_are_refused(body):
    with pytest.raises(CorruptionError):
        decode_one(seal(body, 3), 3)


@pytest.mark.parametrize(
    ("position", "size", "rows"),
    [
        (-1, 9, 2), (0, -1, 2), (0, 2**63 - 1, 2), (2**63 - 1, 9, 2), (0, 3, 2), (0, 0, 2),
        (0, 9, 0), (0, 9, -1), (0, 9, MAX_AXIS_ROWS + 1), (1, 8, 2),
    ],
)  # fmt: skip
def test_an_index_that_lies_raises(position, size, rows):
    data = np.frombuffer(encode_one([1, 3, 8]), np.uint8)
    with pytest.raises(CorruptionError) as caught:
        decode_axes(data, [position], [size], [rows], np.zeros(9, np.int64), [0], path="axes")
    assert caught.value.offset >= 0


def test_wrong_calls_are_refused():
    t_ms = np.array([5, 5, 4])
    for offsets in ([0, 2], [0, 1, 3]):
        with pytest.raises(ValueError, match=f"axis {len(offsets) - 2} is not strictly ascending"):
            encode_axes(t_ms, np.array(offsets))
    for offsets in ([], [0, 0], [0, 4], [-1, 2], [2, 0]):
        with pytest.raises(ValueError):
            encode_axes(t_ms, np.array(offsets, np.int64))
    data = encode_axes(np.array([4, 5]), np.array([0, 2]))[0]
    for place in (-1, 1):
        with pytest.raises(ValueError):
            decode_axes(data, [0], [len(data)], [2], np.zeros(2, np.int64), [place])


def test_the_examples_of_the_page():
    section = PAGE.read_text().split("## Example")[1].split("\n## ")[0]
    parts = section.split("A regular axis")
    regular = [1_700_000_000_000 + 15_000 * i for i in range(240)]
    for text, t_ms in zip(parts, ([1000, 2000, 3001, 4000], regular), strict=True):
        lines = re.findall(r"^    ((?:[0-9a-f]{2} )+) ", text, re.MULTILINE)
        example = bytes.fromhex("".join(lines))
        assert encode_one(t_ms) == example
        assert decode_one(example, len(t_ms)) == t_ms
        assert reference.decode_axes([example], [len(t_ms)]) == [t_ms]
