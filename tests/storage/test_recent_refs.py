"""What is known of bytes of senders is forgotten for idle series, and only for these."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tsengine.storage import scratch
from tsengine.storage.memo import SenderMemo
from tsengine.storage.recent_refs import RecentRefs, RecentSeries
from tsengine.storage.trail import Trail

NONE = 0xFFFFFFFF
HOUR_MS = 3_600_000
T0 = 1_700_000_000_000 // 60_000 * 60_000


def refs_of(numbers):
    return np.array(sorted(numbers), np.uint32)


@settings(max_examples=200, deadline=None)
@given(
    known=st.sets(st.integers(0, 300) | st.integers(2**31, 2**32 - 2), max_size=20),
    asked=st.lists(st.integers(0, 400) | st.integers(2**31, 2**32 - 1), max_size=30),
    below=st.integers(0, 400) | st.integers(2**31, 2**32 - 2),
)
def test_idle_is_what_is_older_and_was_not_seen(known, asked, below):
    recent = RecentRefs(refs_of(known), below)
    expected = [ref < below and ref not in known for ref in asked]
    assert recent.is_idle(np.array(asked, np.uint32)).tolist() == expected


@settings(max_examples=100, deadline=None)
@given(
    heads=st.lists(
        st.tuples(st.integers(0, 90), st.sets(st.integers(0, 40), max_size=10)), max_size=12
    )
)
def test_series_are_recent_for_two_hours(heads):
    seen = RecentSeries()
    last_ms: dict[int, int] = {}
    now_ms, below = T0, 0
    for minutes, numbers in heads:
        now_ms += minutes * 60_000
        below = max([below, *(number + 1 for number in numbers)])
        seen.note(refs_of(numbers), below, now_ms)
        last_ms |= dict.fromkeys(numbers, now_ms)
        recent = seen.recent(now_ms)
        kept = {ref for ref, at_ms in last_ms.items() if now_ms - at_ms <= 2 * HOUR_MS}
        assert recent.refs.tolist() == sorted(kept)
        assert recent.below == below
    assert seen.n_bytes <= 8 * 41


def hashes_of(refs):
    """Any fingerprints that differ."""
    rng = np.random.default_rng(5)
    table = rng.integers(1, 2**63, (int(max(refs, default=0)) + 1, 2)).astype(np.uint64)
    return np.ascontiguousarray(table[np.asarray(refs, np.int64)]).ravel()


def found(memo, refs):
    return memo.find(hashes_of(refs), len(refs))[0].tolist()


def test_the_memo_drops_idle_series_instead_of_growing():
    memo = SenderMemo(1 << 20)
    every = np.arange(40_000)
    table = hashes_of(every).reshape(-1, 2)
    n_active = 400
    for first in range(0, 40_000, 400):
        refs = np.arange(first, first + 400)
        memo.insert(table[refs].ravel(), refs.astype(np.uint32))
        # Only the newest have samples.
        memo.note_recent(RecentRefs(refs.astype(np.uint32), first + 400))
    assert memo.n_slots <= 4096
    newest = every[-n_active:]
    assert memo.find(table[newest].ravel(), n_active)[0].tolist() == newest.tolist()
    hits = memo.find(table.ravel(), len(every))[0]
    assert set(hits.tolist()) <= {NONE, *every.tolist()}
    known = hits != NONE
    np.testing.assert_array_equal(hits[known], every[known])
    assert known.sum() <= 2048
    # A series that comes back is entered again.
    memo.insert(table[7], np.array([7], np.uint32))
    assert memo.find(table[7], 1)[0].tolist() == [7]


def test_the_memo_keeps_what_it_was_not_told_about():
    memo = SenderMemo(1 << 20)
    refs = np.arange(3000)
    table = hashes_of(refs).reshape(-1, 2)
    memo.insert(table[:1000].ravel(), refs[:1000].astype(np.uint32))
    memo.note_recent(RecentRefs(refs[:900].astype(np.uint32), 1000))
    memo.insert(table[1000:].ravel(), refs[1000:].astype(np.uint32))
    assert memo.find(table.ravel(), 3000)[0].tolist() == refs.tolist(), "a tenth is not worth it"
    memo.note_recent(RecentRefs(refs[1500:].astype(np.uint32), 3000))
    more = np.arange(3000, 6000)
    memo.insert(hashes_of(more), more.astype(np.uint32))
    hits = memo.find(hashes_of(np.arange(6000)), 6000)[0]
    assert (hits[:1500] == NONE).all()
    assert hits[1500:].tolist() == list(range(1500, 6000))


@pytest.mark.skipif(not scratch.IS_POSSIBLE, reason="Linux only")
def test_the_trail_forgets_stretches_of_idle_series():
    trail = Trail(1 << 20)
    trail.grow(100)
    trail.keys[:], trail.sizes[:] = 1, 2
    trail.grow(100_000)
    n = len(trail.sizes)
    assert n >= 100_000
    assert trail.sizes[:100].tolist() == [2] * 100
    trail.keys[:], trail.sizes[:] = np.arange(n), 50
    active = np.array([5, 3000, 70_000], np.uint32)

    trail.forget_idle(RecentRefs(active, 90_000))

    kept = np.ones(n, np.bool_)
    kept[: 90_000 // 1024 * 1024] = False
    for ref in active:
        kept[ref // 1024 * 1024 : (ref // 1024 + 1) * 1024] = True
    np.testing.assert_array_equal(trail.sizes, np.where(kept, 50, 0))
    np.testing.assert_array_equal(trail.keys, np.where(kept, np.arange(n), 0))
    trail.grow(300_000)
    np.testing.assert_array_equal(trail.sizes[:n], np.where(kept, 50, 0))
    np.testing.assert_array_equal(trail.keys[:n], np.where(kept, np.arange(n), 0))
    assert not trail.sizes[n:].any()
    trail.grow(1 << 22)
    assert len(trail.sizes) == 1 << 20, "the bound"


def test_a_small_trail_is_left_alone():
    trail = Trail(1 << 20)
    trail.grow(10)
    trail.sizes[:] = 4
    trail.forget_idle(RecentRefs(np.empty(0, np.uint32), 10))
    assert trail.sizes.tolist() == [4] * 10
