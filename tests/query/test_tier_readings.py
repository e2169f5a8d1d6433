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
    covers: tuple = ((-(1 << 60), 1 << 60),)

    def exact_floor_ms(self, width_ms, refs):
        assert refs is REFS
        return self.floors.get(width_ms)

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


def test_before_all_floors_the_one_that_reaches_furthest():
    view = View(floors={0: 6 * D, 5 * M: 4 * D, H: 2 * D})
    made = choose(view, [D + 1, 3 * D + 1, 5 * D + 1], M, Aim.NEWEST)
    assert [(r.last, r.coarse_ms) for r in made] == [(2, H), (3, 5 * M)]
    shorter = View(floors={0: 6 * D, 5 * M: 7 * D, H: 8 * D})
    assert choose(shorter, [D, 9 * D], M, Aim.SAMPLES) == [Reading(0, 2, M)]


def test_steps_that_are_exact_among_others_that_are_not():
    ends = np.arange(6) * (H // 2)
    by_ranges = Wanted(ends, H, aim=Aim.RANGES)
    assert inexact_steps(Reading(1, 6, H, H, H), by_ranges).tolist() == [1, 0, 1, 0, 1]
    assert inexact_steps(Reading(1, 6, H, H), by_ranges).tolist() == [0] * 5
    newest = Wanted(ends, H, aim=Aim.NEWEST)
    assert inexact_steps(Reading(0, 3, H, 0, H), newest).tolist() == [0, 1, 0]
    short = Wanted(ends, M, aim=Aim.NEWEST)
    assert inexact_steps(Reading(0, 3, H, 0, H), short).all()
    assert inexact_steps(Reading(0, 3, H, 0, H), Wanted(ends, H)).all()


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
