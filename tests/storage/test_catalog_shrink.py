"""Series without data leave catalog and memory; nothing else does, whatever fails meanwhile."""

from __future__ import annotations

import os
import random
import threading
import time

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.faults.filesystem import Crash, FaultyFileSystem
from tests.reference import remote_write as wire
from tests.reference.background import paused, wait_for_disk
from tsengine.errors import Overloaded, StorageError, TsengineError
from tsengine.model.exemplars import ExemplarBatch, pack_labels
from tsengine.model.labels import label_dicts
from tsengine.options import Options
from tsengine.storage import filenames, manifest
from tsengine.storage.catalog_shrink import CatalogShrink
from tsengine.storage.database import StorageDatabase
from tsengine.storage.retention_chores import Expiry

T0 = 1_700_000_000_000
DAY_MS = 86_400_000


class Time:
    """A clock that stands where it was put."""

    def __init__(self, now_ms=T0):
        self.now_ms = now_ms

    def __call__(self):
        return self.now_ms


def labels_of(i):
    return {"__name__": f"m{i % 3}", "i": str(i), "job": f"job-{i % 2}"}


def body_of(numbers, t_ms):
    bits = np.arange(1000, dtype=np.float64).view(np.uint64).tolist()
    return wire.encode_v1(
        [
            wire.Series(
                sorted((n.encode(), v.encode()) for n, v in labels_of(i).items()),
                [(t_ms, bits[i % 1000])],
            )
            for i in numbers
        ]
    )


def opened(directory, clock, fs=None, **options):
    with paused():
        return StorageDatabase(
            str(directory), Options(retention=86_400.0, tiers=(), **options), clock=clock, fs=fs
        )


def send(database, numbers, t_ms):
    return database.append_remote_write(body_of(numbers, t_ms), version=1)


def stored(database):
    """(number, time) -> value of every sample that a read gives; labels must be those of now."""
    view = database.view()
    refs = view.find([], -(2**62), 2**62)
    found = {}
    batch = view.read(refs, -(2**62), 2**62, drop_stale=False)
    names = [int(labels["i"]) for labels in label_dicts(view.catalog, view.labels(refs))]
    for row, number in enumerate(names):
        axis = batch.row_axis[row]
        first = batch.axis_offsets[axis]
        t_ms = batch.t_ms[first : batch.axis_offsets[axis + 1]]
        values = batch.values[batch.row_offsets[row] : batch.row_offsets[row + 1]]
        for t, value in zip(t_ms.tolist(), values.tolist(), strict=True):
            if not np.isnan(value):
                assert (number, t) not in found, "two series of one label set"
                found[number, t] = value
    return found


def known(database):
    """Number -> ref of every series in the catalog."""
    view = database.view().catalog
    refs = view.all_refs()
    found = label_dicts(view, view.labels(refs))
    assert found == [labels_of(int(labels["i"])) for labels in found]
    numbers = [int(labels["i"]) for labels in found]
    assert len(set(numbers)) == len(numbers)
    return dict(zip(numbers, refs.tolist(), strict=True))


def expire(database):
    """Remove the parts that are past the retention, in this thread."""
    database.maintenance.run(Expiry(database))


def with_dead(directory, fs=None, n=40, n_live=10):
    """A database of n series of which only the last ones have samples still; its clock."""
    clock = Time()
    database = opened(directory, clock, fs)
    send(database, range(n), T0)
    database.flush()
    clock.now_ms = T0 + 2 * DAY_MS
    send(database, range(n - n_live, n), clock.now_ms)
    database.flush()
    expire(database)
    return database, clock


def test_the_dead_leave_and_come_back_under_new_refs(tmp_path):
    database, clock = with_dead(tmp_path)
    now = clock.now_ms
    assert sorted(known(database)) == list(range(40))
    alive = {i: i for i in range(30, 40)}
    assert database.shrink_catalog() == 30
    assert known(database) == alive
    assert database.stats()["series"] == 10
    catalog = database.view().catalog
    assert catalog.label_values("i", None) == [str(i) for i in range(30, 40)]
    assert stored(database) == {(i, now): float(i) for i in range(30, 40)}
    # The sender guesses the refs it knew: the living keep theirs, the dead get new ones.
    outcome = send(database, [3, 35, 4], now + 1)
    assert outcome.n_samples == 3
    assert known(database) == alive | {3: 40, 4: 41}
    expected = {(i, now): float(i) for i in range(30, 40)}
    expected |= {(i, now + 1): float(i) for i in (3, 35, 4)}
    assert stored(database) == expected
    database.close()
    for _ in range(2):  # from the log, then from segments
        database = opened(tmp_path, clock)
        assert known(database) == alive | {3: 40, 4: 41}
        assert stored(database) == expected
        send(database, [3], now + 1)
        database.flush()
        database.compact()
        database.close()
    assert len(os.listdir(tmp_path / filenames.CATALOG_DIR)) == 2


