"""Samples as a dictionary: what storage must behave like, {ref: {t: bits}}."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from tsengine.model.batch import SampleBatch, SeriesColumns
from tsengine.model.frame import FrameBatch

STALE = 0x7FF0000000000002

Model = dict[int, dict[int, int]]


def add(model: Model, batch: SampleBatch) -> None:
    for ref, t, bits in zip(
        *(c.tolist() for c in (batch.refs, batch.t_ms, batch.bits)), strict=True
    ):
        model.setdefault(ref, {})[t] = bits


def merged(models: Iterable[Model]) -> Model:
    """Later models win."""
    out: Model = {}
    for model in models:
        for ref, samples in model.items():
            out.setdefault(ref, {}).update(samples)
    return out


def clipped(model: Model, refs: Iterable[int], mint: int, maxt: int) -> Model:
    """Samples of a closed range; series without any are left out."""
    out: Model = {}
    for ref in refs:
        samples = {t: b for t, b in model.get(ref, {}).items() if mint <= t <= maxt}
        if samples:
            out[ref] = samples
    return out


def columns_of(model: Model) -> SeriesColumns:
    refs = sorted(ref for ref in model if model[ref])
    t_ms = [t for ref in refs for t in sorted(model[ref])]
    bits = [model[ref][t] for ref in refs for t in sorted(model[ref])]
    offsets = np.cumsum([0, *(len(model[ref]) for ref in refs)])
    return SeriesColumns(
        np.array(refs, np.uint32),
        offsets.astype(np.int64),
        np.array(t_ms, np.int64),
        np.array(bits, np.uint64),
    )


def model_of(columns: SeriesColumns) -> Model:
    assert (np.diff(columns.refs.astype(np.int64)) > 0).all(), "refs ascend"
    model: Model = {}
    for row, ref in enumerate(columns.refs.tolist()):
        span = slice(int(columns.offsets[row]), int(columns.offsets[row + 1]))
        t_ms = columns.t_ms[span]
        assert len(t_ms) > 0, "no empty series"
        assert (t_ms[1:] > t_ms[:-1]).all(), "times ascend strictly"
        model[ref] = dict(zip(t_ms.tolist(), columns.bits[span].tolist(), strict=True))
    return model


def rows_of_frames(frames: FrameBatch) -> list[dict[int, int]]:
    """Each row as {t: bits}; asserts the shape that FrameBatch promises."""
    n_axes = len(frames.axis_offsets) - 1
    assert frames.axis_offsets[0] == 0
    assert frames.axis_offsets[-1] == len(frames.t_ms)
    assert frames.row_offsets[0] == 0
    assert frames.row_offsets[-1] == len(frames.values)
    rows = []
    bits = frames.values.view(np.uint64)
    for row in range(frames.n_rows):
        axis = int(frames.row_axis[row])
        assert 0 <= axis < n_axes
        t_ms = frames.t_ms[frames.axis_offsets[axis] : frames.axis_offsets[axis + 1]]
        own = bits[frames.row_offsets[row] : frames.row_offsets[row + 1]]
        assert len(t_ms) == len(own)
        assert (t_ms[1:] > t_ms[:-1]).all()
        rows.append(dict(zip(t_ms.tolist(), own.tolist(), strict=True)))
    return rows
