"""Which steps of a selector are answered from samples, and which from windows of a tier.

Pure: asks the view what there is, reads nothing. Windows are taken where they answer exactly and a
tier serves any of them, samples as long as there are any; where they are gone and no width is
exact, the finest tier that is left gives an inexact answer.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import Enum

import numpy as np
import numpy.typing as npt

from tsengine.promql.literals import duration_text
from tsengine.query.source import SampleView

_MINUTE_MS = 60_000

_I64 = npt.NDArray[np.int64]
_BOOL = npt.NDArray[np.bool_]
_Refs = npt.NDArray[np.uint32]


class Aim(Enum):
    """What a selector looks for.

    RANGES
        All of a range: exact if the range begins and ends with windows.
    NEWEST
        The newest sample: exact if the range ends with a window, since its time is known.
    SAMPLES
        The samples themselves: never exact.
    """

    RANGES = 1
    NEWEST = 2
    SAMPLES = 3


@dataclass(frozen=True, slots=True)
class Reading:
    """What the steps ``first <= t < last`` of a selector are answered from.

    Parameters
    ----------
    first, last
        Steps.
    range_ms
        What is looked at before the end of a step, at least what was asked for.
    width_ms
        Windows of this width; 0 reads samples.
    coarse_ms
        Width of the windows that make it inexact, also where they stand for samples; 0 if exact.

    """

    first: int
    last: int
    range_ms: int
    width_ms: int = 0
    coarse_ms: int = 0

    @property
    def steps(self) -> slice:
        """Where the steps are among all of the selector."""
        return slice(self.first, self.last)

    def describe(self) -> str:
        """A few words for people."""
        if self.width_ms:
            return f"{duration_text(self.width_ms)} windows"
        if self.coarse_ms:
            return f"samples and {duration_text(self.coarse_ms)} windows"
        return "samples"


@dataclass(frozen=True, slots=True)
class Wanted:
    """Ranges (end - range - before, end] of a selector: ``ends_ms: i64[T]`` ascending."""

    ends_ms: _I64
    range_ms: int
    before_ms: int = 0
    aim: Aim = Aim.SAMPLES

    @property
    def lefts_ms(self) -> _I64:
        """Where the ranges begin: i64[T]."""
        return self.ends_ms - (self.range_ms + self.before_ms)

    def first_needed_ms(self, width_ms: int) -> _I64:
        """Where the windows begin that the ranges touch: i64[T]."""
        return self.lefts_ms // width_ms * width_ms

    def is_aligned(self, width_ms: int) -> bool:
        """Whether windows of a width answer all steps exactly."""
        if self.aim is Aim.SAMPLES or (self.aim is Aim.RANGES and self.range_ms % width_ms):
            return False
        return not np.any(self.ends_ms % width_ms)


def choose_readings(view: SampleView, refs: _Refs, wanted: Wanted) -> tuple[Reading, ...]:
    """Divide the steps of a selector of the series `refs`: all of them, in order."""
    n_steps = len(wanted.ends_ms)
    samples = Reading(0, n_steps, wanted.range_ms)
    if not view.tier_widths_ms or len(refs) == 0:
        return (samples,)
    return _Choice(view, refs, wanted).readings()


class _Choice:
    """One selector's choice: from which step on each width, and samples, are complete."""

    def __init__(self, view: SampleView, refs: _Refs, wanted: Wanted) -> None:
        self._view = view
        self._wanted = wanted
        widths = view.tier_widths_ms
        floors = {width: view.exact_floor_ms(width, refs) for width in (0, *widths)}
        self._samples_from = _first_complete(wanted.lefts_ms, floors[0])
        self._from = {
            width: _first_complete(wanted.first_needed_ms(width), floors[width]) for width in widths
        }
        self._aligned = [width for width in widths if wanted.is_aligned(width)]
        # Only tiers that are kept for longer than samples can stand for them.
        self._older = sorted(
            (width for width in widths if _is_below(floors[width], floors[0])),
            key=lambda width: (self._from[width], width),
        )

    def readings(self) -> tuple[Reading, ...]:
        n_steps = len(self._wanted.ends_ms)
        cuts = {0, n_steps, self._samples_from, *self._from.values()}
        bounds = sorted(cut for cut in cuts if cut <= n_steps)
        made: list[Reading] = []
        for first, last in zip(bounds, bounds[1:], strict=False):
            reading = self._choose(first, last)
            before = made[-1] if made else None
            if before is not None and _is_same(before, reading):
                made[-1] = Reading(
                    before.first, last, before.range_ms, before.width_ms, before.coarse_ms
                )
            else:
                made.append(reading)
        return tuple(made)

    def _choose(self, first: int, last: int) -> Reading:
        wanted = self._wanted
        exact = [width for width in self._aligned if self._from[width] <= first]
        mint, maxt = int(wanted.lefts_ms[first]) + 1, int(wanted.ends_ms[last - 1])
        for width in reversed(exact):
            if self._view.covered(width, mint, maxt):
                return Reading(first, last, wanted.range_ms, width)
        if self._samples_from <= first or not self._older:
            return Reading(first, last, wanted.range_ms)
        if exact:
            return Reading(first, last, wanted.range_ms, exact[-1])
        width = self._finest_left(first)
        if wanted.aim is Aim.RANGES:
            return Reading(first, last, wanted.range_ms, width, width)
        # Samples are as far apart as windows now; what looks at neighbours needs two.
        n_least = 1 if wanted.aim is Aim.NEWEST else 2
        return Reading(first, last, max(wanted.range_ms, n_least * width), coarse_ms=width)

    def _finest_left(self, step: int) -> int:
        """The finest width that is complete at a step, else the one that reaches furthest back."""
        complete = [width for width in self._older if self._from[width] <= step]
        return min(complete) if complete else self._older[0]


