"""Slow twins of `tsengine.kernels.quantiles`: sorting and lists."""

import math


def group_quantiles(numbers, q):
    """Quantile of a list by linear interpolation; NaNs sort first; None for an empty list."""
    if not numbers:
        return None
    if math.isnan(q):
        return math.nan
    if not 0 <= q <= 1:
        return math.copysign(math.inf, q)
    ordered = sorted(numbers, key=lambda v: (not math.isnan(v), 0 if math.isnan(v) else v))
    rank = q * (len(ordered) - 1)
    lower = math.floor(rank)
    upper = min(len(ordered) - 1, lower + 1)
    weight = rank - lower
    return ordered[lower] * (1 - weight) + ordered[upper] * weight


def _joined(buckets):
    """Buckets (bound, count) by bound, equal bounds summed."""
    joined = {}
    for bound, count in buckets:
        joined[bound] = joined.get(bound, 0.0) + count
    return sorted(joined.items())


def _divide(a, b):
    if b != 0:
        return a / b
    return math.nan if a == 0 or math.isnan(a) else math.copysign(math.inf, a)


def bucket_quantiles(buckets, q):
    """Quantile of classic buckets, and the bounds at which counts had to be raised."""
    if not buckets:
        return None, []
    if math.isnan(q):
        return math.nan, []
    if not 0 <= q <= 1:
        return math.copysign(math.inf, q), []
    joined = _joined(buckets)
    if joined[-1][0] != math.inf:
        return math.nan, []
    bounds = [bound for bound, _ in joined]
    counts = [count for _, count in joined]
    raised = []
    top = counts[0]
    for i in range(1, len(counts)):
        small = abs(counts[i] - top) < 1e-12 * (abs(counts[i]) + abs(top))
        if small and counts[i] != 0 and top != 0:
            counts[i] = top
        elif counts[i] < top:
            raised.append((bounds[i], top - counts[i]))
            counts[i] = top
        top = counts[i]
    if len(bounds) < 2 or counts[-1] == 0:
        return math.nan, raised
    rank = q * counts[-1]
    b = next((i for i in range(len(bounds) - 1) if counts[i] >= rank), len(bounds) - 1)
    if b == len(bounds) - 1:
        return bounds[-2], raised
    if b == 0 and bounds[0] <= 0:
        return bounds[0], raised
    start, below = (bounds[b - 1], counts[b - 1]) if b else (0.0, 0.0)
    share = _divide(rank - below, counts[b] - below)
    return start + (bounds[b] - start) * share, raised


def bucket_fractions(buckets, lower, upper):
    """Share of the observations of classic buckets between two values."""
    if not buckets:
        return None
    joined = _joined(buckets)
    total = joined[-1][1]
    if joined[-1][0] != math.inf or total == 0 or math.isnan(lower) or math.isnan(upper):
        return math.nan
    if lower >= upper:
        return 0.0
    return (_rank(joined, upper, total) - _rank(joined, lower, total)) / total


def _rank(joined, v, total):
    """Observations up to v: linear inside a bucket of finite width."""
    start = -math.inf if joined[0][0] <= 0 else 0.0
    below = 0.0
    for bound, count in joined:
        if v <= start:
            return min(below, total)
        if v < bound:
            if start == -math.inf:
                return min(count, total)
            if bound == math.inf:
                return min(below, total)
            return min(below + (count - below) * (v - start) / (bound - start), total)
        start, below = bound, count
    return total
