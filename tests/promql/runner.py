"""Runs promqltest scripts against a database through the embedded API, and says what differs.

A database is anything with the methods of `databases.TestDatabase`.
"""

import re
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np

from tests.promql import checking
from tests.promql.checking import MismatchError
from tests.promql.classic_conversion import converted
from tests.promql.databases import TestDatabase, embedded_database
from tests.promql.histogram_notation import Noted, columns, expanded
from tests.promql.pinning import pin_time
from tests.promql.script import STALE, Clear, Eval, Load
from tsengine.errors import QueryError

_WINDOW_DEPENDENT = re.compile(r"(start|end|range|step)\(\)")
_MINUTE = 60_000


@dataclass(frozen=True)
class Outcome:
    """What became of one evaluation; `problem` is None if all of it was right."""

    line: int
    expr: str
    problem: str | None


def run_script(
    commands,
    open_database: Callable = embedded_database,
    *,
    at_variants: bool = True,
    range_variants: bool = True,
) -> list[Outcome]:
    """Run all commands; every evaluation gives an outcome.

    Parameters
    ----------
    open_database
        Makes a context manager that gives an empty database.
    at_variants
        Also run instant cases with the time fixed by @, at other evaluation times.
    range_variants
        Also run instant cases as the middle of a range query.
    """
    outcomes: list[Outcome] = []
    commands = list(commands)
    while commands:
        with open_database() as db:
            while commands:
                command = commands.pop(0)
                if isinstance(command, Clear):
                    break
                if isinstance(command, Load):
                    load(db, command)
                    continue
                problem = _evaluate(db, command, at_variants, range_variants)
                outcomes.append(Outcome(command.line, command.expr, problem))
    return outcomes


def load(db: TestDatabase, command: Load) -> None:
    """Store the samples of a load block."""
    last = {frozenset(checking.clean(series.labels).items()): series for series in command.series}
    block = [
        (checking.clean(s.labels), expanded(s.items), s.start_offsets_ms) for s in last.values()
    ]
    for labels, items, start_offsets in block:
        t_ms = np.arange(len(items)) * command.step_ms
        start_ms = None
        if start_offsets is not None:
            starts = zip(t_ms.tolist(), start_offsets, strict=True)
            start_ms = np.array([0 if add is None else t + add for t, add in starts], np.int64)
        _append(db, labels, t_ms, items, start_ms)
    if command.nhcb:
        block = [(labels, items) for labels, items, _ in block]
        for labels, times, histograms in converted(block, command.step_ms):
            db.append_histograms(labels, np.array(times), columns(histograms))


def _append(db, labels, t_ms, items, start_ms):
    is_histogram = np.array([isinstance(item, Noted) for item in items], np.bool_)
    is_float = ~is_histogram & np.array([item is not None for item in items], np.bool_)
    for which, store in ((is_float, _append_floats), (is_histogram, _append_histograms)):
        at = np.flatnonzero(which)
        if len(at):
            chosen = [items[idx] for idx in at]
            store(db, labels, t_ms[at], chosen, None if start_ms is None else start_ms[at])


def _append_floats(db, labels, t_ms, items, start_ms):
    values = np.array([0.0 if item is STALE else item for item in items], np.float64)
    values.view(np.uint64)[[item is STALE for item in items]] = checking.STALE_BITS
    db.append(labels, t_ms, values, **_starts(start_ms))


def _append_histograms(db, labels, t_ms, items, start_ms):
    db.append_histograms(labels, t_ms, columns(items), **_starts(start_ms))


def _starts(start_ms):
    return {} if start_ms is None else {"start_timestamps": start_ms}


# --- one evaluation ----------------------------------------------------------------------------


