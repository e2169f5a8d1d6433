"""Tombstones as records and files, and what becomes of them in a running database."""

from __future__ import annotations

import dataclasses
import os
import re
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tsengine
from tests.faults.filesystem import FaultyFileSystem
from tests.golden import make_tombstone as made
from tests.reference import remote_write as wire
from tests.reference.background import wait_for_disk
from tests.reference.histogramscan import Message, encode
from tests.reference.rich_samples import model_of
from tsengine.errors import CorruptionError, Full, ReadOnly, UnsupportedFormat
from tsengine.options import Options
from tsengine.storage import filenames, select, wal_records
from tsengine.storage.checkpoint import Checkpointer
from tsengine.storage.database import StorageDatabase
from tsengine.storage.deleting import PATIENCE_MS, QUIET_MS, Erasing
from tsengine.storage.filesystem import LocalFileSystem
from tsengine.storage.tombstones import (
    decode_tombstone,
    encode_tombstone,
    read_tombstone,
    write_tombstone,
)

GOLDEN = Path(__file__).parent.parent / "golden" / "tombstones-v1"
FS = LocalFileSystem()
EVER = (-(2**63), 2**63 - 1)
T0 = 1_700_000_000_000
DAY = 86_400_000


def refs_of(*refs):
    return np.array(refs, np.uint32)


# ---------------------------------------------------------------------------- record and file


@given(
    st.tuples(st.integers(*EVER), st.integers(*EVER)).map(sorted),
    st.sets(st.integers(0, 2**32 - 1), max_size=20),
    st.integers(0, 2**62),
)
def test_a_record_comes_back(span, refs, seq):
    payload = encode_tombstone(*span, refs_of(*sorted(refs)))
    found = decode_tombstone(payload, seq)
    assert (found.seq, [found.mint, found.maxt]) == (seq, span)
    assert found.refs.dtype == np.uint32
    assert found.refs.tolist() == sorted(refs)


