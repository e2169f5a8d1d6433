"""What retention took up to a time inside a window: the window is not that of all samples."""

from __future__ import annotations

import dataclasses

import pytest

from tests.storage.test_retention import DAY_S, HOUR_MS
from tests.storage.test_retention_taken import CI, COUNT, DAY0, DAY_MS, TIERS, WIDE_MS
from tests.storage.test_retention_taken import make as make
from tsengine.options import RetentionRule

CUT_MS = DAY0 - 2 * DAY_MS + 3 * HOUR_MS
"""Half of a wide window is before it."""
END = DAY0 - 2 * DAY_MS + WIDE_MS


@pytest.mark.parametrize("before", [(), TIERS[:1]])
def test_a_wider_tier_that_comes_later(make, before):
    """Floors are rounded to its windows then: below what was taken up to narrower ones."""
    case = make(tiers=before, builds=False)
    case.change((CI,))
    case.clock.now_ms = CUT_MS + 1 + 3 * DAY_MS
    case.storage.compact()
    (taken,) = case.storage.state.taken
    assert taken.samples_ms == (CUT_MS + 1,)
    case.db.close()
    case.options = dataclasses.replace(case.options, tiers=TIERS, retention_rules=(CI,))
    case.db = case.open()
    case.storage.build_tiers()
    case.change((RetentionRule(CI.match, 80 * DAY_S),))
    found, infos = case.ask(COUNT % "ci", END, END, WIDE_MS)
    assert found == [[6.0]]
    assert "not exact" in infos[0]
    assert case.ask(COUNT % "ci", END + WIDE_MS, DAY0, WIDE_MS) == ([[12.0] * 7], [])
    assert case.ask(COUNT % "api", END, DAY0, WIDE_MS) == ([[12.0] * 8], [])