def test_what_holds_a_series(tmp_path):
    database, clock = with_dead(tmp_path)
    now = clock.now_ms
    held = database.series_refs([labels_of(0)])
    with database.refs_in_use([labels_of(1)]):
        send(database, [2], now + 1)  # in the head
        database.exemplars.add(
            ExemplarBatch(
                np.array([3], np.uint32), np.array([now]), np.ones(1), (pack_labels([("a", "b")]),)
            )
        )
        send(database, [40], now - 30 * DAY_MS)  # refused, but new since the last flush
        assert database.shrink_catalog() == 26
        assert sorted(known(database)) == [0, 1, 2, 3, *range(30, 40), 40]
    assert database.shrink_catalog() == 1
    database.flush()
    assert database.shrink_catalog() == 1
    assert sorted(known(database)) == [0, 2, 3, *range(30, 40)]
    database.append_columns(held, np.array([now + 5]), np.ones(1).view(np.uint64))
    with pytest.raises(ValueError, match="series ref 7 was not given out"):
        database.append_columns(
            np.array([7], np.uint32), np.array([now + 5]), np.ones(1).view(np.uint64)
        )
    assert stored(database)[0, now + 5] == 1.0
    database.close()
    database = opened(tmp_path, clock)
    assert stored(database)[0, now + 5] == 1.0
    assert database.exemplars.view().find(np.array([3], np.uint32), now, now).refs.tolist() == [3]
    database.close()


def test_all_may_go_and_the_limit_counts_the_living(tmp_path):
    clock = Time()
    database = opened(tmp_path, clock, max_series=10)
    send(database, range(10), T0)
    assert send(database, [11], T0).rejected
    database.flush()
    clock.now_ms += 2 * DAY_MS
    expire(database)
    assert database.shrink_catalog() == 10
    assert known(database) == {}
    assert not send(database, range(20, 30), clock.now_ms).rejected
    assert send(database, [11], clock.now_ms).rejected
    database.close()
    database = opened(tmp_path, clock)
    assert known(database) == {i: i - 10 for i in range(20, 30)}
    database.close()


def test_the_chore_waits_for_its_share(tmp_path):
    database, _ = with_dead(tmp_path)

    def jobs(**limits):
        return CatalogShrink(database, look_every_s=0.0, **limits).plan(database.state, 0)

    assert jobs() == []
    assert jobs(n_dead_min=31, share_min=0.1) == []
    assert jobs(n_dead_min=30, share_min=0.76) == []
    (job,) = jobs(n_dead_min=30, share_min=0.75)
    assert job.size_bytes == 30 * 100
    # It does not look again as long as no source is gone.
    chore = CatalogShrink(database, n_dead_min=1, share_min=0.9, look_every_s=0.0)
    assert chore.plan(database.state, 0) == []
    chore._share_min = 0.0
    assert len(chore.plan(database.state, 0)) == 1
    database.close()


def test_a_reader_that_pinned_the_old_catalog_keeps_it(tmp_path):
    database, clock = with_dead(tmp_path)
    view = database.view()
    reader = StorageDatabase(str(tmp_path), database.options, read_only=True, clock=clock)
    database.shrink_catalog()
    send(database, [3, 100], clock.now_ms + 1)
    assert label_dicts(view.catalog, view.labels(np.array([3], np.uint32))) == [labels_of(3)]
    assert sorted(known(reader)) == list(range(40))
    late = StorageDatabase(str(tmp_path), database.options, read_only=True, clock=clock)
    assert known(late) == known(database) == {i: i for i in range(30, 40)} | {3: 40, 100: 41}
    database.close()


