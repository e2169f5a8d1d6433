"""Windows from any mixture of tiers and samples are those of all samples."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.reference import samples, tiers
from tests.reference.samples import STALE, Model
from tests.reference.tiers import FLOATS, Windows
from tests.reference.unsynced import UnsyncedFileSystem
from tests.reference.windowtiers import bits_of, number_of
from tsengine.model.batch import SampleBatch
from tsengine.model.windows import Column
from tsengine.storage.head import Head
from tsengine.storage.mask import ALL_SEQUENCES, Mask
from tsengine.storage.part_reader import PartReader
from tsengine.storage.part_writer import write_part
from tsengine.storage.tier_reader import TierReader
from tsengine.storage.tier_stretches import STRETCHES_MAX
from tsengine.storage.tier_writer import write_tier_part
from tsengine.storage.tombstones import Tombstone
from tsengine.storage.view import DatabaseView

FS = UnsyncedFileSystem()
REFS = np.arange(4, dtype=np.uint32)
FINE, WIDE = 10, 40
LOW, HIGH = -120, 120
EVERY = (LOW + 1, HIGH)
TAME = 0x7FE1CCF385EBC8A0
"""1e308: a sum of such is infinite or not, depending on the order of additions."""


def tame(model: Model) -> Model:
    return {ref: {t: bits for t, bits in own.items() if bits != TAME} for ref, own in model.items()}


class Store:
    """Parts, parts of tiers and deletes that come one after the other, and what they amount to."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.parts: list[PartReader] = []
        self.tiers: list[TierReader] = []
        self.deletes: list[Tombstone] = []
        self.head = Head()
        self.seq = 0
        self.model: Model = {}

    def add_part(self, model: Model) -> None:
        self.seq += 1
        columns = samples.columns_of(model)
        entry = write_part(
            FS, str(self.folder), f"{self.seq:010d}", [columns],
            targets=lambda refs: np.zeros(len(refs), np.int64),
            seq_min=self.seq, seq_max=self.seq, level=0,
        )  # fmt: skip
        if entry is not None:
            self.parts.append(PartReader.open(FS, str(self.folder / entry.name), entry))
        self.model = samples.merged([self.model, model])

    def add_to_head(self, model: Model) -> None:
        self.seq += 1
        rows = [(ref, t, bits) for ref, own in model.items() for t, bits in own.items()]
        if rows:
            refs, t_ms, bits = zip(*rows, strict=True)
            batch = SampleBatch(
                np.array(refs, np.uint32), np.array(t_ms, np.int64), np.array(bits, np.uint64)
            )
            self.head.append(batch, self.seq)
        self.model = samples.merged([self.model, model])

    def build(self, width_ms: int, mint: int, maxt: int) -> None:
        seq, self.seq = self.seq, self.seq + 1
        windows = self.view().read_windows(REFS, width_ms, mint, maxt, FLOATS)
        entry = write_tier_part(
            FS, str(self.folder), f"{self.seq:010d}", [(REFS, windows)], width_ms=width_ms,
            cover=(mint, maxt), targets=lambda refs: np.zeros(len(refs), np.int64),
            seq_max=seq, level=1,
        )  # fmt: skip
        self.tiers.append(TierReader.open(FS, str(self.folder / entry.name), entry))

    def delete(self, refs: list[int], mint: int, maxt: int) -> None:
        self.seq += 1
        self.deletes.append(Tombstone(self.seq, mint, maxt, np.array(sorted(refs), np.uint32)))
        for ref in refs:
            own = self.model.get(ref, {})
            self.model[ref] = {t: x for t, x in own.items() if not mint <= t <= maxt}

    def view(self, floor_ms: int | None = None) -> DatabaseView:
        mask = Mask(self.deletes) if self.deletes else None
        return DatabaseView(None, self.parts, [self.head.view()], floor_ms, mask, self.tiers)

    def close(self) -> None:
        for reader in (*self.parts, *self.tiers):
            reader.close()


def assert_same(found: Windows, expected: Windows) -> None:
    """Equal; sums that were added in another order up to rounding."""
    assert found.keys() == expected.keys()
    for ref, windows in expected.items():
        assert found[ref].keys() == windows.keys()
        for end, window in windows.items():
            for column, bits in window.items():
                if column in (Column.SUM, Column.RESETS):
                    a, b = number_of(found[ref][end][column]), number_of(bits)
                    is_close = math.isclose(a, b, rel_tol=1e-12, abs_tol=1e-12)
                    assert is_close or (math.isnan(a) and math.isnan(b)), (ref, end, column)
                else:
                    assert found[ref][end][column] == bits, (ref, end, column)


TIMES = st.integers(LOW + 1, HIGH)
PARTS = tiers.models(TIMES).map(tame)
ENDS = st.integers(LOW // WIDE, HIGH // WIDE).map(lambda k: k * WIDE)
SPANS = st.tuples(ENDS, ENDS).map(sorted).filter(lambda e: e[0] < e[1])
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("part"), PARTS),
        st.tuples(st.just("build"), st.sampled_from([FINE, WIDE]), SPANS),
        st.tuples(
            st.just("delete"),
            st.sets(st.integers(0, 3), min_size=1),
            SPANS | st.tuples(TIMES, TIMES).map(sorted),
        ),
    ),
    min_size=1,
    max_size=8,
)


