"""The answer to a query, in whatever form its user wants."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import orjson

from tsengine.interop import prometheus_json
from tsengine.query.engine import QueryResult
from tsengine.query.stepmatrix import RangeVector

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa


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
    def stats(self) -> dict[str, float | int]:
        """What the query cost: seconds and samples."""
        return asdict(self._answer.stats)

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
        """Values f64[S, T]; NaN where absent. A view where nothing is absent: don't write to it."""
        if self.is_range_vector:
            raise TypeError("a range vector has no common steps; use series()")
        answer = self._answer
        if answer.valid is None:
            return answer.values
        return np.where(answer.valid, answer.values, np.nan)

    def validity(self) -> npt.NDArray[np.bool_]:
        """Where there is a value: bool[S, T]; tells a NaN sample from an absent one."""
        answer = self._answer
        if answer.valid is None:
            return np.ones(answer.values.shape, np.bool_)
        return answer.valid

    def series(
        self,
    ) -> list[tuple[dict[str, str], npt.NDArray[np.int64], npt.NDArray[np.float64]]]:
        """(labels, times i64[n] in ms, values f64[n]) of each series, absent steps left out."""
        offsets, t_ms, values = self._columns()
        return [
            (labels, t_ms[offsets[s] : offsets[s + 1]], values[offsets[s] : offsets[s + 1]])
            for s, labels in enumerate(self.labels)
        ]

    def to_arrow(self) -> pa.Table:
        """Columns ``labels`` (dictionary-encoded map), ``timestamp`` (ms, UTC), ``value``."""
        import pyarrow as pa

        from tsengine.interop.arrow import LABELS, SELECT_SCHEMA, TIMESTAMP

        if self.type == "string":
            raise TypeError("a string has no table")
        offsets, t_ms, values = self._columns()
        maps = pa.array([list(labels.items()) for labels in self.labels], LABELS)
        rows = np.repeat(np.arange(len(offsets) - 1, dtype=np.int32), np.diff(offsets))
        labels = pa.DictionaryArray.from_arrays(pa.array(rows), maps)
        times = pa.array(t_ms).cast(pa.timestamp("ms")).cast(TIMESTAMP)
        return pa.table([labels, times, pa.array(values)], schema=SELECT_SCHEMA)

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
        """A line per sample: a column per label name, sorted, ``timestamp`` (s), ``value``."""
        from tsengine.interop import csv

        if self._answer.text is not None:
            return csv.string_csv(int(self.timestamps[0]), self._answer.text)
        return csv.csv_bytes(self.labels, *self._columns())

    def to_pandas(self) -> pd.DataFrame:
        """One column per series (a MultiIndex of its labels), one row per time; needs pandas."""
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
        answer = self._answer
        if answer.text is not None:
            return prometheus_json.string_json(int(self.timestamps[0]), answer.text)
        if answer.type == "scalar":
            value = float(answer.values[0, 0])
            return prometheus_json.scalar_json(int(self.timestamps[0]), value)

        def pair_text(pair: int) -> tuple[str, str]:
            return answer.space.name_of(pair), answer.space.value_of(pair)

        if answer.type == "vector":
            return prometheus_json.vector_json(
                answer.rows, pair_text, answer.values[:, 0], int(self.timestamps[0])
            )
        offsets, t_ms, values = self._columns()
        if answer.samples is None:
            stamps = self.timestamps
            which = self._steps_of_values()
        else:
            stamps, which = np.unique(t_ms, return_inverse=True)
        return prometheus_json.matrix_json(answer.rows, pair_text, values, offsets, stamps, which)

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
        return Result(
            QueryResult(
                type=answer.type,
                rows=rows,
                space=answer.space,
                timestamps=answer.timestamps,
                values=answer.values[:limit],
                valid=None if answer.valid is None else answer.valid[:limit],
                samples=samples,
                warnings=answer.warnings,
                infos=answer.infos,
                stats=answer.stats,
            )
        )

    def _columns(
        self,
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.float64]]:
        """Offsets i64[S + 1], times i64[N], values f64[N] of all present samples."""
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
