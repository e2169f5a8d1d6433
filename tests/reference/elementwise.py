"""Slow twins of `tsengine.kernels.elementwise`."""

import math


def least(x, y):
    """Go's math.Min."""
    if -math.inf in (x, y):
        return -math.inf
    if math.isnan(x) or math.isnan(y):
        return math.nan
    if x == y == 0:
        return x if math.copysign(1, x) < 0 else y
    return min(x, y)


def greatest(x, y):
    """Go's math.Max."""
    return -least(-x, -y)


def clamp_cells(v, low, high):
    """One cell."""
    return greatest(low, least(high, v))
