"""Slow twins of the kernels of native histograms: single histograms, plain dicts, exact sums.

Written from the semantics. Sums keep every contribution of a bucket and add them up exactly at the
end; layouts are reconciled one histogram after the other, as the order matters.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from tsengine.model.histogram_values import NativeHistogram

CUSTOM = -53
INF = math.inf
NAN = math.nan


def bound(schema, index):
    """Upper bound of an exponential bucket of positive values."""
    exponent = index / 2**schema if schema >= 0 else index * 2**-schema
    if exponent == 1024:
        return 1.7976931348623157e308
    if exponent > 1024:
        return INF
    return 2.0**exponent


def coarser(index, shift):
    """Index of the bucket that covers this one in a schema lower by `shift`."""
    return math.ceil(index / 2**shift)


def value_range(h, index, *, is_negative=False):
    """Bounds of a bucket in order of values."""
    if h.schema == CUSTOM:
        edges = (-INF, *h.custom_bounds, INF)
        return edges[index], edges[index + 1]
    low, high = bound(h.schema, index - 1), bound(h.schema, index)
    return (-high, -low) if is_negative else (low, high)


def cells(h, *, clipped=True):
    """Populated buckets in order of values: lower, upper, count."""
    found = [(*value_range(h, i, is_negative=True), c) for i, c in h.negative.items()]
    found += [(*value_range(h, i), c) for i, c in h.positive.items()]
    if clipped and h.schema != CUSTOM:
        z = h.zero_threshold
        found = [
            (max(low, z) if 0 < low else low, min(high, -z) if high < 0 else high, count)
            for low, high, count in found
        ]
    n_negative = sum(1 for c in h.negative.values() if c)
    found = sorted((cell for cell in found if cell[2] != 0), key=lambda cell: (cell[0], cell[1]))
    if h.schema == CUSTOM:
        found = [(*value_range(h, i), c) for i, c in sorted(h.positive.items()) if c != 0]
    if h.zero_count > 0:
        found.insert(n_negative, (-h.zero_threshold, h.zero_threshold, h.zero_count))
    return found


# Sums


@dataclass
class _Sum:
    """A sum in the making; every number is a list of contributions."""

    schema: int
    threshold: float
    total: list
    sum: list
    zero: list
    positive: dict
    negative: dict
    bounds: tuple
    hint: str


def _lists(buckets, factor):
    return {i: [factor * c] for i, c in buckets.items() if c != 0}


def _as_sum(h, factor):
    return _Sum(
        h.schema, h.zero_threshold, [factor * h.count], [factor * h.sum], [factor * h.zero_count],
        _lists(h.positive, factor), _lists(h.negative, factor), h.custom_bounds, h.hint,
    )  # fmt: skip


def _widen(s, threshold):
    """Let the zero bucket of a sum take all up to a threshold; it may not cut a bucket."""
    while True:
        cut = [
            bound(s.schema, i)
            for side in (s.positive, s.negative)
            for i, parts in side.items()
            if bound(s.schema, i - 1) < threshold < bound(s.schema, i) and math.fsum(parts) != 0
        ]
        if not cut:
            break
        threshold = max(cut)
    for side in (s.positive, s.negative):
        for i in [i for i in side if bound(s.schema, i - 1) < threshold]:
            s.zero += side.pop(i)
    s.threshold = threshold


def _regroup(side, index_of):
    grouped = {}
    for i, parts in side.items():
        grouped.setdefault(index_of(i), []).extend(parts)
    return grouped


def _reduce(s, schema):
    if s.schema > schema:
        shift = s.schema - schema
        s.positive = _regroup(s.positive, lambda i: coarser(i, shift))
        s.negative = _regroup(s.negative, lambda i: coarser(i, shift))
        s.schema = schema


def _rebound(s, bounds):
    edges = (*s.bounds, INF)
    s.positive = _regroup(
        s.positive, lambda i: next((j for j, b in enumerate(bounds) if b >= edges[i]), len(bounds))
    )
    s.bounds = bounds


def _merged_hint(a, b):
    if a == b:
        return a
    return "gauge" if "gauge" in (a, b) else "unknown"


def sum_histograms(histograms, factors, floor=8):
    """Sum of factor * histogram: the sum, or None if layouts mix, and whether bounds were reduced.

    The second is a set of positions in the list, from 1 on.
    """
    total = _as_sum(histograms[0], factors[0])
    reconciled = set()
    if total.schema != CUSTOM:
        _reduce(total, floor)
    for position, (h, factor) in enumerate(zip(histograms, factors, strict=True)):
        if position == 0:
            continue
        other = _as_sum(h, factor)
        if (other.schema == CUSTOM) != (total.schema == CUSTOM):
            return None, reconciled
        total.hint = _merged_hint(total.hint, other.hint)
        if total.schema == CUSTOM:
            if total.bounds != other.bounds:
                reconciled.add(position)
                common = tuple(b for b in total.bounds if b in other.bounds)
                _rebound(total, common)
                _rebound(other, common)
        else:
            while total.threshold != other.threshold:
                if total.threshold > other.threshold:
                    _widen(other, total.threshold)
                else:
                    _widen(total, other.threshold)
            for side in (other.positive, other.negative):
                for i in [i for i in side if bound(other.schema, i) <= total.threshold]:
                    del side[i]
            _reduce(total, other.schema)
            _reduce(other, total.schema)
        total.total += other.total
        total.sum += other.sum
        total.zero += other.zero
        for side, addend in ((total.positive, other.positive), (total.negative, other.negative)):
            for i, parts in addend.items():
                side.setdefault(i, []).extend(parts)
    return _finished(total), reconciled


def _finished(s):
    def counts(side):
        return {i: math.fsum(parts) for i, parts in side.items() if math.fsum(parts) != 0}

    return NativeHistogram(
        schema=s.schema,
        count=math.fsum(s.total),
        sum=math.fsum(s.sum),
        zero_threshold=s.threshold,
        zero_count=math.fsum(s.zero),
        positive=counts(s.positive),
        negative=counts(s.negative),
        custom_bounds=s.bounds,
        hint=s.hint,
    )


def mean_of(histograms):
    """Mean of histograms whose sum stays finite; None if layouts mix."""
    total, _ = sum_histograms(histograms, [1.0] * len(histograms))
    return None if total is None else divided(total, len(histograms))


def divided(h, n):
    return replace(
        h,
        count=h.count / n,
        sum=h.sum / n,
        zero_count=h.zero_count / n,
        positive={i: c / n for i, c in h.positive.items()},
        negative={i: c / n for i, c in h.negative.items()},
    )


def bound_sums(histograms):
    """Number of buckets that a sum of these can have at most: all different."""
    return sum(len(h.positive) + len(h.negative) for h in histograms)


def increase_of(samples):
    """Increase of a counter over consecutive samples; None if layouts mix."""
    resets = [detect_resets(a, b) for a, b in zip(samples, samples[1:], strict=False)]
    considered = samples[1:] if resets[0] else samples
    if len({h.schema == CUSTOM for h in considered}) > 1:
        return None
    items = [(samples[-1], 1.0)]
    if resets[0]:
        items.append(
            (NativeHistogram(samples[1].schema, custom_bounds=samples[1].custom_bounds), 0.0)
        )
    else:
        items.append((samples[0], -1.0))
    items += [(h, 1.0) for h, is_last in zip(samples[1:-1], resets[1:], strict=True) if is_last]
    floor = min(h.schema for h in considered)
    total, _ = sum_histograms([h for h, _ in items], [f for _, f in items], floor)
    return replace(total, hint="gauge")


# Pairs


def detect_resets(before, after, trust_not_reset=True):
    """Whether a counter was reset between two samples."""
    if after.hint == "reset":
        return True
    if trust_not_reset and after.hint == "not_reset":
        return False
    if after.count < before.count:
        return True
    if (after.schema == CUSTOM) != (before.schema == CUSTOM):
        return True
    old, new = _as_sum(before, 1.0), _as_sum(after, 1.0)
    if after.schema == CUSTOM:
        common = tuple(b for b in after.custom_bounds if b in before.custom_bounds)
        _rebound(old, common)
        _rebound(new, common)
    else:
        if after.schema > before.schema or after.zero_threshold < before.zero_threshold:
            return True
        z = after.zero_threshold
        if z > before.zero_threshold:
            _widen(old, z)
            if old.threshold != z or new.zero[0] < math.fsum(old.zero):
                return True
            # Merged buckets that end above the threshold are compared with all that is in them.
            old = _as_sum(before, 1.0)
        elif new.zero[0] < old.zero[0]:
            return True
        _reduce(old, after.schema)
        for s in (old, new):
            for side in (s.positive, s.negative):
                for i in [i for i in side if bound(after.schema, i) <= z]:
                    del side[i]
    return any(
        math.fsum(new_side.get(i, [0.0])) < math.fsum(parts)
        for old_side, new_side in ((old.positive, new.positive), (old.negative, new.negative))
        for i, parts in old_side.items()
    )


def equal_histograms(a, b):
    """Equal but for the hint, NaN being equal to itself, -0.0 not to 0.0."""
    return repr(replace(a, hint="unknown")) == repr(replace(b, hint="unknown"))


# Values


def bucket_bounds(h):
    """Bounds of all buckets but the zero bucket, cut at it, in order of values."""
    return [(low, high) for low, high, _ in cells(replace(h, zero_count=0.0))]


def _ends_at_zero(h, low, high):
    """A zero bucket ends at 0 on the side where there are no buckets."""
    if h.positive and not h.negative:
        return 0.0, high
    if h.negative and not h.positive:
        return low, 0.0
    return low, high


def _position(h, low, high, share):
    """The value below which this share of a bucket's observations lies."""
    if h.schema == CUSTOM or low <= 0 <= high:
        return low + (high - low) * share
    if low > 0:
        return low * (high / low) ** share
    return low * (high / low) ** share


