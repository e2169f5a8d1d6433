"""Native histograms two by two: resets, hints, equality; and the checks of all row numbers."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from tsengine.kernels import histogram_pairs as kernels
from tsengine.kernels.histogram_buckets import columns_of
from tsengine.model.histograms import (
    HINT_GAUGE,
    HINT_NOT_RESET,
    HINT_RESET,
    HINT_UNKNOWN,
    Histograms,
)

I64Array = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]


def is_reset(table: Histograms, before: I64Array, after: I64Array) -> BoolArray:
    """Whether a counter reset lies between two samples: bool[P] for ``before, after: i64[P]``.

    The later one's hint decides if it is RESET or NOT_RESET; else a fallen count, a higher
    resolution, a smaller zero threshold, or other custom bounds do.
    """
    found: BoolArray = _resets(table, before, after, trust_not_reset=True) == kernels.IS_RESET
    return found


def derive_hints(table: Histograms, offsets: I64Array, rows: I64Array) -> npt.NDArray[np.uint8]:
    """Hints of the samples of S series as Prometheus's database gives them: u8[R].

    ``rows[offsets[s]:offsets[s + 1]]`` are the consecutive samples of a series. A gauge stays one,
    a stored RESET stays. NOT_RESET is a sample of a counter of the same layout as the one before it
    with no reset between; all others are UNKNOWN: the first one, one after a gauge, in another
    layout, or after a reset that was found by looking (Prometheus never says RESET there).
    """
    rows = checked_rows(table, rows)
    stored = table.hint[rows]
    derived = np.full(len(rows), HINT_UNKNOWN, np.uint8)
    follows = np.ones(len(rows), np.bool_)
    follows[offsets[:-1][offsets[:-1] < len(rows)]] = False
    at = np.flatnonzero(follows)
    at = at[(stored[at] != HINT_GAUGE) & (stored[at - 1] != HINT_GAUGE)]
    found = _resets(table, rows[at - 1], rows[at], trust_not_reset=False)
    derived[at[found == 0]] = HINT_NOT_RESET
    fixed = (stored == HINT_GAUGE) | (stored == HINT_RESET)
    derived[fixed] = stored[fixed]
    return derived


def equal(table: Histograms, a: I64Array, b: I64Array) -> BoolArray:
    """PromQL's ``==`` of two histograms, bool[P] for rows ``a, b: i64[P]``; hints don't matter."""
    a, b = checked_rows(table, a), checked_rows(table, b)
    check_length("b", b, len(a))
    out = np.empty(len(a), np.bool_)
    kernels.equal_histograms(columns_of(table), a, b, out)
    return out


def _resets(
    table: Histograms, before: I64Array, after: I64Array, *, trust_not_reset: bool
) -> npt.NDArray[np.uint8]:
    """What the kernel says of each pair: 0, IS_RESET, HAS_OTHER_LAYOUT."""
    before, after = checked_rows(table, before), checked_rows(table, after)
    check_length("after", after, len(before))
    out = np.empty(len(before), np.uint8)
    kernels.detect_resets(columns_of(table), before, after, trust_not_reset, out)
    return out


def checked_rows(table: Histograms, rows: npt.NDArray[np.integer]) -> I64Array:
    """The row numbers as i64, contiguous; IndexError if one is not in the table."""
    checked: I64Array = np.ascontiguousarray(rows, np.int64)
    if len(checked) and (checked.min() < 0 or checked.max() >= len(table)):
        raise IndexError(f"a row is not in the table of {len(table)} histograms")
    return checked


def check_length(name: str, column: npt.NDArray[np.generic], expected: int) -> None:
    """Raise ValueError if a column hasn't the length expected."""
    if len(column) != expected:
        raise ValueError(f"{name} has {len(column)} items, not {expected}")
