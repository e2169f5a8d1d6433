"""Seeded native histograms: counters, gauges, custom buckets, odd ones, some mixed with floats.

A sample's value is a float or a `NativeHistogram`; one whose `count` is a Python int is written as
an integer histogram. All counts fit their buckets, since Prometheus refuses others.
"""

from __future__ import annotations

import dataclasses
import math
import random
from itertools import pairwise

from tests.differential.clocks import BASE_MS, END_MS, STALE, gappy, scrapes
from tsengine.model.histogram_values import NativeHistogram

CUSTOM_BOUNDS = ((0.1, 0.5, 1.0, 5.0), (0.1, 0.5, 1.0, 5.0), (0.1, 1.0, 2.5, 5.0), (-1.0, 0.0, 1.0))
TARGETS = (("api", "a"), ("api", "b"), ("db", "a"), ("db", "c"))
STALE_HISTOGRAM = NativeHistogram(schema=0, count=0, sum=STALE, zero_count=0)


def make_native_series(seed):
    """[(labels, samples)] of one data set."""
    rng = random.Random(f"native data {seed}")
    series = []
    for idx, (job, host) in enumerate(TARGETS):
        target = {"job": job, "instance": f"{host}:9100"}
        times = scrapes(rng, rng.choice((15_000, 15_000, 30_000)))
        series += _target(rng, target, times, idx)
    series += _odd_ones(rng)
    series += _mixed(rng)
    series += _next_to_classic(rng)
    return [(labels, samples) for labels, samples in series if samples]


def _target(rng, target, times, idx):
    """What one scrape target exposes."""
    for path in ("/", "/api"):
        schema = (3, 0, 1, rng.choice((-1, 2, 8)))[idx]
        counter = Observations(rng, schema=schema, is_integer=idx % 2 == 0)
        labels = {"__name__": "request_seconds", **target, "path": path}
        yield labels, _with_gaps(rng, times, counter.scrape(len(times)))
    gauges = Observations(rng, schema=idx % 2, hint="gauge", has_negative=True)
    yield (
        {"__name__": "balance", **target},
        _with_gaps(rng, times, gauges.states(len(times))),
    )
    sizes = Observations(rng, bounds=CUSTOM_BOUNDS[idx], is_integer=idx != 1)
    yield {"__name__": "sizes", **target}, _with_gaps(rng, times, sizes.scrape(len(times)))


def _with_gaps(rng, times, histograms):
    """As floats are; some stale markers are written as histograms are."""
    samples = gappy(rng, times, histograms)
    return [
        (t, STALE_HISTOGRAM if value is STALE and rng.random() < 0.5 else value)
        for t, value in samples
    ]


class Observations:
    """Buckets that observations fall into, and what a scrape shows of them."""

    def __init__(
        self, rng, *, schema=0, bounds=(), hint="unknown", has_negative=False, is_integer=False,
        zero_threshold=None,
    ):  # fmt: skip
        self._rng = rng
        self.schema = -53 if bounds else schema
        self.bounds = bounds
        self.hint = hint
        self.has_negative = has_negative
        self.is_integer = is_integer
        self.zero_threshold = zero_threshold
        if zero_threshold is None:
            self.zero_threshold = 0.0 if bounds else rng.choice((0.0, 1e-128, 0.001, 0.5))
        self._centre = rng.uniform(-3, 4)
        self.clear()

    def clear(self):
        """Forget all: a counter reset."""
        self.sum, self.zero_count = 0.0, 0
        self.positive, self.negative = {}, {}

    def observe(self, n):
        """Take `n` values at random."""
        for _ in range(n):
            weight = 1 if self.is_integer else self._rng.choice((1, 1, 0.5, 0.25, 1 / 3))
            if self.bounds:
                value = self._rng.gauss(1, 2)
                idx = sum(bound < value for bound in self.bounds)
            else:
                value = 2.0 ** self._rng.gauss(self._centre, 1.5)
                if self._rng.random() < 0.1:
                    value = 0.0
                if value <= self.zero_threshold:
                    self.zero_count += weight
                    self.sum += value * weight
                    continue
                idx = math.ceil(math.log2(value) * 2.0**self.schema)
            side = self.positive
            if self.has_negative and self._rng.random() < 0.4:
                side, value = self.negative, -value
            side[idx] = side.get(idx, 0) + weight
            self.sum += value * weight

    def shown(self):
        """The histogram now."""
        count = sum((*self.positive.values(), *self.negative.values(), self.zero_count))
        return NativeHistogram(
            schema=self.schema, count=int(count) if self.is_integer else float(count),
            sum=self.sum, zero_threshold=self.zero_threshold, zero_count=self.zero_count,
            positive=dict(self.positive), negative=dict(self.negative), custom_bounds=self.bounds,
            hint=self.hint,
        )  # fmt: skip

    def scrape(self, n):
        """A counter's values, which fall to nothing at times."""
        found = []
        for _ in range(n):
            if self._rng.random() < 0.02:
                self.clear()
            self.observe(self._rng.randrange(5))
            found.append(self.shown())
        return found

    def states(self, n):
        """A gauge's values: each of its own."""
        found = []
        for _ in range(n):
            if self._rng.random() < 0.7:
                self.clear()
            self.observe(self._rng.randrange(8))
            found.append(self.shown())
        return found


