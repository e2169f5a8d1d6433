"""Plans of tiers by table: which days are built when, in which pieces, and what is merged."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest

from tsengine.storage.manifest import TierEntry
from tsengine.storage.retention_marks import window_start_after
from tsengine.storage.tier_map import TierMap
from tsengine.storage.tiering_plan import (
    DAY_MS,
    JOB_SAMPLES_MAX,
    TierRange,
    TierSources,
    available_spans,
    kept_range,
    level_of,
    partition_days,
    plan_builds,
    plan_drops,
    plan_merges,
)

NARROW, WIDE = 300_000, 3_600_000
FIRST = 20_010
"""A day in the middle of partitions of 30 and of 360 days: 20,010 = 667 * 30 = 55 * 360 + 210."""


def days(first, last):
    """The closed range of times of days, both inside."""
    return first * DAY_MS + 1, (last + 1) * DAY_MS


def entry(name, width_ms, first, last, *, seq=10, size=100, n=100):
    mint, maxt = days(first, last)
    return TierEntry(
        name=f"{name:010d}", width_ms=width_ms, cover_min=mint, cover_max=maxt,
        level=level_of(mint, maxt), mint=mint - 1 + width_ms, maxt=maxt, n_samples=n, n_series=1,
        seq_min=0, seq_max=seq, size_bytes=size,
    )  # fmt: skip


def part_on(first, last, seq=5):
    """A part of samples with an axis on each day."""
    starts = np.arange(first, last + 1) * DAY_MS + 1
    index = SimpleNamespace(axis_mint=starts, axis_maxt=starts + DAY_MS - 1)
    return SimpleNamespace(entry=SimpleNamespace(seq_max=seq), index=index)


def sources(parts=(), entries=(), *, deletes=(), per_day=1000, **changes):
    touched = np.unique([
        day
        for part in parts
        for day in ((part.index.axis_mint - 1) // DAY_MS).tolist()
    ]).astype(np.int64)  # fmt: skip
    tiers = [SimpleNamespace(entry=one) for one in entries]
    plain = TierSources(
        widths_ms=(NARROW, WIDE),
        tier_map=TierMap(tiers, parts, deletes),
        entries=tuple(entries),
        days=touched,
        n_samples=np.full(len(touched), per_day, np.int64),
        blocked=(),
        end_day=FIRST + 1000,
        raw_floor_ms=None,
        floors_ms={},
    )
    return dataclasses.replace(plain, **changes)


def test_partitions_and_levels():
    assert (partition_days(NARROW), partition_days(WIDE)) == (30, 360)
    assert [level_of(*days(1, last)) for last in (1, 7, 8, 63, 64, 360)] == [0, 0, 1, 1, 2, 2]


def test_neighbouring_days_are_built_together_up_to_a_partition():
    builds = plan_builds(sources([part_on(FIRST, FIRST + 39)]))
    assert builds == [
        TierRange(NARROW, *days(FIRST, FIRST + 29)),
        TierRange(NARROW, *days(FIRST + 30, FIRST + 39)),
        TierRange(WIDE, *days(FIRST, FIRST + 39)),
    ]


def test_days_without_samples_between_others_are_covered_and_those_outside_are_not():
    builds = plan_builds(sources([part_on(FIRST + 2, FIRST + 3), part_on(FIRST + 6, FIRST + 6)]))
    assert builds == [
        TierRange(NARROW, *days(FIRST + 2, FIRST + 6)),
        TierRange(WIDE, *days(FIRST + 2, FIRST + 6)),
    ]
    stray = plan_builds(sources([part_on(0, 0), part_on(FIRST, FIRST)]))
    assert [build for build in stray if build.width_ms == NARROW] == [
        TierRange(NARROW, *days(0, 0)),
        TierRange(NARROW, *days(FIRST, FIRST)),
    ]


def test_a_day_must_have_ended_and_be_quiet():
    plain = sources([part_on(FIRST, FIRST + 5)], end_day=FIRST + 5, blocked=((FIRST + 2,) * 2,))
    assert [build for build in plan_builds(plain) if build.width_ms == WIDE] == [
        TierRange(WIDE, *days(FIRST, FIRST + 1)),
        TierRange(WIDE, *days(FIRST + 3, FIRST + 4)),
    ]


def test_many_samples_are_summed_up_in_several_jobs():
    plain = sources([part_on(FIRST, FIRST + 3)], per_day=JOB_SAMPLES_MAX // 2)
    assert [build for build in plan_builds(plain) if build.width_ms == NARROW] == [
        TierRange(NARROW, *days(FIRST, FIRST + 1)),
        TierRange(NARROW, *days(FIRST + 2, FIRST + 3)),
    ]


def test_what_is_clean_is_not_built_and_what_late_data_touch_is():
    built = [entry(1, NARROW, FIRST, FIRST + 9), entry(2, WIDE, FIRST, FIRST + 9)]
    parts = [part_on(FIRST, FIRST + 9)]
    assert plan_builds(sources(parts, built)) == []
    late = part_on(FIRST + 4, FIRST + 4, seq=11)
    assert plan_builds(sources([*parts, late], built)) == [
        TierRange(NARROW, *days(FIRST + 4, FIRST + 4)),
        TierRange(WIDE, *days(FIRST + 4, FIRST + 4)),
    ]
    others = [part_on(FIRST + 4, FIRST + 4, seq=11), part_on(FIRST + 6, FIRST + 6, seq=11)]
    assert [b.mint for b in plan_builds(sources([*parts, *others], built))] == [
        days(FIRST + 4, 0)[0], days(FIRST + 4, 0)[0], days(FIRST + 6, 0)[0], days(FIRST + 6, 0)[0],
    ]  # fmt: skip


def test_a_delete_makes_a_day_of_a_tier_dirty_even_where_samples_are_gone():
    built = [entry(1, NARROW, FIRST, FIRST + 9)]
    mint, _ = days(FIRST + 3, FIRST + 3)
    delete = SimpleNamespace(seq=12, mint=mint + 50, maxt=mint + 60)
    plain = sources([], built, deletes=[delete], raw_floor_ms=days(FIRST + 20, 0)[0])
    assert plan_builds(plain)[0] == TierRange(NARROW, *days(FIRST + 3, FIRST + 3))


def test_windows_of_expired_samples_are_only_built_from_tiers():
    """The floor lies inside a window of a day: that window has lost samples."""
    floor = days(FIRST + 2, 0)[0] + 100_000
    wide = entry(1, WIDE, FIRST, FIRST + 3)
    plain = sources([part_on(FIRST, FIRST + 3)], [wide], raw_floor_ms=floor)
    last = days(0, FIRST + 3)[1]
    assert plan_builds(plain) == [TierRange(NARROW, days(FIRST + 2, 0)[0] + NARROW, last)]
    narrow = entry(1, NARROW, FIRST, FIRST + 3)
    plain = sources([part_on(FIRST, FIRST + 3)], [narrow], raw_floor_ms=floor)
    assert plan_builds(plain) == [TierRange(WIDE, *days(FIRST, FIRST + 3))]
    own_floor = days(FIRST + 1, 0)[0]
    plain = dataclasses.replace(plain, floors_ms={NARROW: own_floor})
    assert plan_builds(plain) == [TierRange(WIDE, *days(FIRST + 1, FIRST + 3))]


def test_what_there_is_of_samples_is_built_where_no_tier_has_anything():
    floor = days(FIRST + 2, 0)[0] + 100_000
    parts = [part_on(FIRST, FIRST + 3)]
    whole = [TierRange(width, *days(FIRST, FIRST + 3)) for width in (NARROW, WIDE)]
    assert plan_builds(sources(parts, raw_floor_ms=floor)) == whole
    wide = entry(1, WIDE, FIRST + 1, FIRST + 2)
    plain = sources(parts, [wide], raw_floor_ms=floor)
    assert available_spans(NARROW, plain.tier_map, raw_floor_ms=floor, floors_ms={}) == [
        (-(-(-(2**62) - 1) // NARROW) * NARROW + 1, days(0, FIRST)[1]),
        (days(FIRST + 2, 0)[0] + NARROW, 2**62),
    ]
    assert TierRange(NARROW, *days(FIRST, FIRST)) in plan_builds(plain)


def test_nothing_past_the_retention_of_a_tier_is_built():
    floors = {NARROW: days(FIRST + 2, 0)[0]}
    plain = sources([part_on(FIRST, FIRST + 3)], floors_ms=floors)
    assert plan_builds(plain) == [
        TierRange(NARROW, *days(FIRST + 2, FIRST + 3)),
        TierRange(WIDE, *days(FIRST, FIRST + 3)),
    ]


@pytest.mark.parametrize("past_ms", [0, 1, 10_000_000])
def test_a_day_on_the_border_of_what_a_tier_keeps_is_built_once(past_ms):
    """The floor is in the middle of a day and goes on; a build leaves out what is before it."""
    floor = days(FIRST, 0)[0] + 37_000_123
    part = part_on(FIRST, FIRST + 1)
    plain = sources([part], floors_ms={NARROW: floor})
    (build,) = (build for build in plan_builds(plain) if build.width_ms == NARROW)
    assert build.mint == window_start_after(floor, NARROW)
    assert kept_range(build, plain.floors_ms) == build
    mint, maxt = days(FIRST, FIRST + 1)
    built = dataclasses.replace(
        entry(1, NARROW, FIRST, FIRST + 1), cover_min=build.mint, cover_max=build.maxt
    )
    later = sources([part], [built], floors_ms={NARROW: floor + past_ms})
    assert [build.width_ms for build in plan_builds(later)] == [WIDE]
    assert mint < build.mint < build.maxt == maxt


def test_eight_days_become_one_part_and_an_ended_partition_too():
    week = [entry(k, NARROW, FIRST + k, FIRST + k) for k in range(8)]
    assert plan_merges(sources([], week[:7], end_day=FIRST + 9)) == []
    assert plan_merges(sources([], week, end_day=FIRST + 9)) == [
        TierRange(NARROW, *days(FIRST, FIRST + 7))
    ]
    # Seven days of an open partition wait; when it has ended they don't.
    assert plan_merges(sources([], week[:7], end_day=FIRST + 30)) == [
        TierRange(NARROW, *days(FIRST, FIRST + 6))
    ]
    large = entry(9, NARROW, FIRST, FIRST + 20, size=1000)
    small = entry(10, NARROW, FIRST + 21, FIRST + 21, size=100)
    assert plan_merges(sources([], [large, small], end_day=FIRST + 30)) == []


def test_parts_are_not_merged_over_a_gap_or_a_dirty_day():
    week = [entry(k, NARROW, FIRST + k, FIRST + k) for k in range(9) if k != 4]
    assert plan_merges(sources([], week, end_day=FIRST + 10)) == []
    whole = [entry(k, NARROW, FIRST + k, FIRST + k) for k in range(8)]
    late = part_on(FIRST + 4, FIRST + 4, seq=11)
    assert plan_merges(sources([late], whole, end_day=FIRST + 9)) == []
    blocked = ((FIRST + 4, FIRST + 4),)
    assert plan_merges(sources([], whole, end_day=FIRST + 9, blocked=blocked)) == []


def test_rebuilt_days_do_not_pile_up():
    first = 55 * 360
    large = entry(1, WIDE, first, first + 359, size=100_000)
    rebuilt = [entry(k, WIDE, first + 2 * k, first + 2 * k, seq=20) for k in range(2, 26)]
    assert plan_merges(sources([], [large, *rebuilt[:23]])) == []
    assert plan_merges(sources([], [large, *rebuilt])) == [
        TierRange(WIDE, *days(first, first + 359))
    ]


def test_parts_that_others_hold_alone_are_dropped():
    old = entry(1, NARROW, FIRST + 2, FIRST + 3, seq=5)
    new = [entry(2, NARROW, FIRST, FIRST + 2, seq=7), entry(3, NARROW, FIRST + 3, FIRST + 4, seq=8)]
    assert plan_drops(sources([], [old, *new])) == [old]
    assert plan_drops(sources([], new)) == []


@pytest.mark.parametrize("floor", [None, "raw_floor_ms", "erase_floor_ms"])
def test_a_tier_that_is_not_configured_goes_when_something_else_has_its_time(floor):
    removed = entry(1, 60_000, FIRST, FIRST + 2)
    floors = {} if floor is None else {floor: days(FIRST + 10, 0)[0]}
    plain = sources([], [removed], **floors)
    assert plan_drops(plain) == ([removed] if floor is None else [])
    # A coarser tier does not have its windows, nor one whose width does not divide its own.
    coarser, odd = entry(2, WIDE, FIRST, FIRST + 2), entry(3, 420_000, FIRST, FIRST + 2)
    for other in (coarser, odd):
        plain = sources([], [removed, other], widths_ms=(other.width_ms,), **floors)
        assert plan_drops(plain) == ([removed] if floor is None else [])
    removed, finer = coarser, entry(4, NARROW, FIRST, FIRST + 2)
    assert plan_drops(sources([], [finer, removed], widths_ms=(NARROW,), **floors)) == [removed]


def test_a_tier_that_is_not_configured_stays_where_a_finer_one_lacks_something():
    removed = entry(1, WIDE, FIRST, FIRST + 2)
    past = {"raw_floor_ms": days(FIRST + 10, 0)[0], "widths_ms": (NARROW,)}

    def drops(*finer, parts=(), **changes):
        return plan_drops(sources(parts, [*finer, removed], **{**past, **changes}))

    assert drops(entry(2, NARROW, FIRST, FIRST), entry(3, NARROW, FIRST + 2, FIRST + 2)) == []
    whole = [entry(2, NARROW, FIRST, FIRST), entry(3, NARROW, FIRST + 1, FIRST + 2)]
    assert drops(*whole) == [removed]
    assert drops(*whole, parts=[part_on(FIRST + 1, FIRST + 1, seq=20)]) == [], "late samples"
    assert drops(*whole, floors_ms={NARROW: days(FIRST, 0)[0] + 1}) == [], "its windows expire"
    # Samples have the rest.
    assert drops(whole[0], raw_floor_ms=days(FIRST + 1, 0)[0]) == [removed]
    assert drops(whole[0], raw_floor_ms=days(FIRST + 1, 0)[0] + 1) == []
