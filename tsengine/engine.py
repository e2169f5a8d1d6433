"""The façade: the one object a user needs. Turns users' values into columns and hands on.

Thread safety: every method of `Database` may be called from any thread. A `Database` used in a
forked child raises Closed.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from tsengine.clock import Clock, system_clock
from tsengine.errors import MalformedRequest, QueryLimitExceeded
from tsengine.explorer import Explorer, time_range
from tsengine.model.matchers import Matcher
from tsengine.model.metadata import MetadataEntry
from tsengine.model.times import (
    DurationLike,
    TimeLike,
    duration_to_ms,
    times_to_ms,
    to_ms,
)
from tsengine.options import Options
from tsengine.promql import parser
from tsengine.promql.literals import check_regex
from tsengine.query.engine import Engine
from tsengine.result import Result
from tsengine.storage.catalog import Reject
from tsengine.storage.database import StorageDatabase
from tsengine.storage.view import DatabaseView

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["Database", "Reject", "Result", "WriteResult", "open"]


@dataclass(frozen=True, slots=True)
class WriteResult:
    """What became of a remote-write body.

    Parameters
    ----------
    samples, histograms
        Stored.
    exemplars
        Seen and dropped: this version keeps none.
    rejected
        Series refused by name and reason; the others are stored.

    """

    samples: int
    histograms: int
    exemplars: int
    rejected: list[Reject]


def open(
    path: str | os.PathLike[str],
    options: Options | None = None,
    read_only: bool = False,
) -> Database:
    """Open a database directory; it is made if it is not there.

    Parameters
    ----------
    read_only
        Opens beside a running writer, takes no lock, and sees what was durable at this moment.

    Raises
    ------
    OptionsError
        An option is out of its range.
    Locked
        Another process writes the directory; the message names it.
    CorruptionError, UnsupportedFormat, StorageError
        The directory can't be read.

    """
    return Database(os.fspath(path), options or Options(), read_only=read_only)


class Database(Explorer):
    """One open database. Use `tsengine.open`; close it, or use it in a ``with`` statement."""

    def __init__(
        self,
        path: str,
        options: Options,
        *,
        read_only: bool = False,
        clock: Clock = system_clock,
    ) -> None:
        self._storage = StorageDatabase(path, options, read_only=read_only, clock=clock)
        self._engine = Engine(self._storage, options)
        self._clock = clock
        self.options = options
        self.path = path

    def __enter__(self) -> Database:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    # --- append ---------------------------------------------------------------------------------

    def append(self, labels: Mapping[str, str], timestamps: Any, values: Any) -> None:
        """Store samples of one series; returns after the fsync.

        Parameters
        ----------
        labels
            With ``__name__``; an empty value is the same as no label.
        timestamps
            N times: integers are ms, floats s, datetime64 and datetimes themselves.
        values
            N numbers; NaN payloads are kept to the bit.

        Raises
        ------
        InvalidLabels, TooOldSample, TooFarInFuture
            Nothing or, for the last two, only the samples in range are stored.

        """
        t_ms = times_to_ms(timestamps)
        bits = _to_bits(values)
        _check_lengths(timestamps=t_ms, values=bits)
        ref = self._storage.series_refs([labels])[0]
        refs = np.full(len(t_ms), ref, np.uint32)
        self._storage.append_columns(refs, t_ms, bits).raise_rejects()

    def series_refs(self, label_sets: Sequence[Mapping[str, str]]) -> npt.NDArray[np.uint32]:
        """Numbers of series for `append_columns`: u32[S], valid while the database is open.

        Raises
        ------
        InvalidLabels, AppendLimitExceeded

        """
        return self._storage.series_refs(label_sets)

    def append_columns(self, refs: Any, timestamps_ms: Any, values: Any) -> None:
        """Store N samples of any series in any order; returns after the fsync.

        Parameters
        ----------
        refs
            u32[N] of `series_refs`.
        timestamps_ms
            i64[N].
        values
            f64[N]; of two samples with one series and time the later row stays.

        Raises
        ------
        ValueError
            Arrays of different lengths, or a ref that this database did not give out.
        TooOldSample, TooFarInFuture
            Samples out of range; the others are stored.

        """
        refs = _to_refs(refs)
        t_ms = times_to_ms(timestamps_ms)
        bits = _to_bits(values)
        _check_lengths(refs=refs, timestamps_ms=t_ms, values=bits)
        self._storage.append_columns(refs, t_ms, bits).raise_rejects()

    def append_remote_write(
        self, body: bytes | memoryview, version: int = 1, sender: str = ""
    ) -> WriteResult:
        """Store a decompressed Prometheus remote-write request; returns after the fsync.

        Parameters
        ----------
        version
            1 for ``prometheus.WriteRequest``, 2 for ``io.prometheus.write.v2.Request``.
        sender
            Who sends; requests of one sender usually repeat the same series in the same order,
            which makes them cheaper.

        Raises
        ------
        MalformedRequest
            The body is not such a message; nothing is stored.
        Overloaded, Full
            Not stored; try again later.

        """
        if version not in (1, 2):
            raise ValueError(f"version must be 1 or 2, got {version!r}")
        outcome = self._storage.append_remote_write(body, version=version, sender=sender)
        return WriteResult(
            outcome.n_samples, outcome.n_histograms, outcome.n_exemplars, list(outcome.rejected)
        )

    def append_metadata(self, metric: str, type: str, help: str = "", unit: str = "") -> None:
        """Store the type, help text and unit of a metric; returns after the fsync."""
        self._storage.append_metadata([MetadataEntry(metric, type, help, unit)])

    # --- query ----------------------------------------------------------------------------------

    def query(
        self,
        expr: str,
        time: TimeLike | None = None,
        *,
        timeout: float | None = None,
        lookback: DurationLike | None = None,
        cancel: threading.Event | None = None,
    ) -> Result:
        """Evaluate PromQL at one time (default: now).

        Raises
        ------
        ParseError
            The text is not PromQL; the message begins with line and column.
        QueryLimitExceeded, QueryTimeout, QueryCanceled, QueryError

        """
        at = self._clock() if time is None else to_ms(time)
        answer = self._engine.query(
            expr,
            at,
            lookback_ms=None if lookback is None else duration_to_ms(lookback),
            timeout_s=timeout,
            cancel=None if cancel is None else cancel.is_set,
        )
        return Result(answer)

    def query_range(
        self,
        expr: str,
        start: TimeLike,
        end: TimeLike,
        step: DurationLike,
        *,
        timeout: float | None = None,
        lookback: DurationLike | None = None,
        cancel: threading.Event | None = None,
    ) -> Result:
        """Evaluate PromQL at start, start + step, ... up to and including end.

        Raises
        ------
        ValueError
            The step is below 1 ms, or end is before start.
        ParseError, QueryLimitExceeded, QueryTimeout, QueryCanceled, QueryError

        """
        start_ms, end_ms, step_ms = to_ms(start), to_ms(end), duration_to_ms(step)
        _check_grid(start_ms, end_ms, step_ms)
        n_steps = (end_ms - start_ms) // step_ms + 1
        if n_steps > self.options.max_samples:
            raise QueryLimitExceeded(
                f"{n_steps} steps are more than the {self.options.max_samples} samples that a "
                "query may hold; take a larger step or a shorter range"
            )
        answer = self._engine.query_range(
            expr,
            start_ms,
            end_ms,
            step_ms,
            lookback_ms=None if lookback is None else duration_to_ms(lookback),
            timeout_s=timeout,
            cancel=None if cancel is None else cancel.is_set,
        )
        return Result(answer)

    def explain(
        self,
        expr: str,
        start: TimeLike | None = None,
        end: TimeLike | None = None,
        step: DurationLike | None = None,
    ) -> str:
        """How PromQL would be evaluated: the plan as text, one step a line, inputs indented.

        Without `end` and `step` it is the plan of a query at one time (default: now). No sample is
        read.

        Raises
        ------
        ValueError
            Only one of end and step is given, the step is below 1 ms, or end is before start.
        ParseError, QueryError

        """
        start_ms = self._clock() if start is None else to_ms(start)
        if end is None and step is None:
            return self._engine.explain(expr, start_ms, start_ms, 0)
        if start is None or end is None or step is None:
            raise ValueError("a range query has a start, an end and a step")
        end_ms, step_ms = to_ms(end), duration_to_ms(step)
        _check_grid(start_ms, end_ms, step_ms)
        return self._engine.explain(expr, start_ms, end_ms, step_ms)

    def select(
        self,
        selector: str,
        start: TimeLike | None = None,
        end: TimeLike | None = None,
    ) -> pa.RecordBatchReader:
        """Stored samples as they are, as Arrow record batches; both ends are closed.

        Columns: ``labels`` (dictionary-encoded map of strings), ``timestamp`` (ms, UTC), ``value``
        (float64, bit-exact, stale markers included); rows by series, then time.
        """
        from tsengine.interop.arrow import select_reader

        view, matchers, mint, maxt = self.pin(selector, start, end)
        return select_reader(view, matchers, mint, maxt)

    def newest(
        self,
        selectors: Sequence[str],
        time: TimeLike | None = None,
        *,
        lookback: DurationLike | None = None,
    ) -> pa.Table:
        """The newest sample of each matching series within the lookback before a time.

        Columns as those of `select`, one row per series; series that went stale are left out.

        Raises
        ------
        ParseError
            A selector is not one.
        QueryLimitExceeded
            The range holds more samples than a query may read.

        """
        from tsengine.interop.exposition import newest_table

        at = self._clock() if time is None else to_ms(time)
        back = round(self.options.lookback * 1000) if lookback is None else duration_to_ms(lookback)
        view = self._storage.view()
        refs = self._find(view, selectors, at - back, at)
        n_samples = view.count_samples(refs, at - back, at)
        if n_samples > self.options.max_samples:
            raise QueryLimitExceeded(
                f"{n_samples} samples would be read, over the limit of {self.options.max_samples}"
            )
        return newest_table(view, refs, at - back, at)

    def remote_read(self, body: bytes, max_samples: int) -> bytes:
        """Answer a decompressed Prometheus remote-read request with a message of raw samples.

        Raises
        ------
        MalformedRequest
            The body is not such a message, or accepts only a stream of chunks.
        QueryLimitExceeded
            More than `max_samples` would be read.

        """
        from tsengine.interop import remote_read

        request = remote_read.parse_request(body)
        if request.accepted and remote_read.SAMPLES not in request.accepted:
            raise MalformedRequest("none of the accepted response types is served; accept SAMPLES")
        view = self._storage.view()
        found = []
        n_samples = 0
        for query in request.queries:
            for matcher in query.matchers:
                problem = check_regex(matcher.value) if matcher.op.value in ("=~", "!~") else None
                if problem is not None:
                    raise MalformedRequest(problem)
            refs = view.find(query.matchers, query.mint, query.maxt)
            n_samples += view.count_samples(refs, query.mint, query.maxt)
            found.append((refs, query.mint, query.maxt))
        if n_samples > max_samples:
            raise QueryLimitExceeded(
                f"{n_samples} samples would be read, over the limit of {max_samples}"
            )
        return b"".join(remote_read.query_result(view, *item) for item in found)

    def pin(
        self, selector: str | None, start: TimeLike | None, end: TimeLike | None
    ) -> tuple[DatabaseView, tuple[Matcher, ...], int, int]:
        """A view with parsed matchers (none: everything) and closed range; for exporters."""
        matchers: tuple[Matcher, ...] = ()
        if selector is not None:
            matchers = parser.parse_selector(selector)
        return self._storage.view(), matchers, *time_range(start, end)

    def stats(self) -> dict[str, int | float]:
        """Counts and sizes as plain numbers."""
        return self._storage.stats()

    @property
    def recovery_problems(self) -> list[str]:
        """What the start found damaged, as readable lines; empty when all was well."""
        return self._storage.recovery.lines()

    # --- life -----------------------------------------------------------------------------------

    def flush(self) -> None:
        """Write the recent samples as a part; returns when it is committed."""
        self._storage.flush()

    def compact(self) -> None:
        """Merge all parts; returns when it is done."""
        self._storage.compact()

    def close(self) -> None:
        """Stop. Everything acknowledged is on disk. Closing twice is fine."""
        self._engine.close()
        self._storage.close()


def _check_grid(start_ms: int, end_ms: int, step_ms: int) -> None:
    if step_ms < 1:
        raise ValueError("the step must be at least 1 ms")
    if end_ms < start_ms:
        raise ValueError("end is before start")


def _to_bits(values: Any) -> npt.NDArray[np.uint64]:
    array = np.ascontiguousarray(values, dtype=np.float64)
    if array.ndim == 0:
        array = array.reshape(1)
    return array.view(np.uint64)


def _to_refs(refs: Any) -> npt.NDArray[np.uint32]:
    array = np.asarray(refs)
    if array.dtype == np.uint32:
        return np.ascontiguousarray(array)
    if array.size and (array.dtype.kind not in "iu" or array.min() < 0 or array.max() >= 1 << 32):
        raise ValueError("refs must be numbers given out by series_refs")
    return array.astype(np.uint32)


def _check_lengths(**arrays: npt.NDArray[Any]) -> None:
    lengths = {name: len(array) for name, array in arrays.items()}
    if len(set(lengths.values())) > 1:
        raise ValueError(f"arrays must have one length, got {lengths}")
