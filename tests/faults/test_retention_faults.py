"""Expiry and rewrites by rules, broken off anywhere: what is kept stays, what went stays away."""

from __future__ import annotations

import contextlib
import random

import pytest

from tests.faults.filesystem import Crash, FaultyFileSystem
from tests.reference.background import paused
from tests.storage.test_catalog_shrink import DAY_MS, T0, Time, faults
from tests.storage.test_retention import (
    HOUR_MS,
    JOBS,
    RULES,
    append,
    hours,
    keep_days,
    run,
    stored,
)
from tsengine.errors import TsengineError
from tsengine.model.windows import Column
from tsengine.options import Options, Tier
from tsengine.promql.parser import parse_selector
from tsengine.storage.database import StorageDatabase

N_POINTS = 15
"""Of some hundred; another seed takes others."""
TIERS = (Tier(3600.0, 12 * 86_400.0),)


def opened(directory, clock, fs=None, *, keep=10 * 86_400.0):
    with paused():
        return StorageDatabase(
            str(directory),
            Options(retention=keep, retention_rules=RULES, tiers=TIERS),
            clock=clock,
            fs=fs,
            parse_selector=parse_selector,
        )


def prepared(directory, fs=None):
    """Three days of all jobs, of which one is past the retention and one past that of ci."""
    clock = Time(T0)
    database = opened(directory, clock, fs)
    times = hours(3, 0)
    for job in JOBS:
        for n in (0, 1):
            append(database, job, times, n)
    database.flush()
    database.compact()
    clock.now_ms = T0 + 2 * DAY_MS
    database.build_tiers()
    clock.now_ms = T0 + 9 * DAY_MS
    return database, clock


def expected_at(now_ms):
    """With the tier of 1 h, whose windows hold one sample each."""
    found = {}
    for job in JOBS:
        for n in (0, 1):
            days = keep_days(job, n)
            floor = -(2**62) if days is None else now_ms - days * DAY_MS
            if (job, n) in (("api", 0), ("api", 1), ("other", 0)):
                # Windows that begin before it are past the retention of the tier.
                floor = -(-(now_ms - 12 * DAY_MS - 1) // HOUR_MS) * HOUR_MS + 1
            times = [t for t in hours(3, 0) if t >= floor]
            if times:
                found[job, n] = times
    return found


def recorded(tmp_path):
    fs = FaultyFileSystem()
    database, clock = prepared(tmp_path, fs)
    expected = expected_at(clock.now_ms)
    assert stored(database) == expected
    before = fs.calls.copy()
    run(database)
    made = fs.calls - before
    assert stored(database) == expected
    numbers = database.stats()
    assert numbers["retention_parts:rule"] >= 3
    database.close()
    return made


@pytest.mark.parametrize("how", ["killed", "power cut", "error"])
def test_retention_may_fail_anywhere(tmp_path, how):
    made = recorded(tmp_path / "calls")
    assert made["write"] > 3
    assert made["rename"] >= 3
    rng = random.Random(how)
    every = list(faults(made))
    chosen = rng.sample(every, N_POINTS)
    for n, (kind, nth, where) in enumerate(chosen):
        directory = tmp_path / str(n)
        fs = FaultyFileSystem()
        database, clock = prepared(directory, fs)
        expected = expected_at(clock.now_ms)
        fs.fail(kind, nth=nth, crash=how != "error", **where)
        try:
            run(database)
        except (TsengineError, Crash):
            pass
        if how == "error":
            fs.heal()
            assert stored(database) == expected
            run(database)
            assert stored(database) == expected
        try:
            database.close()
        except (TsengineError, Crash):
            pass
        if how == "power cut":
            fs.lose_unsynced(rng)
        database = opened(directory, clock)
        assert not database.recovery.is_lossy
        assert stored(database) == expected
        run(database)
        assert stored(database) == expected
        # Everything went in the end, and nothing came back.
        before = {part.entry.name for part in database.state.parts}
        run(database)
        assert {part.entry.name for part in database.state.parts} == before
        database.close()


@pytest.mark.parametrize("power_cut", [False, True])
def test_a_mark_is_never_later_than_what_it_is_about(tmp_path, power_cut):
    """Wherever an expiry breaks off: no window is built anew of samples that are gone."""
    fs = FaultyFileSystem()
    database, clock = prepared(tmp_path / "calls", fs)
    clock.now_ms = T0 + 11 * DAY_MS
    before = fs.calls.copy()
    run(database)
    made = fs.calls - before
    assert len(database.state.erased) == 3
    database.close()
    rng = random.Random(5)
    late = T0 - DAY_MS // 2 + 7
    end = -(-late // HOUR_MS) * HOUR_MS
    chosen = [fault for fault in faults(made) if fault[0] in ("rename", "write_file")]
    for n, (kind, nth, where) in enumerate(rng.sample(chosen, 8)):
        directory = tmp_path / str(n)
        fs = FaultyFileSystem()
        database, clock = prepared(directory, fs)
        clock.now_ms = T0 + 11 * DAY_MS
        fs.fail(kind, nth=nth, crash=True, **where)
        with pytest.raises((TsengineError, Crash)):
            run(database)
        with contextlib.suppress(TsengineError, Crash):
            database.close()
        if power_cut:
            fs.lose_unsynced(rng)
        database = opened(directory, clock, keep=60 * 86_400.0)
        wanted = windows(database)
        assert wanted
        append(database, "api", [late])
        database.build_tiers()
        found = windows(database)
        assert {at: w for at, w in found.items() if at != end} == {
            at: w for at, w in wanted.items() if at != end
        }
        assert found[end] in (wanted[end], wanted[end] + 1)
        database.close()


def windows(database):
    """Samples of api in each window of the tier, by its end."""
    view = database.view()
    refs = view.catalog.find(parse_selector('{job="api", n="0"}'))
    mint = (T0 - 4 * DAY_MS) // HOUR_MS * HOUR_MS + 1
    batch = view.read_windows(refs, HOUR_MS, mint, mint + 6 * DAY_MS - 1, [Column.COUNT])
    return dict(zip(batch.end_ms.tolist(), batch.columns[Column.COUNT].tolist(), strict=True))
