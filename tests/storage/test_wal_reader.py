"""Replay: cut and flipped logs, what is reported, what is kept."""

import os
import random
import shutil

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.faults.filesystem import FaultyFileSystem
from tests.faults.log import DATABASE_ID, Log, payloads, read, reopen
from tsengine.codecs.records import crc32c, frame
from tsengine.errors import StorageError, UnsupportedFormat
from tsengine.storage import filenames, wal_reader, wal_records
from tsengine.storage.filesystem import LocalFileSystem
from tsengine.storage.wal_format import (
    SEGMENT_HEADER_SIZE,
    SegmentHeader,
    encode_segment_header,
)
from tsengine.storage.wal_reader import keep_damaged


@pytest.fixture(scope="module")
def small_log(tmp_path_factory):
    """Three segments of three records each; payloads end with zeros, or are empty."""
    directory = tmp_path_factory.mktemp("small")
    with Log(directory) as log:
        for segment in range(3):
            log.append(b"a%d" % segment).wait(10)
            log.append(b"b%d" % segment + bytes(9)).wait(10)
            log.append(b"").wait(10)
            log.wal.cut(lambda segment: None).wait(10)
    return directory


@pytest.fixture
def copy(small_log, tmp_path):
    """A function that makes a fresh copy of the small log."""
    n_copies = 0

    def make():
        nonlocal n_copies
        n_copies += 1
        shutil.copytree(small_log, tmp_path / str(n_copies))
        return tmp_path / str(n_copies)

    return make


def segment_path(directory, segment: int):
    return directory / "wal" / filenames.wal_name(segment)


def ends_of(directory, segment: int) -> list[int]:
    """Where the whole records of a segment end, its header included."""
    records = [r for r in read(directory)[0] if r.segment == segment]
    return [SEGMENT_HEADER_SIZE, *(r.offset + 25 + len(r.payload) for r in records)]


def test_the_last_segment_cut_at_every_byte_keeps_exactly_the_whole_records(copy):
    directory = copy()
    path = segment_path(directory, 3)
    data = path.read_bytes()
    ends = ends_of(directory, 3)
    everything = payloads(read(directory)[0])
    for size in range(len(data) + 1):
        path.write_bytes(data[:size])
        records, report = read(directory)
        n_kept = 6 + sum(end <= size for end in ends[1:])
        assert payloads(records) == everything[:n_kept]
        assert report.damage == []
        end = max((end for end in ends if end <= size), default=0)
        torn = [(str(path), end, size - end)] if size > end else []
        assert report.torn_tails == torn
        assert report.previous == ((3, end) if end else (2, len(data)))
        assert report.last_segment == 3


def test_the_last_segment_with_zeros_from_every_byte_is_torn(copy):
    directory = copy()
    path = segment_path(directory, 3)
    data = path.read_bytes()
    ends = ends_of(directory, 3)
    everything = payloads(read(directory)[0])
    for size in range(len(data)):
        path.write_bytes(data[:size] + bytes(len(data) - size + 7))
        records, report = read(directory)
        end = max((end for end in ends if end <= size), default=0)
        assert payloads(records) == everything[: 6 + sum(end <= size for end in ends[1:])]
        assert report.damage == []
        assert report.torn_tails == [(str(path), end, len(data) + 7 - end)]


def test_an_earlier_segment_cut_at_every_byte_is_damage_and_hides_nothing_else(copy):
    directory = copy()
    path = segment_path(directory, 2)
    data = path.read_bytes()
    ends = ends_of(directory, 2)
    everything = payloads(read(directory)[0])
    for size in range(len(data)):
        path.write_bytes(data[:size])
        records, report = read(directory)
        n_kept = sum(end <= size for end in ends[1:])
        assert payloads(records) == everything[: 3 + n_kept] + everything[6:]
        end = max((end for end in ends if end <= size), default=0)
        assert [(damaged, at) for damaged, at, _ in report.damage] == [(str(path), end)]
        assert report.torn_tails == []
        assert report.previous == (3, len(data))


@pytest.mark.parametrize("segment", [1, 2, 3])
def test_a_flipped_bit_anywhere_is_reported_with_its_place(copy, segment):
    directory = copy()
    path = segment_path(directory, segment)
    data = path.read_bytes()
    ends = ends_of(directory, segment)
    records = read(directory)[0]
    rng = random.Random(segment)
    for position in range(len(data)):
        bad = bytearray(data)
        bad[position] ^= 1 << rng.randrange(8)
        path.write_bytes(bad)
        kept, report = read(directory)
        end = max((end for end in ends if end <= position), default=0)
        n_lost = 3 if position < SEGMENT_HEADER_SIZE else sum(e > position for e in ends[1:])
        first_lost = 3 * segment - n_lost
        assert kept == records[:first_lost] + records[3 * segment :]
        assert [(damaged, at) for damaged, at, _ in report.damage] == [(str(path), end)]
        assert report.torn_tails == []


@given(st.data())
@settings(max_examples=40, deadline=None)
def test_random_rubbish_over_a_segment_never_gives_what_was_not_written(
    small_log, tmp_path_factory, data
):
    directory = tmp_path_factory.mktemp("copy")
    shutil.copytree(small_log / "wal", directory / "wal")
    wanted = read(directory)[0]
    path = segment_path(directory, data.draw(st.integers(1, 3)))
    old = path.read_bytes()
    start = data.draw(st.integers(0, len(old) - 1))
    rubbish = data.draw(st.binary(min_size=1, max_size=60))
    path.write_bytes(old[:start] + rubbish + old[start + len(rubbish) :])
    records, report = read(directory)
    assert all(record in wanted for record in records)
    assert [r.seq for r in records] == sorted(r.seq for r in records)
    if len(records) < len(wanted):
        assert report.damage or report.torn_tails


