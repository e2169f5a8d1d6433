"""Which steps are answered from samples, and which from windows: the choice alone."""

from dataclasses import dataclass, field

import numpy as np
import pytest

from tsengine.query.readings import (
    Aim,
    Reading,
    Wanted,
    choose_readings,
    describe_readings,
    inexact_steps,
    inexact_text,
    time_text,
)

REFS = np.array([7], np.uint32)
M, H, D = 60_000, 3_600_000, 86_400_000
TIERS = (5 * M, H)


@dataclass
class View:
    """What is there, by width; `covers` are the closed ranges that tiers serve."""

    tier_widths_ms: tuple = TIERS
    floors: dict = field(default_factory=dict)
    doubts: dict = field(default_factory=dict)
    covers: tuple = ((-(1 << 60), 1 << 60),)

    def missing_spans(self, width_ms, refs, mint, maxt):
        assert refs is REFS
        last = min(self.floors.get(width_ms, mint - 1), maxt)
        return [(mint, last)] if last >= mint else []

    def doubtful_spans(self, width_ms, refs, mint, maxt):
        assert refs is REFS
        return [span for span in self.doubts.get(width_ms, ()) if span[0] <= maxt]

    def covered(self, width_ms, mint, maxt):
        return any(lo <= maxt and mint <= hi for lo, hi in self.covers)


def choose(view, ends, range_ms, aim=Aim.RANGES, before_ms=0):
    wanted = Wanted(np.array(ends, np.int64), range_ms, before_ms, aim)
    return list(choose_readings(view, REFS, wanted))


def test_the_coarsest_width_that_divides_range_and_ends():
    assert choose(View(), range(H, 9 * H, H), H) == [Reading(0, 8, H, H)]
    assert choose(View(), range(H, 9 * H, H), 2 * H) == [Reading(0, 8, 2 * H, H)]
    assert choose(View(), range(H, 9 * H, H), 90 * M) == [Reading(0, 8, 90 * M, 5 * M)]
    assert choose(View(), range(H, 9 * H, 30 * M), H) == [Reading(0, 16, H, 5 * M)]
    assert choose(View(), range(H + 1, 9 * H, H), H) == [Reading(0, 8, H)]
    assert choose(View(), range(H, 9 * H, H), 7 * M) == [Reading(0, 8, 7 * M)]
    assert choose(View(), [-3 * H, -3 * H], H) == [Reading(0, 2, H, H)]


def test_the_newest_sample_only_needs_ends_of_windows():
    assert choose(View(), range(H, 9 * H, H), 7 * M, Aim.NEWEST) == [Reading(0, 8, 7 * M, H)]
    assert choose(View(), range(H, 9 * H, 7 * M), H, Aim.NEWEST) == [Reading(0, 69, H)]


def test_samples_are_read_where_no_tier_serves_anything():
    view = View(covers=((D + 1, 2 * D),))
    assert choose(view, range(H, D + 1, H), H) == [Reading(0, 24, H)]
    assert choose(view, range(H, D + 2 * H, H), H) == [Reading(0, 25, H, H)]
    assert choose(View(tier_widths_ms=()), [H], H) == [Reading(0, 1, H)]
    assert choose_readings(View(), REFS[:0], Wanted(np.array([H]), H)) == (Reading(0, 1, H),)


def test_what_needs_samples_gets_them_while_they_exist():
    assert choose(View(), [H], H, Aim.SAMPLES) == [Reading(0, 1, H)]
    view = View(floors={0: 10 * H})
    ends = range(8 * H, 16 * H, H)
    assert choose(view, ends, H, Aim.SAMPLES) == [
        Reading(0, 3, H, 0, 5 * M),
        Reading(3, 8, H),
    ]
    assert choose(view, ends, 6 * M, Aim.SAMPLES)[0] == Reading(0, 3, 10 * M, 0, 5 * M)
    # With an hour more before the range, an hour later.
    assert choose(view, ends, H, Aim.SAMPLES, before_ms=H)[1] == Reading(4, 8, H)


@pytest.mark.parametrize("aim", list(Aim))
def test_one_query_may_read_all_widths(aim):
    view = View(floors={0: 6 * D, 5 * M: 3 * D})
    ends = [k * D + 30_000 for k in range(1, 9)]
    range_ms = {Aim.RANGES: M, Aim.NEWEST: M, Aim.SAMPLES: M}[aim]
    made = choose(view, ends, range_ms, aim)
    assert [(r.first, r.last, r.coarse_ms) for r in made] == [(0, 3, H), (3, 6, 5 * M), (6, 8, 0)]
    widths = {Aim.RANGES: [H, 5 * M, 0], Aim.NEWEST: [0, 0, 0], Aim.SAMPLES: [0, 0, 0]}[aim]
    assert [r.width_ms for r in made] == widths
    looked_at = {
        Aim.RANGES: [M, M, M], Aim.NEWEST: [H, 5 * M, M], Aim.SAMPLES: [2 * H, 10 * M, M],
    }[aim]  # fmt: skip
    assert [r.range_ms for r in made] == looked_at
    text = describe_readings(made, np.array(ends))
    assert text.endswith(", samples from 1970-01-08T00:00:30Z")