def _share_below(h, low, high, v):
    """Share of a bucket's observations below v."""
    if h.schema == CUSTOM or low <= 0 <= high:
        return (v - low) / (high - low)
    return math.log(v / low) / math.log(high / low)


def histogram_quantiles(h, q):
    """The q-quantile and whether observations of NaN disturb it."""
    if math.isnan(q):
        return NAN, False
    if not 0 <= q <= 1:
        return (-INF if q < 0 else INF), False
    if h.count == 0:
        return NAN, False
    ordered = cells(h)
    from_below = q < 0.5 or math.isnan(h.sum)
    wanted = (q if from_below else 1 - q) * h.count
    passed = 0.0
    low = high = count = 0.0
    for cell in ordered if from_below else ordered[::-1]:
        passed += count
        low, high, count = cell
        if passed + count >= wanted:
            break
    if h.schema != CUSTOM and low < 0 < high:
        low, high = _ends_at_zero(h, low, high)
    if h.schema == CUSTOM and ordered:
        if low == -INF:
            if high <= 0:
                return high, False
            low = 0.0
        elif high == INF:
            return low, False
    if min(passed + count, h.count) < wanted:
        return (NAN, True) if math.isnan(h.sum) else (high, False)
    has_nans = math.isnan(h.sum) and sum(c for *_, c in ordered) < h.count
    if count == 0:
        return NAN, has_nans
    share = (wanted - passed) / count
    return _position(h, low, high, share if from_below else 1 - share), has_nans


