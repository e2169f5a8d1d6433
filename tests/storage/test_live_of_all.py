"""`DatabaseView.live_of_all` and the label calls that use it, against `live` of every series."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tsengine

HOUR = 3_600_000
T0 = 1_700_000_000_000 // HOUR * HOUR
runs = st.lists(
    st.tuples(st.sets(st.integers(0, 6), min_size=1), st.integers(0, 9), st.booleans()),
    min_size=1, max_size=5,
)  # fmt: skip


def fill(db, found):
    """Append one sample to each of some series in an hour; then perhaps flush."""
    for numbers, hour, is_flushed in found:
        labels = [{"__name__": f"m{n}", "only": f"v{n}", f"name{n % 3}": "x"} for n in numbers]
        refs = db.series_refs(labels)
        db.append_columns(refs, np.full(len(refs), T0 + hour * HOUR), np.ones(len(refs)))
        if is_flushed:
            db.flush()


def check(db, low, high):
    view = db._storage.view()
    expected = view.live(view.all_refs(), low, high)
    got = view.live_of_all(low, high)
    if got is None:
        assert len(expected) == view.catalog.n_series
    else:
        np.testing.assert_array_equal(got, expected)
        assert len(expected) < view.catalog.n_series
    rows = db.series(['{__name__!=""}'], low, high)[0]
    assert db.label_names((), low, high)[0] == sorted({name for row in rows for name in row})
    assert db.label_values("only", (), low, high)[0] == sorted(row["only"] for row in rows)


@given(runs, st.integers(-1, 10), st.integers(0, 11))
@settings(deadline=None, max_examples=12)
def test_it_is_live_of_every_series(tmp_path_factory, found, first, n_hours):
    with tsengine.open(tmp_path_factory.mktemp("db")) as db:
        fill(db, found)
        check(db, T0 + first * HOUR, T0 + (first + n_hours) * HOUR)
        check(db, -(2**62), 2**62)


@pytest.mark.parametrize("is_flushed", [False, True])
def test_hidden_series_are_left_out(tmp_path, is_flushed):
    with tsengine.open(tmp_path) as db:
        fill(db, [({0, 1, 2}, 1, True), ({1, 3}, 2, is_flushed)])
        assert db._storage.view().live_of_all(T0, T0 + 2 * HOUR) is None
        db.delete_series(["m0"])
        check(db, T0, T0 + HOUR)
        assert "v0" not in db.label_values("only", (), T0, T0 + HOUR)[0]


def test_series_past_the_retention_are_left_out(tmp_path):
    now = T0 + 9 * HOUR
    options = tsengine.Options(retention=5 * 3600.0)
    storage = tsengine.engine.Database(str(tmp_path), options, clock=lambda: now)
    with storage as db:
        fill(db, [({0, 1}, 5, True), ({2}, 8, True)])
        check(db, T0, T0 + 10 * HOUR)
        check(db, T0, T0 + 3 * HOUR)


@given(runs, st.integers(0, 3))
@settings(deadline=None, max_examples=8)
def test_series_as_json(tmp_path_factory, found, limit):
    import orjson

    with tsengine.open(tmp_path_factory.mktemp("db")) as db:
        fill(db, found)
        for selectors in (["m1"], ['{only=~"v[0-4]"}'], ["m0", '{only="v2"}', "m0"]):
            rows, is_cut = db.series(selectors, limit=limit)
            pieces, is_cut_too = db.series_json(selectors, limit=limit)
            text = b"".join(pieces)
            assert (orjson.loads(text), is_cut_too) == (rows, is_cut)
