"""Warnings and infos of functions that have met native histograms or start timestamps.

Slices run on several threads, so each collects bits per series; when all are done the bits become
annotations in one go.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tsengine.model.labels import LabelRows
from tsengine.promql.ast import Span
from tsengine.promql.lexer import quote
from tsengine.query.context import QueryContext
from tsengine.query.operators.histogram_cells import metric_names

Notes = npt.NDArray[np.uint16]
_BOOL = npt.NDArray[np.bool_]

MIXED = 1 << 0
"""Floats and histograms in one window."""
NOT_COUNTER = 1 << 1
NOT_GAUGE = 1 << 2
MIXED_SCHEMAS = 1 << 3
"""Exponential and custom buckets in one window."""
HINTS_CLASH = 1 << 4
AGGREGATION_RECONCILED = 1 << 5
"""Different custom bounds were brought together; so too the next two."""
SUBTRACTION_RECONCILED = 1 << 6
ADDITION_RECONCILED = 1 << 7
IGNORED = 1 << 8
"""Histograms beside the floats that were used."""
OVERLAP = 1 << 9
"""A sample begins before the one before it."""
INEXACT = 1 << 10
"""A result from windows of a tier that is not that of all samples; see `SeriesNotes.inexact`."""

_WARNINGS = {
    MIXED: "encountered a mix of histograms and floats for metric name {name}",
    NOT_COUNTER: "this native histogram metric is not a counter: {name}",
    NOT_GAUGE: "this native histogram metric is not a gauge: {name}",
    MIXED_SCHEMAS: (
        "vector contains a mix of histograms with exponential and custom buckets schemas "
        "for metric name {name}"
    ),
    HINTS_CLASH: "conflicting counter resets during histogram aggregation",
    OVERLAP: (
        "sample has start time that overlaps with previous sample timestamp for metric {name}"
    ),
}
_INFOS = {
    AGGREGATION_RECONCILED: "mismatched custom buckets were reconciled during aggregation",
    SUBTRACTION_RECONCILED: "mismatched custom buckets were reconciled during subtraction",
    ADDITION_RECONCILED: "mismatched custom buckets were reconciled during addition",
    IGNORED: (
        "ignored histograms in a range containing both floats and histograms for metric name {name}"
    ),
}


def note_rows(notes: Notes, bit: int, rows: npt.NDArray[np.integer]) -> None:
    """Set a bit for some rows, which may occur several times."""
    notes[rows] |= np.uint16(bit)


@dataclass(frozen=True, slots=True)
class SeriesNotes:
    """What was noted about the windows of some series.

    ``bits: u16[S]`` are filled by slices; `labels` are the series with their names, `span` is the
    part of the query they are about. `inexact` is the info about results that are not exact.
    """

    bits: Notes
    labels: LabelRows
    span: Span
    inexact: str = ""

    def report(self, ctx: QueryContext) -> None:
        """Make annotations of all that was collected."""
        if not self.bits.any():
            return
        for texts, add in ((_WARNINGS, ctx.add_warning), (_INFOS, ctx.add_info)):
            for bit, text in texts.items():
                rows = np.flatnonzero(self.bits & np.uint16(bit))
                if len(rows) == 0:
                    continue
                if "{name}" not in text:
                    add(text, self.span)
                    continue
                for name in dict.fromkeys(metric_names(ctx, self.labels, rows)):
                    add(text.replace("{name}", quote(name)), self.span)
        if self.inexact and (self.bits & np.uint16(INEXACT)).any():
            ctx.add_info(self.inexact, self.span)


def no_notes(labels: LabelRows, span: Span, inexact: str = "") -> SeriesNotes:
    """Notes about series of which nothing is known yet."""
    return SeriesNotes(np.zeros(len(labels), np.uint16), labels, span, inexact)
