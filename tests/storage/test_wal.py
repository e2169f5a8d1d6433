"""The log: order, groups, cuts, segments, limits, life."""

import contextlib
import os
import random
import threading
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.faults.filesystem import FaultyFileSystem
from tests.faults.log import DATABASE_ID, Log, payloads, read, reopen
from tests.reference.background import wait_until
from tsengine.errors import AppendLimitExceeded, Closed, Overloaded, StorageError, UnsupportedFormat
from tsengine.storage import filenames, wal, wal_records, wal_segments
from tsengine.storage.filesystem import LocalFileSystem
from tsengine.storage.ingest_log import LogEntry
from tsengine.storage.wal_reader import list_segments


def test_what_is_acknowledged_reads_back(tmp_path):
    with Log(tmp_path) as log:
        log.append(b"one", b"two").wait(10)
        log.append(b"three").wait(10)
        # The file of an open log, as a reader beside it sees it.
        records, _ = read(tmp_path)
        assert payloads(records) == [b"one", b"two", b"three"]
    records, report = read(tmp_path)
    assert payloads(records) == [b"one", b"two", b"three"]
    assert [record.seq for record in records] == [0, 0, 1]
    assert {record.type for record in records} == {wal_records.SERIES}
    assert (report.n_records, report.seq_max, report.last_segment) == (3, 1, 1)
    assert report.torn_tails == report.damage == []
    size = os.path.getsize(filenames.wal_path(str(tmp_path), 1))
    assert report.previous == (1, size)


def test_no_file_before_the_first_entry(tmp_path):
    with Log(tmp_path):
        pass
    assert os.listdir(tmp_path / "wal") == []
    assert read(tmp_path)[1].last_segment == 0
    assert read(tmp_path / "nothing here")[0] == []


def test_on_durable_comes_before_the_ticket_and_after_the_sync(tmp_path):
    fs = FaultyFileSystem()
    seen = []

    def on_durable(entries):
        seen.append((fs.calls["datasync"], [entry.item for entry in entries], ticket[0].is_done))

    ticket = []
    with Log(tmp_path, fs=fs, on_durable=on_durable) as log:
        log.gate.clear()
        ticket.append(log.append(b"x", item="the item"))
        log.gate.set()
        ticket[0].wait(10)
    assert seen == [(1, ["the item"], False)]


def test_entries_without_records_keep_their_place_and_cost_no_sync(tmp_path):
    fs = FaultyFileSystem()
    with Log(tmp_path, fs=fs) as log:
        log.append(n_bytes=10).wait(10)
        assert fs.calls["datasync"] == 0
        log.append(b"x").wait(10)
    assert [entry.seq for entry in log.durable] == [0, 1]
    assert [record.seq for record in read(tmp_path)[0]] == [1]


def test_entries_that_wait_share_one_sync(tmp_path):
    fs = FaultyFileSystem()
    with Log(tmp_path, fs=fs) as log:
        held = log.hold()
        tickets = [log.append(b"%d" % i) for i in range(50)]
        log.gate.set()
        for ticket in [held, *tickets]:
            ticket.wait(10)
        assert fs.calls["datasync"] == 2
        assert log.wal.stats.n_groups == 2
        assert log.wal.stats.n_entries == 51
    assert payloads(read(tmp_path)[0]) == [b"held", *(b"%d" % i for i in range(50))]


@given(st.lists(st.integers(0, 300), min_size=1, max_size=30), st.integers(1, 500))
@settings(max_examples=25, deadline=None)
def test_groups_of_any_size_keep_order_and_content(tmp_path_factory, sizes, group_size):
    tmp_path = tmp_path_factory.mktemp("log")
    rng = random.Random(group_size)
    wanted = [rng.randbytes(size) for size in sizes]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(wal, "GROUP_SIZE_BYTES_MAX", group_size)
        patch.setattr(wal_segments, "SEGMENT_SIZE_BYTES_MAX", 3 * group_size)
        with Log(tmp_path) as log:
            held = log.hold()
            tickets = [log.append(data) for data in wanted]
            log.gate.set()
            for ticket in [held, *tickets]:
                ticket.wait(10)
    records, report = read(tmp_path)
    assert payloads(records) == [b"held", *wanted]
    assert [record.seq for record in records] == list(range(len(wanted) + 1))
    assert [entry.seq for entry in log.durable] == list(range(len(wanted) + 1))
    assert report.damage == report.torn_tails == []


