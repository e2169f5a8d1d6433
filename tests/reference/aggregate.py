"""Slow twins of `tsengine.kernels.aggregate`: Python lists, one cell at a time."""

import math
from fractions import Fraction

MASK = (1 << 64) - 1


def column(values, valid, groups, group, t):
    """Present values of one group at one step, in row order."""
    return [
        float(values[r, t])
        for r in range(len(groups))
        if groups[r] == group and (valid is None or valid[r, t])
    ]


def cells(values, valid, groups, n_groups):
    """Every (group, step, present values)."""
    for group in range(n_groups):
        for t in range(values.shape[1]):
            yield group, t, column(values, valid, groups, group, t)


def add_sum(numbers):
    """Sum of numbers, exact but for the last rounding; None where there are none.

    A finite sum too large for a double is infinite, as it is for Kahan's sum.
    """
    if not numbers:
        return None
    if any(math.isnan(v) for v in numbers):
        return math.nan
    infinities = {v for v in numbers if math.isinf(v)}
    if infinities:
        return infinities.pop() if len(infinities) == 1 else math.nan
    exact = sum(Fraction(v) for v in numbers)
    try:
        return float(exact)
    except OverflowError:
        return math.inf if exact > 0 else -math.inf


def mean(numbers):
    """Mean of numbers that never overflows."""
    if not numbers:
        return None
    if all(math.isfinite(v) for v in numbers):
        return float(sum(Fraction(v) for v in numbers) / len(numbers))
    return add_sum(numbers)


def add_extreme(numbers, want_max):
    """Largest or smallest number; NaN only if there is nothing else."""
    if not numbers:
        return None
    best = math.nan
    for v in numbers:
        if math.isnan(best) or (v > best if want_max else v < best):
            best = v
    return best


def add_moments(numbers):
    """Population variance; NaN as soon as one number is not finite."""
    if not numbers:
        return None
    if not all(math.isfinite(v) for v in numbers):
        return math.nan
    middle = sum(Fraction(v) for v in numbers) / len(numbers)
    return float(sum((Fraction(v) - middle) ** 2 for v in numbers) / len(numbers))


def count_valid(numbers):
    """How many numbers there are."""
    return len(numbers)


def take_first(valid, groups, k):
    """Mark the first k[t] present rows of each group."""
    n_rows, n_steps = valid.shape
    marks = [[False] * n_steps for _ in range(n_rows)]
    for t in range(n_steps):
        taken = {}
        for r in range(n_rows):
            if valid[r, t] and taken.get(groups[r], 0) < k[t]:
                marks[r][t] = True
                taken[groups[r]] = taken.get(groups[r], 0) + 1
    return marks


def select_extreme(values, valid, groups, n_groups, k, want_max):
    """Mark the k[t] best rows of each group by sorting; NaN is worst, then the later row."""
    n_rows, n_steps = values.shape
    marks = [[False] * n_steps for _ in range(n_rows)]
    for t in range(n_steps):
        for group in range(n_groups):
            rows = [
                r for r in range(n_rows)
                if groups[r] == group and (valid is None or valid[r, t])
            ]  # fmt: skip
            sign = -1 if want_max else 1
            rows.sort(
                key=lambda r: (
                    math.isnan(values[r, t]), 0 if math.isnan(values[r, t]) else sign * values[r, t]
                )
            )  # fmt: skip
            for r in rows[: max(0, k[t])]:
                marks[r][t] = True
    return marks


_PRIMES = (
    11400714785074694791, 14029467366897019727, 1609587929392839161, 9650029242287828579,
    2870177450012600261,
)  # fmt: skip


def _rotate(x, n):
    return ((x << n) | (x >> (64 - n))) & MASK


def _round(acc, lane):
    return _rotate((acc + lane * _PRIMES[1]) & MASK, 31) * _PRIMES[0] & MASK


def hash_label_rows(data):
    """XXH64 of bytes, seed 0, with Python's integers."""
    p1, p2, p3, p4, p5 = _PRIMES
    n, pos = len(data), 0

    def lane(at, size=8):
        return int.from_bytes(data[at : at + size], "little")

    if n >= 32:
        acc = [(p1 + p2) & MASK, p2, 0, -p1 & MASK]
        while n - pos >= 32:
            acc = [_round(a, lane(pos + 8 * i)) for i, a in enumerate(acc)]
            pos += 32
        total = sum(_rotate(a, r) for a, r in zip(acc, (1, 7, 12, 18), strict=True)) & MASK
        for a in acc:
            total = ((total ^ _round(0, a)) * p1 + p4) & MASK
    else:
        total = p5
    total = (total + n) & MASK
    while n - pos >= 8:
        total = (_rotate(total ^ _round(0, lane(pos)), 27) * p1 + p4) & MASK
        pos += 8
    if n - pos >= 4:
        total = (_rotate(total ^ (lane(pos, 4) * p1 & MASK), 23) * p2 + p3) & MASK
        pos += 4
    for byte in data[pos:]:
        total = _rotate(total ^ (byte * p5 & MASK), 11) * p1 & MASK
    total = (total ^ (total >> 33)) * p2 & MASK
    total = (total ^ (total >> 29)) * p3 & MASK
    return total ^ (total >> 32)
