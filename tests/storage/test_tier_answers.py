"""Plans of who answers for windows: how much work they are."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from tsengine.storage.tier_answers import TierAnswers
from tsengine.storage.tier_map import TierMap
from tsengine.storage.tier_stretches import Completeness

FINE, WIDE, EVERY = 10, 40, (1, 200_000)
REFS = np.array([1], np.uint32)


@pytest.mark.parametrize("complete_ms", [None, EVERY[1] + 1])
def test_many_dirty_windows_of_two_tiers_are_planned_quickly(monkeypatch, complete_ms):
    def tier(width_ms):
        return SimpleNamespace(
            entry=SimpleNamespace(
                width_ms=width_ms, cover_min=EVERY[0], cover_max=EVERY[1], seq_max=5, name="1"
            )
        )

    late = np.arange(7, EVERY[1], 2 * WIDE)
    part = SimpleNamespace(
        entry=SimpleNamespace(seq_max=9), index=SimpleNamespace(axis_mint=late, axis_maxt=late)
    )
    answers = TierAnswers(
        TierMap([tier(FINE), tier(WIDE)], [part]), [], Completeness(complete_ms), {}
    )
    whole, n_looks = TierAnswers._whole, [0]

    def counting(*args):
        n_looks[0] += 1
        return whole(*args)

    monkeypatch.setattr(TierAnswers, "_whole", counting)
    plan = answers.plan(WIDE, *EVERY)
    assert (plan[0].mint, plan[-1].maxt) == EVERY
    assert all(b.mint == a.maxt + 1 for a, b in zip(plan, plan[1:], strict=False))
    assert {stretch.width_ms for stretch in plan} == ({0, WIDE} if complete_ms is None else {WIDE})
    assert answers.missing_spans(WIDE, REFS, *EVERY) == []
    assert len(late) == 2500
    assert n_looks[0] < 20 * len(late)
