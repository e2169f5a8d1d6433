"""The façade: the one object a user needs.

Appends are in `appender`, deletes in `deletion`, questions besides queries in `explorer`, flushes,
copies and the like in `keeper`, remote reads in `remote_reader`. Every method of `Database` may be
called from any thread. A `Database` used in a forked child raises Closed.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from types import TracebackType
from typing import TYPE_CHECKING

from tsengine.appender import Appender, WriteResult
from tsengine.backup.store import open_cold_store
from tsengine.clock import Clock, system_clock
from tsengine.deletion import Deleter
from tsengine.errors import QueryLimitExceeded
from tsengine.explorer import Explorer, time_range
from tsengine.keeper import Keeper
from tsengine.model.matchers import Matcher
from tsengine.model.times import DurationLike, TimeLike, duration_to_ms, to_ms
from tsengine.options import Options
from tsengine.promql import parser
from tsengine.query.engine import Engine
from tsengine.query.watch import QueryWatch
from tsengine.remote_reader import RemoteReader
from tsengine.result import Result
from tsengine.storage.catalog import Reject
from tsengine.storage.database import StorageDatabase
from tsengine.storage.view import DatabaseView

if TYPE_CHECKING:
    import pyarrow as pa

    from tsengine.query.answer import QueryResult

_LOST_PARTS = (
    "damaged parts of the database are left out; the answer may lack their samples "
    "(`tsengine check` names them)"
)

__all__ = ["Database", "QueryWatch", "Reject", "Result", "WriteResult", "open"]


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


class Database(Appender, Deleter, Explorer, Keeper, RemoteReader):
    """One open database. Use `tsengine.open`; close it, or use it in a ``with`` statement."""

    def __init__(
        self,
        path: str,
        options: Options,
        *,
        read_only: bool = False,
        clock: Clock = system_clock,
    ) -> None:
        self._storage = StorageDatabase(
            path, options, read_only=read_only, clock=clock, parse_selector=parser.parse_selector,
            open_store=open_cold_store,
        )  # fmt: skip
        memory = self._storage.memory
        try:
            self._engine = Engine(self._storage, options, memory_left=memory.left_for_queries)
        except BaseException:
            self._storage.close()
            raise
        memory.queries = lambda: self._engine.memory.used
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

    # --- query ----------------------------------------------------------------------------------

    def query(
        self,
        expr: str,
        time: TimeLike | None = None,
        *,
        timeout: float | None = None,
        lookback: DurationLike | None = None,
        cancel: threading.Event | None = None,
        watch: QueryWatch | None = None,
        count_samples: bool = False,
    ) -> Result:
        """Evaluate PromQL at one time (default: now).

        Parameters
        ----------
        expr
            The text.
        time
            Integers are ms, floats s.
        timeout
            Seconds; shortens the options' limit.
        lookback
            Instead of the options'.
        cancel
            Set it from another thread to end the query.
        watch
            Shows how far the query is, and keeps its memory reserved until it is closed.
        count_samples
            Whether `Result.stats` has the samples looked at by step.

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
            watch=watch,
            count_samples=count_samples,
        )
        return self._result(answer)

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
        watch: QueryWatch | None = None,
        count_samples: bool = False,
    ) -> Result:
        """Evaluate PromQL at start, start + step, ... up to and including end; else as `query`.

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
            watch=watch,
            count_samples=count_samples,
        )
        return self._result(answer)

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
        (float64, bit-exact, stale markers included); rows by series, then time. If native
        histograms may be among the samples there is a column ``histogram`` (a struct): null where a
        sample is a float, and where it is not the value is NaN.
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

        Columns as those of `select`, one row per series; series that went stale are left out, and
        so are those whose newest sample is a native histogram.

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
        with self._engine.holding(n_samples):
            return newest_table(view, refs, at - back, at)

    def pin(
        self, selector: str | None, start: TimeLike | None, end: TimeLike | None
    ) -> tuple[DatabaseView, tuple[Matcher, ...], int, int]:
        """A view with parsed matchers (none: everything) and closed range; for exporters."""
        matchers: tuple[Matcher, ...] = ()
        if selector is not None:
            matchers = parser.parse_selector(selector)
        return self._storage.view(), matchers, *time_range(start, end)

    def _result(self, answer: QueryResult) -> Result:
        """The answer, with a warning if it may lack what damaged parts hold."""
        if self._storage.recovery.has_lost_parts:
            answer.warnings = [*answer.warnings, _LOST_PARTS]
        return Result(answer)

    # --- life -----------------------------------------------------------------------------------

    def close(self) -> None:
        """Stop. Everything acknowledged is on disk. Closing twice is fine."""
        self._engine.close()
        self._storage.close()


def _check_grid(start_ms: int, end_ms: int, step_ms: int) -> None:
    if step_ms < 1:
        raise ValueError("the step must be at least 1 ms")
    if end_ms < start_ms:
        raise ValueError("end is before start")
