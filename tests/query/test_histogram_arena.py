"""The arena of a query: handles, and custom bounds that are there once."""

import numpy as np

from tests.promql.histogram_notation import columns, from_columns, noted
from tsengine.model.histograms import concatenate
from tsengine.query.histogram_arena import HistogramArena


def custom(*bounds, count=1.0):
    return noted({"schema": -53, "custom_values": list(bounds), "buckets": [count], "count": count})


def test_handles_lead_back_to_their_histograms():
    arena = HistogramArena()
    assert len(arena) == 0
    wanted = [custom(1, 2), noted({"count": 5, "buckets": [5]}), custom(3), custom(1, 2, count=9.0)]
    handles = np.concatenate([arena.add(columns(wanted[:2])), arena.add(columns(wanted[2:]))])
    assert len(arena) == 4
    assert arena.which(handles).all()
    table = arena.take(handles[::-1])
    assert [from_columns(table, row) for row in range(4)] == wanted[::-1]
    assert arena.which(np.array([np.nan, 1.0, handles[0]])).tolist() == [False, False, True]


def test_bounds_do_not_grow_with_the_operators_of_a_query():
    arena = HistogramArena()
    handles = arena.add(columns([custom(1, 2), custom(3), custom(1, 2)]))
    for _ in range(40):
        handles = arena.add(arena.take(handles))
    assert len(arena.table().bounds) == 3
    more = concatenate([arena.take(handles), columns([custom(7, 8)])])
    handles = arena.add(more)
    assert arena.table().bounds.tolist() == [1.0, 2.0, 3.0, 7.0, 8.0]
    table = arena.take(handles)
    assert [from_columns(table, row).bounds for row in range(4)] == [(1, 2), (3,), (1, 2), (7, 8)]
