"""Label calls name series that have something, whatever answers say of what is gone."""

from __future__ import annotations

import pytest

from tests.storage.test_retention import DAY_S
from tests.storage.test_retention_taken import CI, COUNT, DAY0, DAY_MS, TIMES
from tests.storage.test_retention_taken import make as make


def jobs(case):
    found = {labels["job"] for labels in case.db.series(["m"])[0]}
    assert case.db.label_values("job", ["m"])[0] == sorted(found)
    assert case.db.label_values("job")[0] == sorted(found)
    return found


@pytest.mark.parametrize("clean", [False, True])
def test_deleted_series_where_samples_were_erased_and_no_tier_is(make, clean):
    case = make(tiers=(), retention=10 * DAY_S)
    case.append("gone", TIMES)
    case.clock.now_ms = DAY0 + 9 * DAY_MS
    case.storage.compact()
    case.db.reconfigure(retention=90 * DAY_S)
    assert case.storage.state.erased[""] > TIMES[0]
    assert jobs(case) == {"api", "ci", "gone"}
    case.db.delete_series(['{job="gone"}'])
    if clean:
        case.storage.clean_tombstones()
    assert jobs(case) == {"api", "ci"}


def test_series_of_which_a_rule_took_everything(make):
    case = make(CI)
    case.expire(13)
    assert jobs(case) == {"api"}
    case.change(())
    assert jobs(case) == {"api"}
    assert "not exact" in case.ask(COUNT % "ci")[1][0], "answers are about them all the same"
