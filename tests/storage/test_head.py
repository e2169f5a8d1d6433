"""A head is a dictionary of samples that snapshots never lose or change."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.reference import samples
from tests.reference.histogram_tables import plain_histograms, plain_rows, table_of, values_of
from tests.reference.samples import Model
from tsengine.model.batch import SampleBatch
from tsengine.model.histograms import HANDLE_BITS, is_handle
from tsengine.storage import head as head_module
from tsengine.storage.head import Head
from tsengine.storage.head_read import HeadPieces
from tsengine.storage.run_memory import (
    N_OPEN_KEPT,
    N_SORTED_KEPT_FIRST,
    N_SORTED_KEPT_MAX,
    OPEN_BYTES,
    SORTED_BYTES,
    RunMemory,
)

ALL = (-(2**63), 2**63 - 1)

ROWS = st.lists(
    st.tuples(
        st.integers(0, 4) | st.integers(0, 2**32 - 1),
        st.integers(0, 8) | st.integers(*ALL),
        st.integers(0, 2**64 - 1),
    ),
    max_size=40,
)


def batch_of(rows: list[tuple[int, int, int]]) -> SampleBatch:
    refs, t_ms, bits = zip(*rows, strict=True) if rows else ((), (), ())
    return SampleBatch(
        np.array(refs, np.uint32), np.array(t_ms, np.int64), np.array(bits, np.uint64)
    )


@settings(max_examples=150, deadline=None)
@given(
    st.lists(ROWS, max_size=8),
    st.sampled_from([1, 7, 64, 1 << 18]),
    st.sets(st.integers(0, 6) | st.integers(0, 2**32 - 1)),
    st.tuples(st.integers(0, 8), st.integers(0, 8)) | st.just(ALL),
)
def test_every_view_is_what_was_appended_before_it(batches, run_rows, refs, span):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(head_module, "RUN_ROWS_MAX", run_rows)
        head = Head()
        model: Model = {}
        views = [(head.view(), {})]
        for seq, rows in enumerate(batches):
            head.append(batch_of(rows), seq)
            samples.add(model, batch_of(rows))
            views.append((head.view(), {ref: dict(own) for ref, own in model.items()}))
        head.freeze()
        views.append((head.view(), model))
    wanted = np.array(sorted(refs), np.uint32)
    for view, expected in views:
        assert view.refs().tolist() == sorted(expected)
        assert samples.model_of(view.collect(None, *ALL)) == expected
        found = samples.model_of(view.collect(wanted, *span))
        assert found == samples.clipped(expected, sorted(refs), *span)
        assert view.count_samples(wanted, *span) >= sum(len(own) for own in found.values())
        assert view.n_samples >= sum(len(own) for own in expected.values())
        if expected:
            times = [t for own in expected.values() for t in own]
            assert (view.mint, view.maxt) == (min(times), max(times))
        else:
            assert view.mint > view.maxt
    assert head.n_series == len(model)


def test_sequences_and_sizes_are_those_of_the_batches():
    head = Head()
    assert (head.n_samples, head.seq_min, head.seq_max) == (0, 0, 0)
    head.append(batch_of([]), 3)
    head.append(batch_of([(1, 5, 6)]), 7)
    head.append(batch_of([(1, 9, 6), (2, 1, 1)]), 12)
    assert (head.n_samples, head.seq_min, head.seq_max) == (3, 7, 12)
    assert (head.mint, head.maxt) == (1, 9)
    empty = head.n_bytes
    n = head_module.RUN_ROWS_MAX
    head.append(
        SampleBatch(np.arange(n, dtype=np.uint32), np.zeros(n, np.int64), np.zeros(n, np.uint64)),
        13,
    )
    assert head.n_bytes >= empty + 20 * n
    assert head.n_samples == n + 3


def test_a_batch_longer_than_a_run_is_split():
    n = 2 * head_module.RUN_ROWS_MAX + 17
    rng = np.random.default_rng(2)
    batch = SampleBatch(
        rng.integers(0, 1000, n).astype(np.uint32),
        rng.integers(0, 10**12, n),
        rng.integers(0, 2**63, n).astype(np.uint64),
    )
    head = Head()
    head.append(batch, 1)
    model: Model = {}
    samples.add(model, batch)
    assert samples.model_of(head.view().collect(None, *ALL)) == model


def test_a_batch_may_be_read_only_and_reused_by_its_maker():
    rows = batch_of([(1, 5, 6), (1, 6, 7)])
    head = Head()
    head.append(rows, 1)
    view = head.view()
    rows.bits[:] = 0
    assert samples.model_of(view.collect(None, *ALL)) == {1: {5: 6, 6: 7}}
    for column in (rows.refs, rows.t_ms, rows.bits):
        column.flags.writeable = False
    head.append(rows, 2)
    assert samples.model_of(head.view().collect(None, *ALL)) == {1: {5: 0, 6: 0}}


def test_a_frozen_head_refuses_samples():
    head = Head()
    head.freeze()
    with pytest.raises(AssertionError, match="frozen"):
        head.append(batch_of([(1, 5, 6)]), 1)


# --- histograms and start timestamps --------------------------------------------------------------

FINE_ROWS = st.lists(
    st.tuples(
        st.integers(0, 3), st.integers(0, 6), st.integers(0, 5) | plain_histograms,
        st.sampled_from([0, 0, 7, -(2**63)]),
    ),
    max_size=8,
)  # fmt: skip


def mixed_batch(rows, *, with_starts: bool) -> SampleBatch:
    own = [value for _, _, value, _ in rows if isinstance(value, tuple)]
    numbers = iter(range(len(own)))
    bits = [
        int(HANDLE_BITS) + next(numbers) if isinstance(value, tuple) else value
        for _, _, value, _ in rows
    ]
    batch = batch_of([(ref, t, b) for (ref, t, _, _), b in zip(rows, bits, strict=True)])
    return replace(
        batch,
        histograms=table_of(own) if own else None,
        start_ms=np.array([start for *_, start in rows], np.int64) if with_starts else None,
    )


def mixed_model(columns) -> dict:
    """{(ref, t): (value, start)} of columns; without known starts they are 0."""
    refs = np.repeat(columns.refs, np.diff(columns.offsets)).tolist()
    values = values_of(columns.bits, columns.histograms)
    starts = [0] * len(values) if columns.start_ms is None else columns.start_ms.tolist()
    times = columns.t_ms.tolist()
    return {
        (ref, t): (value, start)
        for ref, t, value, start in zip(refs, times, values, starts, strict=True)
    }


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.tuples(FINE_ROWS, st.booleans()), max_size=8),
    st.sampled_from([1, 5, 1 << 18]),
    st.sets(st.integers(0, 3)),
    st.tuples(st.integers(0, 6), st.integers(0, 6)) | st.just(ALL),
)
def test_views_give_histograms_and_start_timestamps_back(batches, run_rows, refs, span):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(head_module, "RUN_ROWS_MAX", run_rows)
        head = Head()
        model: dict = {}
        views = [(head.view(), {})]
        knows_starts = False
        for seq, (rows, with_starts) in enumerate(batches):
            head.append(mixed_batch(rows, with_starts=with_starts), seq)
            knows_starts |= with_starts and bool(rows)
            for ref, t, value, start in rows:
                model[ref, t] = (value, start if with_starts else 0)
            views.append((head.view(), dict(model)))
        head.freeze()
        views.append((head.view(), dict(model)))
    wanted = np.array(sorted(refs), np.uint32)
    for view, expected in views:
        assert mixed_model(view.collect(None, *ALL, with_starts=True)) == expected
        inside = {
            (ref, t): sample
            for (ref, t), sample in expected.items()
            if ref in refs and span[0] <= t <= span[1]
        }
        found = view.collect(wanted, *span, with_starts=True)
        assert mixed_model(found) == inside
        plain = view.collect(wanted, *span)
        assert plain.start_ms is None
        np.testing.assert_array_equal(plain.bits, found.bits)
        starts = view.start_times(wanted, *span)
        if starts is None:
            assert not view.has_starts
            assert all(start == 0 for _, start in inside.values())
        else:
            np.testing.assert_array_equal(starts.t_ms, found.t_ms)
            np.testing.assert_array_equal(starts.bits.view(np.int64), found.start_ms)
        assert view.has_histograms or found.histograms is None
        check_pieces(view, wanted, span, inside)
    assert views[-1][0].has_starts == knows_starts


def check_pieces(view, wanted, span, inside) -> None:
    """Values and histograms through the pieces that reads are made of."""
    pieces = HeadPieces(view, wanted, *span)
    n = int(pieces.sizes.sum())
    bits, t_ms = np.empty(n, np.uint64), np.empty(n, np.int64)
    positions = np.cumsum(pieces.sizes) - pieces.sizes
    every = np.arange(len(pieces.sizes))
    pieces.copy_values(every, bits, positions)
    pieces.copy_times(every, t_ms, positions)
    refs = np.repeat(wanted[pieces.rows], pieces.sizes)
    at = np.flatnonzero(is_handle(bits))[::-1]
    own = plain_rows(pieces.histograms_of(refs[at], t_ms[at], bits[at])) if len(at) else []
    assert own == [inside[int(refs[i]), int(t_ms[i])][0] for i in at.tolist()]


def test_memory_counts_tables_and_start_timestamps():
    head = Head()
    before = head.n_bytes
    bounds = tuple(range(100))
    one = (-53, 0, 1, 0, 0, 0, (), bounds)
    batch = mixed_batch([(1, t, one, 5) for t in range(64)], with_starts=True)
    head.append(batch, 1)
    n = head_module.RUN_ROWS_MAX
    assert head.n_bytes == before + 8 * n + batch.histograms.n_bytes
    for seq in range(2, 66):
        more = mixed_batch([(1, seq * 64 + t, one, 5) for t in range(64)], with_starts=True)
        head.append(more, seq)
    # Equal bounds of joined tables are kept once.
    assert head.n_bytes < before + 8 * n + 5 * batch.histograms.n_bytes
    assert plain_rows(head.view().collect(None, *ALL).histograms) == [one] * (64 * 65)


def test_memory_of_runs_is_used_again_only_when_nobody_sees_it():
    memory = RunMemory()
    size = SORTED_BYTES // 2
    first = memory.take(size)
    first[:] = 1
    columns = first[:800].view(np.int64), first[800:].view(np.uint32)[::2]
    del first
    second = memory.take(SORTED_BYTES)
    second[:] = 2
    assert memory.n_free_bytes == 0
    assert columns[0].tolist() == [0x0101010101010101] * 100
    address = columns[0].ctypes.data
    del columns
    assert memory.n_free_bytes == SORTED_BYTES
    again = memory.take(size)
    assert again.ctypes.data == address
    assert (second == 2).all()
    taken = [memory.take(size) for _ in range(N_SORTED_KEPT_FIRST + 3)]
    taken += [memory.take(OPEN_BYTES) for _ in range(N_OPEN_KEPT + 3)]
    del again, second, taken
    open_bytes = N_OPEN_KEPT * OPEN_BYTES
    assert memory.n_free_bytes == N_SORTED_KEPT_FIRST * SORTED_BYTES + open_bytes
    assert len(memory.take(10)) == 10
    assert len(memory.take(OPEN_BYTES + 1)) == OPEN_BYTES + 1


def test_as_much_memory_is_kept_as_the_head_before_had():
    memory = RunMemory()
    for n_expected, n_kept in ((12, 12), (3, 3), (1000, N_SORTED_KEPT_MAX), (0, 0)):
        memory.expect(n_expected)
        assert memory.n_free_bytes <= n_kept * SORTED_BYTES
        taken = [memory.take(SORTED_BYTES) for _ in range(N_SORTED_KEPT_MAX + 5)]
        del taken
        assert memory.n_free_bytes == n_kept * SORTED_BYTES
    n = head_module.RUN_ROWS_MAX
    head = Head(memory)
    for k in range(3):
        rows = np.zeros(n, np.uint32), np.arange(k * n, k * n + n), np.zeros(n, np.uint64)
        head.append(SampleBatch(*rows), k + 1)
    head.freeze()
    following = head.successor()
    assert memory.n_free_bytes <= OPEN_BYTES
    del head
    assert 3 * SORTED_BYTES <= memory.n_free_bytes <= 4 * SORTED_BYTES + OPEN_BYTES
    following.freeze()
    assert memory.n_free_bytes <= SORTED_BYTES + OPEN_BYTES


def test_views_of_a_head_outlive_it_and_its_successors():
    n = head_module.RUN_ROWS_MAX
    head, views = Head(), []
    for k in range(4):
        t_ms = np.arange(k, k + n + 10)
        head.append(SampleBatch(np.zeros(n + 10, np.uint32), t_ms, t_ms.astype(np.uint64)), k)
        views.append(head.view())
        head.freeze()
        views.append(head.view())
        head = head.successor()
        if k == 1:
            del views[:2]
    for k, view in zip([1, 1, 2, 2, 3, 3], views, strict=True):
        columns = view.collect(None, -(2**62), 2**62)
        assert (columns.t_ms == np.arange(k, k + n + 10)).all()
        assert (columns.bits == np.arange(k, k + n + 10)).all()


def test_start_timestamps_of_a_batch_that_failed_are_nobodys(monkeypatch):
    def batch(n: int, start_ms: int | None) -> SampleBatch:
        rows = batch_of([(ref, 1000, 0) for ref in range(n)])
        starts = None if start_ms is None else np.full(n, start_ms, np.int64)
        return replace(rows, start_ms=starts)

    def fail(*columns, **options):
        raise MemoryError

    monkeypatch.setattr(head_module, "RUN_ROWS_MAX", 32)
    head = Head()
    head.append(batch(10, None), 1)
    head.append(batch(10, 5), 2)
    with monkeypatch.context() as patch:
        patch.setattr(head_module, "sort_run", fail)
        with pytest.raises(MemoryError):
            head.append(batch(20, 777), 3)
    head.append(batch(5, None), 4)
    assert head._open.start_ms[:25].tolist() == [0] * 10 + [5] * 10 + [0] * 5


def test_slices_of_one_array_are_told_by_their_place_not_their_values():
    head = Head()
    head.append(batch_of([(ref, ref, ref) for ref in range(20)]), 1)
    view = head.view()
    postings = np.array([0, 3, 6, 18, 2, 5, 17, 0, 9], np.uint32)
    for begin, end in ((0, 4), (4, 7), (1, 3), (7, 9), (4, 6)):
        refs = postings[begin:end]
        assert view.count_samples(refs, *ALL) == len(refs)
        assert HeadPieces(view, refs, *ALL).rows.tolist() == list(range(len(refs)))
