"""Native histograms as test scripts write them: literals, series of them, how answers compare.

Slow and plain on purpose, with an arithmetic of its own: what is loaded and what is expected
must not come from the code under test. Only the columns of `tsengine.model.histograms` are shared.
"""

import math
from dataclasses import dataclass, field, replace

import numpy as np

from tests.promql.script import Histogram
from tsengine.model.histograms import (
    CUSTOM_SCHEMA,
    HINT_GAUGE,
    HINT_NOT_RESET,
    HINT_RESET,
    HINT_UNKNOWN,
    KEY_BIAS,
    Histograms,
)

HINTS = {
    "unknown": HINT_UNKNOWN,
    "reset": HINT_RESET,
    "not_reset": HINT_NOT_RESET,
    "gauge": HINT_GAUGE,
}
_HINT_NAMES = {number: name for name, number in HINTS.items()}


class NotationError(Exception):
    """Histograms that can't be written or added that way."""


@dataclass(frozen=True)
class Noted:
    """One histogram; buckets by index, empty ones left out."""

    schema: int = 0
    hint: int = HINT_UNKNOWN
    count: float = 0.0
    sum: float = 0.0
    zero_threshold: float = 0.0
    zero_count: float = 0.0
    positive: dict = field(default_factory=dict)
    negative: dict = field(default_factory=dict)
    bounds: tuple = ()

    @property
    def is_custom(self):
        return self.schema == CUSTOM_SCHEMA

    def __str__(self):
        parts = [f"schema:{self.schema} count:{self.count!r} sum:{self.sum!r}"]
        if self.zero_threshold or self.zero_count:
            parts.append(f"z_bucket:{self.zero_count!r} z_bucket_w:{self.zero_threshold!r}")
        if self.is_custom:
            parts.append(f"custom_values:{list(self.bounds)}")
        for name, buckets in (("buckets", self.positive), ("n_buckets", self.negative)):
            if buckets:
                parts.append(f"{name}:{dict(sorted(buckets.items()))}")
        if self.hint != HINT_UNKNOWN:
            parts.append(f"counter_reset_hint:{_HINT_NAMES[self.hint]}")
        return "{{" + " ".join(parts) + "}}"


# --- literals ----------------------------------------------------------------------------------


def noted(keys) -> Noted:
    """The histogram of a literal's keys."""
    unknown = keys.keys() - {
        "schema", "sum", "count", "z_bucket", "z_bucket_w", "buckets", "offset", "n_buckets",
        "n_offset", "custom_values", "counter_reset_hint",
    }  # fmt: skip
    if unknown:
        raise NotationError(f"unknown keys {sorted(unknown)}")
    return Noted(
        schema=int(keys.get("schema", 0)),
        hint=HINTS[keys.get("counter_reset_hint", "unknown")],
        count=keys.get("count", 0.0),
        sum=keys.get("sum", 0.0),
        zero_threshold=keys.get("z_bucket_w", 0.0),
        zero_count=keys.get("z_bucket", 0.0),
        positive=_run(keys, "buckets", "offset"),
        negative=_run(keys, "n_buckets", "n_offset"),
        bounds=tuple(keys.get("custom_values", ())),
    )


def _run(keys, name, offset):
    first = int(keys.get(offset, 0))
    return _filled({first + i: count for i, count in enumerate(keys.get(name, ()))})


def _filled(buckets):
    return {idx: count for idx, count in buckets.items() if count != 0}


def expanded(items) -> list:
    """Items of a series, its `Histogram` items as `Noted`; the others stay as they are."""
    sums = {}
    found = []
    for item in items:
        if not isinstance(item, Histogram):
            found.append(item)
        elif item.increment is None:
            found.append(noted(item.keys))
        else:
            series = sums.setdefault((id(item.keys), id(item.increment)), [noted(item.keys)])
            while len(series) <= item.n_increments:
                series.append(_next(series[-1], noted(item.increment), item.decreasing))
            found.append(series[item.n_increments])
    return found


def _next(running, increment, decreasing):
    if running.schema > increment.schema:
        raise NotationError(f"can't add schema {increment.schema} to {running.schema}")
    return combined(running, increment, -1.0 if decreasing else 1.0)


def names_hint(item: Histogram) -> bool:
    """Whether the hint of an answer has to be that of this item."""
    keys = item.keys if item.increment is None else item.increment
    return "counter_reset_hint" in keys


# --- arithmetic --------------------------------------------------------------------------------


def combined(a: Noted, b: Noted, sign: float) -> Noted:
    """A + sign * b; the schema and the bounds become those that both can be told in."""
    if a.is_custom != b.is_custom:
        raise NotationError("custom and exponential buckets can't be added")
    hint = _combined_hint(a.hint, b.hint)
    if a.is_custom:
        shared = tuple(bound for bound in a.bounds if bound in set(b.bounds))
        a, b = _with_bounds(a, shared), _with_bounds(b, shared)
    else:
        while a.zero_threshold != b.zero_threshold:
            threshold = max(a.zero_threshold, b.zero_threshold)
            a, b = _with_zero_threshold(a, threshold), _with_zero_threshold(b, threshold)
        schema = min(a.schema, b.schema)
        a, b = _with_schema(a, schema), _with_schema(b, schema)
    return replace(
        a,
        hint=hint,
        count=a.count + sign * b.count,
        sum=a.sum + sign * b.sum,
        zero_count=a.zero_count + sign * b.zero_count,
        positive=_combined_buckets(a.positive, b.positive, sign),
        negative=_combined_buckets(a.negative, b.negative, sign),
    )


def _combined_hint(a, b):
    if a == b:
        return a
    return HINT_GAUGE if HINT_GAUGE in (a, b) else HINT_UNKNOWN


