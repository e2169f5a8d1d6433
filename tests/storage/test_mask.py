"""Masked reads over random stacks of sources are those of a dictionary that forgets."""

from __future__ import annotations

import tempfile
from contextlib import contextmanager

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.reference import samples
from tests.storage.test_select import DAY, FS, N_SERIES, batch_of, halves, source_rows
from tsengine.kernels.bits import STALE_BITS
from tsengine.model.batch import SeriesColumns
from tsengine.model.histogram_values import NativeHistogram, from_list
from tsengine.model.histograms import handles
from tsengine.storage import select
from tsengine.storage.checkpoint import chunks_of_head
from tsengine.storage.compaction import merge_parts
from tsengine.storage.head import Head
from tsengine.storage.mask import ALL_SEQUENCES, Mask, rows_of_refs
from tsengine.storage.part_reader import PartReader
from tsengine.storage.part_writer import write_part
from tsengine.storage.spans import Span, visible, without_hidden
from tsengine.storage.tombstones import Tombstone

EVER = (-(2**63), 2**63 - 1)
SPANS = [EVER, (0, 30), (11, 11), (DAY, DAY * 3), (5, 4_000_000), (-30, 12)]

tombstones = st.lists(
    st.builds(
        lambda seq, refs, span: Tombstone(seq, *span, np.array(sorted(refs), np.uint32)),
        st.one_of(st.integers(0, 12), st.just(ALL_SEQUENCES)),
        st.sets(st.integers(0, N_SERIES * 3), min_size=1, max_size=8),
        st.one_of(
            st.sampled_from(SPANS),
            st.tuples(st.integers(-30, 60), st.integers(0, 40)).map(lambda p: (p[0], sum(p))),
        ),
    ),
    max_size=5,
)


