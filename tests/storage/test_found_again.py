"""Answers to matchers that a view of the catalog keeps."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.storage.test_catalog import make_catalog
from tests.storage.test_matching import distinct, label_sets, matchers, naive
from tsengine.errors import QueryError
from tsengine.model.matchers import Matcher, MatchOp
from tsengine.storage import catalog_view, value_patterns


def viewed(series):
    catalog = make_catalog()
    catalog.series_refs(series)
    catalog.publish()
    return catalog, catalog.view()


def found(view, wanted):
    try:
        return view.find(wanted).tolist()
    except QueryError:
        return None


@settings(deadline=None, max_examples=60)
@given(
    st.lists(label_sets, max_size=20).map(distinct),
    st.lists(st.lists(matchers, max_size=3), min_size=1, max_size=8),
)
def test_what_is_asked_again_is_answered_alike(series, questions):
    _, view = viewed(series)
    for wanted in questions * 2:
        assert found(view, wanted) == naive(series, wanted)


def test_new_series_are_found():
    known = [{"__name__": "up", "a": "b"}]
    catalog, view = viewed(known)
    wanted = [Matcher("__name__", MatchOp.EQUAL, "up")]
    assert view.find(wanted).tolist() == [0]
    catalog.series_refs([{"__name__": "up", "a": "c"}])
    catalog.publish()
    assert view.find(wanted).tolist() == [0]
    assert catalog.view().find(wanted).tolist() == [0, 1]


def test_what_is_kept_is_bounded(monkeypatch):
    monkeypatch.setattr(catalog_view, "_FOUND_MAX", 4)
    monkeypatch.setattr(catalog_view, "_FOUND_SERIES_MAX", 5)
    _, view = viewed([{"__name__": "up", "a": str(k)} for k in range(10)])
    for k in range(10):
        assert view.find([Matcher("a", MatchOp.EQUAL, str(k))]).tolist() == [k]
        assert len(view.found) <= 4
    assert len(view.find([Matcher("a", MatchOp.NOT_EQUAL, "7")])) == 9
    assert max(map(len, view.found.values())) <= 5


def test_which_refs_cover_a_catalog():
    _, view = viewed([{"__name__": "up", "a": str(k)} for k in range(5)])
    for refs, is_all in (
        (range(5), True), (range(7), True), (range(4), False), (range(1, 6), False),
        ([0, 1, 2, 4, 5], False), ([], False),
    ):  # fmt: skip
        assert view.is_covered(np.array(refs, np.uint32)) is is_all
    assert viewed([])[1].is_covered(np.arange(3, dtype=np.uint32)) is False


def test_long_questions_are_not_kept():
    """A client could have their texts held, which nobody counts."""
    _, view = viewed([{"__name__": "up", "a": "x"}])
    for op in MatchOp:
        for wanted in ([Matcher("a", op, "y" * 100_000)], [Matcher("a", op, "y" * 100)] * 1000):
            assert len(view.find(wanted)) == (op in (MatchOp.NOT_EQUAL, MatchOp.NOT_REGEX))
    assert not view.found
    known = value_patterns._kept.cache_info().currsize
    assert value_patterns.parse("y" * 100_000 + "|z").matches("z")
    assert value_patterns._kept.cache_info().currsize == known