@settings(max_examples=200)
@given(st.data())
def test_a_damaged_record_is_refused_or_another_tombstone(data):
    """The frame's checksum finds flips; what gets through it must at least be a tombstone."""
    payload = bytearray(encode_tombstone(10, 20, refs_of(1, 5, 300)))
    if data.draw(st.booleans()):
        del payload[data.draw(st.integers(0, len(payload) - 1)) :]
    else:
        payload[data.draw(st.integers(0, len(payload) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    try:
        found = decode_tombstone(bytes(payload), 3)
    except (CorruptionError, UnsupportedFormat):
        return
    assert found.mint <= found.maxt
    assert (np.diff(found.refs.astype(np.int64)) > 0).all()


def test_the_golden_file_is_read_and_written_alike(tmp_path):
    entry = made.main(str(tmp_path))
    found = read_tombstone(FS, str(GOLDEN), entry)
    assert (found.seq, found.mint, found.maxt) == (2**40, -(2**63), 1_700_000_060_000)
    assert found.refs.tolist() == [0, 5, 6, 9, 70_000, 2**32 - 1]
    assert (found.entry, found.file_number) == (entry, 7)


def test_the_example_in_the_document_is_real():
    text = (Path(__file__).parents[2] / "docs" / "format" / "tombstones.md").read_text()
    example = text[text.index("## Example") :]
    lines = re.findall(r"^    ((?:[0-9a-f]{2} {1,2})*[0-9a-f]{2})(?:  |$)", example, re.MULTILINE)
    found = decode_tombstone(bytes.fromhex("".join(lines)), 0)
    assert (found.mint, found.maxt, found.refs.tolist()) == (T0, T0 + 60_000, [5, 6, 9])


def test_a_flipped_bit_of_the_file_is_found(tmp_path):
    entry = write_tombstone(FS, str(tmp_path), made.NAME, made.TOMBSTONE)
    path = filenames.tombstone_path(str(tmp_path), entry.name)
    data = Path(path).read_bytes()
    for bit in range(8 * len(data)):
        broken = bytearray(data)
        broken[bit // 8] ^= 1 << bit % 8
        Path(path).write_bytes(broken)
        with pytest.raises((CorruptionError, UnsupportedFormat)):
            read_tombstone(FS, str(tmp_path), entry)


@pytest.mark.parametrize("change", [{"seq": 1}, {"mint": 0}, {"maxt": 0}, {"n_series": 5}])
def test_a_file_that_is_not_the_manifests_is_refused(tmp_path, change):
    entry = write_tombstone(FS, str(tmp_path), made.NAME, made.TOMBSTONE)
    with pytest.raises(CorruptionError, match="not the tombstone"):
        read_tombstone(FS, str(tmp_path), dataclasses.replace(entry, **change))


# ---------------------------------------------------------------------------- a database


class Clock:
    def __init__(self, now_ms=T0):
        self.now_ms = now_ms

    def __call__(self):
        return self.now_ms


def open_database(path, fs=None, clock=None, **options):
    options = Options(future_limit=None, **options)
    return StorageDatabase(str(path), options, fs=fs, clock=clock or Clock())


def append(db, series, times, value=1.0):
    refs = db.series_refs([{"__name__": "m", "s": str(series)}])
    times = np.asarray(times, np.int64)
    values = np.full(len(times), value)
    db.append_columns(np.full(len(times), refs[0], np.uint32), times, values.view(np.uint64))
    return int(refs[0])


def times_of(db):
    view = db.view()
    refs = view.live(view.all_refs(), *EVER)
    frames = view.read(refs, *EVER, drop_stale=False)
    return {
        int(ref): frames.t_ms[slice(*frames.axis_offsets[axis : axis + 2])].tolist()
        for ref, axis in zip(refs, frames.row_axis, strict=True)
        if frames.axis_offsets[axis] < frames.axis_offsets[axis + 1]
    }


def hold_flushes(db):
    """Let the log keep everything; flushes do nothing."""
    db._checkpointer.flush = lambda frozen: None


def wait_until(claim):
    for _ in range(2400):
        if claim():
            return
        time.sleep(0.025)
    raise AssertionError("waited a minute in vain")


def live_files(db):
    return {entry.name for entry in db._checkpointer.manifest.tombstones}


def test_higher_sequences_are_visible_wherever_in_time(tmp_path):
    db = open_database(tmp_path)
    append(db, 0, range(10))
    append(db, 1, range(10))
    db.delete(refs_of(0), 2, 7)
    assert times_of(db) == {0: [0, 1, 8, 9], 1: list(range(10))}
    append(db, 0, [5, 3, -4])
    assert times_of(db)[0] == [-4, 0, 1, 3, 5, 8, 9]
    for change in (db.flush, db.compact, db.clean_tombstones):
        change()
        assert times_of(db)[0] == [-4, 0, 1, 3, 5, 8, 9]
    db.close()


def test_a_second_delete_while_the_first_is_not_erased(tmp_path):
    db = open_database(tmp_path)
    append(db, 0, range(10))
    db.flush()
    db.delete(refs_of(0), 2, 4)
    append(db, 0, [3])
    db.delete(refs_of(0), 3, 6)
    append(db, 0, [6])
    assert times_of(db) == {0: [0, 1, 6, 7, 8, 9]}
    db.close()
    db = open_database(tmp_path)
    assert times_of(db) == {0: [0, 1, 6, 7, 8, 9]}
    db.compact()
    assert times_of(db) == {0: [0, 1, 6, 7, 8, 9]}
    db.close()


def test_a_deleted_value_does_not_uncover_an_older_one(tmp_path):
    db = open_database(tmp_path)
    append(db, 0, [5], 1.0)
    db.flush()
    append(db, 0, [5], 2.0)
    db.delete(refs_of(0), 5, 5)
    assert times_of(db) == {}
    db.close()


@pytest.mark.parametrize("how", ["log", "file", "killed"])
def test_a_delete_survives_the_restart(tmp_path, how):
    fs = FaultyFileSystem()
    db = open_database(tmp_path, fs)
    append(db, 0, range(10))
    if how == "log":
        hold_flushes(db)
    db.delete(refs_of(0), 2, 7)
    append(db, 0, [4])
    if how == "file":
        db.flush()
        assert len(live_files(db)) == 1
    if how == "killed":
        fs.is_crashed = True
    db.close()
    fs.revive()
    db = open_database(tmp_path, fs)
    assert times_of(db) == {0: [0, 1, 4, 8, 9]}
    if how == "log":
        # As before: what stood in the head is in a frozen one, older than the tombstone.
        assert len(db.state.frozen) in (0, 1)
        assert db.state.tombstones[0].entry is None or live_files(db)
    db.flush()
    assert times_of(db) == {0: [0, 1, 4, 8, 9]}
    assert os.listdir(tmp_path / "wal") == []
    db.close()
    db = open_database(tmp_path, fs)
    assert times_of(db) == {0: [0, 1, 4, 8, 9]}
    db.close()


def test_a_replay_freezes_the_head_at_each_tombstone(tmp_path):
    fs = FaultyFileSystem()
    db = open_database(tmp_path, fs)
    db.maintenance.pause()
    hold_flushes(db)
    for k in range(3):
        append(db, 0, range(10 * k, 10 * k + 10), float(k))
        db.delete(refs_of(0), 10 * k, 10 * k)
    append(db, 0, [0], 9.0)
    db.close()
    reader = StorageDatabase(str(tmp_path), Options(), read_only=True)
    frozen = reader.state.frozen
    assert [waiting.head.n_samples for waiting in frozen] == [10, 10, 10]
    assert reader.state.head.n_samples == 1
    seqs = [tombstone.seq for tombstone in reader.state.tombstones]
    assert [waiting.tombstone_seq for waiting in frozen] == [-1, *seqs[:2]]
    assert [waiting.head.seq_max < seq for waiting, seq in zip(frozen, seqs, strict=True)] == [
        True
    ] * 3
    segments = sorted(int(name[:10]) for name in os.listdir(tmp_path / "wal"))
    floors = [waiting.wal_floor for waiting in frozen]
    assert floors == sorted(set(floors))
    assert set(floors) <= set(segments[1:])
    kept = [t for t in range(30) if t % 10]
    assert times_of(reader) == {0: [0, *kept]}
    with pytest.raises(ReadOnly):
        reader.delete(refs_of(0), 0, 1)
    reader.close()


def test_a_flush_between_two_deletes_keeps_the_later_one_in_the_log(tmp_path):
    fs = FaultyFileSystem()
    db = open_database(tmp_path, fs)
    append(db, 0, range(10))
    db.flush()
    hold_flushes(db)
    db.delete(refs_of(0), 0, 1)
    append(db, 0, [20])
    db.delete(refs_of(0), 2, 3)
    append(db, 0, [30])
    first, *_ = db.state.frozen
    Checkpointer.flush(db._checkpointer, first)
    assert len(live_files(db)) == 1
    assert [t.entry is None for t in db.state.tombstones] == [False, True]
    fs.is_crashed = True
    db.close()
    fs.revive()
    db = open_database(tmp_path, fs)
    assert times_of(db) == {0: [4, 5, 6, 7, 8, 9, 20, 30]}
    db.close()


def test_nothing_is_deleted_when_the_log_fails(tmp_path):
    fs = FaultyFileSystem()
    db = open_database(tmp_path, fs)
    append(db, 0, range(10))
    fs.fail("datasync", times=None)
    fs.fail("open_append", times=None)
    with pytest.raises((Full, tsengine.errors.StorageError)):
        db.delete(refs_of(0), 2, 7)
    fs.heal()
    assert times_of(db) == {0: list(range(10))}
    wait_for_disk(db)
    append(db, 0, [10])
    db.delete(refs_of(0), 0, 8)
    assert times_of(db) == {0: [9, 10]}
    db.close()


def test_deletes_beside_appends_and_readers(tmp_path):
    db = open_database(tmp_path)
    assert [append(db, series, [-1]) for series in (0, 1)] == [0, 1]
    stop = threading.Event()
    errors = []

    def write():
        try:
            for k in range(10_000):
                if stop.is_set():
                    return
                append(db, 1, [k])
                db.view().read(refs_of(0, 1), *EVER, drop_stale=True)
        except Exception as error:
            errors.append(error)

    thread = threading.Thread(target=write)
    thread.start()
    for k in range(30):
        append(db, 0, range(10 * k, 10 * k + 10))
        db.delete(refs_of(0), *EVER)
        assert 0 not in times_of(db)
    stop.set()
    thread.join()
    assert errors == []
    n_written = len(times_of(db)[1])
    db.close()
    db = open_database(tmp_path)
    assert times_of(db) == {1: list(range(-1, n_written - 1))}
    db.close()


# ---------------------------------------------------------------------------- other kinds


def body(first):
    """Ten floats with exemplars and starts, ten histograms."""
    times = [T0 + 1000 * k for k in range(first, first + 10)]
    histograms = [
        encode(
            Message(count=k, schema=1, t_ms=t, positive_spans=[(0, 1)], positive=[k], start_ms=T0)
        )
        for k, t in enumerate(times, 1)
    ]
    exemplars = [wire.Exemplar([(b"id", b"%d" % t)], t, wire.bits_of(1.0)) for t in times]
    floats = wire.Series(
        [(b"__name__", b"f")], [(t, wire.bits_of(2.0)) for t in times], exemplars=exemplars,
        starts=[T0 - 1] * 10,
    )  # fmt: skip
    native = wire.Series([(b"__name__", b"h")], histograms=histograms)
    return wire.encode_v2([floats, native])


def content(db):
    view = db.view()
    refs = refs_of(0, 1)
    columns = select.read_columns(
        view._parts, view._heads, refs, *EVER, with_start=True, mask=view._mask
    )
    starts = view.read_start_times(refs, *EVER)
    assert set(starts.t_ms.tolist()) <= set(columns.t_ms.tolist())
    exemplars = db.exemplars.view().find(refs, -(2**62), 2**62)
    return model_of(columns), exemplars.t_ms.tolist()


@pytest.mark.parametrize("restarts", [False, True])
@pytest.mark.parametrize("flushed", [False, True])
def test_histograms_starts_and_exemplars_go_too(tmp_path, flushed, restarts):
    db = open_database(tmp_path)
    db.append_remote_write(body(0), version=2)
    if flushed:
        db.flush()
    db.append_remote_write(body(10), version=2)
    model, exemplars = content(db)
    mint, maxt = T0 + 5_000, T0 + 14_000
    for own in model.values():
        for t in [t for t in own if mint <= t <= maxt]:
            del own[t]
    expected = model, [t for t in exemplars if not mint <= t <= maxt]
    db.delete(refs_of(0, 1), mint, maxt)
    assert content(db) == expected
    # An exemplar that comes later stays, though its time was deleted.
    db.append_remote_write(
        wire.encode_v2(
            [
                wire.Series(
                    [(b"__name__", b"f")], [(mint, wire.bits_of(7.0))],
                    exemplars=[wire.Exemplar([(b"id", b"late")], mint, wire.bits_of(1.0))],
                )
            ]
        ),
        version=2,
    )  # fmt: skip
    expected[0][0][mint] = (wire.bits_of(7.0), 0)
    expected[1].insert(5, mint)
    assert content(db) == expected
    for change in ("flush", "compact", "clean_tombstones"):
        if restarts:
            db.close()
            db = open_database(tmp_path)
        assert content(db) == expected
        getattr(db, change)()
        assert content(db) == expected
    assert db.state.tombstones == ()
    db.close()


def test_exemplars_of_files_stay_hidden_while_their_tombstone_is_only_in_the_log(tmp_path):
    fs = FaultyFileSystem()
    db = open_database(tmp_path, fs)
    db.append_remote_write(body(0), version=2)
    db.flush()
    hold_flushes(db)
    db.delete(refs_of(0), T0, T0 + 4_000)
    left = content(db)[1]
    assert left == [T0 + 1000 * k for k in range(5, 10)]
    db.close()
    db = open_database(tmp_path, fs)
    assert content(db)[1] == left
    db.flush()
    db.close()
    db = open_database(tmp_path, fs)
    assert content(db)[1] == left
    db.clean_tombstones()
    assert db.state.tombstones == ()
    db.close()
    db = open_database(tmp_path, fs)
    assert content(db)[1] == left
    db.close()


# ---------------------------------------------------------------------------- the end of tombstones


def test_a_tombstone_goes_when_nothing_older_is_left(tmp_path):
    db = open_database(tmp_path)
    db.maintenance.pause()
    append(db, 0, range(1, 11))
    append(db, 1, range(1, 11))
    db.flush()
    db.delete(refs_of(0), 3, 5)
    db.delete(refs_of(1), *EVER)
    db.flush()
    assert len(db.state.tombstones) == len(live_files(db)) == 2
    folder = tmp_path / "tombstones"
    assert set(os.listdir(folder)) == live_files(db)
    db.clean_tombstones()
    assert db.state.tombstones == ()
    assert live_files(db) == set()
    assert [part.entry.n_samples for part in db.state.parts] == [7]
    # The axis of the part still spans the hole: that alone keeps no tombstone.
    assert (db.state.parts[0].entry.mint, db.state.parts[0].entry.maxt) == (1, 10)
    db.close()
    assert os.listdir(folder) == []
    db = open_database(tmp_path)
    assert times_of(db) == {0: [1, 2, 6, 7, 8, 9, 10]}
    db.close()


def test_a_part_of_which_nothing_is_left_goes(tmp_path):
    db = open_database(tmp_path)
    append(db, 0, range(10))
    db.flush()
    db.delete(refs_of(0), *EVER)
    db.clean_tombstones()
    assert (db.state.parts, db.state.tombstones) == ((), ())
    append(db, 0, [5])
    assert times_of(db) == {0: [5]}
    db.close()


def test_a_long_part_is_split_by_days_and_keeps_its_sequences(tmp_path):
    db = open_database(tmp_path)
    db.maintenance.pause()
    append(db, 0, [k * DAY + 5 for k in range(4)])
    append(db, 1, [k * DAY + 5 for k in range(4)])
    db.flush()
    before = db.state.parts[0].entry
    db.delete(refs_of(0), DAY, 2 * DAY)
    db.clean_tombstones()
    entries = [part.entry for part in db.state.parts]
    assert [entry.n_samples for entry in entries] == [2, 1, 2, 2]
    assert {(entry.seq_min, entry.seq_max, entry.level) for entry in entries} == {
        (before.seq_min, before.seq_max, before.level + 1)
    }
    db.close()


def test_the_chore_waits_for_the_last_delete_and_longer_for_small_ones(tmp_path):
    clock = Clock()
    db = open_database(tmp_path, clock=clock)
    db.maintenance.pause()
    append(db, 0, range(100))
    db.flush()
    chore = Erasing(db)

    def due():
        return [job.what for job in chore.plan(db.state, clock())]

    db.delete(refs_of(0), 0, 2)
    db.flush()
    assert due() == []
    clock.now_ms += QUIET_MS
    # 3 of 100 samples are not worth it yet.
    assert due() == []
    db.delete(refs_of(0), 3, 3)
    assert due() == []
    clock.now_ms += PATIENCE_MS - QUIET_MS - 1
    assert due() == []
    clock.now_ms += 1
    (what,) = due()
    assert what.startswith("erasing deleted samples of part")
    # 30 more are, but not before there was silence.
    chore = Erasing(db)
    db.delete(refs_of(0), 10, 40)
    assert due() == []
    clock.now_ms += QUIET_MS - 1
    assert due() == []
    clock.now_ms += 1
    assert due() == [what]
    db.close()


def test_the_background_erases_by_itself(tmp_path):
    clock = Clock()
    db = open_database(tmp_path, clock=clock)
    append(db, 0, range(1, 11))
    append(db, 1, range(1, 11))
    db.flush()
    db.delete(refs_of(0), *EVER)
    (erasing,) = (c for c in db.maintenance._worker._chores if c.name == "erasing")
    wait_until(lambda: erasing._first_seen_ms)
    db.maintenance._worker.wake()
    time.sleep(0.1)
    assert [part.entry.n_samples for part in db.state.parts] == [20]
    clock.now_ms += QUIET_MS
    db.maintenance._worker.wake()
    wait_until(lambda: not db.state.tombstones)
    assert [part.entry.n_samples for part in db.state.parts] == [10]
    assert times_of(db) == {1: list(range(1, 11))}
    db.close()


def test_a_tombstone_that_never_hid_anything_goes_without_a_file(tmp_path):
    db = open_database(tmp_path)
    db.maintenance.pause()
    append(db, 0, range(10))
    db.flush()
    db.delete(refs_of(0), 50, 60)
    (job,) = Erasing(db).plan(db.state, 0)
    assert job.what.startswith("dropping tombstones")
    db.maintenance.run(Erasing(db))
    assert db.state.tombstones == ()
    db.close()
    db = open_database(tmp_path)
    assert times_of(db) == {0: list(range(10))}
    db.close()


def test_a_damaged_part_keeps_its_tombstones_and_holds_up_no_other(tmp_path):
    db = open_database(tmp_path)
    db.maintenance.pause()
    append(db, 0, range(1, 11))
    db.flush()
    append(db, 0, range(DAY + 1, DAY + 11))
    db.flush()
    first, second = db.state.parts
    axes = tmp_path / "parts" / first.entry.name / "axes"
    data = bytearray(axes.read_bytes())
    data[-1] ^= 0xFF
    axes.write_bytes(data)
    db.delete(refs_of(0), 5, 7)
    db.delete(refs_of(0), DAY + 5, DAY + 7)
    db.flush()
    with pytest.raises(CorruptionError):
        db.clean_tombstones()
    assert [t.maxt for t in db.state.tombstones] == [7]
    assert db.state.parts[0] is first
    assert second not in db.state.parts
    assert db.state.parts[1].entry.n_samples == 7
    db.close()


@pytest.mark.parametrize("read_only", [False, True])
def test_a_snapshot_of_parts_knows_deletes_that_only_the_log_has(tmp_path, read_only):
    db = open_database(tmp_path / "db")
    db.maintenance._flusher.request = lambda: None
    append(db, 0, range(10))
    db.flush()
    append(db, 0, [20])
    db.delete(refs_of(0), 3, 5)
    assert db.state.tombstones[0].entry is None
    if read_only:
        reader = StorageDatabase(str(tmp_path / "db"), Options(), read_only=True)
        reader.snapshot(str(tmp_path / "copy"), skip_head=True)
        reader.close()
    else:
        db.snapshot(str(tmp_path / "copy"), skip_head=True)
    copy = open_database(tmp_path / "copy")
    assert times_of(copy)[0][:7] == [0, 1, 2, 6, 7, 8, 9]
    copy.close()
    db.close()


def test_samples_past_their_retention_are_deleted_too(tmp_path):
    """A longer retention must not bring back what was deleted while it was short."""
    options = tsengine.Options(future_limit=None)
    now = int(time.time() * 1000)
    with tsengine.open(tmp_path, options) as db:
        db.append({"__name__": "m"}, [now - 50_000_000, now], [1.0, 2.0])
        db.flush()
        db.reconfigure(retention=10_000.0)
        assert db.delete_series("m", None, now - 20_000_000) == 1
        db.reconfigure(retention=None)
        assert [batch.num_rows for batch in db.select("m")] == [1]


# ---------------------------------------------------------------------------- the façade


@pytest.fixture
def db(tmp_path):
    with tsengine.open(tmp_path / "db") as db:
        for name in ("a", "b"):
            db.append({"__name__": "m", "s": name}, [T0, T0 + 1000], [1.0, 2.0])
        yield db


def test_delete_series_says_of_how_many(db):
    assert db.delete_series("m", T0 + 2000, None) == 0
    assert db.delete_series("n") == 0
    assert db.delete_series(['m{s="a"}', 'm{s=~"a|b"}'], (T0 + 1000) / 1000, T0 + 1000) == 2
    assert db.query("count_over_time(m[1m])", (T0 + 1000) / 1000).to_numpy().tolist() == [[1.0]] * 2
    assert db.delete_series('m{s="a"}') == 1
    assert db.series(["m"])[0] == [{"__name__": "m", "s": "b"}]
    assert db.label_values("s")[0] == ["b"]
    assert db.label_values("s", ["m"])[0] == ["b"]
    assert db.delete_series('m{s="a"}') == 0


def test_deleted_samples_are_in_no_answer(db):
    db.delete_series('m{s="a"}')
    db.delete_series("m", None, T0)
    assert [b["labels"].to_pylist() for b in db.select("m")] == [[[("__name__", "m"), ("s", "b")]]]
    assert db.newest(["m"], T0 + 2000).num_rows == 1
    assert db.newest(["m"], T0).num_rows == 0
    assert db.query("m", T0 / 1000).to_numpy().tolist() == []
    assert db.query("m", (T0 + 1000) / 1000).to_numpy().tolist() == [[2.0]]


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (([],), ValueError),
        (("m", 2000, 1000), ValueError),
        (("m{",), tsengine.errors.ParseError),
        (("{}",), tsengine.errors.ParseError),
        (('{s=~".*"}',), tsengine.errors.ParseError),
        ((["m", "m{"],), tsengine.errors.ParseError),
    ],
)
def test_bad_requests_delete_nothing(db, arguments, error):
    with pytest.raises(error):
        db.delete_series(*arguments)
    assert db.query("count(m)", (T0 + 1000) / 1000).to_numpy().tolist() == [[2.0]]


def test_check_and_inspect_know_tombstones(tmp_path, db):
    db.flush()
    db.delete_series("m", T0, T0)
    db.flush()
    path = tmp_path / "db"
    assert tsengine.check(path).problems == []
    (found,) = tsengine.inspect(path, tombstones=True)["tombstones"]
    assert (found["mint"], found["maxt"], found["series"], found["samples"]) == (T0, T0, 2, 2)
    assert found["bytes"] > 0
    file = path / "tombstones" / found["file"]
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    (problem,) = tsengine.check(path).problems
    assert problem.file == str(file)
    with pytest.raises(CorruptionError, match=found["file"]):
        tsengine.open(path, read_only=True)


def test_versions_before_deletes_refuse_the_log():
    assert wal_records.TOMBSTONE in wal_records.KNOWN_TYPES
    with pytest.raises(UnsupportedFormat):
        decode_tombstone(b"\x01" + encode_tombstone(0, 1, refs_of(1))[1:], 0)
