"""Frames: what was written whole comes back, everything else is seen and named."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tsengine.codecs.records import (
    HEADER_SIZE,
    OVERHEAD_SIZE,
    Record,
    Tail,
    TailKind,
    crc32c,
    frame,
    read_record,
)


class Bytes:
    def __init__(self, data: bytes) -> None:
        self.data = data
        self.size = len(data)

    def read(self, offset: int, size: int) -> bytes:
        assert offset >= 0
        assert offset + size <= self.size, "reads stay inside the file"
        return self.data[offset : offset + size]

    def is_zero_from(self, offset: int) -> bool:
        return not self.data[offset:].strip(b"\0")


def read_all(data: bytes) -> tuple[list[Record], Tail]:
    source, offset, records = Bytes(data), 0, []
    while isinstance(found := read_record(source, offset), Record):
        records.append(found)
        offset = found.end
    return records, found


payloads = st.binary(max_size=40) | st.binary(max_size=8).map(lambda b: b + bytes(8))
records_in = st.lists(
    st.tuples(st.integers(1, 255), payloads, st.integers(0, 2**64 - 1)), max_size=6
)


def write_all(records) -> bytes:
    return b"".join(b"".join(frame(kind, payload, seq=seq)) for kind, payload, seq in records)


def test_crc32c_is_castagnoli():
    assert crc32c(b"123456789") == 0xE3069283


def test_layout_is_the_documented_one():
    data = b"".join(frame(2, b"hello", seq=7))
    assert len(data) == 5 + OVERHEAD_SIZE
    assert data[4:8] == (5).to_bytes(4, "little")
    assert data[8:16] == (7).to_bytes(8, "little")
    assert data[16:20] == crc32c(b"hello").to_bytes(4, "little")
    assert data[20:24] == b"\x02\x00\xc7\x5e"
    assert data[:4] == crc32c(data[4:24]).to_bytes(4, "little")
    assert data[24:] == b"hello\xa7"


def test_a_given_checksum_is_used():
    assert frame(1, b"abc", seq=1, payload_crc=crc32c(b"abc")) == frame(1, b"abc", seq=1)


@given(records_in)
def test_round_trip(records):
    found, tail = read_all(write_all(records))
    assert [(r.type, r.payload, r.seq) for r in found] == records
    assert all(r.flags == 0 for r in found)
    assert tail.kind is TailKind.END


@given(records_in.filter(bool))
@settings(max_examples=50)
def test_cut_anywhere_keeps_the_whole_records_and_is_torn(records):
    data = write_all(records)
    ends = [r.end for r in read_all(data)[0]]
    for size in range(len(data)):
        found, tail = read_all(data[:size])
        assert [r.end for r in found] == [end for end in ends if end <= size]
        at_boundary = size == 0 or size in ends
        assert tail.kind is (TailKind.END if at_boundary else TailKind.TORN)
        assert tail.offset == max((end for end in ends if end <= size), default=0)


@given(records_in.filter(bool), st.integers(1, 80))
@settings(max_examples=50)
def test_zeros_from_anywhere_are_torn(records, n_zeros):
    data = write_all(records)
    ends = [r.end for r in read_all(data)[0]]
    for size in range(len(data) + 1):
        found, tail = read_all(data[:size] + bytes(n_zeros))
        assert [r.end for r in found] == [end for end in ends if end <= size]
        assert tail.kind is TailKind.TORN
        # A whole sector of zeros over the end of a file is the same thing.
        found, tail = read_all(data[:size] + bytes(len(data) - size))
        assert tail.kind is (TailKind.END if size == len(data) else TailKind.TORN)


@given(records_in.filter(bool))
@settings(max_examples=25)
def test_each_flipped_bit_is_damage_and_keeps_what_stands_before(records):
    data = write_all(records)
    whole = read_all(data)[0]
    for position in range(len(data)):
        for bit in range(8):
            bad = bytearray(data)
            bad[position] ^= 1 << bit
            found, tail = read_all(bytes(bad))
            n_kept = sum(r.end <= position for r in whole)
            assert found == whole[:n_kept]
            assert tail.kind is TailKind.DAMAGED
            assert tail.offset == whole[n_kept].offset


@given(st.binary(max_size=200))
def test_random_bytes_never_make_a_record(data):
    found, tail = read_all(data)
    assert found == []
    assert tail.offset == 0
    assert (tail.kind is TailKind.END) == (data == b"")


def test_zeros_inside_are_damage():
    first = b"".join(frame(2, b"a" * 30, seq=1))
    second = b"".join(frame(2, b"b" * 30, seq=2))
    for start in range(len(first)):
        hole = first[:start] + bytes(len(first) - start) + second
        found, tail = read_all(hole)
        assert found == []
        assert tail == Tail(TailKind.DAMAGED, 0, tail.reason)


@pytest.mark.parametrize("n_zeros", [0, 5, 100])
def test_a_whole_header_with_a_wrong_checksum_is_damage_whatever_follows(n_zeros):
    header = b"".join(frame(2, b"a" * 30, seq=1))[:HEADER_SIZE]
    for position in range(HEADER_SIZE):
        bad = bytearray(header)
        bad[position] ^= 4
        assert read_all(bytes(bad) + bytes(n_zeros))[1].kind is TailKind.DAMAGED


def test_impossible_types_are_damage_even_with_a_right_checksum():
    header = bytearray(b"".join(frame(1, b"", seq=0))[:HEADER_SIZE])
    header[20] = 0
    header[:4] = crc32c(bytes(header[4:])).to_bytes(4, "little")
    _, tail = read_all(bytes(header) + b"\xa7")
    assert tail.kind is TailKind.DAMAGED


@pytest.mark.parametrize("record_type", [0, 256])
def test_frame_refuses_types_it_can_not_read_back(record_type):
    with pytest.raises(AssertionError):
        frame(record_type, b"", seq=0)
