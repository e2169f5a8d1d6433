"""Arbitrary native histograms."""

from __future__ import annotations

from hypothesis import strategies as st

from tsengine.model.histogram_values import NativeHistogram
from tsengine.model.histograms import CUSTOM_SCHEMA, HINT_NAMES

_counts = st.integers(1, 50).map(float) | st.floats(0.001, 1e9)
_buckets = st.dictionaries(st.integers(-20, 20), _counts, max_size=6) | st.dictionaries(
    st.integers(-300_000, 300_000), _counts, max_size=3
)


@st.composite
def native_histograms(draw):
    """Any histogram in normal form; its numbers need not make sense together."""
    sum_ = draw(st.floats())
    hint = draw(st.sampled_from(HINT_NAMES))
    if draw(st.integers(0, 3)) == 0:
        bounds = sorted({b + 0.0 for b in draw(st.sets(st.floats(-1e6, 1e6), max_size=4))})
        positive = draw(st.dictionaries(st.integers(0, len(bounds)), _counts))
        return NativeHistogram(
            schema=CUSTOM_SCHEMA, count=float(sum(positive.values())), sum=sum_,
            positive=positive,
            custom_bounds=tuple(bounds), hint=hint,
        )  # fmt: skip
    positive, negative = draw(_buckets), draw(_buckets)
    zero = draw(st.sampled_from([0.0, 1.0, 2.5]))
    return NativeHistogram(
        schema=draw(st.integers(-4, 8)),
        count=float(sum(positive.values()) + sum(negative.values()) + zero),
        sum=sum_,
        zero_threshold=draw(st.sampled_from([0.0, 2.0**-128, 1e-3, 1024.0])),
        zero_count=zero,
        positive=positive,
        negative=negative,
        hint=hint,
    )
