"""Deletes over tiers: what is hidden at once, what is rebuilt, when a tombstone may go."""

from __future__ import annotations

import numpy as np

from tests.storage.test_tiering import DAY_MS, FIRST, NARROW, WIDE, make  # noqa: F401
from tsengine.storage.deleting import PATIENCE_MS, QUIET_MS, Erasing

EVER = (-(2**63), 2**63 - 1)


def test_a_delete_of_whole_windows_leaves_the_tiers_clean(make):  # noqa: F811
    case = make()
    case.append_days(FIRST, 4)
    case.db.build_tiers()
    case.delete(1, *EVER)
    case.delete(2, (FIRST + 1) * DAY_MS + 1, (FIRST + 2) * DAY_MS)
    assert case.read(NARROW, FIRST, FIRST + 3) == ("15m",)
    assert case.read(WIDE, FIRST, FIRST + 3) == ("1h",)
    case.check(FIRST, FIRST + 3)
    # There is nothing to build again; only the windows that a delete cuts are read as samples.
    case.delete(0, FIRST * DAY_MS + 5_000_000, (FIRST + 2) * DAY_MS)
    assert case.read(WIDE, FIRST + 1, FIRST + 3) == ("1h",)
    assert case.read(WIDE, FIRST, FIRST) == ("raw", "1h")
    case.check(FIRST, FIRST + 3)
    case.delete(0, (FIRST + 3) * DAY_MS + 1, (FIRST + 4) * DAY_MS - 5_000_000)
    assert case.read(WIDE, FIRST + 3, FIRST + 3) == ("raw", "1h")
    case.check(FIRST, FIRST + 3)
    case.reopen().check(FIRST, FIRST + 3)


def test_tombstones_live_until_the_windows_are_written_again(make):  # noqa: F811
    case = make()
    case.append_days(FIRST, 4)
    case.db.build_tiers()
    case.db.maintenance.pause()
    case.delete(1, FIRST * DAY_MS + 7, (FIRST + 2) * DAY_MS)
    case.delete(2, *EVER)
    case.db.flush()
    before = {tier.entry.name for tier in case.db.state.tiers}
    case.db.clean_tombstones()
    assert case.db.state.tombstones == ()
    assert not before & {tier.entry.name for tier in case.db.state.tiers}
    assert case.covers(NARROW) == case.covers(WIDE) == [(FIRST, FIRST + 3)]
    for tier in case.db.state.tiers:
        assert 2 not in tier.refs.tolist()
    case.check(FIRST, FIRST + 3)
    case.reopen().check(FIRST, FIRST + 3)


def test_windows_of_samples_that_are_gone_are_erased_too(make):  # noqa: F811
    from dataclasses import replace

    from tests.storage.test_tiering import OPTIONS

    case = make()
    case.append_days(FIRST, 4)
    case.db.build_tiers()
    case.now_ms = (FIRST + 40) * DAY_MS
    case.reopen(replace(OPTIONS, retention=10 * 86_400.0))
    case.db.maintenance.pause()
    case.delete(1, *EVER)
    case.delete(0, FIRST * DAY_MS + 1, (FIRST + 1) * DAY_MS)
    case.check(FIRST, FIRST + 3)
    case.db.clean_tombstones()
    assert case.db.state.tombstones == ()
    assert [tier.refs.tolist() for tier in case.db.state.tiers] == [[0, 2], [0, 2]]
    case.check(FIRST, FIRST + 3)


def test_the_chore_rewrites_parts_of_tiers_after_a_while(make):  # noqa: F811
    case = make()
    case.append_days(FIRST, 4)
    case.db.build_tiers()
    case.db.maintenance.pause()
    case.db.delete(np.array([1], np.uint32), FIRST * DAY_MS + 1, FIRST * DAY_MS + WIDE)
    case.db.flush()
    chore = Erasing(case.db)

    def due():
        jobs = chore.plan(case.db.state, case.now_ms)
        return [job.what for job in jobs if "windows" in job.what]

    assert due() == []
    case.now_ms += QUIET_MS
    assert due() == []
    case.now_ms += PATIENCE_MS - QUIET_MS
    assert len(due()) == 2
    chore = Erasing(case.db)
    case.db.delete(np.array([0], np.uint32), FIRST * DAY_MS + 1, (FIRST + 2) * DAY_MS)
    case.db.flush()
    assert due() == []
    case.now_ms += QUIET_MS
    assert len(due()) == 2
