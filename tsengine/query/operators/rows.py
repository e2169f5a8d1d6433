"""Rows of several matrices put together."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tsengine.query.labelspace import LabelSpace
from tsengine.query.stepmatrix import StepMatrix


def stack_rows(space: LabelSpace, parts: Sequence[StepMatrix]) -> StepMatrix:
    """All rows of one or more matrices of equal steps, one matrix after the other, as copies."""
    valid = marks = None
    if any(part.valid is not None for part in parts):
        valid = np.concatenate([part.present() for part in parts])
    if any(part.drop_name is not None for part in parts):
        marks = np.concatenate(
            [
                np.zeros(part.n_series, np.bool_) if part.drop_name is None else part.drop_name
                for part in parts
            ]
        )
    return StepMatrix(
        labels=space.concat([part.labels for part in parts]),
        values=np.concatenate([part.values for part in parts]),
        valid=valid,
        drop_name=marks,
    )
