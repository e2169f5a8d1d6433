"""Days that a head knows it has samples of; outside of them tiers stay clean."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from tsengine.model.batch import SampleBatch
from tsengine.storage.head import Head

DAY_MS = 86_400_000
TIMES = st.one_of(
    st.integers(-3 * DAY_MS, 3 * DAY_MS),
    st.sampled_from([-DAY_MS, 0, 1, DAY_MS, DAY_MS + 1, 9 * DAY_MS, 10 * DAY_MS]),
)


def batch_of(times):
    n = len(times)
    return SampleBatch(np.zeros(n, np.uint32), np.array(times, np.int64), np.zeros(n, np.uint64))


@settings(max_examples=100, deadline=None)
@given(st.lists(st.lists(TIMES, min_size=1, max_size=6), max_size=5))
def test_touched_spans_are_the_days_of_all_samples(batches):
    head = Head()
    for seq, times in enumerate(batches):
        head.append(batch_of(times), seq)
    times = [t for own in batches for t in own]
    assert head.view().days == {(t - 1) // DAY_MS for t in times}
    spans = head.view().touched_spans()
    assert all(any(low <= t <= high for low, high in spans) for t in times)
    assert all(first[1] < second[0] for first, second in zip(spans, spans[1:], strict=False))
    if times:
        assert (spans[0][0], spans[-1][1]) == (min(times), max(times))
    inside = {
        day for low, high in spans for day in range((low - 1) // DAY_MS, (high - 1) // DAY_MS + 1)
    }
    assert inside == head.view().days
    head.freeze()
    assert head.view().touched_spans() == spans


def test_the_earliest_time_of_all():
    head = Head()
    head.append(batch_of([-(2**63), 2**63 - 1]), 1)
    (first, last) = head.view().touched_spans()
    assert first[0] == -(2**63)
    assert last[1] == 2**63 - 1
