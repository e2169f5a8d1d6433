"""Doubles as integers: exact decimals, ordered bits, common divisors, the six kinds of specials.

Helpers of `blockcode`; the one kernel here serves tests and benches. Why division: if
|m| < 2**53 and k <= 22, both m and 10**k are doubles, so m / 10**k is the double nearest to the
decimal, which is what parsing its text gave. Multiplying by 10**-k is not.
"""

from __future__ import annotations

import numpy as np

from tsengine.kernels.bits import bits_f64, f64_bits, trailing_zeros
from tsengine.kernels.jit import F64_IN, I64_OUT, device, i64, kernel

MAX_EXPONENT = 15
"""Largest k of decimals: beyond it a double's own rounding passes for digits."""
NO_EXPONENT = -1

POWERS_OF_TEN = np.array([10.0**k for k in range(MAX_EXPONENT + 1)])

_ZERO = np.uint64(0)
_ONE = np.uint64(1)
_SIGN = np.uint64(0x8000000000000000)
_INF = np.uint64(0x7FF0000000000000)
_TWO_53 = 9007199254740992.0
_CHUNK = 64


@device
def is_special(bits):
    """NaN of any payload, an infinity, or -0.0: values that integers can't stand for."""
    return (bits & _INF) == _INF or bits == _SIGN


@device
def to_ordered(bits):
    """Map a double's bits to int64 bits with the same order as the doubles."""
    return bits ^ ((_ZERO - (bits >> np.uint64(63))) >> _ONE)


@device
def from_ordered(ordered):
    """Inverse of `to_ordered` (it is its own inverse: the sign bit stays)."""
    return ordered ^ ((_ZERO - (ordered >> np.uint64(63))) >> _ONE)


@device
def find_exponent(v, n, first_guess):
    """Find a k >= first_guess with v == rint(v * 10**k) / 10**k, |rint| < 2**53, for all n values.

    The least such k if first_guess is 0; NO_EXPONENT if none up to 15 does. A chunk that fails
    raises k, and all other chunks are looked at again with the new k.
    """
    k = first_guess
    start = 0
    left = n
    while left > 0:
        power = POWERS_OF_TEN[k]
        stop = min(start + _CHUNK, n)
        bad = 0
        too_large = 0
        for i in range(start, stop):
            scaled = v[i] * power
            m = np.rint(scaled)
            large = 0 if abs(scaled) < _TWO_53 else 1
            too_large += large
            bad += large | (0 if m / power == v[i] else 1)
        if bad == 0:
            left -= stop - start
            start = 0 if stop == n else stop
        elif too_large > 0 or k == MAX_EXPONENT:
            return NO_EXPONENT
        else:
            k += 1
            left = n
    return k


@device
def to_integers(v, n, k, x):
    """``x[i] = rint(v[i] * 10**k)`` as int64 bits."""
    power = POWERS_OF_TEN[k]
    for i in range(n):
        x[i] = np.uint64(np.int64(np.rint(v[i] * power)))


@device
def from_integers(x, lo, hi, k):
    """Replace int64 bits by the bits of m / 10**k, in place in ``x[lo:hi]``."""
    part = x[lo:hi]
    if k == 0:
        for i in range(part.shape[0]):
            part[i] = f64_bits(np.float64(np.int64(part[i])))
    else:
        power = POWERS_OF_TEN[k]
        for i in range(part.shape[0]):
            part[i] = f64_bits(np.float64(np.int64(part[i])) / power)


@device
def common_divisor(x, n):
    """Largest g that divides all differences of the int64 x (|x| < 2**62); 1 if they are all 0."""
    g = _ZERO
    for i in range(1, n):
        delta = np.int64(x[i] - x[0])
        rest = np.uint64(-delta if delta < 0 else delta)
        if rest != _ZERO and (g == _ZERO or rest % g != _ZERO):
            while rest != _ZERO:
                g, rest = rest, g % rest
            if g == _ONE:
                return g
    return g if g != _ZERO else _ONE


@device
def common_shift(x, n):
    """Number of low bits in which all x agree with the first (0 if all are equal)."""
    mixed = _ZERO
    for i in range(1, n):
        mixed |= x[i] - x[0]
    return 0 if mixed == _ZERO else trailing_zeros(mixed)


@kernel(i64(F64_IN, I64_OUT))
def decimal_exponent(v, m):
    """Least k for which all v are decimals of k digits; fills m, unless it is NO_EXPONENT."""
    k = find_exponent(v, v.shape[0], 0)
    if k >= 0:
        for i in range(v.shape[0]):
            m[i] = np.int64(np.rint(v[i] * POWERS_OF_TEN[k]))
    return k


@device
def residual_of(bits, m, k):
    """Distance in ulps from m / 10**k to the double `bits`, as int64 bits."""
    return to_ordered(bits) - to_ordered(f64_bits(np.float64(np.int64(m)) / POWERS_OF_TEN[k]))


@device
def add_residuals(x, r, lo, hi):
    """Move doubles (bits in x) by r ulps, in place in ``x[lo:hi]``."""
    for i in range(lo, hi):
        x[i] = from_ordered(to_ordered(x[i]) + r[i])


@device
def magnitude(bits):
    """Absolute value of a double given by its bits."""
    return abs(bits_f64(bits))