def test_damage_is_the_same_again_and_is_kept_aside(copy):
    directory = copy()
    path = segment_path(directory, 3)
    bad = bytearray(path.read_bytes())
    bad[-20] ^= 1
    path.write_bytes(bad)
    fs = LocalFileSystem()
    _, report = read(directory)
    assert report.previous == (3, 0)  # nobody vouches for a damaged segment
    for damaged, _, _ in report.damage:
        keep_damaged(fs, damaged)
        keep_damaged(fs, damaged)
    assert read(directory)[1].damage == report.damage
    with reopen(directory) as log:
        log.append(b"new").wait(10)
        again = read(directory)[1]
        assert again.damage == report.damage
        assert again.last_segment == 4
        log.wal.trim(4)
    assert read(directory, first_segment=4)[1].damage == []
    kept = path.with_name(path.name + ".damaged")
    assert kept.read_bytes() == bytes(bad)
    assert filenames.parse_wal_name(kept.name) is None


def test_keeping_works_without_hard_links_and_without_the_file(tmp_path):
    fs = FaultyFileSystem()
    path = tmp_path / "0000000001.wal"
    path.write_bytes(b"data")
    fs.fail("link", times=None)
    keep_damaged(fs, str(path))
    assert sorted(os.listdir(tmp_path)) == ["0000000001.wal", "0000000001.wal.damaged"]
    keep_damaged(fs, str(tmp_path / "missing"))
    fs.fail("sync_dir")
    with pytest.raises(StorageError, match="keeping"):
        keep_damaged(fs, str(path))


def test_a_torn_tail_stays_dropped_after_the_next_start(copy):
    directory = copy()
    path = segment_path(directory, 3)
    path.write_bytes(path.read_bytes()[:-3])
    first, _ = read(directory)
    with reopen(directory) as log:
        log.append(b"new").wait(10)
    records, report = read(directory)
    assert payloads(records) == [*payloads(first), b"new"]
    assert report.damage == []
    assert [torn[0] for torn in report.torn_tails] == [str(path)]


def test_a_torn_header_of_the_last_segment_keeps_the_one_before_vouched(copy):
    directory = copy()
    segment_path(directory, 3).write_bytes(b"TSEN")
    with reopen(directory) as log:
        log.append(b"new").wait(10)
    assert payloads(read(directory)[0])[-1] == b"new"
    path = segment_path(directory, 2)
    path.write_bytes(path.read_bytes()[:-1])
    assert [damaged for damaged, _, _ in read(directory)[1].damage] == [str(path)]


def test_segments_of_others_are_damage(copy):
    directory = copy()
    shutil.copy(segment_path(directory, 1), segment_path(directory, 2))
    foreign = SegmentHeader("ff" * 16, 3, 2)
    segment_path(directory, 3).write_bytes(encode_segment_header(foreign))
    records, report = read(directory)
    assert len(records) == 3
    reasons = [reason for _, _, reason in report.damage]
    assert reasons == ["header of segment 1", f"segment of another database, {'ff' * 16}"]


def test_newer_things_are_refused_by_name_or_passed_over_by_readers(copy):
    directory = copy()
    path = segment_path(directory, 3)
    data = path.read_bytes()
    later = b"".join(frame(wal_records.SERIES, b"later", seq=100))
    path.write_bytes(data + b"".join(frame(7, b"?", seq=99)) + later)
    with pytest.raises(UnsupportedFormat, match=r"0000000003.wal, byte \d+.*type 7"):
        read(directory)
    records, report = read(directory, read_only=True)
    assert payloads(records)[-1] == b"later"
    assert report.skipped_types == {"type 7"}
    assert report.damage == []

    newer = bytearray(encode_segment_header(SegmentHeader(DATABASE_ID, 3, 2)))
    newer[8] = 2
    newer[56:60] = crc32c(bytes(newer[:56])).to_bytes(4, "little")
    path.write_bytes(bytes(newer))
    with pytest.raises(UnsupportedFormat, match="format 2"):
        read(directory)


def test_unreadable_places_are_damage(copy):
    directory = copy()
    fs = FaultyFileSystem()
    fs.fail("pread", nth=2, path_contains="0000000002.wal", times=None)
    records, report = read(directory, fs=fs)
    assert len(records) == 6
    [(path, offset, reason)] = report.damage
    assert path.endswith("0000000002.wal")
    assert offset == SEGMENT_HEADER_SIZE
    assert "unreadable" in reason


def test_a_segment_trimmed_meanwhile_is_for_the_caller(copy):
    directory = copy()
    found = wal_reader.replay(
        LocalFileSystem(), str(directory), first_segment=1, database_id=DATABASE_ID
    )
    iterator = iter(found)
    next(iterator)
    segment_path(directory, 2).unlink()
    with pytest.raises(FileNotFoundError):
        list(iterator)


def test_records_larger_than_the_window(tmp_path, monkeypatch):
    monkeypatch.setattr(wal_reader, "_WINDOW_SIZE", 64)
    wanted = [random.Random(i).randbytes(i * 37) for i in range(12)]
    with Log(tmp_path) as log:
        for data in wanted:
            log.append(data).wait(10)
    assert payloads(read(tmp_path)[0]) == wanted
    path = segment_path(tmp_path, 1)
    path.write_bytes(path.read_bytes() + bytes(1000))
    records, report = read(tmp_path)
    assert payloads(records) == wanted
    assert [n for _, _, n in report.torn_tails] == [1000]
