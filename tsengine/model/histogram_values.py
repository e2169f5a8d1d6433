"""Native histograms one by one, for users and tests; columns are in `tsengine.model.histograms`."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from tsengine.model.histograms import (
    CUSTOM_SCHEMA,
    HINT_NAMES,
    KEY_BIAS,
    SCHEMA_MAX,
    SCHEMA_MIN,
    Histograms,
)
from tsengine.model.ragged import offsets_of


@dataclass(frozen=True)
class NativeHistogram:
    """One native histogram with float counts.

    ``positive, negative``: counts by bucket index; bucket i of schema s ends at 2^(i * 2^-s), of
    custom buckets (schema -53, only positive) at ``custom_bounds[i]``, the last one at +Inf.
    ``hint`` says about the sample before it: "unknown", "reset", "not_reset", or "gauge".
    Empty buckets mean nothing and are lost in a table.
    """

    schema: int = 0
    count: float = 0.0
    sum: float = 0.0
    zero_threshold: float = 0.0
    zero_count: float = 0.0
    positive: Mapping[int, float] = field(default_factory=dict)
    negative: Mapping[int, float] = field(default_factory=dict)
    custom_bounds: tuple[float, ...] = ()
    hint: str = "unknown"

    def validate(self) -> None:
        """Raise ValueError if this is no native histogram, naming what is wrong."""
        if self.hint not in HINT_NAMES:
            raise ValueError(f"hint is {self.hint!r}, not one of {', '.join(HINT_NAMES)}")
        if not self.zero_threshold >= 0.0:
            raise ValueError(f"zero_threshold is {self.zero_threshold}, below zero or NaN")
        if self.schema == CUSTOM_SCHEMA:
            self._validate_custom()
        elif SCHEMA_MIN <= self.schema <= SCHEMA_MAX:
            if self.custom_bounds:
                raise ValueError(f"custom_bounds don't go with schema {self.schema}")
            for index in (*self.positive, *self.negative):
                if not -KEY_BIAS < index < KEY_BIAS:
                    raise ValueError(f"bucket index {index} is not within +-{KEY_BIAS}")
        else:
            raise ValueError(
                f"schema is {self.schema}, not {SCHEMA_MIN} to {SCHEMA_MAX} or {CUSTOM_SCHEMA}"
            )

    def _validate_custom(self) -> None:
        bounds = self.custom_bounds
        if any(not math.isfinite(bound) for bound in bounds):
            raise ValueError("custom_bounds must be finite")
        if any(a >= b for a, b in zip(bounds, bounds[1:], strict=False)):
            raise ValueError("custom_bounds must strictly ascend")
        if any(self.negative.values()):
            raise ValueError("custom buckets can't be negative")
        if self.zero_count or self.zero_threshold:
            raise ValueError("custom buckets have no zero bucket: zero_count, zero_threshold")
        for index in self.positive:
            if not 0 <= index <= len(bounds):
                raise ValueError(f"bucket index {index} is not within 0 to {len(bounds)}")


def from_list(histograms: Sequence[NativeHistogram]) -> Histograms:
    """A table of these histograms, in their order; ValueError if one is invalid."""
    bounds_ids: dict[tuple[float, ...], int] = {}
    keys: list[int] = []
    counts: list[float] = []
    sizes: list[int] = []
    for position, histogram in enumerate(histograms):
        try:
            histogram.validate()
        except ValueError as error:
            raise ValueError(f"histogram {position}: {error}") from error
        buckets = {-(index + KEY_BIAS): count for index, count in histogram.negative.items()}
        buckets |= {index + KEY_BIAS: count for index, count in histogram.positive.items()}
        kept = sorted(key for key, count in buckets.items() if count != 0.0)
        keys += kept
        counts += [buckets[key] for key in kept]
        sizes.append(len(kept))
        if histogram.schema == CUSTOM_SCHEMA:
            bounds_ids.setdefault(histogram.custom_bounds, len(bounds_ids))
    return Histograms(
        schema=np.array([h.schema for h in histograms], np.int8),
        hint=np.array([HINT_NAMES.index(h.hint) for h in histograms], np.uint8),
        count=np.array([h.count for h in histograms], np.float64),
        sum=np.array([h.sum for h in histograms], np.float64),
        zero_threshold=np.array([h.zero_threshold for h in histograms], np.float64),
        zero_count=np.array([h.zero_count for h in histograms], np.float64),
        offsets=offsets_of(np.array(sizes, np.int64)),
        keys=np.array(keys, np.int32),
        counts=np.array(counts, np.float64),
        bounds_id=np.array(
            [bounds_ids[h.custom_bounds] if h.schema == CUSTOM_SCHEMA else -1 for h in histograms],
            np.int32,
        ),
        bounds_offsets=offsets_of(np.array([len(bounds) for bounds in bounds_ids], np.int64)),
        bounds=np.array([bound for bounds in bounds_ids for bound in bounds], np.float64),
    )


def to_list(table: Histograms) -> list[NativeHistogram]:
    """The histograms of a table, in its order."""
    return [_histogram(table, row) for row in range(len(table))]


def _histogram(table: Histograms, row: int) -> NativeHistogram:
    lo, hi = int(table.offsets[row]), int(table.offsets[row + 1])
    buckets = list(zip(table.keys[lo:hi].tolist(), table.counts[lo:hi].tolist(), strict=True))
    bounds: tuple[float, ...] = ()
    bounds_id = int(table.bounds_id[row])
    if bounds_id >= 0:
        first, last = table.bounds_offsets[bounds_id : bounds_id + 2].tolist()
        bounds = tuple(table.bounds[first:last].tolist())
    return NativeHistogram(
        schema=int(table.schema[row]),
        count=float(table.count[row]),
        sum=float(table.sum[row]),
        zero_threshold=float(table.zero_threshold[row]),
        zero_count=float(table.zero_count[row]),
        positive={key - KEY_BIAS: count for key, count in buckets if key > 0},
        negative={-key - KEY_BIAS: count for key, count in reversed(buckets) if key < 0},
        custom_bounds=bounds,
        hint=HINT_NAMES[int(table.hint[row])],
    )