def _first_complete(needed_ms: _I64, floor_ms: int | None) -> int:
    """First of the ascending times that is not before a floor."""
    return 0 if floor_ms is None else int(np.searchsorted(needed_ms, floor_ms))


def _is_below(floor_ms: int | None, other_ms: int | None) -> bool:
    return other_ms is not None and (floor_ms is None or floor_ms < other_ms)


def _is_same(one: Reading, other: Reading) -> bool:
    return (one.range_ms, one.width_ms, one.coarse_ms) == (
        other.range_ms, other.width_ms, other.coarse_ms,
    )  # fmt: skip


def inexact_steps(reading: Reading, wanted: Wanted) -> _BOOL:
    """Steps of a reading whose results are not those of all samples: bool[last - first]."""
    ends_ms = wanted.ends_ms[reading.steps]
    width_ms = reading.coarse_ms
    if not width_ms:
        return np.zeros(len(ends_ms), np.bool_)
    if wanted.aim is Aim.SAMPLES:
        return np.ones(len(ends_ms), np.bool_)
    is_cut = wanted.range_ms < width_ms if wanted.aim is Aim.NEWEST else wanted.range_ms % width_ms
    return np.asarray((ends_ms % width_ms != 0) | bool(is_cut))


def describe_readings(readings: Sequence[Reading], steps_ms: _I64) -> str:
    """What is read, for people: ``1h windows (not exact), samples from 2026-...`` (a step)."""
    texts = []
    for reading in readings:
        text = reading.describe() + (" (not exact)" if reading.coarse_ms else "")
        if reading.first:
            text += f" from {time_text(int(steps_ms[reading.first]))}"
        texts.append(text)
    return ", ".join(texts)


def inexact_text(readings: Iterable[Reading], floor_ms: int | None) -> str:
    """The info about results that are not exact; samples are complete only after `floor_ms`."""
    widths = sorted({reading.coarse_ms for reading in readings if reading.coarse_ms})
    if not widths or floor_ms is None:
        return ""
    names = " and ".join(map(duration_text, widths))
    # The floor follows the clock; the text should be the same for a while.
    floor = time_text(floor_ms // _MINUTE_MS * _MINUTE_MS)
    return f"answered from {names} windows, not exact: samples before {floor} are downsampled"


def time_text(t_ms: int) -> str:
    """A time as ISO 8601 in UTC, or as a number where a calendar doesn't reach."""
    try:
        moment = datetime.fromtimestamp(t_ms / 1000, UTC)
    except (OverflowError, ValueError, OSError):
        return f"{t_ms} ms"
    text = moment.isoformat(timespec="milliseconds" if t_ms % 1000 else "seconds")
    return text.replace("+00:00", "Z")
