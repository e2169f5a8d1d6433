"""Vectors whose cells are floats or native histograms, for tests of operators."""

import numpy as np

from tests.promql.histogram_notation import Noted, columns, from_columns, noted
from tsengine.query.stepmatrix import StepMatrix


def hist(**keys) -> Noted:
    """A histogram by the keys of its literal, e.g. ``hist(count=3, buckets=[1, 2])``."""
    return noted(keys)


def matrix_of(ctx, *rows) -> StepMatrix:
    """Rows (labels, cells) as a matrix; a cell is a float, a `Noted`, or None where it is absent.

    Every other absent cell holds the handle of a histogram, which nobody may look at.
    """
    rubbish = ctx.histograms.add(columns([hist(count=77, sum=77, buckets=[77])]))[0]
    values = np.full((len(rows), ctx.n_steps), rubbish)
    valid = np.zeros(values.shape, np.bool_)
    for s, (_, cells) in enumerate(rows):
        assert len(cells) == ctx.n_steps, "a cell per step"
        for t, cell in enumerate(cells):
            valid[s, t] = cell is not None
            if isinstance(cell, Noted):
                values[s, t] = ctx.histograms.add(columns([cell]))[0]
            elif cell is not None:
                values[s, t] = cell
            elif (s + t) % 2:
                values[s, t] = -77.0
    labels = ctx.space.from_dicts([dict(labels) for labels, _ in rows])
    return StepMatrix(labels, values, None if valid.all() else valid)


def cells_of(ctx, matrix) -> dict:
    """Cells by label set (a frozenset of pairs); rows without any are left out."""
    is_histogram = ctx.histograms.which(matrix.values)
    present = matrix.present()
    found = {}
    for s, labels in enumerate(ctx.space.materialise(matrix.labels)):
        cells = [
            None
            if not present[s, t]
            else from_columns(ctx.histograms.take(matrix.values[s, t : t + 1]), 0)
            if is_histogram[s, t]
            else float(matrix.values[s, t])
            for t in range(matrix.n_steps)
        ]
        if any(cell is not None for cell in cells):
            key = frozenset(labels.items())
            assert key not in found, "a label set comes twice"
            found[key] = cells
    return found


def only_row(ctx, matrix) -> list:
    """The cells of a matrix of one row."""
    (cells,) = cells_of(ctx, matrix).values()
    return cells


def texts(ctx) -> list[str]:
    """Annotations without the places, warnings first."""
    notes = ctx.annotations.warnings + ctx.annotations.infos
    return [note.rsplit(" (", 1)[0] for note in notes]