def _evaluate(db, case: Eval, at_variants, range_variants):
    """Problem with a case, or None."""
    try:
        if not case.is_instant:
            _run_range(db, case)
            return None
        time_ms = case.start_ms
        _run_instant(db, case, case.expr, time_ms, exact_positions=True)
        queries = [(case.expr, time_ms)]
        pinned = pin_time(case.expr, time_ms) if at_variants else None
        if pinned is not None:
            for other_ms in _other_times(time_ms):
                with _naming(f"with @, at {other_ms} ms: {pinned}"):
                    _run_instant(db, case, pinned, other_ms, exact_positions=False)
                queries.append((pinned, other_ms))
        if range_variants and _has_range_variant(case):
            for expr, at_ms in queries:
                with _naming(f"as a range query around {at_ms} ms: {expr}"):
                    _run_middle(db, case, expr, at_ms)
    except MismatchError as mismatch:
        return str(mismatch)
    except Exception as error:  # a case must not keep the others from running
        return f"raised {type(error).__name__}: {error}"
    return None


@contextmanager
def _naming(what):
    """Say in a mismatch or error which variant it belongs to."""
    try:
        yield
    except MismatchError as mismatch:
        raise MismatchError(f"{what}: {mismatch}") from mismatch
    except Exception as error:
        raise MismatchError(f"{what}: raised {type(error).__name__}: {error}") from error


def _other_times(time_ms):
    if time_ms == 0:
        return (-1000, 0, 1000)
    return (-10 * time_ms, 0, time_ms // 5, time_ms, 10 * time_ms)


def _has_range_variant(case):
    return not (
        case.expects("fail")
        or case.string is not None
        or case.range_vector is not None
        or _WINDOW_DEPENDENT.search(case.expr)
    )


def _run_instant(db, case, expr, time_ms, *, exact_positions):
    answer = _asked(case, lambda: db.query(expr, time=time_ms))
    if answer is None:
        return
    checking.check_annotations(case, answer, exact_positions=exact_positions)
    if case.string is not None:
        checking.check_type(answer, "string")
        if answer.string != case.string:
            raise MismatchError(f"expected string {case.string!r}, got {answer.string!r}")
    elif case.scalar is not None:
        checking.check_type(answer, "scalar")
        checking.check_times(answer, [time_ms])
        checking.check_value(case.scalar, answer.series[0][2][0], "the scalar")
    elif case.range_vector is not None:
        checking.check_type(answer, "matrix")
        start, _, step = case.range_vector
        checking.check_sorted(answer)
        checking.check_series(case, answer, start, step)
    else:
        checking.check_type(answer, "vector")
        checking.check_times(answer, [time_ms])
        is_ordered = bool(case.expects("ordered"))
        checking.check_vector(case, answer, at_ms=time_ms, ordered=is_ordered)


def _run_range(db, case):
    answer = _asked(
        case,
        lambda: db.query_range(case.expr, start=case.start_ms, end=case.end_ms, step=case.step_ms),
    )
    if answer is None:
        return
    checking.check_annotations(case, answer, exact_positions=True)
    checking.check_type(answer, "matrix")
    checking.check_sorted(answer)
    checking.check_series(case, answer, case.start_ms, case.step_ms)


def _run_middle(db, case, expr, at_ms):
    """The step in the middle of a range query has to give what the instant query gives."""
    answer = db.query_range(expr, start=at_ms - _MINUTE, end=at_ms + _MINUTE, step=_MINUTE)
    checking.check_type(answer, "matrix")
    if case.expects("ordered"):
        return
    if case.scalar is not None:
        ((_, times, cells),) = answer.series
        checking.check_value(case.scalar, cells[times.index(at_ms)], "the scalar")
    else:
        checking.check_vector(case, answer, at_ms=at_ms, ordered=False)


def _asked(case, ask):
    """Answer of a query, or None if it failed as expected."""
    fails = case.expects("fail")
    try:
        answer = ask()
    except QueryError as error:
        if not fails:
            raise MismatchError(f"failed: {type(error).__name__}: {error}") from error
        checking.check_text(fails[0], str(error), "error")
        return None
    if fails:
        raise MismatchError(f"expected an error, got {answer}")
    return answer
