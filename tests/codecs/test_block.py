"""Blocks come back to the bit; damaged ones raise, with file and offset, and return nothing."""

import math
import random
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.codecs import adversary
from tests.reference import blockcode as reference
from tests.reference.blockcode import STALE
from tests.reference.decimals import to_bits
from tests.reference.packing import seal
from tsengine.codecs.block import decode_blocks, encode_blocks
from tsengine.errors import CorruptionError

SEEDS = st.integers(0, 2**32 - 1).map(random.Random)
PAGE = Path(__file__).parents[2] / "docs" / "format" / "block.md"


def encode(blocks, first_rows):
    offsets = np.cumsum([0, *(len(block) for block in blocks)])
    return encode_blocks(np.array([x for b in blocks for x in b], np.uint64), offsets, first_rows)


def encode_one(bits, first_row=0):
    return encode([bits], [first_row]).payload.tobytes()


def decode_one(data, n, first_row=0, lo=0, hi=None, **where):
    hi = n if hi is None else hi
    out = np.full(hi - lo + 16, 0xDEAD, np.uint64)
    payload = np.frombuffer(data, np.uint8) if isinstance(data, bytes) else data
    try:
        decode_blocks(
            payload, *([x] for x in (0, len(payload), first_row, n, lo, hi)), out, [8], **where
        )
    finally:
        assert (out[:8] == 0xDEAD).all(), "nothing is written before the wanted place"
        assert (out[8 + hi - lo :] == 0xDEAD).all(), "nothing is written behind it"
    return out[8 : 8 + hi - lo].tolist()


def bits_of(*values):
    return [to_bits(float(value)) for value in values]


@settings(max_examples=100, deadline=None)
@given(SEEDS, st.lists(st.sampled_from(adversary.LENGTHS), max_size=6))
def test_many_blocks_come_back_whole_and_in_part(rnd, lengths):
    blocks = [adversary.block(rnd, n) for n in lengths]
    rows = [rnd.choice(adversary.FIRST_ROWS) for _ in lengths]
    made = encode(blocks, rows)
    assert made.offsets[0] == 0
    assert made.offsets[-1] == len(made.payload)
    lo = np.array([rnd.randrange(n + 1) for n in lengths], np.int64)
    hi = np.array([rnd.randrange(n + 1) for n in lengths], np.int64)
    for starts, ends in ((np.zeros_like(lo), np.array(lengths, np.int64)), (lo, hi)):
        sizes = np.maximum(ends - starts, 0)
        places = np.cumsum(sizes) - sizes
        out = np.zeros(int(sizes.sum()), np.uint64)
        order = rnd.sample(range(len(lengths)), len(lengths))
        decode_blocks(
            made.payload, made.offsets[:-1][order], np.diff(made.offsets)[order],
            np.array(rows, np.int64)[order], np.array(lengths, np.int64)[order],
            starts[order], ends[order], out, places[order],
        )  # fmt: skip
        wanted = [x for b, i, j in zip(blocks, starts, ends, strict=True) for x in b[i:j]]
        assert out.tolist() == wanted


@pytest.mark.parametrize("n", adversary.LONG)
@pytest.mark.parametrize("first_row", [0, 1, 1023])
def test_long_blocks_come_back(n, first_row):
    rnd = random.Random(n + first_row)
    for _ in range(4):
        bits = adversary.block(rnd, n)
        data = encode_one(bits, first_row)
        assert decode_one(data, n, first_row) == bits
        for lo, hi in ((0, 1), (n - 1, n), (1023, 1025), (1500, 1501), (700, n - 3)):
            assert decode_one(data, n, first_row, lo, hi) == bits[lo:hi]


@settings(max_examples=300, deadline=None)
@given(st.lists(st.integers(0, 2**64 - 1) | st.floats().map(to_bits), min_size=1, max_size=40))
def test_any_bits_come_back(bits):
    assert decode_one(encode_one(bits), len(bits)) == bits


def test_no_blocks():
    made = encode([], [])
    assert len(made.payload) == 0
    assert made.offsets.tolist() == [0]
    decode_blocks(made.payload, *([[]] * 6), np.zeros(0, np.uint64), [])


