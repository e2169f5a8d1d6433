"""A head is a dictionary of samples that snapshots never lose or change."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.reference import samples
from tests.reference.samples import Model
from tsengine.model.batch import SampleBatch
from tsengine.storage import head as head_module
from tsengine.storage.head import Head

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
