"""From when on a view need not ask tiers: nothing that they would tell is left out by that."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tsengine.options import LabelLimits
from tsengine.storage.catalog import Catalog
from tsengine.storage.holes import joined
from tsengine.storage.manifest import TierEntry
from tsengine.storage.tier_stretches import Loss, Unseen
from tsengine.storage.view import DatabaseView

REFS = np.arange(6, dtype=np.uint32)
CATALOG = Catalog(secret=bytes(32), limits=LabelLimits(), max_series=6)
TIMES = st.integers(-200, 200)
SOME_REFS = st.sets(st.integers(0, 5), min_size=1).map(lambda s: np.array(sorted(s), np.uint32))
SPANS = st.tuples(TIMES, st.integers(0, 60)).map(lambda pair: (pair[0], pair[0] + pair[1]))
LOSSES = st.builds(Loss, SOME_REFS, TIMES, TIMES, TIMES)


@st.composite
def tiers(draw):
    """Readers of tiers, as far as they are asked here."""
    made = []
    for width_ms in draw(st.lists(st.sampled_from([10, 50]), max_size=3)):
        first, n = draw(st.integers(-20, 20)), draw(st.integers(1, 10))
        mint, maxt = first * width_ms + 1, (first + n) * width_ms
        seq = len(made) + 1
        entry = TierEntry(
            str(seq), width_ms, mint, maxt, 0, mint + width_ms - 1, maxt, 1, 1, 0, seq, 1
        )
        made.append(SimpleNamespace(entry=entry, refs=draw(SOME_REFS), doubts=[]))
    return made


@st.composite
def views(draw):
    """Views of no samples at all, but of all that may be gone."""
    floor_ms = draw(st.none() | TIMES)
    marks_ms = draw(st.none() | TIMES)
    known = [t_ms for t_ms in (floor_ms, marks_ms) if t_ms is not None]
    longer = []
    if draw(st.booleans()):
        longer = [(draw(SOME_REFS), draw(st.none() | TIMES))]
    return DatabaseView(
        CATALOG.view(), (), (), floor_ms,
        tiers=draw(tiers()),
        tier_floors_ms=draw(st.dictionaries(st.sampled_from([10, 50]), TIMES)),
        complete_ms=max(known, default=None),
        longer=longer,
        holes=joined(draw(st.lists(SPANS, max_size=2))),
        unseen=tuple(Unseen(*span, 3) for span in draw(st.lists(SPANS, max_size=2))),
        losses=tuple(draw(st.lists(LOSSES, max_size=2))),
    )  # fmt: skip


@settings(deadline=None)
@given(views(), st.integers(0, 100), st.integers(0, 300))
@example(DatabaseView(CATALOG.view(), (), (), None), 0, 10)
def test_nothing_is_gone_from_then_on(view, after, length):
    mint = max(view._whole_ms, -300) + after
    maxt = mint + length
    assert view._windows.old_tiers(mint, maxt) == []
    assert view._windows.last_samples(REFS, mint, maxt) is None
    assert view._answers.missing_spans(0, REFS, mint, maxt) == []
    assert view._exactness.doubtful_spans(0, REFS, mint, maxt) == []
    assert not view._old_rows(REFS, mint, maxt).any()
    assert view._clip(mint) == mint


def test_times_from_when_on_nothing_is_gone():
    refs = np.array([1], np.uint32)
    plain = DatabaseView(CATALOG.view(), (), (), None)
    assert plain._whole_ms == -(2**63)
    assert DatabaseView(CATALOG.view(), (), (), 70)._whole_ms == 70
    assert DatabaseView(CATALOG.view(), (), (), 70, holes=((80, 90),))._whole_ms == 91
    loss = Loss(refs, 0, 95, 99)
    assert DatabaseView(CATALOG.view(), (), (), 70, losses=(loss,))._whole_ms == 99