def test_what_is_gathered_shares_one_sync(tmp_path):
    fs = FaultyFileSystem()
    with Log(tmp_path, fs=fs) as log:
        with log.wal.gathering(), log.wal.gathering():
            first = log.append(b"a")
            with pytest.raises(TimeoutError):
                first.wait(0.05)
            # Of another thread, perhaps: it waits too.
            second = log.append(b"b")
        first.wait(10)
        second.wait(10)
        assert fs.calls["datasync"] == 1
        log.append(b"c").wait(10)
        assert fs.calls["datasync"] == 2
    assert payloads(read(tmp_path)[0]) == [b"a", b"b", b"c"]


def test_cuts_much_data_and_who_is_in_a_hurry_do_not_wait_for_what_is_gathered(tmp_path):
    with Log(tmp_path, queue_size_bytes_max=1000) as log:
        with log.wal.gathering():
            first = log.append(b"a")
            log.wal.cut(lambda segment: None).wait(10)
            first.wait(10)
            second = log.append(b"b")
            log.wal.hurry()
            second.wait(10)
            third = log.append(b"c", n_bytes=400)
            with pytest.raises(TimeoutError):
                third.wait(0.05)
            log.append(b"d", n_bytes=101).wait(10)
            third.wait(10)
            last = log.append(b"e")
            closing = threading.Thread(target=log.wal.close)
            closing.start()
            last.wait(10)
            closing.join(10)
    assert payloads(read(tmp_path)[0]) == [b"a", b"b", b"c", b"d", b"e"]


def test_an_error_ends_gathering(tmp_path):
    with Log(tmp_path) as log:
        with contextlib.suppress(ZeroDivisionError), log.wal.gathering():
            ticket = log.append(b"a")
            raise ZeroDivisionError
        ticket.wait(10)


def gathered(log: Log, *payloads_: bytes, cut: bool = False) -> threading.Thread:
    """A thread that appends all in a gathering, with a cut behind the first if wanted."""

    def run() -> None:
        with log.wal.gathering():
            for number, payload in enumerate(payloads_):
                log.append(payload)
                if cut and number == 0:
                    log.wal.cut(lambda segment: None)

    thread = threading.Thread(target=run, name="gathers")
    thread.start()
    return thread


def until_idle(log: Log) -> None:
    """Return when the log's thread sleeps: else it may take what is gathered first."""
    wait_until(lambda: log.wal._wakeup._waiters and not log.wal._turn.locked())


def test_who_ends_gathering_writes(tmp_path):
    threads = []
    with Log(
        tmp_path, on_durable=lambda entries: threads.append(threading.current_thread().name)
    ) as log:
        until_idle(log)
        gathered(log, b"a", b"b").join(10)
        assert log.wal.stats.n_entries == 2, "when it has ended"
        log.append(b"c").wait(10)
        with log.wal.gathering():  # Of the main thread, which signals may interrupt.
            last = log.append(b"d")
        last.wait(10)
        assert threads == ["gathers", "tsengine-wal", "tsengine-wal"]
    assert payloads(read(tmp_path)[0]) == [b"a", b"b", b"c", b"d"]


def test_who_ends_gathering_leaves_the_rest_to_others(tmp_path):
    """While the log's thread writes, at a cut, and where a sync is not awaited."""
    threads = []

    def on_durable(entries):
        threads.append((threading.current_thread().name, len(entries)))

    with Log(tmp_path, on_durable=on_durable) as log:
        held = log.hold()
        gathered(log, b"a", b"b").join(10)
        assert not held.is_done
        log.gate.set()
        log.append(b"c").wait(10)
        assert threads[0] == ("tsengine-wal", 1)
        assert {name for name, _ in threads} == {"tsengine-wal"}
        gathered(log, b"d", b"e", b"f", cut=True).join(10)
        log.append(b"g").wait(10)
    records, report = read(tmp_path)
    assert payloads(records) == [b"held", b"a", b"b", b"c", b"d", b"e", b"f", b"g"]
    assert report.last_segment == 2
    threads.clear()
    with reopen(tmp_path, fsync="interval", on_durable=on_durable) as log:
        gathered(log, b"h").join(10)
        log.append(b"i").wait(10)
    assert {name for name, _ in threads} == {"tsengine-wal"}
    assert payloads(read(tmp_path)[0])[-2:] == [b"h", b"i"]


