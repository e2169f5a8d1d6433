"""Aggregations as partial results that can be merged: of slices of rows, tiers, later shards.

A partial holds the state of G groups at T steps. `add` takes rows in, `merge` another partial of
the same shape, `finish` gives the answer; the order of adding changes results only in rounding.
A partial belongs to one thread; merge it into another one when that thread is done.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Self

import numpy as np
import numpy.typing as npt

from tsengine.kernels.aggregate import SCALE, add_extreme, add_moments, add_sum, count_valid

_F64 = npt.NDArray[np.float64]
_I64 = npt.NDArray[np.int64]
_BOOL = npt.NDArray[np.bool_]

ALL_VALID = np.empty((1, 0), np.bool_)
"""What kernels get for `valid` when every cell is present; they don't look at it."""


def valid_or_dummy(valid: _BOOL | None) -> tuple[_BOOL, bool]:
    """The two arguments `valid, all_valid` of a kernel."""
    return (ALL_VALID, True) if valid is None else (np.ascontiguousarray(valid), False)


SumKernel = Callable[[_I64, bool, _F64, _F64, _BOOL, _F64], int]
"""``(groups, may_scale, total, comp, scaled, count)``: adds rows as `add_sum`, and counts them."""


class Partial(ABC):
    """State of one aggregation: G groups, T steps.

    Attributes
    ----------
    count
        Present cells seen per group and step: f64[G, T].

    """

    count: _F64

    def __init__(self, n_groups: int, n_steps: int) -> None:
        self.count = np.zeros((n_groups, n_steps))

    def add(self, values: _F64, valid: _BOOL | None, groups: _I64) -> None:
        """Add R rows.

        Parameters
        ----------
        values
            f64[R, T], floats only: cells that hold histograms have to be absent.
        valid
            bool[R, T], or None if every cell is present.
        groups
            i64[R]: group of each row, 0 <= group < G.

        """
        n_groups, n_steps = self.count.shape
        assert values.shape == (len(groups), n_steps), "rows must match groups and steps"
        if len(groups) == 0:
            return
        in_range = groups.min() >= 0 and groups.max() < n_groups
        assert in_range, "a row's group is out of range"
        self._add(np.ascontiguousarray(values), valid, groups)

    @abstractmethod
    def _add(self, values: _F64, valid: _BOOL | None, groups: _I64) -> None: ...

    def _count(self, valid: _BOOL | None, groups: _I64) -> None:
        if valid is None:
            self.count += np.bincount(groups, minlength=len(self.count))[:, None]
        else:
            count_valid(np.ascontiguousarray(valid), groups, self.count)

    @abstractmethod
    def merge(self, other: Self) -> None:
        """Take in what another partial of the same kind and shape has seen; it is left alone."""

    @abstractmethod
    def finish(self) -> tuple[_F64, _BOOL]:
        """Result ``values: f64[G, T], valid: bool[G, T]``, arrays of the caller's own."""


class CountPartial(Partial):
    """`count`, and `group` if every answer is to be 1."""

    def __init__(self, n_groups: int, n_steps: int, *, only_presence: bool = False) -> None:
        super().__init__(n_groups, n_steps)
        self._only_presence = only_presence

    def _add(self, values: _F64, valid: _BOOL | None, groups: _I64) -> None:
        self._count(valid, groups)

    def merge(self, other: Self) -> None:
        """See `Partial.merge`."""
        self.count += other.count

    def finish(self) -> tuple[_F64, _BOOL]:
        """See `Partial.finish`."""
        valid = self.count > 0
        return (np.ones(valid.shape) if self._only_presence else self.count.copy()), valid


class SumPartial(Partial):
    """`sum` and `avg`: Kahan-Neumaier sums.

    An average whose sum would overflow goes on with ``sum * SCALE``, cell by cell (`_scaled`), so
    it is exact where Prometheus falls back to an incremental mean.
    """

    def __init__(self, n_groups: int, n_steps: int, *, mean: bool = False) -> None:
        super().__init__(n_groups, n_steps)
        self._mean = mean
        self._total = np.zeros((n_groups, n_steps))
        self._comp = np.zeros((n_groups, n_steps))
        self._scaled = np.zeros((n_groups, n_steps) if mean else (n_groups, 0), np.bool_)
        self._any_scaled = False

    def _add(self, values: _F64, valid: _BOOL | None, groups: _I64) -> None:
        cells, all_valid = valid_or_dummy(valid)
        self._any_scaled |= bool(
            add_sum(
                values, cells, all_valid, groups, self._mean, self._total, self._comp, self._scaled
            )
        )
        self._count(valid, groups)

    def merge(self, other: Self) -> None:
        """See `Partial.merge`."""
        with np.errstate(all="ignore"):
            total, comp = other._total, other._comp
            if self._mean:
                total, comp = self._align_scales(other)
            self._total, self._comp = _merge_sums(self._total, self._comp, total, comp)
        self.count += other.count

    def fold(self, kernel: SumKernel, groups: _I64) -> None:
        """Add rows that only a kernel sees, which it does by itself: ``groups: i64[R]``."""
        self._any_scaled |= bool(
            kernel(groups, self._mean, self._total, self._comp, self._scaled, self.count)
        )

    def _align_scales(self, other: Self) -> tuple[_F64, _F64]:
        """Bring both sums to one scale per cell; returns the other's sum and compensation."""
        overflows = (
            np.isinf(self._total + other._total)
            & np.isfinite(self._total)
            & np.isfinite(other._total)
        )
        scaled = self._scaled | other._scaled | overflows
        if not scaled.any():
            return other._total, other._comp
        mine = np.where(scaled & ~self._scaled, SCALE, 1.0)
        theirs = np.where(scaled & ~other._scaled, SCALE, 1.0)
        self._total *= mine
        self._comp *= mine
        self._scaled = scaled
        self._any_scaled = True
        return other._total * theirs, other._comp * theirs

    def finish(self) -> tuple[_F64, _BOOL]:
        """See `Partial.finish`."""
        valid = self.count > 0
        if not self._mean:
            return self._total + self._comp, valid
        with np.errstate(all="ignore"):
            values = self._total / self.count + self._comp / self.count
            if self._any_scaled:
                values[self._scaled] /= SCALE
        return values, valid


