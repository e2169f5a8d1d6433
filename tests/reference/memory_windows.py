"""Windows of the series of a `MemorySource`, made of its samples one by one."""

from __future__ import annotations

import numpy as np

from tests.reference.windowtiers import STALE, bits_of, end_of, sum_up_samples
from tsengine.model.histograms import Histograms, concatenate, handles
from tsengine.model.windows import HISTOGRAM_COLUMNS, TIME_COLUMNS, Column, WindowBatch
from tsengine.query.histogram_math import combine, is_reset


def windows_of(samples, width_ms):
    """Windows of one series as dicts of columns, by their ends; histograms as tables of one row."""
    floats = [(t, STALE if isinstance(v, Histograms) else bits_of(v)) for t, v in samples]
    made = {}
    for window in sum_up_samples(floats, width_ms):
        made[window["end"]] = {
            c: window[c.name.lower()] for c in Column if c.name.lower() in window
        }
    inside = {}
    for t, v in samples:
        inside.setdefault(end_of(t, width_ms), []).append((t, v))
    for end, window in made.items():
        held = [(t, v) for t, v in inside[end] if isinstance(v, Histograms)]
        last = inside[end][-1][1]
        window[Column.STALE] = float(not isinstance(last, Histograms) and bits_of(last) == STALE)
        window.update(dict.fromkeys(HISTOGRAM_COLUMNS, np.nan))
        window[Column.H_COUNT] = len(held)
        window[Column.H_FIRST_T] = held[0][0] if held else 0
        window[Column.H_LAST_T] = held[-1][0] if held else 0
        if held:
            tables = [v for _, v in held]
            window[Column.H_FIRST], window[Column.H_LAST] = tables[0], tables[-1]
            window[Column.H_SUM] = _sum(tables)
            lost = [
                a for a, b in zip(tables, tables[1:], strict=False)
                if is_reset(concatenate([a, b]), np.array([0]), np.array([1]))[0]
            ]  # fmt: skip
            if lost:
                window[Column.H_RESETS] = _sum(lost)
    return made


def _sum(tables):
    n = len(tables)
    made = combine(concatenate(tables), np.array([0, n]), np.arange(n), np.ones(n))
    return np.nan if made.is_mixed[0] else made.table


def to_batch(rows, width_ms, columns, *, share_axes):
    """Rows of windows by their ends as a batch."""
    axes, known, row_axis, row_offsets, tables = [], {}, [], [0], []
    values = {column: [] for column in columns}
    for row in rows:
        ends = tuple(sorted(row))
        if not share_axes or ends not in known:
            known[ends] = len(axes)
            axes.append(ends)
        row_axis.append(known[ends])
        row_offsets.append(row_offsets[-1] + len(ends))
        for end in ends:
            for column in columns:
                value = row[end][column]
                if isinstance(value, Histograms):
                    tables.append(value)
                    value = handles(np.array([len(tables) - 1])).view(np.float64)[0]
                values[column].append(value)
    return WindowBatch(
        width_ms=width_ms,
        end_ms=np.array([end for axis in axes for end in axis], np.int64),
        axis_offsets=np.cumsum([0] + [len(axis) for axis in axes]).astype(np.int64),
        row_axis=np.array(row_axis, np.int64),
        row_offsets=np.array(row_offsets, np.int64),
        columns={
            column: np.array(found, np.int64 if column in TIME_COLUMNS else np.float64)
            for column, found in values.items()
        },
        histograms=concatenate(tables) if tables else None,
    )