def histogram_fractions(h, lower, upper):
    """Share of observations between two bounds, and whether observations of NaN are left out."""
    if h.count == 0 or math.isnan(lower) or math.isnan(upper):
        return NAN, False
    if lower >= upper:
        return 0.0, False
    in_buckets = sum(c for *_, c in cells(h))
    n = in_buckets if math.isnan(h.sum) else h.count

    def below(v):
        rank = 0.0
        for low, high, count in cells(h):
            if low <= 0 <= high:
                low, high = _ends_at_zero(h, low, high)
            if low >= v:
                return min(rank, n)
            if high > v:
                if h.schema == CUSTOM and low == -INF:
                    return min(count, n)
                return min(rank + count * _share_below(h, low, high, v), n)
            rank += count
        return n

    return (below(upper) - below(lower)) / h.count, math.isnan(h.sum) and n < h.count


def histogram_variances(h):
    """Variance with every observation in the middle of its bucket."""
    if h.count == 0:
        return NAN
    mean = h.sum / h.count
    parts = []
    for low, high, count in cells(h):
        if h.schema == CUSTOM:
            middle = (low + high) / 2
        elif low <= 0 <= high:
            middle = 0.0
        else:
            middle = math.copysign(math.sqrt(low * high), high)
        parts.append(count * (middle - mean) ** 2)
    if any(math.isinf(part) for part in parts):
        return INF
    return math.fsum(parts) / h.count


