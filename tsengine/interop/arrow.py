"""Stored samples and query answers as Arrow; columns are handed over without copies if possible."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from tsengine.interop.histogram_columns import HISTOGRAM, floats_of, histogram_array
from tsengine.model.frame import FrameBatch
from tsengine.model.labels import LabelDictionary, LabelRows
from tsengine.model.matchers import Matcher

BATCH_SAMPLES = 1024 * 1024
"""A record batch holds about so many samples."""
LABELS = pa.map_(pa.string(), pa.string())
TIMESTAMP = pa.timestamp("ms", tz="UTC")
SELECT_SCHEMA = pa.schema(
    [
        pa.field("labels", pa.dictionary(pa.int32(), LABELS), nullable=False),
        pa.field("timestamp", TIMESTAMP, nullable=False),
        pa.field("value", pa.float64(), nullable=False),
    ]
)
HISTOGRAM_SCHEMA = SELECT_SCHEMA.append(pa.field("histogram", HISTOGRAM))
"""Of samples among which there are native histograms."""


class _View(Protocol):
    @property
    def dictionary(self) -> LabelDictionary: ...
    def find(self, matchers: Sequence[Matcher], mint: int, maxt: int) -> npt.NDArray[np.uint32]: ...
    def labels(self, refs: npt.NDArray[np.uint32]) -> LabelRows: ...
    def count_samples(self, refs: npt.NDArray[np.uint32], mint: int, maxt: int) -> int: ...
    def read(
        self, refs: npt.NDArray[np.uint32], mint: int, maxt: int, *, drop_stale: bool
    ) -> FrameBatch: ...


class _SelectView(_View, Protocol):
    def has_histograms(self, refs: npt.NDArray[np.uint32], mint: int, maxt: int) -> bool: ...


def select_reader(
    view: _SelectView, matchers: Sequence[Matcher], mint: int, maxt: int
) -> pa.RecordBatchReader:
    """Samples with mint <= t <= maxt of the matching series, by series and then time.

    All batches share one dictionary of label sets. Values keep their bits. Only if there may be
    native histograms in the range there is a column ``histogram``, null where a sample is a float;
    where it is not null the value is NaN.
    """
    refs = view.find(matchers, mint, maxt)
    has_histograms = view.has_histograms(refs, mint, maxt)
    schema = HISTOGRAM_SCHEMA if has_histograms else SELECT_SCHEMA
    dictionary = label_maps(view.dictionary, view.labels(refs))

    def batches() -> Iterator[pa.RecordBatch]:
        for start, stop, frames in read_slices(view, refs, mint, maxt):
            lengths = np.diff(frames.row_offsets)
            rows = np.repeat(np.arange(start, stop, dtype=np.int32), lengths)
            labels = pa.DictionaryArray.from_arrays(pa.array(rows), dictionary)
            times = pa.array(row_times(frames)).cast(pa.timestamp("ms")).cast(TIMESTAMP)
            columns = [labels, times, pa.array(frames.values)]
            if has_histograms:
                bits = frames.values.view(np.uint64)
                columns[2:] = [
                    pa.array(floats_of(bits)),
                    histogram_array(bits, frames.histograms),
                ]
            yield pa.record_batch(columns, schema=schema)

    return pa.RecordBatchReader.from_batches(schema, batches())


def read_slices(
    view: _View, refs: npt.NDArray[np.uint32], mint: int, maxt: int
) -> Iterator[tuple[int, int, FrameBatch]]:
    """Read all series in slices of about BATCH_SAMPLES: (first row, end row, frames)."""
    if len(refs) == 0:
        return
    n_samples = view.count_samples(refs, mint, maxt)
    n_slices = min(len(refs), max(1, -(-n_samples // BATCH_SAMPLES)))
    bounds = np.linspace(0, len(refs), n_slices + 1).astype(np.int64).tolist()
    for start, stop in zip(bounds[:-1], bounds[1:], strict=True):
        frames = view.read(refs[start:stop], mint, maxt, drop_stale=False)
        if len(frames.values):
            yield start, stop, frames


def row_times(frames: FrameBatch) -> npt.NDArray[np.int64]:
    """Timestamp of each value of a frame batch: i64[N]."""
    lengths = np.diff(frames.row_offsets)
    starts = frames.axis_offsets[:-1][frames.row_axis]
    place = np.arange(len(frames.values)) - np.repeat(frames.row_offsets[:-1], lengths)
    times: npt.NDArray[np.int64] = frames.t_ms[np.repeat(starts, lengths) + place]
    return times


def label_maps(dictionary: LabelDictionary, rows: LabelRows) -> pa.MapArray:
    """Label sets as an Arrow map array of S rows; bytes that are not UTF-8 do not occur."""
    distinct, codes = np.unique(rows.pairs, return_inverse=True)
    names, values = dictionary.pair_names, dictionary.pair_values
    name_texts = pa.array([dictionary.text(int(names[p])) for p in distinct], pa.string())
    value_texts = pa.array([dictionary.text(int(values[p])) for p in distinct], pa.string())
    codes = pa.array(codes)
    return pa.MapArray.from_arrays(
        pa.array(rows.offsets.astype(np.int32)), name_texts.take(codes), value_texts.take(codes)
    )
