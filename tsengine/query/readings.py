"""Which steps of a selector are answered from samples, and which from windows of a tier.

Pure: asks the view what there is, reads nothing. Windows are taken where they answer exactly and a
tier serves any of them, samples as long as there are any; where they are gone and no width is
exact, the finest tier that is left gives an inexact answer. A window that is perhaps not that of
all samples is read as any other, and the answer is called inexact.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
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


Span = tuple[int, int]
"""Closed range of times, ms."""


@dataclass(frozen=True, slots=True)
class Doubts:
    """Closed ranges, ascending and disjoint, where answers are perhaps not those of all samples.

    ``missing``: nothing tells all that was there; ``told``: a tier tells something, or there are
    samples all the same.
    """

    missing: tuple[Span, ...] = ()
    told: tuple[Span, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.missing or self.told)


NO_DOUBTS = Doubts()


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

    # There is one object of each; that of `Enum` is Python code.
    __hash__ = object.__hash__


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
    doubts
        What makes steps inexact that look there, whatever the width.

    """

    first: int
    last: int
    range_ms: int
    width_ms: int = 0
    coarse_ms: int = 0
    doubts: Doubts = field(default=NO_DOUBTS, compare=False)

    @property
    def is_exact(self) -> bool:
        """Whether all steps are those of all samples."""
        return not (self.coarse_ms or self.doubts)

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
    """Ranges (end - range - before, end + after] of a selector: ``ends_ms: i64[T]`` ascending."""

    ends_ms: _I64
    range_ms: int
    before_ms: int = 0
    aim: Aim = Aim.SAMPLES
    after_ms: int = 0

    @property
    def lefts_ms(self) -> _I64:
        """Where the ranges begin: i64[T]."""
        return self.ends_ms - (self.range_ms + self.before_ms)

    def first_needed_ms(self, width_ms: int) -> _I64:
        """Where the windows begin that the ranges touch: i64[T]."""
        return self.lefts_ms // width_ms * width_ms

    def bounds_ms(self, width_ms: int) -> tuple[_I64, _I64]:
        """Where what the ranges touch begins and ends, in windows of a width or (0) samples."""
        rights_ms = self.ends_ms + self.after_ms
        if not width_ms:
            return self.lefts_ms, rights_ms
        return self.first_needed_ms(width_ms), -(-rights_ms // width_ms) * width_ms

    def is_aligned(self, width_ms: int) -> bool:
        """Whether windows of a width answer all steps exactly."""
        if self.aim is Aim.SAMPLES or (self.aim is Aim.RANGES and self.range_ms % width_ms):
            return False
        return not np.any(self.ends_ms % width_ms)


def choose_readings(view: SampleView, refs: _Refs, wanted: Wanted) -> tuple[Reading, ...]:
    """Divide the steps of a selector of the series `refs`: all of them, in order."""
    n_steps = len(wanted.ends_ms)
    samples = Reading(0, n_steps, wanted.range_ms)
    if len(refs) == 0:
        return (samples,)
    if not view.tier_widths_ms:
        lefts_ms, rights_ms = wanted.bounds_ms(0)
        span = int(lefts_ms[0]) + 1, int(rights_ms[-1])
        missing = tuple(view.missing_spans(0, refs, *span))
        told = tuple(view.doubtful_spans(0, refs, *span))
        if missing or told:
            samples = replace(samples, doubts=Doubts(missing, told))
        return (samples,)
    return _Choice(view, refs, wanted).readings()


class _Choice:
    """One selector's choice: at which steps each width, and samples, are exact."""

    def __init__(self, view: SampleView, refs: _Refs, wanted: Wanted) -> None:
        self._view = view
        self._wanted = wanted
        self._widths = view.tier_widths_ms
        self._doubts: dict[int, Doubts] = {}
        self._is_there: dict[int, _BOOL] = {}
        self._is_exact: dict[int, _BOOL] = {}
        for width in (0, *self._widths):
            bounds = wanted.bounds_ms(width)
            span = self._bounds(width, 0, len(wanted.ends_ms))
            doubts = self._doubts[width] = Doubts(
                tuple(view.missing_spans(width, refs, *span)),
                tuple(view.doubtful_spans(width, refs, *span)),
            )
            self._is_there[width] = is_clear(doubts.missing, *bounds)
            self._is_exact[width] = self._is_there[width] & is_clear(doubts.told, *bounds)
        self._aligned = [width for width in self._widths if wanted.is_aligned(width)]

    def readings(self) -> tuple[Reading, ...]:
        kinds = np.stack([*self._is_there.values(), *self._is_exact.values()])
        cuts = np.flatnonzero((kinds[:, 1:] != kinds[:, :-1]).any(axis=0)) + 1
        bounds = [0, *cuts.tolist(), len(self._wanted.ends_ms)]
        made: list[Reading] = []
        for first, last in zip(bounds, bounds[1:], strict=False):
            reading = self._choose(first, last)
            joined = _joined(made[-1], reading) if made else None
            if joined is None:
                made.append(reading)
            else:
                made[-1] = joined
        return tuple(made)

    def _choose(self, first: int, last: int) -> Reading:
        """For steps that are all alike."""
        wanted = self._wanted
        exact = [width for width in self._aligned if self._is_exact[width][first]]
        covered = [width for width in self._widths if self._is_covered(width, first, last)]
        for width in reversed(exact):
            if width in covered:
                return Reading(first, last, wanted.range_ms, width)
        if self._is_exact[0][first]:
            return Reading(first, last, wanted.range_ms)
        if exact:
            return Reading(first, last, wanted.range_ms, exact[-1])
        if not covered:
            return Reading(first, last, wanted.range_ms, doubts=self._doubts[0])
        there = [width for width in covered if self._is_there[width][first]]
        aligned = [width for width in self._aligned if width in there]
        width = aligned[-1] if aligned else self._best(covered, there, first, last)
        doubts = self._doubts[width]
        if wanted.aim is Aim.RANGES or aligned:
            return Reading(first, last, wanted.range_ms, width, width, doubts)
        # Samples are as far apart as windows now; what looks at neighbours needs two.
        n_least = 1 if wanted.aim is Aim.NEWEST else 2
        range_ms = max(wanted.range_ms, n_least * width)
        return Reading(first, last, range_ms, coarse_ms=width, doubts=doubts)

    def _is_covered(self, width_ms: int, first: int, last: int) -> bool:
        """Whether a tier tells anything of what some steps look at."""
        mint, maxt = self._bounds(width_ms, first, last)
        if self._n_missing_ms(width_ms, first, last) == maxt - mint + 1:
            return False
        return self._view.covered(width_ms, mint, maxt)

    def _bounds(self, width_ms: int, first: int, last: int) -> Span:
        """The closed range of what some steps look at."""
        lefts_ms, ends_ms = self._wanted.bounds_ms(width_ms)
        return int(lefts_ms[first]) + 1, int(ends_ms[last - 1])

    def _n_missing_ms(self, width_ms: int, first: int, last: int) -> int:
        """How much of it is missing."""
        mint, maxt = self._bounds(width_ms, first, last)
        spans = self._doubts[width_ms].missing
        return sum(max(0, min(high, maxt) - max(low, mint) + 1) for low, high in spans)

    def _best(self, covered: list[int], there: list[int], first: int, last: int) -> int:
        """The finest width that has all that steps look at, else the one that has most of it."""
        if there:
            return there[0]
        return min(covered, key=lambda width: (self._n_missing_ms(width, first, last), width))


def is_clear(spans: Sequence[Span], lefts_ms: _I64, ends_ms: _I64) -> _BOOL:
    """Which ranges (left, end] no closed range (ascending and disjoint) meets: bool[T]."""
    if not spans:
        return np.ones(len(ends_ms), np.bool_)
    first, last = np.array(spans, np.int64).T
    at = np.searchsorted(last, lefts_ms, side="right")
    clear: _BOOL = (at == len(last)) | (first[np.minimum(at, len(last) - 1)] > ends_ms)
    return clear


def _joined(one: Reading, other: Reading) -> Reading | None:
    """Both as one, if they read the same; windows are read alike, exact or not."""
    if (one.range_ms, one.width_ms) != (other.range_ms, other.width_ms):
        return None
    if one.coarse_ms != other.coarse_ms and not one.width_ms:
        return None
    both = (one.doubts, other.doubts)
    doubts = both[0] or both[1]
    coarse_ms = max(one.coarse_ms, other.coarse_ms)
    return replace(one, last=other.last, coarse_ms=coarse_ms, doubts=doubts)


def inexact_steps(reading: Reading, wanted: Wanted) -> tuple[_BOOL, _BOOL]:
    """Steps of a reading whose results are perhaps not those of all samples: bool[last - first].

    First those whose results are, if there are any; then those that also may lack a result.
    """
    width_ms = reading.coarse_ms
    lefts_ms, rights_ms = (bound[reading.steps] for bound in wanted.bounds_ms(width_ms))
    is_told = ~is_clear(reading.doubts.told, lefts_ms, rights_ms)
    is_inexact = is_told | ~is_clear(reading.doubts.missing, lefts_ms, rights_ms)
    return is_inexact | cut_steps(reading, wanted), is_told


def cut_steps(reading: Reading, wanted: Wanted) -> _BOOL:
    """Steps of a reading whose ranges begin or end inside windows: bool[last - first].

    A result may be that of more than was asked for, or be missing because of it.
    """
    ends_ms = wanted.ends_ms[reading.steps]
    width_ms = reading.coarse_ms
    if not width_ms:
        return np.zeros(len(ends_ms), np.bool_)
    if wanted.aim is Aim.SAMPLES:
        return np.ones(len(ends_ms), np.bool_)
    short = wanted.range_ms < width_ms
    is_cut = short if wanted.aim is Aim.NEWEST else wanted.range_ms % width_ms
    # Windows give the newest of a range that ends with one, however short it is.
    is_cut = bool(is_cut) and not (reading.width_ms and wanted.is_aligned(width_ms))
    steps: _BOOL = (ends_ms % width_ms != 0) | is_cut
    return steps


def describe_readings(readings: Sequence[Reading], steps_ms: _I64) -> str:
    """What is read, for people: ``1h windows (not exact), samples from 2026-...`` (a step)."""
    texts = []
    for reading in readings:
        text = reading.describe() + ("" if reading.is_exact else " (not exact)")
        if reading.first:
            text += f" from {time_text(int(steps_ms[reading.first]))}"
        texts.append(text)
    return ", ".join(texts)


def inexact_text(readings: Iterable[Reading], floor_ms: int | None) -> str:
    """The info about results that are not exact; samples are complete only after `floor_ms`."""
    inexact = [reading for reading in readings if not reading.is_exact]
    if not inexact:
        return ""
    widths = sorted({reading.coarse_ms for reading in inexact if reading.coarse_ms})
    names = " and ".join(map(duration_text, widths))
    if floor_ms is None:
        return f"answered from {names} windows, not exact" if widths else "not exact"
    # The floor follows the clock; the text should be the same for a while.
    floor = time_text(floor_ms // _MINUTE_MS * _MINUTE_MS)
    if not widths:
        return f"not exact: samples before {floor} are not all there"
    return f"answered from {names} windows, not exact: samples before {floor} are downsampled"


def time_text(t_ms: int) -> str:
    """A time as ISO 8601 in UTC, or as a number where a calendar doesn't reach."""
    try:
        moment = datetime.fromtimestamp(t_ms / 1000, UTC)
    except (OverflowError, ValueError, OSError):
        return f"{t_ms} ms"
    text = moment.isoformat(timespec="milliseconds" if t_ms % 1000 else "seconds")
    return text.replace("+00:00", "Z")