def _merge_sums(total: _F64, comp: _F64, other: _F64, other_comp: _F64) -> tuple[_F64, _F64]:
    """One Kahan-Neumaier step that adds whole sums."""
    new = total + other
    is_big = np.abs(total) >= np.abs(other)
    big = np.where(is_big, total, other)
    small = np.where(is_big, other, total)
    new_comp = comp + other_comp + ((big - new) + small)
    return new, np.where(np.isinf(new), 0.0, new_comp)


class ExtremePartial(Partial):
    """`min` and `max`; NaN only where all values are NaN."""

    def __init__(self, n_groups: int, n_steps: int, *, want_max: bool) -> None:
        super().__init__(n_groups, n_steps)
        self._want_max = want_max
        self._best = np.full((n_groups, n_steps), np.nan)

    def _add(self, values: _F64, valid: _BOOL | None, groups: _I64) -> None:
        cells, all_valid = valid_or_dummy(valid)
        add_extreme(values, cells, all_valid, groups, self._want_max, self._best)
        self._count(valid, groups)

    def merge(self, other: Self) -> None:
        """See `Partial.merge`."""
        # Cells the other has not seen are NaN, which never wins.
        own_groups = np.arange(len(self.count))
        add_extreme(other._best, ALL_VALID, True, own_groups, self._want_max, self._best)
        self.count += other.count

    def finish(self) -> tuple[_F64, _BOOL]:
        """See `Partial.finish`."""
        return self._best.copy(), self.count > 0


class MomentsPartial(Partial):
    """`stdvar` and `stddev` of the population, by Welford's and Chan's updates."""

    def __init__(self, n_groups: int, n_steps: int, *, root: bool) -> None:
        super().__init__(n_groups, n_steps)
        self._root = root
        self._mean = np.zeros((n_groups, n_steps))
        self._m2 = np.zeros((n_groups, n_steps))

    def _add(self, values: _F64, valid: _BOOL | None, groups: _I64) -> None:
        cells, all_valid = valid_or_dummy(valid)
        add_moments(values, cells, all_valid, groups, self.count, self._mean, self._m2)

    def merge(self, other: Self) -> None:
        """See `Partial.merge`."""
        with np.errstate(all="ignore"):
            n = self.count + other.count
            share = np.where(n > 0, other.count / n, 0.0)
            delta = other._mean - self._mean
            both = (self.count > 0) & (other.count > 0)
            shift = np.where(both, delta * delta * self.count * share, 0.0)
            self._m2 = self._m2 + other._m2 + shift
            mean = np.where(self.count > 0, self._mean + delta * share, other._mean)
            self._mean = np.where(other.count > 0, mean, self._mean)
            self.count = n

    def finish(self) -> tuple[_F64, _BOOL]:
        """See `Partial.finish`."""
        with np.errstate(all="ignore"):
            variance = self._m2 / self.count
            return (np.sqrt(variance) if self._root else variance), self.count > 0


PARTIAL_OPS = frozenset({"sum", "avg", "min", "max", "count", "group", "stddev", "stdvar"})
"""Aggregations `make_partial` knows."""


def make_partial(op: str, n_groups: int, n_steps: int) -> Partial:
    """State of the aggregation `op` (one of `PARTIAL_OPS`) that has seen nothing."""
    match op:
        case "sum" | "avg":
            return SumPartial(n_groups, n_steps, mean=op == "avg")
        case "min" | "max":
            return ExtremePartial(n_groups, n_steps, want_max=op == "max")
        case "count" | "group":
            return CountPartial(n_groups, n_steps, only_presence=op == "group")
        case "stddev" | "stdvar":
            return MomentsPartial(n_groups, n_steps, root=op == "stddev")
    raise AssertionError(f"no partial for the aggregation {op}")