@settings(max_examples=60, deadline=None)
@given(
    STEPS, PARTS, st.sampled_from([FINE, WIDE, 2 * WIDE]), SPANS, st.sets(st.sampled_from(FLOATS))
)
def test_windows_of_any_mixture(tmp_path_factory, steps, head, width_ms, span, columns):
    store = Store(tmp_path_factory.mktemp("tiers"))
    try:
        for kind, *what in steps:
            if kind == "part":
                store.add_part(*what)
            elif kind == "delete":
                store.delete(what[0], *what[1])
            else:
                store.build(what[0], what[1][0] + 1, what[1][1])
        store.add_to_head({ref: own for ref, own in head.items() if ref == 0})
        expected = tiers.windows_of(store.model, width_ms)
        mint = span[0] // width_ms * width_ms + 1
        maxt = span[1] // width_ms * width_ms
        found = store.view().read_windows(REFS, width_ms, mint, maxt, columns)
        assert_same(
            tiers.windows_in(found, REFS.tolist(), columns),
            tiers.clipped(expected, mint, maxt, columns),
        )
    finally:
        store.close()


def rising(step: int = 1) -> dict[int, int]:
    return {t: bits_of(float(t)) for t in range(LOW + 1, HIGH + 1, step)}


@pytest.fixture
def store(tmp_path):
    store = Store(tmp_path)
    yield store
    store.close()


def test_tiers_answer_where_nothing_newer_came(store):
    store.add_part({0: rising(), 1: rising(3)})
    store.build(FINE, -39, 80)
    store.build(WIDE, -39, 40)
    view = store.view()
    assert view.tier_widths_ms == (FINE, WIDE)
    assert view.tiers_read(WIDE, -119, 120) == ("raw", "10ms", "40ms")
    assert view.tiers_read(WIDE, -39, 40) == ("40ms",)
    assert view.tiers_read(FINE, -39, 80) == ("10ms",)
    assert view.tiers_read(0, -119, 120) == ("raw",)
    assert view.covered(WIDE, -119, 0)
    assert not view.covered(WIDE, -119, -40)
    store.add_part({1: {5: 0}})
    assert store.view().tiers_read(WIDE, -39, 40) == ("raw", "40ms")
    assert store.view().tiers_read(FINE, 1, 10) == ("raw",)
    assert store.view().tiers_read(FINE, 11, 80) == ("10ms",)
    store.add_to_head({1: {50: 0}})
    assert store.view().tiers_read(FINE, 41, 50) == ("raw",)
    store.build(FINE, 1, 10)
    assert store.view().tiers_read(FINE, 1, 10) == ("10ms",)


def test_a_delete_makes_windows_dirty_and_masks_them_where_samples_are_gone(store):
    store.add_part({0: rising(), 1: rising()})
    store.build(FINE, *EVERY)
    store.delete([0], 15, 22)
    view = store.view()
    assert view.tiers_read(FINE, 11, 30) == ("raw",)
    found = tiers.windows_in(view.read_windows(REFS, FINE, *EVERY, FLOATS), REFS.tolist())
    assert_same(found, tiers.windows_of(store.model, FINE))
    # Samples before 100 are gone: what is left of the window is not known.
    old = store.view(floor_ms=100)
    assert old.tiers_read(FINE, 1, 90) == ("10ms",)
    found = tiers.windows_in(old.read_windows(REFS, FINE, 1, 90, FLOATS), REFS.tolist())
    expected = tiers.clipped(tiers.windows_of({0: rising(), 1: rising()}, FINE), 1, 90)
    del expected[0][20], expected[0][30]
    assert_same(found, expected)


def test_reads_of_nothing(store):
    store.add_part({0: rising()})
    store.build(FINE, 1, 80)
    for refs, mint, maxt in ((REFS[:0], *EVERY), (REFS, 41, 40), (REFS[1:2], *EVERY)):
        found = store.view().read_windows(refs, FINE, mint, maxt, FLOATS)
        assert tiers.windows_in(found, refs.tolist()) == {}
        assert found.n_rows == len(refs)
    assert store.view(floor_ms=50).read(REFS[1:2], *EVERY, drop_stale=True).values.tolist() == []