@pytest.mark.parametrize(
    "bits",
    [
        pytest.param(bits_of(math.nan, 1 / 3, 1 / 3), id="no change between the values left"),
        pytest.param([STALE] * 1024, id="markers only"),
        pytest.param([STALE, *adversary.NANS], id="specials only, of many kinds"),
        pytest.param(bits_of(-0.0, 0.0), id="two zeros"),
        pytest.param(bits_of(*[1e308] * 3, 1.0), id="too large for any decimal"),
        pytest.param(bits_of(5e-324, 1e-323), id="denormals"),
        pytest.param(adversary._aliasing(random.Random(5), 1024), id="spans that wrap"),
    ],
)
def test_cases_that_broke_or_might(bits):
    assert decode_one(encode_one(bits), len(bits)) == bits


def test_constant_blocks_stay_small_at_any_length():
    for value, size in ((7.0, 11), (1 / 3, 17)):
        for first_row in (0, 1000):
            assert len(encode_one(bits_of(*[value] * 8192), first_row)) <= size + 17
    assert len(encode_one(bits_of(*range(1024)))) <= 12


@settings(max_examples=150, deadline=None)
@given(SEEDS, st.sampled_from(adversary.LENGTHS))
def test_statistics_match_a_plain_computation(rnd, n):
    blocks = [adversary.block(rnd, n), [STALE] * n]
    made = encode(blocks, [0, 5])
    for b, bits in enumerate(blocks):
        stats = made.stats
        expected = reference.statistics(bits)
        assert (stats.count[b], stats.flags[b]) == (expected.count, expected.flags)
        for name in ("first", "last", "vmin", "vmax", "reset_sum"):
            np.testing.assert_array_equal(getattr(stats, name)[b], getattr(expected, name))
        if not expected.flags & 6 and math.isfinite(expected.vsum):
            # Compensated twice as precise as a plain sum; exact where the flag says so.
            size = sum(abs(reference.to_f64(x)) for x in bits if x != STALE)
            assert abs(stats.vsum[b] - expected.vsum) <= (
                0 if expected.flags & 8 else 2 * np.spacing(abs(expected.vsum)) + size * 1e-29
            )


def test_a_sum_too_large_for_a_double_is_infinite():
    stats = encode([bits_of(1e308, 1e308, 1e308)], [0]).stats
    assert stats.vsum.tolist() == [math.inf]


def test_statistics_of_a_block_of_markers():
    stats = encode([[STALE, STALE]], [0]).stats
    assert (stats.count[0], stats.vsum[0], stats.reset_sum[0], stats.flags[0]) == (0, 0, 0, 1)
    for column in (stats.first, stats.last, stats.vmin, stats.vmax):
        assert np.isnan(column[0])


SMALL = [
    (bits_of(7), 0),
    (bits_of(1 / 3, 1 / 3), 3),
    ([*bits_of(100, 101, 103), STALE, *bits_of(106, 110)], 0),
    (bits_of(0.1, 0.1 + 0.2, 0.7, 1e17, 1 / 3), 1000),
    (bits_of(*[k * 4096 + (k == 9) * 77777 for k in range(40)]), 1020),
]


@pytest.mark.parametrize(("bits", "first_row"), SMALL)
def test_every_flipped_bit_and_every_cut_raises(bits, first_row):
    data = encode_one(bits, first_row)
    for i in range(len(data)):
        for k in range(8):
            changed = bytearray(data)
            changed[i] ^= 1 << k
            with pytest.raises(CorruptionError) as caught:
                decode_one(bytes(changed), len(bits), first_row, path="p", base_offset=1000)
            assert caught.value.path == "p"
            assert 1000 <= caught.value.offset < 1000 + len(data)
        with pytest.raises(CorruptionError):
            decode_one(data[:i], len(bits), first_row)
    with pytest.raises(CorruptionError):
        decode_one(data + b"\0", len(bits), first_row)


@pytest.mark.parametrize("seed", range(6))
def test_random_flips_in_large_blocks_raise_or_lie_outside_what_was_asked(seed):
    rnd = random.Random(seed)
    bits = adversary._real(rnd, 8000)
    bits = [STALE if i % 97 == 0 else to_bits(x) for i, x in enumerate(bits)]
    data = encode_one(bits, 700)
    for _ in range(150):
        changed = bytearray(data)
        place = rnd.randrange(len(data))
        changed[place] ^= 1 << rnd.randrange(8)
        with pytest.raises(CorruptionError) as caught:
            decode_one(bytes(changed), 8000, 700)
        assert caught.value.offset <= place
        lo = rnd.randrange(8000)
        hi = rnd.randrange(lo, 8000) + 1
        try:
            assert decode_one(bytes(changed), 8000, 700, lo, hi) == bits[lo:hi]
        except CorruptionError:
            pass