def _combined_buckets(a, b, sign):
    return _filled({idx: a.get(idx, 0.0) + sign * b.get(idx, 0.0) for idx in a.keys() | b.keys()})


def _with_bounds(histogram, bounds):
    buckets = {}
    for idx, count in sorted(histogram.positive.items()):
        upper = histogram.bounds[idx] if idx < len(histogram.bounds) else math.inf
        new = sum(bound < upper for bound in bounds)
        buckets[new] = buckets.get(new, 0.0) + count
    return replace(histogram, bounds=bounds, positive=_filled(buckets))


def _with_schema(histogram, schema):
    shift = histogram.schema - schema
    return replace(
        histogram,
        schema=schema,
        positive=_coarser(histogram.positive, shift),
        negative=_coarser(histogram.negative, shift),
    )


def _coarser(buckets, shift):
    found = {}
    for idx, count in sorted(buckets.items()):
        new = ((idx - 1) >> shift) + 1
        found[new] = found.get(new, 0.0) + count
    return _filled(found)


def _with_zero_threshold(histogram, threshold):
    """A zero bucket of at least that width; it grows to the end of a bucket that it would cut."""
    if threshold == histogram.zero_threshold:
        return histogram
    schema = histogram.schema
    filled = sorted(histogram.positive.keys() | histogram.negative.keys())
    for idx in filled:
        if upper_bound(idx - 1, schema) < threshold < upper_bound(idx, schema):
            threshold = upper_bound(idx, schema)
    inside = {idx for idx in filled if upper_bound(idx - 1, schema) < threshold}
    zero_count = histogram.zero_count
    kept = []
    for buckets in (histogram.positive, histogram.negative):
        zero_count += sum(count for idx, count in sorted(buckets.items()) if idx in inside)
        kept.append({idx: count for idx, count in buckets.items() if idx not in inside})
    return replace(
        histogram,
        zero_threshold=threshold,
        zero_count=zero_count,
        positive=kept[0],
        negative=kept[1],
    )


def upper_bound(idx, schema):
    """Upper bound of exponential bucket `idx`."""
    if schema <= 0:
        return math.ldexp(1.0, idx << -schema)
    whole, part = divmod(idx, 1 << schema)
    return math.ldexp(2.0 ** (part / (1 << schema)), whole)


# --- columns -----------------------------------------------------------------------------------


def columns(histograms) -> Histograms:
    """Histograms as a table, row by row."""
    keys, counts, offsets = [], [], [0]
    bounds, bounds_offsets, bounds_id = [], [0], []
    for histogram in histograms:
        pairs = [(-(idx + KEY_BIAS), count) for idx, count in histogram.negative.items()]
        pairs += [(idx + KEY_BIAS, count) for idx, count in histogram.positive.items()]
        keys += [key for key, _ in sorted(pairs)]
        counts += [count for _, count in sorted(pairs)]
        offsets.append(len(keys))
        if histogram.is_custom:
            bounds_id.append(len(bounds_offsets) - 1)
            bounds += histogram.bounds
            bounds_offsets.append(len(bounds))
        else:
            bounds_id.append(-1)
    return Histograms(
        schema=np.array([h.schema for h in histograms], np.int8),
        hint=np.array([h.hint for h in histograms], np.uint8),
        count=np.array([h.count for h in histograms], np.float64),
        sum=np.array([h.sum for h in histograms], np.float64),
        zero_threshold=np.array([h.zero_threshold for h in histograms], np.float64),
        zero_count=np.array([h.zero_count for h in histograms], np.float64),
        offsets=np.array(offsets, np.int64),
        keys=np.array(keys, np.int32),
        counts=np.array(counts, np.float64),
        bounds_id=np.array(bounds_id, np.int32),
        bounds_offsets=np.array(bounds_offsets, np.int64),
        bounds=np.array(bounds, np.float64),
    )


def from_columns(table: Histograms, row: int) -> Noted:
    """A row of a table."""
    positive, negative = {}, {}
    for at in range(table.offsets[row], table.offsets[row + 1]):
        key, count = int(table.keys[at]), float(table.counts[at])
        (positive if key > 0 else negative)[abs(key) - KEY_BIAS] = count
    bounds = ()
    if table.bounds_id[row] >= 0:
        first, end = table.bounds_offsets[table.bounds_id[row] :][:2]
        bounds = tuple(table.bounds[first:end].tolist())
    return Noted(
        schema=int(table.schema[row]),
        hint=int(table.hint[row]),
        count=float(table.count[row]),
        sum=float(table.sum[row]),
        zero_threshold=float(table.zero_threshold[row]),
        zero_count=float(table.zero_count[row]),
        positive=_filled(positive),
        negative=_filled(negative),
        bounds=bounds,
    )


# --- answers -----------------------------------------------------------------------------------


def difference(wanted: Noted, got: Noted, equal_floats, *, with_hint: bool) -> str | None:
    """What is wrong with an answer; None if it is the expected one.

    Parameters
    ----------
    equal_floats
        Says whether two floats are the same but for rounding.
    with_hint
        Whether the counter reset hint has to be equal too.
    """
    for name in ("schema", "zero_threshold", "bounds"):
        if getattr(wanted, name) != getattr(got, name):
            return name
    for name in ("count", "sum", "zero_count"):
        if not equal_floats(getattr(wanted, name), getattr(got, name)):
            return name
    for name in ("positive", "negative"):
        left, right = getattr(wanted, name), getattr(got, name)
        if left.keys() != right.keys():
            return f"{name} buckets"
        if not all(equal_floats(count, right[idx]) for idx, count in left.items()):
            return f"{name} counts"
    if with_hint and wanted.hint != got.hint:
        return "hint"
    return None