def test_many_dirty_windows_are_read_together(store):
    model = {0: {t: bits_of(float(t)) for t in range(1, 2001)}}
    store.add_part(model)
    store.build(FINE, 1, 2000)
    for t in (*range(5, 400, 20), *range(1005, 1400, 20), 1999):
        store.add_part({0: {t: bits_of(0.5)}})
    view = store.view()
    plan = view._answers.plan(FINE, 1, 2000)
    assert len(plan) <= STRETCHES_MAX
    assert (plan[0].mint, plan[-1].maxt) == (1, 2000)
    assert all(b.mint == a.maxt + 1 for a, b in zip(plan, plan[1:], strict=False))
    # The widest clean ranges stay with the tier.
    assert {(s.mint, s.maxt) for s in plan if s.width_ms} >= {(391, 1000), (1391, 1990)}
    found = tiers.windows_in(view.read_windows(REFS, FINE, 1, 2000, FLOATS), REFS.tolist())
    assert_same(found, tiers.windows_of(store.model, FINE))
    old = store.view(floor_ms=1001)._answers.plan(FINE, 1, 2000)
    assert all(stretch.width_ms for stretch in old if stretch.maxt <= 1000)


def test_windows_where_samples_are_gone(store):
    store.add_part({0: rising()})
    store.build(FINE, -39, 120)
    store.build(WIDE, -119, 120)
    view = store.view(floor_ms=55)
    assert view.exact_floor_ms(0, REFS) == 54
    assert view.exact_floor_ms(FINE, REFS) == -40
    assert view.exact_floor_ms(WIDE, REFS) == -120
    assert view.tiers_read(FINE, -39, 120) == ("10ms",)
    found = tiers.windows_in(view.read_windows(REFS, FINE, *EVERY, FLOATS), REFS.tolist())
    assert_same(found, tiers.clipped(tiers.windows_of({0: rising()}, FINE), -39, 120))

    def floors():
        return DatabaseView(
            None, store.parts, [], 55, None, store.tiers, tier_floors_ms={FINE: 25, WIDE: -100}
        )

    assert floors().exact_floor_ms(FINE, REFS) == 30
    # A sample of a dirty window that is partly gone is no reason to give up what the tier knows.
    store.add_part({0: {58: 0}})
    found = store.view(floor_ms=55).read_windows(REFS, FINE, 51, 60, [Column.COUNT])
    assert found.columns[Column.COUNT].tolist() == [10.0]
    assert floors().exact_floor_ms(FINE, REFS) == 60, "but it is not complete"
    found = floors().read_windows(REFS, FINE, *EVERY, [Column.COUNT])
    assert found.end_ms.tolist() == list(range(40, 121, 10))


def test_last_values_stand_for_samples_that_are_gone(store):
    model = {0: rising(3), 1: {-100: bits_of(1.0), -99: STALE, 60: bits_of(2.0)}, 2: {-50: STALE}}
    store.add_part(model)
    store.build(FINE, -39, 120)
    store.build(WIDE, -119, 120)
    view = store.view(floor_ms=50)
    assert view.tiers_read(0, -119, 120) == ("raw", "10ms", "40ms")
    assert view.tiers_read(0, -119, -40) == ("40ms",)
    assert view.tiers_read(0, 50, 120) == ("raw",)

    def read(mint, maxt, *, drop_stale):
        frames = view.read(REFS, mint, maxt, drop_stale=drop_stale)
        found = {}
        for row in range(frames.n_rows):
            axis = int(frames.row_axis[row])
            times = frames.t_ms[slice(*frames.axis_offsets[axis : axis + 2])].tolist()
            span = slice(*frames.row_offsets[row : row + 2])
            own = frames.values.view(np.uint64)[span].tolist()
            if own:
                found[row] = dict(zip(times, own, strict=True))
        return found

    def last(lo, hi):
        return max(t for t in model[0] if lo <= t <= hi)

    # Windows of 40 up to -40, then of 10; that of 50 ends with the sample at 49, -20 is a sample.
    old = [last(-119, -80), last(-79, -40), *(last(end - 9, end) for end in range(-30, 50, 10))]
    times = [*old, *(t for t in sorted(model[0]) if t >= 49)]
    found = read(*EVERY, drop_stale=False)
    assert found == {
        0: {t: bits_of(float(t)) for t in times},
        1: {-100: bits_of(1.0), -80: STALE, 60: bits_of(2.0)},
        2: {-40: STALE},
    }
    found[1].pop(-80)
    found.pop(2)
    assert read(*EVERY, drop_stale=True) == found
    assert sorted(read(-37, -22, drop_stale=True)[0]) == [last(-39, -30)]
    assert sorted(read(-37, -20, drop_stale=True)[0]) == [last(-39, -30), -20]
    assert view.live(REFS, -119, -90).tolist() == [0, 1, 2]
    assert view.bounds == (-119, 118)
    n = view.count_samples(REFS, -119, 49)
    assert n >= sum(len(own) for own in read(-119, 49, drop_stale=False).values())


def test_rules_hide_windows_without_making_tiers_dirty(store):
    store.add_part({0: rising(), 1: rising()})
    store.build(FINE, *EVERY)
    rule = Tombstone(ALL_SEQUENCES, -(2**62), 4, np.array([1], np.uint32))
    view = DatabaseView(None, store.parts, [], None, Mask([rule]), store.tiers)
    assert view.tiers_read(FINE, *EVERY) == ("10ms",)
    found = view.read_windows(REFS, FINE, *EVERY, [Column.COUNT])
    assert np.diff(found.row_offsets).tolist() == [24, 11, 0, 0]