@pytest.mark.parametrize(("bits", "first_row"), SMALL)
def test_a_block_taken_for_another_raises(bits, first_row):
    data = encode_one(bits, first_row)
    for n, row in ((len(bits) + 1, first_row), (len(bits), first_row + 1), (8192, first_row)):
        with pytest.raises(CorruptionError):
            decode_one(data, n, row)
    assert decode_one(data, len(bits), first_row + 1024) == bits


@settings(max_examples=100, deadline=None)
@given(SEEDS)
def test_forged_checksums_never_lead_outside_of_the_bytes(rnd):
    """Damage under a right checksum: what the page forbids raises, what it allows is decoded."""
    n = rnd.choice([n for n in adversary.LENGTHS if n <= 1024])
    bits = adversary.block(rnd, n)
    plain = encode_one(bits)[:-4]
    other = reference.encode_blocks([bits], [0], rnd.randrange)[0][:-4]
    for body in (plain, other):
        for _ in range(4):
            forged = seal(adversary.damaged(rnd, body), reference.context(n, 0, 0))
            try:
                wanted = reference.decode_blocks([forged], [0], [n], [0], [n])[0]
            except reference.Damaged:
                wanted = None
            with adversary.guarded(len(forged)) as payload:
                payload[:] = np.frombuffer(forged, np.uint8)
                if wanted is None:
                    with pytest.raises(CorruptionError):
                        decode_one(payload, n)
                else:
                    assert decode_one(payload, n) == wanted


@pytest.mark.parametrize("tag", [0, *range(6, 16), 0x11, 0x22, 0x41, 0xC3])
def test_reserved_kinds_and_flags_are_refused(tag):
    with pytest.raises(CorruptionError):
        decode_one(seal(bytes([tag]) + bytes(12), reference.context(3, 0, 0)), 3)


@pytest.mark.parametrize(
    "columns",
    [
        ([-1], [9], [0], [1]),
        ([1], [2**63 - 1], [0], [1]),
        ([2**63 - 1], [9], [0], [1]),
        ([0], [-1], [0], [1]),
        ([0], [0], [0], [1]),
        ([0], [3], [0], [1]),
        ([5], [9], [0], [1]),
        ([0], [9], [0], [0]),
        ([0], [9], [0], [8193]),
        ([0], [9], [0], [2**40]),
        ([0], [9], [-1], [1]),
    ],
)
def test_an_index_that_lies_raises(columns):
    data = np.frombuffer(encode_one(bits_of(5)) + b"123", np.uint8)
    out = np.zeros(1, np.uint64)
    with pytest.raises(CorruptionError) as caught:
        decode_blocks(data, *columns, [0], [1], out, [0], path="values", base_offset=16)
    assert caught.value.path == "values"
    assert caught.value.offset >= 16
    assert out.tolist() == [0]


def test_wrong_calls_are_refused():
    data = encode([bits_of(5, 6)], [0])
    blocks = (data.payload, [0], [len(data.payload)], [0], [2])
    out = np.zeros(2, np.uint64)
    for lo, hi, place in (([-1], [1], [0]), ([0], [3], [0]), ([0], [2], [1]), ([0], [2], [-1])):
        with pytest.raises(ValueError):
            decode_blocks(*blocks, lo, hi, out, place)
    with pytest.raises(ValueError):
        decode_blocks(*blocks, [0, 0], [2], out, [0])
    for offsets, rows in (([0], [0]), ([0, 3], [0]), ([0, 0], [0]), ([2, 0], [0]), ([0, 2], [-1])):
        with pytest.raises(ValueError):
            encode_blocks(np.zeros(2, np.uint64), np.array(offsets), np.array(rows))
    with pytest.raises(ValueError):
        encode_blocks(np.zeros(8193, np.uint64), np.array([0, 8193]), np.array([0]))


def test_the_example_of_the_page():
    section = PAGE.read_text().split("## Example")[1].split("\n## ")[0]
    lines = re.findall(r"^    ((?:[0-9a-f]{2} )+) ", section, re.MULTILINE)
    bits = [*bits_of(100, 101, 103), STALE, *bits_of(106, 110)]
    example = bytes.fromhex("".join(lines))
    assert encode_one(bits) == example
    assert decode_one(example, 6) == bits
    assert reference.decode_blocks([example], [0], [6], [0], [6]) == [bits]
