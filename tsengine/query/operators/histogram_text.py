"""Native histograms as text, the way Prometheus prints one as a label's value."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from tsengine.model.histograms import Histograms
from tsengine.query.histogram_layout import CLOSED_BOTH, bucket_bounds, bucket_rules
from tsengine.query.operators.gotext import general

_BRACKETS = ("(]", "[)", "()", "[]")
"""By the rules of `histogram_layout`."""


def texts_of(table: Histograms) -> Iterator[str]:
    """One text per histogram: count, sum, and the buckets by ascending bounds.

    Other than in the API's JSON no bucket is cut where a wide zero bucket reaches into it.
    """
    lower, upper = bucket_bounds(replace(table, zero_threshold=np.zeros(len(table))))
    rules = bucket_rules(table)
    for row in range(len(table)):
        start, end = table.offsets[row], table.offsets[row + 1]
        buckets = [
            _bucket(rules[at], lower[at], upper[at], table.counts[at]) for at in range(start, end)
        ]
        if table.zero_count[row] != 0:
            width = table.zero_threshold[row]
            n_negative = int(np.searchsorted(table.keys[start:end], 0))
            zero = _bucket(CLOSED_BOTH, -width, width, table.zero_count[row])
            buckets.insert(n_negative, zero)
        parts = [f"count:{general(table.count[row])}", f"sum:{general(table.sum[row])}", *buckets]
        yield "{" + ", ".join(parts) + "}"


def _bucket(rule: int, lower: float, upper: float, count: float) -> str:
    brackets = _BRACKETS[rule]
    return f"{brackets[0]}{general(lower)},{general(upper)}{brackets[1]}:{general(count)}"
