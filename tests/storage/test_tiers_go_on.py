"""What must not stop tiers, and with them retention: a clock that was wrong, times far away."""

from __future__ import annotations

import pytest

from tests.storage.test_catalog_shrink import DAY_MS, Time
from tests.storage.test_retention import DAY_S, append, on_disk, opened, run
from tests.storage.test_retention_marks import DAY0, HOUR_MS, SLO, TIERS, TIMES, both, both_of
from tests.storage.test_tier_late import without_marks
from tsengine.options import Tier
from tsengine.promql.parser import parse_selector
from tsengine.storage.deleting import QUIET_MS as ERASE_AFTER_MS
from tsengine.storage.deleting import Erasing
from tsengine.storage.tiering import QUIET_MS, TierBuilding, TierPlanner


def test_a_clock_that_was_ahead_and_is_put_right(tmp_path):
    clock = Time(DAY0 + 1000)
    database = opened(tmp_path / "db", clock, (), tiers=(Tier(3600.0),), retention=30 * DAY_S)
    building, erasing = TierBuilding(TierPlanner(database)), Erasing(database)
    building.plan(database.state, clock.now_ms)
    append(database, "api", [DAY0 - 2 * DAY_MS + k * 60_000 for k in range(100)])
    clock.now_ms += 365 * DAY_MS
    database.flush()
    building.plan(database.state, clock.now_ms)
    refs = database.view().catalog.find(parse_selector('{job="api"}'))
    database.delete(refs, DAY0 - 2 * DAY_MS, DAY0 - 2 * DAY_MS + 30 * 60_000)
    erasing.plan(database.state, clock.now_ms)
    database.flush()
    clock.now_ms -= 365 * DAY_MS
    assert building.plan(database.state, clock.now_ms) == []
    assert erasing.plan(database.state, clock.now_ms) == []
    clock.now_ms += max(QUIET_MS, ERASE_AFTER_MS)
    assert len(building.plan(database.state, clock.now_ms)) == 1
    assert len(erasing.plan(database.state, clock.now_ms)) == 1
    database.close()


@pytest.mark.parametrize("far", [-62_135_596_800_001 - DAY_MS, -62_200_000_000_000])
def test_a_sample_before_the_year_one_stops_no_tier(tmp_path, far):
    clock = Time(DAY0 + 1)
    database = opened(tmp_path / "db", clock, (SLO,), tiers=TIERS, retention=3 * DAY_S)
    append(database, "slo", [far])
    for day in range(5):
        clock.now_ms = DAY0 + (day + 1) * DAY_MS + 1
        append(database, "api", [DAY0 + day * DAY_MS + k * HOUR_MS for k in range(1, 5)])
        database.build_tiers()
        run(database)
    assert on_disk(database) == {"api": 3 * 4, "slo": 1}
    database.close()


@pytest.mark.parametrize("is_old_in_log", [False, True])
def test_an_old_sample_of_a_longer_rule_in_the_log_hides_no_border_of_others(
    tmp_path, is_old_in_log
):
    clock = Time(DAY0 + 1)
    database = opened(tmp_path / "db", clock, (SLO,), tiers=TIERS, retention=10 * DAY_S)
    append(database, "api", TIMES)
    append(database, "slo", TIMES)
    clock.now_ms = DAY0 + 6 * DAY_MS
    fresh = DAY0 + 5 * DAY_MS + 3
    append(database, "api", [fresh])
    database.build_tiers()
    clock.now_ms = DAY0 + 13 * DAY_MS
    run(database)
    assert on_disk(database) == {"api": 1, "slo": len(TIMES)}
    newest = DAY0 + 13 * DAY_MS + 7
    clock.now_ms += DAY_MS
    append(database, "api", [newest])
    if is_old_in_log:
        append(database, "slo", [DAY0 - 10 * DAY_MS])
    without_marks(database, tmp_path)
    database = opened(tmp_path / "db", clock, (SLO,), tiers=TIERS, retention=90 * DAY_S)
    assert DAY0 < database.state.erased[""] <= DAY0 + 6 * DAY_MS
    late = DAY0 - 2 * DAY_MS + 7
    append(database, "api", [late])
    database.build_tiers()
    assert both(database) == both_of([*TIMES, late, fresh, newest])
    database.close()
