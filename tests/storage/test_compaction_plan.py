"""Plans by table: what is merged when, and what never is."""

from __future__ import annotations

import random

from tsengine.storage.compaction_plan import (
    PARTITION_MS,
    Merge,
    partition_of,
    partition_range,
    plan_compaction,
    plan_full_merge,
    plan_urgent_compaction,
)
from tsengine.storage.manifest import PartEntry
from tsengine.storage.retention import expired_parts

DAY = PARTITION_MS


def part(
    number: int, *, level: int = 0, days: tuple[float, float] = (0, 1), n: int = 100, seq=None
):
    seq_min, seq_max = seq or (number * 10, number * 10 + 9)
    return PartEntry(
        name=f"{number:010d}",
        level=level,
        mint=int(days[0] * DAY) + 1,
        maxt=int(days[1] * DAY),
        n_samples=n,
        n_series=1,
        seq_min=seq_min,
        seq_max=seq_max,
        size_bytes=n,
    )


def numbers(merge: Merge) -> list[int]:
    return [int(entry.name) for entry in merge.inputs]


def test_partitions_are_left_open_and_right_closed():
    assert partition_of(1) == partition_of(DAY) == 0
    assert partition_of(0) == partition_of(-DAY + 1) == -1
    assert partition_of(DAY + 1) == 1
    assert partition_range(0) == (1, DAY)
    assert [partition_of(t) for t in partition_range(-3)] == [-3, -3]


def test_three_flushes_of_a_day_wait_and_four_are_merged():
    parts = [part(k) for k in range(4)]
    assert plan_compaction(parts[:3]) == []
    (merge,) = plan_compaction(parts[::-1])
    assert numbers(merge) == list(range(4))
    assert merge.level == 1


def test_seven_flushes_that_are_to_be_split_wait_and_eight_are_merged():
    for days in ((0, 2), (1.5, 2)):
        parts = [part(k, days=days if k == 2 else (0, 1)) for k in range(8)]
        assert plan_compaction(parts[:7]) == []
        (merge,) = plan_compaction(parts[::-1])
        assert numbers(merge) == list(range(8))
        assert merge.level == 1


def test_the_oldest_flushes_go_first():
    merges = plan_compaction([part(k) for k in range(11)])
    assert [numbers(merge) for merge in merges] == [list(range(4)), list(range(4, 8))]
    days = [(0, 2), *[(0, 1)] * 7, *[(1, 2)] * 4]
    merges = plan_compaction([part(k, days=own) for k, own in enumerate(days)])
    assert [numbers(merge) for merge in merges] == [list(range(8)), list(range(8, 12))]


def test_levels_grow_inside_a_partition():
    day_one = [part(k, level=1) for k in range(8)]
    day_two = [part(20 + k, level=1, days=(1, 2)) for k in range(7)]
    (merge,) = plan_compaction(day_one + day_two)
    assert numbers(merge) == list(range(8))
    assert merge.level == 2


def test_only_neighbours_of_one_level_are_merged():
    levels = [2, 1, 1, 1, 1, 2, 1, 1, 1, 1]
    assert plan_compaction([part(k, level=level) for k, level in enumerate(levels)]) == []


def test_a_part_between_the_inputs_forbids_the_merge():
    flushes = [part(k) for k in range(4)]
    between = part(50, level=1, seq=(25, 26))
    assert plan_compaction([*flushes, between]) == []
    elsewhere = part(50, level=1, days=(4, 5), seq=(25, 26))
    assert len(plan_compaction([*flushes, elsewhere])) == 1


def test_a_closed_partition_becomes_one_part_when_that_is_cheap():
    newest = part(90, level=1, days=(9, 10))
    large = part(1, level=2, n=1000)
    assert plan_compaction([large, part(2, level=1, n=200), newest]) == []
    (merge,) = plan_compaction([large, part(2, level=1, n=300), newest])
    assert numbers(merge) == [1, 2]
    assert merge.level == 3
    yesterday = part(91, level=1, days=(1, 2))
    assert plan_compaction([large, part(2, level=1, n=300), yesterday]) == []