actions = st.lists(
    st.one_of(
        st.tuples(st.just("send"), st.lists(st.integers(0, 30), min_size=1, max_size=8)),
        st.tuples(st.just("send"), st.lists(st.integers(0, 30), min_size=1, max_size=8)),
        st.tuples(st.just("days"), st.integers(1, 2)),
        st.sampled_from([("flush", 0), ("flush", 0), ("expire", 0), ("compact", 0)]),
        st.sampled_from([("shrink", 0), ("shrink", 0), ("restart", 0)]),
    ),
    max_size=25,
)


@given(actions)
@settings(deadline=None, max_examples=30, suppress_health_check=list(HealthCheck))
def test_against_a_dict(tmp_path_factory, script):
    directory = tmp_path_factory.mktemp("model")
    clock = Time()
    database = opened(directory, clock)
    model: dict[tuple[int, int], float] = {}
    given_out: dict[int, int] = {}
    try:
        for action, argument in script:
            clock.now_ms += 1
            if action == "send":
                numbers = list(dict.fromkeys(argument))
                send(database, numbers, clock.now_ms)
                model |= {(i, clock.now_ms): float(i) for i in numbers}
            elif action == "days":
                clock.now_ms += argument * DAY_MS
            elif action == "flush":
                database.flush()
            elif action == "expire":
                expire(database)
            elif action == "compact":
                database.compact()
            elif action == "shrink":
                database.shrink_catalog()
            else:
                database.close()
                database = opened(directory, clock)
            model = {k: v for k, v in model.items() if k[1] >= clock.now_ms - DAY_MS}
            assert stored(database) == model
            now = known(database)
            assert now.keys() >= {i for i, _ in model}
            for i, ref in now.items():
                assert given_out.setdefault(ref, i) == i, "a ref was used twice"
    finally:
        database.close()


def check_survivors(directory, clock, expected):
    """Open what is left, read, append to everything, open again, read again."""
    for _ in range(2):
        database = opened(directory, clock)
        assert not database.recovery.is_lossy
        assert stored(database) == expected
        clock.now_ms += 1
        send(database, range(50), clock.now_ms)
        expected = expected | {(i, clock.now_ms): float(i) for i in range(50)}
        assert stored(database) == expected
        database.close()


def calls_of_a_shrink(tmp_path):
    fs = FaultyFileSystem()
    database, _ = with_dead(tmp_path, fs)
    before = fs.calls.copy()
    assert database.shrink_catalog() == 30
    made = fs.calls - before
    database.close()
    return made


def faults(made):
    for kind, count in sorted(made.items()):
        for nth in range(1, count + 1):
            for how in ({"torn": 7}, {"after": True}, {}):
                if how != {"torn": 7} or kind in ("write", "write_file"):
                    yield kind, nth, how


def test_a_crash_at_any_call_loses_no_living_series(tmp_path):
    made = calls_of_a_shrink(tmp_path / "calls")
    assert made["write_file"] == 2
    assert made["rename"] == 1
    assert made["sync_dir"] >= 2
    for n, (kind, nth, how) in enumerate(faults(made)):
        for power_cut in (False, True):
            directory = tmp_path / f"{n}-{power_cut}"
            fs = FaultyFileSystem()
            database, clock = with_dead(directory, fs)
            expected = stored(database)
            fs.fail(kind, nth=nth, crash=True, **how)
            try:
                database.shrink_catalog()
            except (TsengineError, Crash):
                pass
            # What is acknowledged after the crash, if anything can be, counts too.
            for number in (2, 33, 60):
                try:
                    send(database, [number], clock.now_ms + 7)
                    expected[number, clock.now_ms + 7] = float(number)
                except (TsengineError, Crash):
                    pass
            try:
                database.close()
            except (TsengineError, Crash):
                pass
            if power_cut:
                fs.lose_unsynced(random.Random(n))
            check_survivors(directory, clock, expected)