@contextmanager
def stack(parts, heads):
    """Sources with the sequences 0, 2, 4, ...: ``(readers, views, [(sequence, model)])``."""
    readers, views, models = [], [], []
    with tempfile.TemporaryDirectory() as folder:
        for number, rows in enumerate(parts):
            model = {}
            samples.add(model, batch_of(rows))
            entry = write_part(
                FS, folder, f"{number:010d}", halves(model),
                targets=lambda refs: np.where(refs > 24, -1, refs // 12),
                seq_min=2 * number, seq_max=2 * number, level=0,
            )  # fmt: skip
            if entry is not None:
                readers.append(PartReader.open(FS, f"{folder}/{number:010d}", entry))
                models.append((2 * number, model))
        for number, rows in enumerate(heads, len(parts)):
            head, model = Head(), {}
            samples.add(model, batch_of(rows))
            head.append(batch_of(rows), 2 * number)
            views.append(head.view())
            models.append((2 * number, model))
        try:
            yield readers, views, models
        finally:
            for reader in readers:
                reader.close()


def forget(models, deletes):
    """What is left of ``[(sequence, {ref: {t: bits}})]``, later sources winning."""
    left = []
    for seq, model in models:
        kept = {}
        for ref, row in model.items():
            hiding = [t for t in deletes if t.seq > seq and ref in t.refs]
            kept[ref] = {
                when: bits for when, bits in row.items()
                if not any(t.mint <= when <= t.maxt for t in hiding)
            }  # fmt: skip
        left.append(kept)
    return samples.merged(left)


@settings(max_examples=150, deadline=None)
@given(
    st.lists(source_rows(), max_size=4),
    st.lists(source_rows(), max_size=2),
    tombstones,
    st.lists(st.integers(0, N_SERIES * 3), unique=True),
    st.sampled_from(SPANS),
    st.booleans(),
)
def test_masked_reads_are_those_of_a_dictionary_that_forgets(
    parts, heads, deletes, refs, span, drop_stale
):
    mask = Mask(deletes)
    wanted = np.array(sorted(refs), np.uint32)
    with stack(parts, heads) as (readers, views, models):
        expected = samples.clipped(forget(models, deletes), wanted.tolist(), *span)
        columns = select.read_columns(readers, views, wanted, *span, mask=mask)
        assert samples.model_of(columns) == expected
        columns = select.read_columns(readers, views, wanted, *span, with_start=True, mask=mask)
        assert samples.model_of(columns) == expected
        frames = select.read_frames(readers, views, wanted, *span, drop_stale=drop_stale, mask=mask)
        rows = samples.rows_of_frames(frames)
        for ref, row in zip(wanted.tolist(), rows, strict=True):
            whole = expected.get(ref, {})
            if drop_stale:
                whole = {t: bits for t, bits in whole.items() if bits != int(STALE_BITS)}
            assert row == whole
        n_samples = sum(map(len, expected.values()))
        assert select.count_samples(readers, views, wanted, *span) >= n_samples
        hidden = mask.touching(wanted, *span)
        if hidden is not None:
            seen = wanted[select.visible_rows(readers, views, wanted, *span, hidden)].tolist()
            assert set(expected) <= set(seen)
            # Rows that are hidden altogether are not seen.
            for ref in seen:
                hiding = [t for t in deletes if ref in t.refs and t.seq == ALL_SEQUENCES]
                assert not any(t.mint <= span[0] and t.maxt >= span[1] for t in hiding)


@settings(max_examples=60, deadline=None)
@given(st.lists(source_rows(), min_size=1, max_size=4), tombstones)
def test_a_merge_leaves_out_what_is_hidden(parts, deletes):
    with stack(parts, []) as (readers, _, models), tempfile.TemporaryDirectory() as folder:
        names = iter(f"{k:010d}" for k in range(100))
        entries = merge_parts(
            FS, readers, folder, lambda: next(names), targets=lambda refs: np.zeros(len(refs), int),
            cut_before_ms=None, level=1, mask=Mask(deletes),
        )  # fmt: skip
        found = {}
        for entry in entries:
            part = PartReader.open(FS, f"{folder}/{entry.name}", entry)
            for ref, row in samples.model_of(part.collect(None, *EVER)).items():
                found.setdefault(ref, {}).update(row)
            part.close()
        assert found == {ref: row for ref, row in forget(models, deletes).items() if row}


@settings(max_examples=60, deadline=None)
@given(source_rows(), tombstones)
def test_a_flush_leaves_out_what_is_hidden(rows, deletes):
    with stack([], [rows]) as (_, [view], models):
        found = {}
        for chunk in chunks_of_head(view, Mask(deletes)) if view.n_samples else ():
            found |= samples.model_of(chunk)
        assert found == {ref: row for ref, row in forget(models, deletes).items() if row}


@settings(max_examples=300, deadline=None)
@given(
    st.lists(
        st.tuples(st.sets(st.integers(0, 5), min_size=1), st.integers(0, 20), st.integers(0, 8)),
        min_size=1, max_size=6,
    ),
    st.sampled_from([(0, 20), (3, 9), (4, 4)]),
)  # fmt: skip
def test_windows_are_what_spans_leave(given_spans, ends):
    mint, maxt = ends
    spans = [
        Span(np.array(sorted(rows)), max(mint, lo), min(maxt, lo + size))
        for rows, lo, size in given_spans
        if lo <= maxt and lo + size >= mint
    ]
    left = [list(range(mint, maxt + 1)) for _ in range(6)]
    for rows, lo, hi in spans:
        for row in rows.tolist():
            left[row] = [t for t in left[row] if not lo <= t <= hi]
    found = [[] for _ in range(6)]
    for rows, lo, hi in visible(spans, 6, mint, maxt):
        assert mint <= lo <= hi <= maxt
        assert rows.tolist() == sorted(set(rows.tolist()))
        for row in rows.tolist():
            found[row] += range(lo, hi + 1)
    assert [sorted(times) for times in found] == left


@given(*[st.sets(st.integers(0, 30)).map(sorted) for _ in range(2)])
def test_rows_of_refs(refs, wanted):
    found = rows_of_refs(np.array(refs, np.uint32), np.array(wanted, np.uint32))
    assert found.tolist() == [row for row, ref in enumerate(refs) if ref in wanted]


def test_a_mask_asks_only_for_what_it_touches():
    mask = Mask(
        [
            Tombstone(5, 10, 20, np.array([1, 3], np.uint32)),
            Tombstone(9, 15, 40, np.array([3], np.uint32)),
            Tombstone(ALL_SEQUENCES, -(2**63), 2, np.array([7], np.uint32)),
        ]
    )
    refs = np.array([0, 1, 3, 7], np.uint32)
    assert mask.touching(refs, 41, 100) is None
    assert mask.touching(np.array([0, 2], np.uint32), 0, 100) is None
    assert [t.seq for t in mask.deletes] == [5, 9]
    hidden = mask.touching(refs, 3, 30)
    assert [(s.rows.tolist(), s.lo, s.hi) for s in hidden.spans(4)] == [
        ([1, 2], 10, 20),
        ([2], 15, 30),
    ]
    assert [(s.rows.tolist(), s.lo, s.hi) for s in hidden.spans(5)] == [([2], 15, 30)]
    assert hidden.spans(9) is hidden.windows(9) is None
    assert [(s.rows.tolist(), s.lo, s.hi) for s in hidden.windows(5)] == [
        ([0, 1, 3], 3, 30),
        ([2], 3, 14),
    ]
    # Retention hides whatever the sequence.
    assert [(s.rows.tolist(), s.lo, s.hi) for s in mask.spans(refs, 10**15, -5, 1)] == [
        ([3], -5, 1)
    ]


@pytest.mark.parametrize("at", [0, 1, 2])
def test_histograms_and_starts_stay_with_their_samples(at):
    table = from_list(
        [NativeHistogram(0, float(k), 1.0, positive={0: float(k)}) for k in (1, 2, 3)]
    )
    columns = SeriesColumns(
        np.array([4, 9], np.uint32), np.array([0, 2, 3]), np.array([10, 20, 20]),
        handles(np.arange(3)), table, np.array([1, 2, 3]),
    )  # fmt: skip
    span = [Span(np.array([0]), 10, 10), Span(np.array([0]), 20, 25), Span(np.array([1]), 0, 99)][
        at
    ]
    kept = [k for k in range(3) if k != at]
    found = without_hidden(columns, [span])
    assert found.start_ms.tolist() == [columns.start_ms[k] for k in kept]
    assert found.bits.tolist() == handles(np.arange(2)).tolist()
    assert found.histograms.count.tolist() == [table.count[k] for k in kept]
    assert found.refs.tolist() == ([4] if at == 2 else [4, 9])
    assert without_hidden(columns, [Span(np.array([0, 1]), 11, 19)]) is columns
