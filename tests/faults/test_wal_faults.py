"""The log on a disk that is full, fails, tears writes or loses power."""

import errno
import os
import random
import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.faults.filesystem import FaultyFileSystem
from tests.faults.log import Log, payloads, read
from tsengine.errors import Full
from tsengine.storage import filenames, wal, wal_segments
from tsengine.storage.filesystem import LocalFileSystem
from tsengine.storage.wal_reader import list_segments

FAILING_CALLS = ["write", "datasync", "open_append", "sync_dir", "unlink"]


@pytest.mark.parametrize("torn", [0, 10, 40, 64, 100])
@pytest.mark.parametrize("error", [errno.EIO, errno.ENOSPC])
def test_a_failed_write_goes_to_a_new_segment(tmp_path, torn, error):
    fs = FaultyFileSystem()
    with Log(tmp_path, fs=fs) as log:
        log.append(b"before").wait(10)
        fs.fail("write", error=error, torn=torn)
        log.append(b"y" * 200).wait(10)
        log.append(b"after").wait(10)
        assert log.failed == []
        assert log.wal.stats.n_failures == 1
    records, report = read(tmp_path)
    assert payloads(records) == [b"before", b"y" * 200, b"after"]
    assert [r.segment for r in records] == [1, 2, 2]
    assert report.damage == []
    assert [n for _, _, n in report.torn_tails] == ([torn] if torn else [])


@pytest.mark.parametrize("after", [False, True])
def test_a_failed_sync_abandons_the_segment_for_good(tmp_path, after):
    fs = FaultyFileSystem()
    first = filenames.wal_name(1)
    with Log(tmp_path, fs=fs) as log:
        log.append(b"before").wait(10)
        fs.fail("datasync", after=after)
        # From here on nothing may touch the first segment again.
        fs.fail("datasync", nth=2, times=None, path_contains=first)
        fs.fail("write", nth=2, times=None, path_contains=first)
        log.append(b"twice").wait(10)
        log.append(b"after").wait(10)
        assert log.wal.stats.n_failures == 1
    records, report = read(tmp_path)
    # The bytes of the failed group are in both segments; only the acknowledged ones count.
    assert payloads(records) == [b"before", b"twice", b"after"]
    assert [r.segment for r in records] == [1, 2, 2]
    assert report.damage == []
    assert [offset for _, offset, _ in report.torn_tails] == [64 + 25 + len(b"before")]


def test_a_failure_fails_all_that_waits_and_then_heals(tmp_path):
    fs = FaultyFileSystem()
    in_failed, go_on = threading.Event(), threading.Event()

    def on_failed(entries):
        in_failed.set()
        assert go_on.wait(10)

    cuts = []
    with Log(tmp_path, fs=fs, on_failed=on_failed) as log:
        log.append(b"before").wait(10)
        held = log.hold()
        fs.fail("write", error=errno.ENOSPC, times=None)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(wal, "GROUP_SIZE_BYTES_MAX", 30)  # one entry a group
            waiting = [log.append(b"w%d" % i * 20, item=i) for i in range(2)]
            cut = log.wal.cut(lambda segment: cuts.append((segment, len(log.durable))))
            waiting.append(log.append(b"w2" * 20, item=2))
            log.gate.set()
            held.wait(10)
            assert in_failed.wait(10)
        assert [entry.item for entry in log.failed] == [0, 1, 2]
        with pytest.raises(Full, match="No space left"):
            log.append(b"while the failure is handled")
        assert not any(ticket.is_done for ticket in waiting)
        go_on.set()
        for ticket in waiting:
            with pytest.raises(Full, match="writing the log: No space left"):
                ticket.wait(10)
        cut.wait(10)
        assert log.wal.stats.n_failed_entries == 3
        assert log.wal.stats.queue_size_bytes == 0
        with pytest.raises(Full):
            log.append(b"still full").wait(10)
        fs.heal()
        log.append(b"room again").wait(10)
    records, report = read(tmp_path)
    assert payloads(records) == [b"before", b"held", b"room again"]
    assert report.damage == []
    assert cuts == [(cuts[0][0], 2)]
    assert records[1].segment < cuts[0][0] <= records[2].segment
    # Numbers of failed entries are lost, never used twice.
    assert [r.seq for r in records] == [0, 1, 6]


def test_a_full_disk_does_not_fill_with_attempts(tmp_path):
    fs = FaultyFileSystem()
    with Log(tmp_path, fs=fs) as log:
        log.append(b"before").wait(10)
        fs.fail("write", error=errno.ENOSPC, torn=70, times=None)
        for _ in range(20):
            with pytest.raises(Full):
                log.append(b"x" * 100).wait(10)
        assert list_segments(LocalFileSystem(), str(tmp_path)) == [1]
        # Where even that is not possible, the files that stay count for nothing.
        fs.fail("unlink", times=None)
        with pytest.raises(Full):
            log.append(b"x" * 100).wait(10)
        fs.heal()
        log.append(b"after").wait(10)
    assert len(list_segments(LocalFileSystem(), str(tmp_path))) == 3
    records, report = read(tmp_path)
    assert payloads(records) == [b"before", b"after"]
    assert report.damage == []


