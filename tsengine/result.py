"""The answer to a query, in whatever form its user wants."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import orjson

from tsengine.interop import prometheus_json
from tsengine.model.histogram_values import NativeHistogram, to_list
from tsengine.model.histograms import Histograms, is_handle, no_histograms, rows_of
from tsengine.model.ragged import offsets_of
from tsengine.query.answer import QueryResult, QueryStats
from tsengine.query.explain import explain
from tsengine.query.histogram_layout import CLOSED_BOTH, bucket_bounds, bucket_rules, zero_bounds
from tsengine.query.stepmatrix import RangeVector

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

_STATS = tuple(field.name for field in fields(QueryStats))


class Result:
    """Answer of `Database.query` and `Database.query_range`. Immutable; any thread."""

    def __init__(self, answer: QueryResult) -> None:
        self._answer = answer

    @property
    def type(self) -> str:
        """``vector``, ``matrix``, ``scalar`` or ``string``."""
        return self._answer.type

    @property
    def labels(self) -> list[dict[str, str]]:
        """One dict per series, in the order of the rows; made when first asked for."""
        return self._answer.labels

    @property
    def timestamps(self) -> npt.NDArray[np.int64]:
        """Evaluation times: i64[T], ms."""
        return self._answer.timestamps

    @property
    def warnings(self) -> list[str]:
        """What makes the answer doubtful, with positions."""
        return self._answer.warnings

    @property
    def infos(self) -> list[str]:
        """What may be a mistake in the query, with positions."""
        return self._answer.infos

    @property
    def stats(self) -> dict[str, Any]:
        """What the query cost: seconds, samples and bytes; see `QueryStats`."""
        return {name: getattr(self._answer.stats, name) for name in _STATS}

    @property
    def plan(self) -> str:
        """How the query was evaluated: one step a line, inputs indented."""
        return "" if self._answer.plan is None else explain(self._answer.plan, self._answer.choices)

    @property
    def size_bytes(self) -> int:
        """Memory of the columns."""
        return self._answer.size_bytes

    @property
    def n_samples(self) -> int:
        """Samples in the answer."""
        return self._answer.n_samples

    @property
    def string(self) -> str:
        """The text of a string result."""
        if self._answer.text is None:
            raise TypeError(f"the result is a {self.type}, not a string")
        return self._answer.text

    @property
    def is_range_vector(self) -> bool:
        """Whether it is a range vector: samples with times of their own; see `series`."""
        return self._answer.samples is not None

    def __len__(self) -> int:
        """Number of series."""
        return len(self._answer.rows)

    def __repr__(self) -> str:
        return f"<Result {self.type}: {len(self)} series x {len(self.timestamps)} steps>"

    def to_numpy(self) -> npt.NDArray[np.float64]:
        """Values f64[S, T]; NaN where absent, and where there is a native histogram.

        A view where nothing is absent: don't write to it.
        """
        if self.is_range_vector:
            raise TypeError("a range vector has no common steps; use series()")
        answer = self._answer
        values = answer.values
        if answer.valid is not None:
            values = np.where(answer.valid, values, np.nan)
        if answer.histograms is not None:
            values = np.where(is_handle(values.view(np.uint64)), np.nan, values)
        return values

    def validity(self) -> npt.NDArray[np.bool_]:
        """Where there is a sample: bool[S, T]; tells a NaN or a histogram from an absent one."""
        answer = self._answer
        if answer.valid is None:
            return np.ones(answer.values.shape, np.bool_)
        return answer.valid

    def series(
        self,
    ) -> list[tuple[dict[str, str], npt.NDArray[np.int64], npt.NDArray[np.float64]]]:
        """(labels, times i64[n] in ms, values f64[n]) of each series.

        Absent steps and native histograms are left out.
        """
        offsets, t_ms, values = _chosen(*self._columns(), ~self._which_histograms())
        return [
            (labels, t_ms[offsets[s] : offsets[s + 1]], values[offsets[s] : offsets[s + 1]])
            for s, labels in enumerate(self.labels)
        ]

    def histograms(
        self,
    ) -> list[tuple[dict[str, str], npt.NDArray[np.int64], list[NativeHistogram]]]:
        """(labels, times i64[n] in ms, n native histograms) of each series."""
        offsets, t_ms, values = _chosen(*self._columns(), self._which_histograms())
        table = self._answer.histograms or no_histograms()
        found = to_list(table.take(rows_of(values.view(np.uint64))))
        return [
            (labels, t_ms[offsets[s] : offsets[s + 1]], found[offsets[s] : offsets[s + 1]])
            for s, labels in enumerate(self.labels)
        ]

    def to_arrow(self) -> pa.Table:
        """Columns ``labels`` (dictionary-encoded map), ``timestamp`` (ms, UTC), ``value``.

        With native histograms there is a fourth one, ``histogram``, a struct as in
        `Database.select`: null where the sample is a float; where it is not, ``value`` is NaN.
        """
        import pyarrow as pa

        from tsengine.interop.arrow import HISTOGRAM_SCHEMA, LABELS, SELECT_SCHEMA, TIMESTAMP
        from tsengine.interop.histogram_columns import floats_of, histogram_array

        if self.type == "string":
            raise TypeError("a string has no table")
        offsets, t_ms, values = self._columns()
        maps = pa.array([list(labels.items()) for labels in self.labels], LABELS)
        rows = np.repeat(np.arange(len(offsets) - 1, dtype=np.int32), np.diff(offsets))
        labels = pa.DictionaryArray.from_arrays(pa.array(rows), maps)
        times = pa.array(t_ms).cast(pa.timestamp("ms")).cast(TIMESTAMP)
        table = self._answer.histograms
        if table is None:
            return pa.table([labels, times, pa.array(values)], schema=SELECT_SCHEMA)
        bits = np.ascontiguousarray(values).view(np.uint64)
        columns = [labels, times, pa.array(floats_of(bits)), histogram_array(bits, table)]
        return pa.table(columns, schema=HISTOGRAM_SCHEMA)

    def to_arrow_stream(self) -> bytes:
        """`to_arrow` as an Arrow IPC stream.

        The schema's metadata has ``resultType`` and, when there are any, ``warnings`` and
        ``infos`` as JSON lists.
        """
        import pyarrow as pa

        metadata = {"resultType": self.type}
        for key, notes in (("warnings", self.warnings), ("infos", self.infos)):
            if notes:
                metadata[key] = orjson.dumps(notes).decode()
        table = self.to_arrow().replace_schema_metadata(metadata)
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, table.schema) as writer:
            writer.write_table(table)
        stream: bytes = sink.getvalue().to_pybytes()
        return stream

    def to_csv(self) -> bytes:
        """A line per sample: a column per label name, sorted, ``timestamp`` (s), ``value``.

        A native histogram's value is its JSON as in `to_json`.
        """
        from tsengine.interop import csv

        if self._answer.text is not None:
            return csv.string_csv(int(self.timestamps[0]), self._answer.text)
        return csv.csv_bytes(self.labels, *self._columns(), self._histogram_texts())

    def to_pandas(self) -> pd.DataFrame:
        """One column per series (a MultiIndex of its labels), one row per time; needs pandas.

        Native histograms are NaN, as in `to_numpy`.
        """
        import pandas as pd

        if self.type == "string":
            raise TypeError("a string has no table")
        names = sorted({name for labels in self.labels for name in labels})
        columns = pd.MultiIndex.from_tuples(
            [tuple(labels.get(name, "") for name in names) for labels in self.labels],
            names=names,
        ) if names else pd.RangeIndex(len(self))  # fmt: skip
        if self.is_range_vector:
            parts = [
                pd.Series(values, index=pd.to_datetime(t_ms, unit="ms", utc=True))
                for _, t_ms, values in self.series()
            ]
            frame = pd.concat(parts, axis=1) if parts else pd.DataFrame()
            frame.columns = columns
            return frame.sort_index()
        index = pd.to_datetime(self.timestamps, unit="ms", utc=True)
        index.name = "timestamp"
        return pd.DataFrame(self.to_numpy().T, index=index, columns=columns)

    def to_prometheus(self) -> dict[str, Any]:
        """The value of "data" in Prometheus's HTTP API: resultType and result."""
        data: dict[str, Any] = orjson.loads(self.to_json())
        return data

    def to_json(self) -> bytes:
        """`to_prometheus` as JSON text."""
        return b"".join(self.json_pieces())

    def json_pieces(
        self, new_buffer: prometheus_json.NewBuffer | None = None
    ) -> Iterator[bytes | memoryview]:
        """`to_json` in pieces, for who wants to send the first before the last is written.

        With `new_buffer`, which makes a buffer of at least so many bytes, the pieces of a large
        answer are such buffers.
        """
        answer = self._answer
        if answer.text is not None:
            yield prometheus_json.string_json(int(self.timestamps[0]), answer.text)
        elif answer.type == "scalar":
            value = float(answer.values[0, 0])
            yield prometheus_json.scalar_json(int(self.timestamps[0]), value)
        elif answer.type == "vector":
            yield from prometheus_json.vector_json(self._json_series(), new_buffer)
        else:
            yield from prometheus_json.matrix_json(self._json_series(), new_buffer)

    def _json_series(self) -> prometheus_json.JsonSeries:
        answer = self._answer
        table = answer.histograms
        shown = None if table is None else _shown(table)
        if answer.samples is None:
            n_series, n_steps = answer.values.shape
            return prometheus_json.JsonSeries(
                answer.rows,
                answer.space.texts_of,
                answer.values.reshape(-1),
                np.arange(n_series + 1) * n_steps,
                answer.timestamps,
                None,
                shown,
                None if answer.valid is None else answer.valid.reshape(-1),
                answer.space.texts,
            )
        offsets, t_ms, values = self._columns()
        stamps, which = np.unique(t_ms, return_inverse=True)
        return prometheus_json.JsonSeries(
            answer.rows, answer.space.texts_of, values, offsets, stamps, which, shown,
            texts=answer.space.texts,
        )  # fmt: skip

    def truncate(self, limit: int) -> Result:
        """The first `limit` series (0: all); itself if there are no more."""
        answer = self._answer
        if not limit or len(self) <= limit or answer.type not in ("vector", "matrix"):
            return self
        head = np.arange(limit)
        rows = answer.space.take(answer.rows, head)
        samples = answer.samples
        if samples is not None:
            end = samples.offsets[limit]
            samples = RangeVector(
                rows, samples.offsets[: limit + 1], samples.t_ms[:end], samples.values[:end]
            )
        valid = None if answer.valid is None else answer.valid[:limit]
        values = answer.values[:limit]
        return Result(
            replace(answer, rows=rows, values=values, valid=valid, samples=samples, _labels=None)
        )

    def _columns(
        self,
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.float64]]:
        """Offsets i64[S + 1], times i64[N], values f64[N] of all samples, handles among them."""
        answer = self._answer
        if answer.samples is not None:
            return answer.samples.offsets, answer.samples.t_ms, answer.samples.values
        n_series, n_steps = answer.values.shape
        if answer.valid is None:
            offsets = np.arange(n_series + 1, dtype=np.int64) * n_steps
            return offsets, np.tile(answer.timestamps, n_series), answer.values.reshape(-1)
        offsets = np.zeros(n_series + 1, np.int64)
        np.cumsum(answer.valid.sum(axis=1), out=offsets[1:])
        return offsets, answer.timestamps[self._steps_of_values()], answer.values[answer.valid]

    def _steps_of_values(self) -> npt.NDArray[np.int64]:
        """Step of each present value, row by row: i64[N]."""
        answer = self._answer
        n_series, n_steps = answer.values.shape
        if answer.valid is None:
            return np.tile(np.arange(n_steps), n_series)
        return np.nonzero(answer.valid)[1]

    def _which_histograms(self) -> npt.NDArray[np.bool_]:
        """Which of the present samples are native histograms: bool[N]."""
        _, _, values = self._columns()
        if self._answer.histograms is None:
            return np.zeros(len(values), np.bool_)
        return is_handle(values.view(np.uint64))

    def _histogram_texts(self) -> dict[int, bytes]:
        """JSON of each native histogram by the position of its sample."""
        table = self._answer.histograms
        if table is None:
            return {}
        _, _, values = self._columns()
        at = np.flatnonzero(is_handle(values.view(np.uint64)))
        texts = prometheus_json.histogram_texts(_shown(table))
        rows = rows_of(values[at].view(np.uint64)).tolist()
        return {place: texts[row] for place, row in zip(at.tolist(), rows, strict=True)}


