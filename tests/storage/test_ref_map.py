"""Refs and rows against lists; sparse payloads against dicts of label sets."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.storage.test_catalog import make_catalog
from tsengine.errors import CorruptionError, UnsupportedFormat
from tsengine.model.labels import label_dicts
from tsengine.model.matchers import Matcher, MatchOp
from tsengine.storage import catalog_payload
from tsengine.storage.catalog_file import read_catalog_segment, write_catalog_segment
from tsengine.storage.filesystem import LocalFileSystem
from tsengine.storage.interning import NONE
from tsengine.storage.ref_map import NO_HOLES
from tsengine.storage.sealed_file import read_sealed

GOLDEN = Path(__file__).parents[1] / "golden" / "catalog-v2.cat"
GOLDEN_SERIES = {
    1: {"__name__": "up", "job": "node", "instance": "b:9100"},
    70_000: {"__name__": "temperature", "Raum": "Küche", "unit": "°C"},
}
GOLDEN_NEXT_REF = 70_009


def labels_of(i):
    return {"__name__": f"m{i % 5}", "i": str(i), "k": str(i % 7)}


def filled(n):
    catalog = make_catalog()
    catalog.series_refs([labels_of(i) for i in range(n)])
    catalog.publish()
    return catalog


def left(catalog, kept, next_ref):
    view = catalog.view()
    return catalog_payload.encode_sparse(view.state, view.refs, np.array(kept, np.uint32), next_ref)


def as_dict(catalog):
    catalog.publish()
    view = catalog.view()
    refs = view.all_refs()
    return dict(zip(refs.tolist(), label_dicts(view, view.labels(refs)), strict=True))


@given(
    st.lists(st.tuples(st.sets(st.integers(0, 30)), st.integers(0, 4), st.integers(0, 6))),
    st.lists(st.integers(0, 400)),
)
@settings(deadline=None, max_examples=100)
def test_a_map_is_a_list_of_refs(steps, asked):
    refs_of_rows = []
    next_ref = 0
    refs = NO_HOLES
    for gaps, tail, dense in steps:
        new = [next_ref + gap for gap in sorted(gaps)]
        end = (new[-1] + 1 if new else next_ref) + tail
        refs = refs.extended(len(refs_of_rows), np.array(new, np.int64), end)
        refs_of_rows += [*new, *range(end, end + dense)]
        next_ref = end + dense
        assert refs.next_ref(len(refs_of_rows)) == next_ref
    n = len(refs_of_rows)
    rows = np.append(np.arange(n, dtype=np.uint32), np.uint32(NONE))
    assert refs.refs_of(rows).tolist() == [*refs_of_rows, NONE]
    asked = [*asked, NONE, *refs_of_rows]
    expected = [refs_of_rows.index(ref) if ref in refs_of_rows else -1 for ref in asked]
    asked = np.array(asked, np.uint32)
    assert refs.rows_of(asked, n).tolist() == expected
    assert refs.has(asked, n).tolist() == [row >= 0 for row in expected]
    assert refs.has(asked, n // 2).tolist() == [0 <= row < n // 2 for row in expected]


@given(st.sets(st.integers(0, 39)), st.integers(1, 40), st.sets(st.integers(0, 60)))
@settings(deadline=None, max_examples=60)
def test_what_is_left_is_read_back_and_goes_on(kept, n, later):
    kept = sorted(ref for ref in kept if ref < n)
    catalog = filled(n)
    copy = make_catalog()
    for _ in range(2):  # a payload that is taken over twice changes nothing
        copy.decode_series(left(catalog, kept, n))
        assert as_dict(copy) == {ref: labels_of(ref) for ref in kept}
        assert (copy.next_ref, copy.n_series) == (n, len(kept))
    expected = {ref: labels_of(ref) for ref in kept}
    for i in sorted(later):
        ref = int(copy.series_refs([labels_of(i)])[0][0])
        known = [r for r, labels in expected.items() if labels == labels_of(i)]
        assert ref == (known[0] if known else copy.next_ref - 1)
        expected[ref] = labels_of(i)
    assert as_dict(copy) == expected
    # What came later is dense, and a second time some go.
    n_new = copy.next_ref - n
    again = make_catalog()
    again.decode_series(left(catalog, kept, n))
    again.decode_series(copy.encode_series(n, n_new))
    assert as_dict(again) == expected
    second = sorted(expected)[::2]
    third = make_catalog()
    third.decode_series(left(copy, second, copy.next_ref))
    assert as_dict(third) == {ref: expected[ref] for ref in second}
    assert third.next_ref == copy.next_ref


def test_a_view_finds_by_refs_and_knows_the_dead_no_more():
    catalog = filled(100)
    copy = make_catalog()
    kept = list(range(3, 100, 9))
    copy.decode_series(left(catalog, kept, 100))
    copy.publish()
    view = copy.view()
    expected = [ref for ref in kept if ref % 5 == 1]

    assert view.find([Matcher("__name__", MatchOp.EQUAL, "m1")]).tolist() == expected
    assert view.find([Matcher("__name__", MatchOp.NOT_EQUAL, "m1")]).tolist() == [
        ref for ref in kept if ref % 5 != 1
    ]
    assert view.label_values("i", None) == sorted(str(ref) for ref in kept)
    assert view.label_values("i", np.array(kept[:2], np.uint32)) == ["12", "3"]
    column = view.pair_column(np.array([4, kept[1], 12345], np.uint32), "i")
    assert column[0] == column[2] == -1
    assert view.text(view.pair_values[column[1]]) == str(kept[1])
    with pytest.raises(IndexError, match="series ref 4 "):
        view.labels(np.array([4], np.uint32))


def test_contradictions_are_refused():
    catalog = filled(10)
    copy = make_catalog()
    copy.decode_series(left(catalog, [2, 5], 10))
    with pytest.raises(CorruptionError, match="of one that was dropped"):
        copy.decode_series(catalog.encode_series(0, 10))
    with pytest.raises(CorruptionError, match="of one that was dropped"):
        copy.decode_series(left(catalog, [2, 6], 10))
    assert as_dict(copy) == {2: labels_of(2), 5: labels_of(5)}
    payload = bytearray(left(catalog, [2, 5], 10))
    payload[32:36] = (5).to_bytes(4, "little")  # the next ref would be that of the last series
    with pytest.raises(CorruptionError, match="do not ascend"):
        make_catalog().decode_series(bytes(payload))
    with pytest.raises(CorruptionError, match="cut short"):
        make_catalog().decode_series(bytes(payload[:34]))


@given(st.data())
@settings(deadline=None, max_examples=200)
def test_damaged_bytes_raise_or_give_label_sets(data):
    payload = bytearray(left(filled(12), [1, 4, 5, 11], 14 - 2))
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.integers(0, len(payload) - 1))
        payload[place] ^= data.draw(st.integers(1, 255))
    catalog = make_catalog()
    try:
        catalog.decode_series(bytes(payload))
    except CorruptionError:
        return
    assert all(labels.get("__name__") for labels in as_dict(catalog).values())


def test_golden_file_of_version_2_is_read():
    catalog = make_catalog()
    catalog.decode_series(read_catalog_segment(LocalFileSystem(), str(GOLDEN)))
    assert as_dict(catalog) == GOLDEN_SERIES
    assert catalog.next_ref == GOLDEN_NEXT_REF


def test_a_segment_has_the_version_of_its_payload(tmp_path):
    fs = LocalFileSystem()
    catalog = filled(3)
    dense, sparse = str(tmp_path / "1.cat"), str(tmp_path / "2.cat")
    write_catalog_segment(fs, dense, catalog.encode_series(0, 3))
    write_catalog_segment(fs, sparse, left(catalog, [1], 3))
    old = {"magic": b"TSECATLG", "version": 1, "what": "a catalog segment"}
    assert read_sealed(fs, dense, **old) == catalog.encode_series(0, 3)
    with pytest.raises(UnsupportedFormat, match="version 2 of a catalog segment"):
        read_sealed(fs, sparse, **old)