def test_whole_records_in_an_attempt_that_failed_are_never_read(tmp_path):
    fs = FaultyFileSystem()
    with Log(tmp_path, fs=fs) as log:
        log.append(b"before").wait(10)
        fs.fail("datasync", times=None)
        fs.fail("unlink", times=None)
        with pytest.raises(Full):
            log.append(b"failed").wait(10)
        fs.heal()
        log.append(b"after").wait(10)
    assert list_segments(LocalFileSystem(), str(tmp_path)) == [1, 2, 3]
    assert b"failed" in (tmp_path / "wal" / filenames.wal_name(2)).read_bytes()
    records, report = read(tmp_path)
    assert payloads(records) == [b"before", b"after"]
    assert report.damage == []
    assert len(report.torn_tails) == 2


def test_nor_are_they_when_nothing_was_acknowledged_before(tmp_path):
    fs = FaultyFileSystem()
    fs.fail("datasync", times=2)
    fs.fail("unlink", times=None)
    with Log(tmp_path, fs=fs, next_segment=5) as log:
        for _ in range(2):
            with pytest.raises(Full):
                log.append(b"failed").wait(10)
        log.append(b"after").wait(10)
    assert list_segments(LocalFileSystem(), str(tmp_path)) == [5, 6, 7]
    assert payloads(read(tmp_path)[0]) == [b"after"]


def test_an_exception_of_on_failed_stops_nothing(tmp_path):
    fs = FaultyFileSystem()

    def on_failed(entries):
        raise ValueError("broken hook")

    with Log(tmp_path, fs=fs, on_failed=on_failed) as log:
        fs.fail("open_append")
        with pytest.raises(Full, match="broken hook"):
            log.append(b"x").wait(10)
        log.append(b"y").wait(10)
    assert payloads(read(tmp_path)[0]) == [b"y"]


def test_errors_that_are_not_of_the_disk_do_not_end_the_thread(tmp_path, monkeypatch):
    with Log(tmp_path) as log:
        log.append(b"before").wait(10)
        real = wal.frame
        monkeypatch.setattr(wal, "frame", lambda *a, **k: real(None, None))
        with pytest.raises(Exception, match="writing the log"):
            log.append(b"x").wait(10)
        monkeypatch.setattr(wal, "frame", real)
        log.append(b"after").wait(10)
    assert payloads(read(tmp_path)[0]) == [b"before", b"after"]


def test_rolling_needs_a_sync_with_interval(tmp_path, monkeypatch):
    monkeypatch.setattr(wal_segments, "SEGMENT_SIZE_BYTES_MAX", 100)
    monkeypatch.setattr(wal, "SYNC_INTERVAL_S", 3600.0)
    fs = FaultyFileSystem()
    with Log(tmp_path, fs=fs, fsync="interval") as log:
        log.append(b"x" * 100).wait(10)
        assert fs.calls["datasync"] == 0
        log.append(b"y" * 100).wait(10)
        assert fs.calls["datasync"] == 1
        fs.fail("datasync")
        log.append(b"z" * 100).wait(10)
        assert log.wal.stats.n_failures == 1
    assert payloads(read(tmp_path)[0]) == [b"x" * 100, b"y" * 100, b"z" * 100]


def test_a_failing_sync_of_the_interval_starts_a_new_segment(tmp_path, monkeypatch):
    monkeypatch.setattr(wal, "SYNC_INTERVAL_S", 0.02)
    fs = FaultyFileSystem()
    with Log(tmp_path, fs=fs, fsync="interval") as log:
        fs.fail("datasync")
        log.append(b"x").wait(10)
        while log.wal.stats.n_failures == 0:
            pass
        log.append(b"y").wait(10)
    assert [r.segment for r in read(tmp_path)[0]] == [1, 2]


@given(
    st.lists(
        st.tuples(
            st.sampled_from(FAILING_CALLS),
            st.integers(1, 6),
            st.integers(0, 150),
            st.integers(1, 4),
            st.booleans(),
        ),
        max_size=4,
    ),
    st.integers(0, 2**32),
)
@settings(max_examples=60, deadline=None)
def test_whatever_fails_the_acknowledged_and_only_they_are_read(tmp_path_factory, faults, seed):
    tmp_path = tmp_path_factory.mktemp("log")
    fs = FaultyFileSystem()
    rng = random.Random(seed)
    acknowledged = []
    with Log(tmp_path, fs=fs) as log:
        for kind, nth, torn, times, after in faults:
            fs.fail(kind, nth=nth, torn=torn, times=times, after=after)
        for i in range(12):
            data = b"%d:" % i + bytes(rng.randrange(90))
            try:
                log.append(data).wait(10)
                acknowledged.append(data)
            except Full:
                pass
            if rng.random() < 0.2:
                log.wal.cut(lambda segment: None).wait(10)
        fs.heal()
        log.append(b"at last").wait(10)
        acknowledged.append(b"at last")
    assert [entry.records[0][1] for entry in log.durable] == acknowledged
    records, report = read(tmp_path)
    assert payloads(records) == acknowledged
    assert report.damage == []
    assert [r.seq for r in records] == [entry.seq for entry in log.durable]


