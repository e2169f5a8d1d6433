"""Functions of single cells that no numpy function computes as PromQL wants it."""

from __future__ import annotations

import numpy as np

from tsengine.kernels.jit import F64_2D_IN, F64_2D_OUT, F64_IN, OK, device, i64, kernel


@device
def _least(x, y):
    """Smaller one; NaN if either is NaN, unless the other is -Inf; -0 is below 0."""
    if x == -np.inf or y == -np.inf:
        return -np.inf
    if x != x or y != y:
        return np.nan
    if x == 0.0 and y == 0.0:
        return x if np.signbit(x) else y
    return x if x < y else y


@device
def _greatest(x, y):
    """Larger one; NaN if either is NaN, unless the other is +Inf; 0 is above -0."""
    if x == np.inf or y == np.inf:
        return np.inf
    if x != x or y != y:
        return np.nan
    if x == 0.0 and y == 0.0:
        return y if np.signbit(x) else x
    return x if x > y else y


@kernel(i64(F64_2D_IN, F64_IN, F64_IN, F64_2D_OUT))
def clamp_cells(values, low, high, out):
    """``max(low[t], min(high[t], v))`` with Go's rules for NaN. Shapes: f64[S, T], f64[T] twice."""
    for r in range(values.shape[0]):
        for t in range(values.shape[1]):
            out[r, t] = _greatest(low[t], _least(high[t], values[r, t]))
    return OK