def test_a_failure_in_a_thread_that_gathered_is_told_to_all(tmp_path):
    fs = FaultyFileSystem()
    with Log(tmp_path, fs=fs) as log:
        log.append(b"a").wait(10)
        tickets = []

        def run() -> None:
            with log.wal.gathering():
                tickets.extend(log.append(payload) for payload in (b"b", b"c"))
                fs.fail("datasync", times=2)

        thread = threading.Thread(target=run)
        thread.start()
        thread.join(10)
        for ticket in tickets:
            with pytest.raises(StorageError):
                ticket.wait(10)
        assert [entry.records[0][1] for entry in log.failed] == [b"b", b"c"]
        gathered(log, b"d").join(10)
    assert payloads(read(tmp_path)[0]) == [b"a", b"d"]


def test_many_gatherers_appenders_and_cuts(tmp_path):
    n_threads, n_each = 6, 40

    def run(number: int) -> None:
        rng = random.Random(number)
        for i in range(n_each):
            with contextlib.ExitStack() as stack:
                if number % 2:
                    stack.enter_context(log.wal.gathering())
                ticket = log.append(b"%d/%d" % (number, i))
                if rng.random() < 0.1:
                    log.wal.cut(lambda segment: None)
            ticket.wait(30)

    with Log(tmp_path) as log:
        threads = [threading.Thread(target=run, args=(n,)) for n in range(n_threads)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
            assert not thread.is_alive()
    records, report = read(tmp_path)
    assert report.damage == []
    assert [record.seq for record in records] == list(range(n_threads * n_each))
    assert [entry.seq for entry in log.durable] == list(range(n_threads * n_each))


def test_many_appenders(tmp_path):
    n_threads, n_each = 8, 60
    acknowledged: list[list[int]] = [[] for _ in range(n_threads)]

    def run(number: int) -> None:
        rng = random.Random(number)
        for i in range(n_each):
            entry = LogEntry(((wal_records.SERIES, b"%d/%d" % (number, i)),), 10)
            log.wal.append(entry).wait(30)
            acknowledged[number].append(entry.seq)
            if rng.random() < 0.1:
                time.sleep(0.001)

    with Log(tmp_path) as log:
        threads = [threading.Thread(target=run, args=(n,)) for n in range(n_threads)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    records, _ = read(tmp_path)
    assert [record.seq for record in records] == list(range(n_threads * n_each))
    assert [entry.seq for entry in log.durable] == list(range(n_threads * n_each))
    for number, seqs in enumerate(acknowledged):
        assert seqs == sorted(seqs)
        assert [records[seq].payload for seq in seqs] == [
            b"%d/%d" % (number, i) for i in range(n_each)
        ]


def test_segments_roll_and_vouch_for_each_other(tmp_path, monkeypatch):
    monkeypatch.setattr(wal_segments, "SEGMENT_SIZE_BYTES_MAX", 200)
    with Log(tmp_path) as log:
        for i in range(10):
            log.append(b"%d" % i * 60).wait(10)
        assert log.wal.n_bytes == sum(f.stat().st_size for f in (tmp_path / "wal").iterdir())
    records, report = read(tmp_path)
    assert payloads(records) == [b"%d" % i * 60 for i in range(10)]
    assert report.last_segment == 5
    assert [record.segment for record in records] == [1, 1, 2, 2, 3, 3, 4, 4, 5, 5]
    # A finished segment that lost its end is damage, not a torn tail: the next one knows.
    path = tmp_path / "wal" / filenames.wal_name(2)
    path.write_bytes(path.read_bytes()[:-40])
    records, report = read(tmp_path)
    assert payloads(records) == [b"%d" % i * 60 for i in (0, 1, 2, 4, 5, 6, 7, 8, 9)]
    [(damaged, offset, reason)] = report.damage
    assert (damaged, offset) == (str(path), 64 + 85)
    assert "acknowledged" in reason
    assert report.torn_tails == []
    # And so is one that is not there at all.
    path.unlink()
    _, report = read(tmp_path)
    assert report.damage == [(str(path), 0, "segment is missing")]


def test_cut_is_ordered(tmp_path):
    cuts = []
    with Log(tmp_path) as log:
        held = log.hold()
        before = [log.append(b"before") for _ in range(3)]
        cut = log.wal.cut(lambda segment: cuts.append((segment, len(log.durable))))
        after = [log.append(b"after") for _ in range(3)]
        again = log.wal.cut(lambda segment: cuts.append((segment, len(log.durable))))
        empty = log.wal.cut(lambda segment: cuts.append((segment, len(log.durable))))
        log.gate.set()
        for ticket in [held, *before, cut, *after, again, empty]:
            ticket.wait(10)
        assert cuts == [(2, 4), (3, 7), (3, 7)]
        assert log.wal.stats.size_since_cut_bytes == 0
    assert payloads(read(tmp_path, first_segment=2)[0]) == [b"after"] * 3
    assert payloads(read(tmp_path)[0]) == [b"held", *[b"before"] * 3, *[b"after"] * 3]
    report = read(tmp_path, first_segment=3)[1]
    assert report.last_segment == 2  # nothing from 3 on: a new log starts with 3


def test_trim_keeps_what_is_asked_for_and_the_open_segment(tmp_path):
    with Log(tmp_path) as log:
        for i in range(4):
            log.append(b"%d" % i).wait(10)
            if i < 3:
                log.wal.cut(lambda segment: None).wait(10)
        log.wal.trim(3)
        assert list_segments(log.fs, str(tmp_path)) == [3, 4]
        log.wal.trim(99)
        assert list_segments(log.fs, str(tmp_path)) == [4]
        log.append(b"still works").wait(10)
    records, report = read(tmp_path, first_segment=3)
    assert payloads(records) == [b"3", b"still works"]
    assert len(report.damage) == 1  # segment 3 was trimmed against the rules
    assert read(tmp_path, first_segment=4)[1].damage == []


def test_trim_tells_when_a_file_stays(tmp_path):
    fs = FaultyFileSystem()
    with Log(tmp_path, fs=fs) as log:
        for _ in range(3):
            log.append(b"x").wait(10)
            log.wal.cut(lambda segment: None).wait(10)
        fs.fail("unlink")
        with pytest.raises(StorageError, match="trimming"):
            log.wal.trim(4)
        assert list_segments(log.fs, str(tmp_path)) == [1]
        log.wal.trim(4)
        assert list_segments(log.fs, str(tmp_path)) == []


def test_a_full_queue_refuses_and_recovers(tmp_path):
    with Log(tmp_path, queue_size_bytes_max=100) as log:
        held = log.hold()
        # An entry that alone is over the limit is taken when nothing waits.
        waiting = log.append(b"big", n_bytes=1000)
        with pytest.raises(Overloaded, match="1000 bytes wait"):
            log.append(b"refused", n_bytes=1)
        log.gate.set()
        held.wait(10)
        waiting.wait(10)
        log.append(b"later", n_bytes=60).wait(10)
    assert payloads(read(tmp_path)[0]) == [b"held", b"big", b"later"]
    assert [record.seq for record in read(tmp_path)[0]] == [0, 1, 2]


def test_bytes_in_flight_count_for_the_queue(tmp_path):
    with Log(tmp_path, queue_size_bytes_max=100) as log:
        log.gate.clear()
        first = log.append(b"x", n_bytes=80)
        assert log.in_durable.wait(10)
        with pytest.raises(Overloaded):
            log.append(b"y", n_bytes=80)
        assert log.wal.stats.queue_size_bytes == 80
        log.gate.set()
        first.wait(10)
        assert log.wal.stats.queue_size_bytes == 0


def test_payloads_that_no_reader_would_take_are_refused(tmp_path, monkeypatch):
    with Log(tmp_path) as log:
        for unknown in (0, 7, 99):
            with pytest.raises(UnsupportedFormat):
                log.wal.append(LogEntry(((unknown, b""),), 1))
        monkeypatch.setattr(wal, "PAYLOAD_SIZE_MAX", 10)
        with pytest.raises(AppendLimitExceeded, match="11 bytes"):
            log.append(bytes(11))
        log.append(b"fine").wait(10)
    assert payloads(read(tmp_path)[0]) == [b"fine"]


def test_a_failing_on_durable_reaches_its_tickets_only(tmp_path):
    def on_durable(entries):
        if any(entry.item == "bad" for entry in entries):
            raise ValueError("no room in the head")

    with Log(tmp_path, on_durable=on_durable) as log:
        with pytest.raises(StorageError, match="no room in the head"):
            log.append(b"1", item="bad").wait(10)
        log.append(b"2").wait(10)

        def on_cut(segment):
            raise ValueError("no cut")

        with pytest.raises(StorageError, match="no cut"):
            log.wal.cut(on_cut).wait(10)
        log.append(b"3").wait(10)
    assert payloads(read(tmp_path)[0]) == [b"1", b"2", b"3"]


def test_wait_can_time_out(tmp_path):
    with Log(tmp_path) as log:
        ticket = log.hold()
        assert not ticket.is_done
        with pytest.raises(TimeoutError):
            ticket.wait(0.01)
        log.gate.set()
        ticket.wait(10)
        assert ticket.is_done


def test_close_writes_what_is_queued_and_then_refuses(tmp_path):
    log = Log(tmp_path)
    log.hold()
    tickets = [log.append(b"%d" % i) for i in range(20)]
    threading.Timer(0.05, log.gate.set).start()
    log.wal.close()
    log.wal.close()
    assert all(ticket.is_done for ticket in tickets)
    for call in (lambda: log.append(b"x"), lambda: log.wal.cut(lambda segment: None)):
        with pytest.raises(Closed):
            call()
    assert len(read(tmp_path)[0]) == 21


def test_a_forked_child_can_not_use_the_log(tmp_path):
    with Log(tmp_path) as log:
        log.append(b"parent").wait(10)
        read_end, write_end = os.pipe()
        pid = os.fork()
        if pid == 0:
            said = []
            for call in (lambda: log.append(b"x"), lambda: log.wal.cut(print)):
                try:
                    call()
                    said.append("no error")
                except Closed:
                    said.append("closed")
            log.wal.close()  # must not wait for a thread that is not there
            os.write(write_end, " ".join(said).encode())
            os._exit(0)
        os.close(write_end)
        with os.fdopen(read_end) as pipe:
            assert pipe.read() == "closed closed"
        assert os.waitpid(pid, 0)[1] == 0
        log.append(b"parent again").wait(10)
    assert payloads(read(tmp_path)[0]) == [b"parent", b"parent again"]


def test_interval_acknowledges_before_the_sync_and_syncs_soon(tmp_path, monkeypatch):
    monkeypatch.setattr(wal, "SYNC_INTERVAL_S", 0.05)
    fs = FaultyFileSystem()
    with Log(tmp_path, fs=fs, fsync="interval") as log:
        began = time.monotonic()
        log.append(b"1").wait(10)
        log.append(b"2").wait(10)
        seconds = time.monotonic() - began
        # Not synced, or a second time if the two did not come close together.
        wait_until(lambda: fs.calls["datasync"] and log.wal._sync_due_s is None)
        n = fs.calls["datasync"]
        assert n == 1 or (n == 2 and seconds >= 0.05)
        time.sleep(0.12)
        assert fs.calls["datasync"] == n  # nothing new, no sync
        log.append(b"3").wait(10)
        log.wal.cut(lambda segment: None).wait(10)
        assert fs.calls["datasync"] == n + 1  # a cut syncs at once
        log.append(b"4").wait(10)
    assert fs.calls["datasync"] == n + 2  # and so does closing
    assert payloads(read(tmp_path)[0]) == [b"1", b"2", b"3", b"4"]


def test_a_log_goes_on_in_a_new_segment(tmp_path):
    for round_number in range(4):
        with reopen(tmp_path) as log:
            log.append(b"%d" % round_number).wait(10)
    records, report = read(tmp_path)
    assert [(r.payload, r.seq, r.segment) for r in records] == [
        (b"%d" % i, i, i + 1) for i in range(4)
    ]
    assert report.damage == report.torn_tails == []


def test_an_existing_segment_is_never_written(tmp_path):
    with Log(tmp_path) as log:
        log.append(b"old").wait(10)
    with Log(tmp_path) as log, pytest.raises(StorageError, match="there already"):
        log.append(b"new").wait(10)
    assert payloads(read(tmp_path)[0]) == [b"old"]


def test_segment_files_carry_the_database(tmp_path):
    with Log(tmp_path) as log:
        log.append(b"x").wait(10)
    data = LocalFileSystem().read_file(filenames.wal_path(str(tmp_path), 1))
    assert data.startswith(b"TSENGWAL")
    assert bytes.fromhex(DATABASE_ID) in data[:64]