faults_in = st.lists(
    st.tuples(
        st.sampled_from(FAILING_CALLS), st.integers(1, 8), st.integers(0, 200), st.booleans()
    ),
    max_size=3,
)


@given(st.lists(st.tuples(faults_in, st.booleans()), min_size=2, max_size=4), st.integers(0, 2**32))
@settings(max_examples=100, deadline=None)
def test_lives_of_one_log(tmp_path_factory, lives, seed):
    """Calls fail, the process or the machine dies at the last fault, and so on again."""
    tmp_path = tmp_path_factory.mktemp("log")
    rng = random.Random(seed)
    fs = FaultyFileSystem()
    acknowledged: list[bytes] = []
    attempted: set[bytes] = set()
    report = read(tmp_path)[1]
    for life, (faults, power_cut) in enumerate(lives):
        with Log(
            tmp_path,
            fs=fs,
            next_segment=report.last_segment + 1,
            next_seq=report.seq_max + 1,
            previous=report.previous,
        ) as log:
            for i, (kind, nth, torn, after) in enumerate(faults):
                fs.fail(kind, nth=nth, torn=torn, after=after, crash=i == len(faults) - 1)
            for i in range(rng.choice([0, 3, 6])):
                data = b"%d/%d:" % (life, i) + bytes(rng.randrange(60))
                attempted.add(data)
                try:
                    log.append(data).wait(10)
                    acknowledged.append(data)
                except Full:
                    pass
            fs.is_crashed = True  # at the latest now
        if power_cut:
            fs.lose_unsynced(rng)
        else:
            fs.revive()
        records, report = read(tmp_path)
        found = payloads(records)
        assert report.damage == []
        assert [r.seq for r in records] == sorted({r.seq for r in records})
        assert set(found) <= attempted
        # What failed may be there, but once and in its place.
        assert [data for data in found if data in set(acknowledged)] == acknowledged
        # And what was replayed once counts like the acknowledged.
        acknowledged = found


def test_what_a_killed_process_left_unsynced_is_durable_once_it_was_replayed(tmp_path):
    for seed in range(10):
        directory = tmp_path / str(seed)
        fs = FaultyFileSystem()
        with Log(directory, fs=fs) as log:
            log.append(b"acknowledged").wait(10)
            fs.fail("datasync", crash=True)
            with pytest.raises(Full):
                log.append(b"written" * 20).wait(10)
        fs.revive()
        records, report = read(directory, fs=fs)
        assert payloads(records) == [b"acknowledged", b"written" * 20]
        with Log(directory, fs=fs, next_segment=2, next_seq=2, previous=report.previous) as log:
            log.append(b"new").wait(10)
        fs.lose_unsynced(random.Random(seed))
        records, report = read(directory)
        assert payloads(records) == [b"acknowledged", b"written" * 20, b"new"]
        assert report.damage == []


def test_a_segment_that_can_not_be_synced_is_not_vouched_for(tmp_path):
    with Log(tmp_path) as log:
        log.append(b"old").wait(10)
    fs = FaultyFileSystem()
    fs.fail("datasync")
    previous = read(tmp_path)[1].previous
    with Log(tmp_path, fs=fs, next_segment=2, next_seq=1, previous=previous) as log:
        log.append(b"new").wait(10)
    path = tmp_path / "wal" / filenames.wal_name(1)
    path.write_bytes(path.read_bytes()[:-1])
    records, report = read(tmp_path)
    assert payloads(records) == [b"new"]
    assert report.damage == []


def test_undone_renames_and_unlinks_come_back(tmp_path):
    # The fault injection itself: what a folder's sync was not called for may be undone.
    fs = FaultyFileSystem()
    one, two = str(tmp_path / "1"), str(tmp_path / "2")
    fs.write_file(one, b"one")
    fs.write_file(two, b"two")
    fs.sync_dir(str(tmp_path))
    outcomes = set()
    for seed in range(40):
        fs.rename(one, two)
        fs.unlink(two)
        fs.lose_unsynced(random.Random(seed))
        state = tuple(
            (name, (tmp_path / name).read_bytes()) for name in sorted(os.listdir(tmp_path))
        )
        outcomes.add(state)
        for name in ("1", "2"):
            (tmp_path / name).write_bytes(b"one" if name == "1" else b"two")
    assert outcomes == {(), (("2", b"one"),), (("1", b"one"), ("2", b"two"))}
