"""Samples that pass their retention before they are in a part still get into the tiers."""

from __future__ import annotations

import pytest

from tests.faults.matrix_run import QuickFileSystem, Run
from tests.reference import rich_samples as rich
from tests.reference.life import DAY_MS, NEVER, T0, Life
from tsengine.options import Options, RetentionRule, Tier
from tsengine.storage.retention import erase_floor
from tsengine.storage.retention_chores import Expiry, RetentionRewriting
from tsengine.storage.tier_map import TierMap

HOUR_MS = 3_600_000
LONGER = RetentionRule('{s="longer"}', None)


@pytest.mark.parametrize("rules", [(), (LONGER,)])
@pytest.mark.parametrize("restart", [False, True])
def test_a_flush_keeps_what_tiers_lack(tmp_path, rules, restart):
    options = Options(
        tiers=(Tier(3600.0), Tier(6 * 3600.0)), retention=6 * 86_400.0, retention_rules=rules,
        future_limit=None,
    )  # fmt: skip
    run = Run(str(tmp_path), QuickFileSystem(), options, Life())
    run.now_ms = T0 + 6 * DAY_MS + 1
    run.open()
    run.append([("a", T0 + DAY_MS + HOUR_MS, (rich.bits(5.0), 0))])
    run.append([("longer", T0 + DAY_MS + HOUR_MS, (rich.bits(7.0), 0))])
    run.append([("a", T0 + 6 * DAY_MS - 5, (rich.bits(6.0), 0))])
    # Both days pass in the head; the second is still kept.
    run.now_ms += 5 * DAY_MS
    run.life.floor_ms = T0 + 5 * DAY_MS + 1
    if rules:
        run.life.floors_ms["longer"] = NEVER
    if restart:
        run.close()
        run.open()
    run.db.flush()
    for chore in (Expiry, RetentionRewriting):
        run.db.maintenance.run(chore(run.db))
    run.db.build_tiers()
    run.verify()
    for chore in (Expiry, RetentionRewriting):
        run.db.maintenance.run(chore(run.db))
    run.db.compact()
    run.verify()
    run.close()


def test_the_floor_waits_for_heads():
    nothing = TierMap([], [], [])
    floors = {HOUR_MS: T0 - DAY_MS, 6 * HOUR_MS: T0 + DAY_MS}
    day = 10 * DAY_MS + T0

    def floor(*heads):
        return erase_floor(day, [], nothing, floors, heads)

    assert floor() == floor((day, day + 5)) == day
    assert floor((day - 1, day + 5)) == day - 6 * HOUR_MS + 1
    assert floor((T0 + HOUR_MS + 5, T0 + HOUR_MS + 9)) == T0 + HOUR_MS + 1
    assert floor((T0 - 9 * DAY_MS, T0 - 8 * DAY_MS)) == day, "no tier keeps it that long"


def test_a_tier_is_rewritten_when_its_late_samples_are_in_a_part(tmp_path):
    shorter = RetentionRule('{s="a"}', 8 * 86_400.0)
    options = Options(tiers=(Tier(3600.0),), retention_rules=(shorter,), future_limit=None)
    run = Run(str(tmp_path), QuickFileSystem(), options, Life())
    run.now_ms = T0 + 6 * DAY_MS + 1
    run.open()
    run.append([("a", T0 + DAY_MS + k * HOUR_MS, (rich.bits(5.0), 0)) for k in range(1, 20)])
    run.append([("b", T0 + DAY_MS + HOUR_MS, (rich.bits(6.0), 0))])
    run.db.flush()
    run.db.build_tiers()
    run.append([("b", T0 + DAY_MS + 2 * HOUR_MS, (rich.bits(7.0), 0))])
    run.now_ms += 5 * DAY_MS
    run.life.floors_ms["a"] = run.now_ms - 8 * DAY_MS
    chore = RetentionRewriting(run.db)

    def rewritten_tiers():
        planned = chore.plan(run.db.state, run.now_ms)
        return [job.what for job in planned if "of a tier" in job.what]

    assert rewritten_tiers() == [], "a head has samples of that day"
    run.db.maintenance.run(chore)
    run.db.flush()
    run.db.build_tiers()
    run.db.maintenance.run(chore)
    run.verify()
    run.close()