def _chosen(
    offsets: npt.NDArray[np.int64],
    t_ms: npt.NDArray[np.int64],
    values: npt.NDArray[np.float64],
    mask: npt.NDArray[np.bool_],
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    """Columns of some of the samples: ``mask: bool[N]``; themselves if it is all of them."""
    if mask.all():
        return offsets, t_ms, values
    before = offsets_of(mask.view(np.int8))
    return before[offsets], t_ms[mask], values[mask]


def _shown(table: Histograms) -> prometheus_json.JsonHistograms:
    """Histograms as the API shows them: bounds worked out, the zero bucket among the others.

    As in Prometheus a zero bucket is only one if its count is positive; others may be negative.
    """
    lowers, uppers = bucket_bounds(table)
    has_zero = table.zero_count > 0
    sizes = np.diff(table.offsets)
    row = np.repeat(np.arange(len(table)), sizes)
    is_positive = table.keys > 0
    offsets = offsets_of(sizes + has_zero)
    place = np.arange(len(row)) + (offsets[:-1] - table.offsets[:-1])[row]
    place += is_positive & has_zero[row]
    zero_place = (offsets[:-1] + np.bincount(row[~is_positive], minlength=len(table)))[has_zero]
    n_buckets = int(offsets[-1])
    rules = np.full(n_buckets, CLOSED_BOTH, np.uint8)
    rules[place] = bucket_rules(table)
    shown = [np.empty(n_buckets) for _ in range(3)]
    zeros = (*zero_bounds(table), table.zero_count)
    for column, bucket, zero in zip(shown, (lowers, uppers, table.counts), zeros, strict=True):
        column[place] = bucket
        column[zero_place] = zero[has_zero]
    return prometheus_json.JsonHistograms(table.count, table.sum, offsets, rules, *shown)
