"""Who answers for a time: a map against one that looks at every window."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from tsengine.storage.manifest import PartEntry, TierEntry
from tsengine.storage.tier_map import TierMap, touched_spans

LOW, HIGH = -60, 60
WIDTHS = (5, 20)


@dataclass
class Index:
    axis_mint: np.ndarray
    axis_maxt: np.ndarray


@dataclass
class Part:
    entry: PartEntry
    index: Index


@dataclass
class Tier:
    entry: TierEntry


@dataclass
class Delete:
    seq: int
    mint: int
    maxt: int


def part(seq: int, axes: list[tuple[int, int]]) -> Part:
    spans = np.array(axes, np.int64).reshape(-1, 2)
    entry = PartEntry("0000000001", 0, 0, 0, 1, 1, 0, seq, 0)
    return Part(entry, Index(spans[:, 0], spans[:, 1]))


def tier(number: int, width_ms: int, first: int, last: int, seq: int) -> Tier:
    entry = TierEntry(f"{number:010d}", width_ms, first + 1, last, 0, 0, 0, 0, 0, 0, seq, 0)
    return Tier(entry)


TIMES = st.integers(LOW, HIGH)
SPANS = st.tuples(TIMES, TIMES).map(lambda span: (min(span), max(span)))
PARTS = st.lists(st.builds(part, st.integers(0, 9), st.lists(SPANS, max_size=4)), max_size=4)
DELETES = st.lists(
    st.tuples(st.integers(0, 9), SPANS).map(lambda d: Delete(d[0], *d[1])), max_size=2
)


@st.composite
def tiers(draw: st.DrawFn) -> list[Tier]:
    made = []
    for number in range(draw(st.integers(0, 5))):
        width_ms = draw(st.sampled_from(WIDTHS))
        ends = st.integers(LOW // width_ms, HIGH // width_ms).map(lambda k, w=width_ms: k * w)
        first, last = sorted((draw(ends), draw(ends)))
        if first < last:
            made.append(tier(number, width_ms, first, last, draw(st.integers(0, 9))))
    return made


def owner_of(live: list[Tier], width_ms: int, end: int) -> int | None:
    covering = [
        (t.entry.seq_max, t.entry.name, k)
        for k, t in enumerate(live)
        if t.entry.width_ms == width_ms and t.entry.cover_min <= end <= t.entry.cover_max
    ]
    return max(covering)[2] if covering else None


def answers(ranges, width_ms: int) -> dict[int, int]:
    found = {}
    before = None
    for owned in ranges:
        assert (owned.mint - 1) % width_ms == owned.maxt % width_ms == 0
        assert before is None or owned.mint > before
        before = owned.maxt
        for end in range(owned.mint - 1 + width_ms, owned.maxt + 1, width_ms):
            found[end] = owned.tier
    return found


@settings(max_examples=200, deadline=None)
@given(tiers(), PARTS, DELETES, st.lists(SPANS, max_size=2))
def test_the_map_is_right_for_every_window(live, parts, deletes, unsettled):
    made = TierMap(live, parts, deletes)
    assert made.widths_ms == tuple(sorted({t.entry.width_ms for t in live}))
    newer = [(p.entry.seq_max, span) for p in parts for span in touched_spans(p).tolist()]
    for width_ms in WIDTHS:
        owned, clean = {}, {}
        for end in range(LOW, HIGH + width_ms, width_ms):
            owner = owner_of(live, width_ms, end)
            if owner is None:
                continue
            owned[end] = owner
            first = end - width_ms + 1
            is_dirty = any(
                seq > live[owner].entry.seq_max and lo <= end and hi >= first
                for seq, (lo, hi) in newer
            ) or any(lo <= end and hi >= first for lo, hi in unsettled)
            # A delete that takes all of a window is no reason to make it anew.
            is_dirty |= any(
                d.seq > live[owner].entry.seq_max
                and (first < d.mint <= end or first <= d.maxt < end)
                for d in deletes
            )
            if not is_dirty:
                clean[end] = owner
        assert answers(made.owned(width_ms), width_ms) == owned
        assert answers(made.clean(width_ms, unsettled), width_ms) == clean
        missing = made.missing(width_ms, LOW + 1, HIGH, unsettled)
        ends = [end for lo, hi in missing for end in range(lo - 1 + width_ms, hi + 1, width_ms)]
        assert ends == [e for e in range(LOW + width_ms, HIGH + 1, width_ms) if e not in clean]


@settings(max_examples=50, deadline=None)
@given(tiers(), PARTS, PARTS)
def test_what_a_map_before_knows_changes_nothing(live, parts, more):
    before = TierMap(live, parts)
    made = TierMap(live, [*parts[:1], *more], (), before)
    fresh = TierMap(live, [*parts[:1], *more])
    for width_ms in WIDTHS:
        assert made.clean(width_ms) == fresh.clean(width_ms)


def test_times_that_axes_touch_are_joined():
    spans = touched_spans(part(1, [(10, 20), (15, 18), (40, 50), (20, 30), (31, 31)]))
    assert spans.tolist() == [[10, 30], [31, 31], [40, 50]]