def test_a_partition_that_a_backfill_still_fills_is_not_settled():
    newest = part(90, level=1, days=(9, 10))
    members = [part(1, level=1), part(2, level=1)]
    assert len(plan_compaction([*members, newest])) == 1
    to_split = part(50, days=(0, 3))
    assert plan_compaction([*members, newest, to_split]) == []
    assert len(plan_compaction([*members, newest, part(50, days=(1, 3))])) == 1


def test_urgent_merges_leave_the_fewest_parts_for_their_bytes():
    crowded = [part(k, level=k % 3 + 1, n=10) for k in range(6)]
    large = [part(20 + k, level=2, days=(1, 2), n=1000) for k in range(3)]
    alone = part(40, level=1, days=(2, 3))
    spanning = part(41, days=(4, 6))
    merges = plan_urgent_compaction([*large, alone, *crowded, spanning])
    assert [numbers(merge) for merge in merges] == [list(range(6)), [20, 21, 22]]
    between = part(50, level=0, days=(0, 5), seq=(15, 16))
    assert [numbers(m) for m in plan_urgent_compaction([*crowded, *large, between])] == [
        [20, 21, 22]
    ]
    assert plan_urgent_compaction([alone, spanning]) == []


def test_merging_everything_makes_one_part_per_partition():
    a, b = part(1, level=1), part(2, level=1)
    alone = part(3, level=3, days=(2, 3))
    spanning = part(4, days=(4, 6))
    inside = part(5, level=1, days=(5, 5.5))
    merges = plan_full_merge([spanning, inside, alone, b, a])
    assert [numbers(merge) for merge in merges] == [[1, 2], [4, 5]]
    assert [merge.level for merge in merges] == [2, 2]
    assert plan_full_merge([alone]) == []
    assert numbers(plan_full_merge([spanning])[0]) == [4]
    assert plan_full_merge([]) == []


def test_plans_never_jump_over_an_overlapping_part():
    rng = random.Random(5)
    for _ in range(300):
        parts = []
        for k in range(rng.randrange(30)):
            first = rng.randrange(4)
            level = rng.randrange(3)
            last = first + 1 if level else first + rng.randrange(1, 4)
            parts.append(part(k, level=level, days=(first, last), n=rng.randrange(1, 900)))
        for merge in plan_compaction(parts, fan_in=rng.choice([2, 3, 8])) + plan_full_merge(parts):
            low = min(p.seq_min for p in merge.inputs)
            high = max(p.seq_max for p in merge.inputs)
            for other in parts:
                overlaps = any(other.mint <= p.maxt and other.maxt >= p.mint for p in merge.inputs)
                if other not in merge.inputs and overlaps:
                    assert other.seq_max < low or other.seq_min > high


def test_plans_come_to_rest():
    """Following the plan step by step ends, with few parts per day left."""
    live = [part(k, days=(k // 12, k // 12 + 1)) for k in range(120)]
    number = 1000
    for _ in range(500):
        merges = plan_compaction(live)
        if not merges:
            break
        inputs = merges[0].inputs
        live = [p for p in live if p not in inputs]
        for day in sorted({partition_of(p.mint) for p in inputs}):
            own = [p for p in inputs if partition_of(p.mint) == day]
            live.append(
                part(
                    number, level=merges[0].level, days=(day, day + 1),
                    n=sum(p.n_samples for p in own),
                    seq=(own[0].seq_min, own[-1].seq_max),
                )
            )  # fmt: skip
            number += 1
    assert plan_compaction(live) == []
    assert sum(p.n_samples for p in live) == 12_000
    old = [p for p in live if p.level and p.maxt <= 7 * DAY]
    assert len(old) == 7


def test_retention_takes_whole_parts_only():
    parts = [part(k, days=(k, k + 1)) for k in range(4)]
    assert expired_parts(parts, 2 * DAY) == parts[:1]
    assert expired_parts(parts, 2 * DAY + 1) == parts[:2]
    assert expired_parts(parts, -5) == []