def _centre(h, low, high):
    """What observations between two bounds are taken for when a sum is estimated."""
    if math.isinf(low) and math.isinf(high):
        return 0.0
    if math.isinf(low):
        return high / 2 if high > 0 else high
    if math.isinf(high):
        return low
    if h.schema == CUSTOM:
        return (low + high) / 2
    return math.copysign(math.sqrt(low * high), high)


def _trimmed(h, low, high, count, threshold, upper):
    """Count left of a bucket and the value it is taken for."""
    if (high <= threshold) if upper else (low >= threshold):
        return count, _centre(h, low, high)
    if not (low < threshold if upper else high > threshold):
        return 0.0, 0.0
    if math.isinf(high):
        return (0.0, 0.0) if upper or math.isinf(low) else (count, threshold)
    if math.isinf(low):
        if high <= 0:
            return (count, threshold) if upper else (0.0, 0.0)
        if threshold < 0 or (upper and threshold == 0):
            return 0.0, 0.0
        share = threshold / high
        return (
            (count * share, threshold / 2)
            if upper
            else (count * (1 - share), (threshold + high) / 2)
        )
    below = count * _share_below(h, low, high, threshold)
    if upper:
        return below, _centre(h, low, threshold)
    return count - below, _centre(h, threshold, high)


def trim_histograms(h, threshold, upper):
    """The histogram without the observations above (`upper`) or below the threshold."""
    values = []

    def kept(side, is_negative):
        left = {}
        for i, count in sorted(side.items()):
            cell = value_range(h, i, is_negative=is_negative)
            new, value = _trimmed(h, *cell, count, threshold, upper)
            values.append((count, new, value))
            if new:
                left[i] = new
        return left

    positive, negative = kept(h.positive, False), kept(h.negative, True)
    zero_count = h.zero_count
    if zero_count > 0:
        low, high = _ends_at_zero(h, -h.zero_threshold, h.zero_threshold)
        edge = NAN if math.isnan(threshold) else min(max(threshold, low), high)
        left_low, left_high = (low, edge) if upper else (edge, high)
        if math.isnan(threshold):
            share = NAN
        elif left_low == low and left_high == high:
            share = 1.0 if (threshold > low if upper else threshold <= low) else 0.0
        else:
            share = (left_high - left_low) / (high - low)
        zero_count = h.zero_count * share
        values.append((h.zero_count, zero_count, (left_low + left_high) / 2))
    if all(old == new for old, new, _ in values):
        return h
    return replace(
        h,
        count=math.fsum(new for _, new, _ in values),
        sum=math.fsum(new * value for _, new, value in values),
        zero_count=zero_count,
        positive=positive,
        negative=negative,
    )
