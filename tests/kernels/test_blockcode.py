"""Kernels and the twin written from docs/format/block.md read each other's blocks."""

import os
import random
import tempfile

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.codecs import adversary
from tests.reference import blockcode as reference
from tsengine.codecs import block as codec
from tsengine.kernels.blockcode import (
    SCRATCH_BYTES,
    SIDE_BYTES,
    decode_blocks,
    decode_file,
    encode_blocks,
)
from tsengine.kernels.jit import ERR_CAPACITY, OK

SEEDS = st.integers(0, 2**32 - 1).map(random.Random)
LENGTHS = st.sampled_from([n for n in adversary.LENGTHS if n < 1023] * 3 + [1024, 1025, 2300])


def encode(bits, first_row, is_quick=False):
    n = len(bits)
    out = np.empty(16 * n + 160 * (n // 1024 + 2) + SCRATCH_BYTES, np.uint8)
    size = encode_blocks(
        np.array(bits, np.uint64), np.array([0, n]), np.array([first_row]), is_quick, out,
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


@settings(max_examples=100, deadline=None)
@given(SEEDS, LENGTHS, st.sampled_from(adversary.FIRST_ROWS))
def test_quick_blocks_are_read_by_both(rnd, n, first_row):
    """They take other forms than the smallest, and never much more than plain doubles."""
    bits = adversary.block(rnd, n)
    data = encode(bits, first_row, is_quick=True)
    assert reference.decode_blocks([data], [first_row], [n], [0], [n]) == [bits]
    assert decode(data, n, first_row, 0, n) == bits
    assert len(data) <= 16 * n + 160 * (n // 1024 + 2)


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


@settings(max_examples=60, deadline=None)
@given(st.randoms(), st.sampled_from([SIDE_BYTES + 700, SIDE_BYTES + 40_000]))
def test_decode_file_matches_reference(rnd, window_bytes):
    """Blocks with gaps between them, some for several pieces, in any order."""
    data, payload_offsets, rows, lengths, values = b"\0" * 8, [8], [], [], []
    for _ in range(rnd.randint(1, 8)):
        n, first_row = rnd.choice([1, 7, 60, 400]), rnd.choice([0, 5, 1000])
        step = rnd.choice([0.0, 1.0, 0.25, np.pi])
        bits = (step * np.arange(n) + rnd.randint(0, 9)).view(np.uint64)
        made = codec.encode_blocks(bits, np.array([0, n]), np.array([first_row]))
        filling = b"x" * rnd.choice([0, 0, 10, 5000])
        data += made.payload.tobytes() + filling
        payload_offsets += [len(data) - len(filling), len(data)]
        rows.append(first_row)
        lengths.append(n)
        values.append(bits.tolist())
    wanted = []
    for _ in range(rnd.randint(0, 20)):
        block = rnd.randrange(len(values))
        lo = rnd.randrange(lengths[block])
        wanted.append((block, lo, rnd.randint(1, lengths[block] - lo)))
    if rnd.random() < 0.5:
        wanted.sort()
    blocks, lo, sizes = np.array(wanted, np.int64).reshape(-1, 3).T.copy()
    positions = np.cumsum([0, *sizes.tolist()])
    out = np.zeros(positions[-1], np.uint64)

    def decode(fd: int) -> int:
        return decode_file(
            fd, np.array(payload_offsets), 2 * np.arange(len(values), dtype=np.uint32),
            np.array(rows, np.uint16), np.array(lengths, np.uint16), blocks, lo, sizes,
            np.arange(len(wanted)), positions[:-1].copy(), np.empty(window_bytes, np.uint8), out,
        )  # fmt: skip

    payloads = [(payload_offsets[2 * k], payload_offsets[2 * k + 1]) for k in range(len(values))]
    expected = reference.decode_file(data, payloads, rows, lengths, wanted)
    assert expected == [values[block][first : first + n] for block, first, n in wanted]
    with tempfile.TemporaryFile() as file:
        file.write(data)
        file.flush()
        longest = max(
            (payloads[block][1] - payloads[block][0] for block, _, _ in wanted), default=0
        )
        if longest > window_bytes - SIDE_BYTES:
            assert decode(file.fileno()) in (OK, ERR_CAPACITY)
            return
        assert decode(file.fileno()) == OK
        assert out.tolist() == [value for own in expected for value in own]
        if wanted:
            os.pwrite(file.fileno(), b"\xff" * len(data), 0)
            assert decode(file.fileno()) < 0
            file.truncate(4)
            assert decode(file.fileno()) == ERR_CAPACITY
    if wanted:
        assert decode(-1) == ERR_CAPACITY