@pytest.mark.parametrize("is_killed", [False, True])
def test_after_an_error_at_any_call_appends_are_right(tmp_path, is_killed):
    made = calls_of_a_shrink(tmp_path / "calls")
    n_refused = 0
    for n, (kind, nth, how) in enumerate(faults(made)):
        directory = tmp_path / str(n)
        fs = FaultyFileSystem()
        database, clock = with_dead(directory, fs)
        expected = stored(database)
        fs.fail(kind, nth=nth, **how)
        try:
            database.shrink_catalog()
        except TsengineError:
            pass
        wait_for_disk(database)
        for number in (2, 33, 60):
            try:
                send(database, [number], clock.now_ms + 7)
                expected[number, clock.now_ms + 7] = float(number)
            except Overloaded:
                n_refused += 1
                assert number == 2, "only the dead are refused"
        assert stored(database) == expected
        if is_killed:
            fs.is_crashed = True
            with pytest.raises((TsengineError, Crash)):
                database.flush()
        else:
            # The next commit ends the doubt.
            database.flush()
            send(database, [2], clock.now_ms + 8)
            expected[2, clock.now_ms + 8] = 2.0
            assert database.shrink_catalog() in (0, 28, 29)
            assert stored(database) == expected
        try:
            database.close()
        except (TsengineError, Crash):
            pass
        check_survivors(directory, clock, expected)
    assert n_refused


def test_appends_go_on_while_series_leave(tmp_path):
    """Four threads write series that live, die and come back while the catalog shrinks."""
    clock = Time()
    database = opened(tmp_path, clock)
    stop = threading.Event()
    sent: list[dict[tuple[int, int], float]] = [{} for _ in range(4)]
    errors: list[BaseException] = []
    n_refused = [0]

    def write(k):
        rng = random.Random(k)
        t_ms = 0
        try:
            while not stop.wait(0.002):
                t_ms = max(t_ms + 1, clock.now_ms)
                # Most are of the present day, some come back after a long time.
                first = 100 * ((t_ms - T0) // DAY_MS)
                drawn = [rng.randrange(first, first + 200) for _ in range(rng.randrange(1, 30))]
                drawn += [rng.randrange(first + 1) for _ in range(rng.randrange(3))]
                numbers = [4 * i + k for i in dict.fromkeys(drawn)]
                try:
                    outcome = send(database, numbers, t_ms)
                except Overloaded:
                    n_refused[0] += 1
                    stop.wait(0.05)  # as senders do
                    continue
                if outcome.n_samples == len(numbers):
                    sent[k] |= {(i, t_ms): float(i % 1000) for i in numbers}
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=write, args=(k,)) for k in range(4)]
    for thread in threads:
        thread.start()
    n_gone = 0
    for _ in range(25):
        n_sent = sum(map(len, sent))
        while sum(map(len, sent)) < n_sent + 400 and not errors:
            time.sleep(0.01)
        clock.now_ms += DAY_MS // 2
        database.flush()
        expire(database)
        n_gone += database.shrink_catalog()
    stop.set()
    for thread in threads:
        thread.join()
    assert not errors
    assert n_gone > 500
    every = {key: value for one in sent for key, value in one.items()}
    expected = {k: v for k, v in every.items() if k[1] >= clock.now_ms - DAY_MS}
    assert expected
    assert stored(database) == expected
    assert n_refused[0] < len(every) // 10
    database.close()
    database = opened(tmp_path, clock)
    assert not database.recovery.is_lossy
    assert stored(database) == expected
    database.close()


def test_a_damaged_part_that_is_left_out_keeps_its_series(tmp_path):
    clock = Time()
    database = opened(tmp_path, clock)
    send(database, range(5), T0)
    database.flush()
    send(database, range(5, 8), T0)
    database.flush()
    name = database.state.parts[0].entry.name
    database.close()
    path = tmp_path / filenames.PARTS_DIR / name / "index"
    whole = path.read_bytes()
    path.write_bytes(whole[:20] + bytes([whole[20] ^ 1]) + whole[21:])
    database = opened(tmp_path, clock)
    assert len(database.state.parts) == 1
    with pytest.raises(StorageError, match="there are damaged parts"):
        database.shrink_catalog()
    database.close()
    path.write_bytes(whole)
    database = opened(tmp_path, clock)
    assert stored(database) == {(i, T0): float(i) for i in range(8)}
    database.close()


def test_old_segments_go_and_check_is_content(tmp_path):
    import tsengine

    database, clock = with_dead(tmp_path)
    before = manifest.load(database._fs, str(tmp_path)).catalog_segments
    database.shrink_catalog()
    send(database, [1, 2], clock.now_ms)
    after = manifest.load(database._fs, str(tmp_path)).catalog_segments
    assert len(after) == 1
    assert not set(before) & set(after)
    database.close()
    assert os.listdir(tmp_path / filenames.CATALOG_DIR) == list(after)
    report = tsengine.check(tmp_path)
    assert report.problems == []
    assert report.n_series == 12