def test_exact_windows_are_read_unserved_where_samples_are_gone():
    view = View(floors={0: 6 * D}, covers=())
    assert choose(view, [4 * D, 8 * D], H) == [Reading(0, 1, H, H), Reading(1, 2, H)]


def test_the_finest_that_has_all_and_before_that_what_there_is():
    view = View(floors={0: 6 * D, 5 * M: 4 * D, H: 2 * D})
    made = choose(view, [D + 1, 3 * D + 1, 5 * D + 1], M, Aim.NEWEST)
    assert [(r.last, r.coarse_ms) for r in made] == [(1, 0), (2, H), (3, 5 * M)]
    shorter = View(floors={0: 6 * D, 5 * M: 7 * D, H: 8 * D}, covers=())
    assert choose(shorter, [D, 9 * D], M, Aim.SAMPLES) == [Reading(0, 2, M)]


def test_steps_that_are_exact_among_others_that_are_not():
    ends = np.arange(6) * (H // 2)
    by_ranges = Wanted(ends, H, aim=Aim.RANGES)
    assert inexact(Reading(1, 6, H, H, H), by_ranges).tolist() == [1, 0, 1, 0, 1]
    assert inexact(Reading(1, 6, H, H), by_ranges).tolist() == [0] * 5
    newest = Wanted(ends, H, aim=Aim.NEWEST)
    assert inexact(Reading(0, 3, H, 0, H), newest).tolist() == [0, 1, 0]
    short = Wanted(ends, M, aim=Aim.NEWEST)
    assert inexact(Reading(0, 3, H, 0, H), short).all()
    assert inexact(Reading(0, 3, H, 0, H), Wanted(ends, H)).all()


def inexact(reading, wanted):
    steps, told = inexact_steps(reading, wanted)
    assert not told.any()
    return steps


def test_windows_in_doubt_are_read_as_others_and_told():
    view = View(
        floors={0: 20 * H}, doubts={5 * M: ((3 * H + 1, 3 * H + 5 * M),), H: ((3 * H + 1, 4 * H),)}
    )
    (reading,) = choose(view, range(2 * H, 9 * H, H), H)
    assert reading == Reading(0, 7, H, H, H)
    wanted = Wanted(np.arange(2, 9) * H, H, aim=Aim.RANGES)
    for steps in inexact_steps(reading, wanted):
        assert steps.tolist() == [0, 0, 1, 0, 0, 0, 0]
    # Ends that need narrow windows.
    ends = [3 * H, 3 * H + 5 * M, 3 * H + 10 * M]
    (reading,) = choose(view, ends, 5 * M)
    assert reading == Reading(0, 3, 5 * M, 5 * M, 5 * M)
    steps, _ = inexact_steps(reading, Wanted(np.array(ends), 5 * M, aim=Aim.RANGES))
    assert steps.tolist() == [0, 1, 0]
    # Samples that are all there are better.
    assert choose(View(doubts=view.doubts), [4 * H], H) == [Reading(0, 1, H)]


def test_samples_that_are_looked_at_ahead_count():
    view = View(doubts={0: ((3 * H, 3 * H),)}, covers=())
    ends = np.arange(5) * H + 1
    for after_ms, told in ((0, [0, 0, 0, 1, 0]), (2 * H, [0, 1, 1, 1, 0])):
        wanted = Wanted(ends, M, after_ms=after_ms)
        readings = choose_readings(view, REFS, wanted)
        found = np.concatenate([inexact_steps(reading, wanted)[1] for reading in readings])
        assert found.tolist() == told


def test_samples_that_nothing_stands_for_are_not_exact():
    view = View(floors={0: 6 * D, 5 * M: 6 * D, H: 6 * D}, covers=())
    (reading,) = choose(view, [5 * D, 6 * D, 7 * D], H, Aim.SAMPLES)
    steps, told = inexact_steps(reading, Wanted(np.array([5, 6, 7]) * D, H))
    assert steps.tolist() == [1, 1, 0]
    assert not told.any()
    assert inexact_text([reading], 0) == (
        "not exact: samples before 1970-01-01T00:00:00Z are not all there"
    )


def test_texts():
    readings = [Reading(0, 1, M, H, H), Reading(1, 2, M, 5 * M, 5 * M), Reading(2, 3, M)]
    assert inexact_text(readings, 1_767_225_612_345) == (
        "answered from 5m and 1h windows, not exact: samples before 2026-01-01T00:00:00Z "
        "are downsampled"
    )
    assert inexact_text(readings[2:], 0) == ""
    assert time_text(1) == "1970-01-01T00:00:00.001Z"
    assert time_text(1 << 61) == f"{1 << 61} ms"
    assert describe_readings([Reading(0, 1, M, 0, H)], np.zeros(1, np.int64)) == (
        "samples and 1h windows (not exact)"
    )