def _odd_ones(rng):
    """Layouts that change, empty histograms, sums that are no numbers."""
    kinds = ("schema", "threshold", "bounds", "empty", "sum", "hints", "still")
    for kind in kinds:
        times = scrapes(rng, 20_000)
        yield (
            {"__name__": "shifty", "job": "api", "kind": kind},
            list(zip(times, _odd_values(rng, kind, len(times)), strict=True)),
        )
    at = rng.randrange(BASE_MS, END_MS)
    one = Observations(rng, schema=2)
    one.observe(6)
    yield {"__name__": "lone", "job": "api", "n": "1"}, [(at, one.shown())]
    two = Observations(rng, schema=2, hint="gauge")
    two.observe(3)
    yield {"__name__": "lone", "job": "api", "n": "2"}, [(at, one.shown()), (at + 1, two.shown())]
    for n, marker in (("3", STALE), ("4", STALE_HISTOGRAM)):
        yield {"__name__": "lone", "job": "db", "n": n}, [(at, one.shown()), (at + 1, marker)]


def _odd_values(rng, kind, n):
    found = []
    current = Observations(rng, schema=1, zero_threshold=0.001)
    for _ in range(n):
        if rng.random() < 0.06:
            current = _changed(rng, kind, current)
        if kind != "still":
            current.observe(rng.randrange(4))
        found.append(_odd_shown(rng, kind, current.shown()))
    return found


def _changed(rng, kind, current):
    """Observations of another layout, from nothing."""
    if kind == "schema":
        return Observations(rng, schema=rng.randint(-4, 8), zero_threshold=0.001)
    if kind == "threshold":
        return Observations(rng, schema=1, zero_threshold=rng.choice((0.0, 0.001, 0.25, 1.0, 3.0)))
    if kind == "bounds":
        return Observations(rng, bounds=rng.choice((*CUSTOM_BOUNDS, (0.5,))))
    return current


def _odd_shown(rng, kind, histogram):
    if kind == "empty" and rng.random() < 0.3:
        return dataclasses.replace(histogram, count=0.0, zero_count=0, positive={})
    if kind == "sum" and rng.random() < 0.3:
        return dataclasses.replace(histogram, sum=rng.choice((math.nan, math.inf, -math.inf, -0.0)))
    if kind == "hints":
        return dataclasses.replace(histogram, hint=rng.choice(("unknown", "gauge", "not_reset")))
    return histogram


def _mixed(rng):
    """Series whose samples are now floats, now histograms."""
    for n in "123":
        times = scrapes(rng, 20_000)
        counter = Observations(rng, schema=rng.choice((0, 3)), is_integer=n == "1")
        if n == "3":
            counter = Observations(rng, bounds=CUSTOM_BOUNDS[0])
        is_float, samples = rng.random() < 0.5, []
        for t in times:
            if rng.random() < 0.08:
                is_float = not is_float
            counter.observe(rng.randrange(4))
            value = float(rng.randrange(9)) if is_float else counter.shown()
            samples.append((t, STALE if rng.random() < 0.02 else value))
        yield {"__name__": "mixed", "job": rng.choice(("api", "db")), "n": n}, samples
    clock = scrapes(rng, 15_000)
    values = [float(rng.randrange(3)) for _ in clock]
    yield {"__name__": "mixed", "job": "api", "n": "4"}, list(zip(clock, values, strict=True))


def _next_to_classic(rng):
    """A native histogram and classic buckets that become the same series without `le`."""
    times = scrapes(rng, 30_000)
    for job in ("api", "db"):
        labels = {"__name__": "twofold", "job": job}
        native = Observations(rng, schema=1)
        if job == "api":
            yield labels, list(zip(times, native.scrape(len(times)), strict=True))
        counts = [(0.0, 0.0)]
        for _ in times:
            low = counts[-1][0] + rng.randrange(3)
            counts.append((low, low + rng.randrange(9) + counts[-1][1] - counts[-1][0]))
        assert all(a[1] <= b[1] for a, b in pairwise(counts))
        for idx, bound in enumerate(("1", "+Inf")):
            points = [(t, row[idx]) for t, row in zip(times, counts[1:], strict=True)]
            yield {**labels, "le": bound}, points
