"""Hypothesis strategies for histogram messages: mostly valid, with every kind of fault."""

from __future__ import annotations

from hypothesis import strategies as st

from tests.reference.histogramscan import BIAS, STALE, Message
from tests.reference.remote_write import bits_of

SPECIAL = [STALE, 0x7FF8000000000001, 0x7FFC000000000000, 0x7FFC000000000007, 1 << 63]
doubles = st.floats(allow_nan=False).map(bits_of) | st.sampled_from(SPECIAL)
float_counts = st.floats(0, 1e9).map(bits_of) | st.sampled_from([0, bits_of(3.0)])
times = st.integers(-(2**63), 2**63 - 1) | st.integers(0, 10)
counts = st.integers(0, 5) | st.integers(0, 2**40)


@st.composite
def sides(draw, *, is_float: bool, offsets, faults: bool):
    """Spans, values as they are sent, and the sum of integer counts."""
    spans = []
    for k in range(draw(st.integers(0, 3))):
        offset = draw(offsets if k == 0 else st.integers(0, 4))
        if faults and not draw(st.integers(0, 20)):
            offset = draw(st.sampled_from([-1, BIAS, 2**31 - 1, -(2**31)]))
        spans.append((offset, draw(st.integers(0, 4))))
    n = sum(length for _, length in spans)
    if faults and not draw(st.integers(0, 20)):
        n = max(0, n + draw(st.sampled_from([-1, 1])))
    if is_float:
        values = draw(st.lists(float_counts, min_size=n, max_size=n))
        if values and faults and not draw(st.integers(0, 10)):
            values[0] = draw(doubles)
        return spans, values, 0
    own = draw(st.lists(counts, min_size=n, max_size=n))
    if own and faults and not draw(st.integers(0, 20)):
        own[-1] = draw(st.integers(-(2**63), 2**63 - 1))
    values = [(b - a + 2**63) % 2**64 - 2**63 for a, b in zip([0, *own], own, strict=False)]
    return spans, values, sum(own)


@st.composite
def messages(draw, *, faults: bool = True):
    """A Histogram message; without ``faults`` a valid one."""
    is_float = draw(st.booleans())
    is_custom = draw(st.booleans())
    custom: list[int] = []
    if is_custom:
        bounds = draw(st.sets(st.floats(-1e9, 1e9), max_size=8))
        custom = [bits_of(bound) for bound in sorted(bounds)]
    offsets = st.integers(0, 3) if is_custom else st.integers(-20, 20)
    positive_spans, positive, n = draw(sides(is_float=is_float, offsets=offsets, faults=faults))
    if is_custom and not faults:
        # As many bounds as the spans reach.
        reach = sum(map(sum, positive_spans))
        custom = [bits_of(float(k)) for k in range(max(len(custom), reach - 1))]
    negative_spans: list[tuple[int, int]] = []
    negative: list[int] = []
    zero_count = threshold = 0
    if not is_custom or (faults and not draw(st.integers(0, 20))):
        negative_spans, negative, more = draw(
            sides(is_float=is_float, offsets=st.integers(-20, 20), faults=faults)
        )
        zero_count = draw(float_counts if is_float else counts)
        threshold = bits_of(draw(st.sampled_from([0.0, 2.0**-128, 0.5])))
        n += more + (0 if is_float else zero_count)
    if faults and not draw(st.integers(0, 20)):
        custom = draw(st.lists(doubles, max_size=3))
    total = draw(doubles)
    if not faults and total in SPECIAL:
        total = bits_of(1.5)
    count = draw(float_counts) if is_float else n % 2**64
    if faults and not draw(st.integers(0, 10)):
        count = draw(doubles) if is_float else draw(counts)
    schema = -53 if is_custom else draw(st.integers(-4, 8) | st.integers(9, 52))
    if faults and not draw(st.integers(0, 20)):
        schema = draw(st.sampled_from([-54, -53, -5, 53, 2**31 - 1, -(2**31), 0]))
    return Message(
        count, total, schema, threshold, zero_count, negative_spans, negative, positive_spans,
        positive, draw(st.integers(0, 4) if faults else st.integers(0, 3)), draw(times), custom,
        draw(st.just(0) | times), is_float,
    )  # fmt: skip
