"""Runs promqltest scripts against a database through the embedded API, and says what differs.

A database is anything with the methods of `TestDatabase`; `embedded_database` opens a real one.
Native histograms are not loaded: of a series that mixes them with floats the floats are stored.
"""

import re
import shutil
import sys
import tempfile
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import re2

import tsengine
from tests.promql.script import STALE, Clear, Eval, Histogram, Load
from tests.reference.memory_source import MemorySource
from tsengine.errors import QueryError
from tsengine.options import Options
from tsengine.promql import ast
from tsengine.promql.functions import ALL_ON
from tsengine.promql.parser import parse
from tsengine.promql.printer import to_text
from tsengine.query.engine import Engine
from tsengine.result import Result

STALE_BITS = 0x7FF0000000000002
_TIME_DEPENDENT = frozenset(
    ("days_in_month", "day_of_month", "day_of_week", "day_of_year", "end", "hour", "minute",
     "month", "year", "predict_linear", "range", "start", "step", "time", "timestamp")
)  # fmt: skip
_WINDOW_DEPENDENT = re.compile(r"(start|end|range|step)\(\)")
_POSITION = re.compile(r" \(\d+:\d+\)$")
_MINUTE = 60_000


class TestDatabase(Protocol):
    """What the runner needs; times in ms, values to the bit."""

    __test__ = False

    def append(self, labels, timestamps, values): ...
    def query(self, expr, *, time): ...
    def query_range(self, expr, *, start, end, step): ...


OPTIONS = Options(
    delayed_name_removal=True,
    features=ALL_ON,
    lookback=300,
    max_samples=10000,
    query_timeout=100,
    fsync="interval",
    query_threads=1,
)


@contextmanager
def embedded_database():
    """A fresh `tsengine` database in a temporary directory."""
    path = tempfile.mkdtemp(prefix="promqltest-")
    try:
        with tsengine.open(path, options=OPTIONS) as db:
            yield db
    finally:
        shutil.rmtree(path, ignore_errors=True)


@contextmanager
def flushed_database():
    """The same, with all samples in parts, none in the head, when a query runs."""
    with embedded_database() as db:
        yield _Flushed(db)


@contextmanager
def memory_database(*, share_axes: bool):
    """The query engine over dicts and lists."""
    yield _Memory(share_axes)


class _Flushed:
    def __init__(self, db):
        self._db = db
        self._is_dirty = False

    def append(self, labels, timestamps, values):
        self._is_dirty = True
        self._db.append(labels, timestamps, values)

    def query(self, expr, *, time):
        self._flush()
        return self._db.query(expr, time=time)

    def query_range(self, expr, *, start, end, step):
        self._flush()
        return self._db.query_range(expr, start=start, end=end, step=step)

    def _flush(self):
        if self._is_dirty:
            self._db.flush()
            self._is_dirty = False


class _Memory:
    def __init__(self, share_axes):
        self._source = MemorySource(share_axes=share_axes)
        self._engine = Engine(self._source, OPTIONS)

    def append(self, labels, timestamps, values):
        self._source.append(labels, timestamps.tolist(), list(values))

    def query(self, expr, *, time):
        return Result(self._engine.query(expr, time))

    def query_range(self, expr, *, start, end, step):
        return Result(self._engine.query_range(expr, start, end, step))


@dataclass(frozen=True)
class Outcome:
    """What became of one evaluation; `problem` is None if all of it was right."""

    line: int
    expr: str
    problem: str | None


class MismatchError(Exception):
    """An answer is not the expected one."""


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
    """Store the floats of a load block."""
    last = {frozenset(_clean(series.labels).items()): series for series in command.series}
    for series in last.values():
        pairs = [
            (idx * command.step_ms, item)
            for idx, item in enumerate(series.items)
            if item is not None and not isinstance(item, Histogram)
        ]
        if not pairs:
            continue
        t_ms = np.array([t for t, _ in pairs], np.int64)
        values = np.array([0.0 if item is STALE else item for _, item in pairs], np.float64)
        values.view(np.uint64)[[item is STALE for _, item in pairs]] = STALE_BITS
        db.append(_clean(series.labels), t_ms, values)


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
    result = _asked(case, lambda: db.query(expr, time=time_ms))
    if result is None:
        return
    _check_annotations(case, result, exact_positions=exact_positions)
    if case.string is not None:
        _check_type(result, "string")
        if result.string != case.string:
            raise MismatchError(f"expected string {case.string!r}, got {result.string!r}")
    elif case.scalar is not None:
        _check_type(result, "scalar")
        _check_times(result, [time_ms])
        _check_value(case.scalar, result.to_numpy()[0, 0], "the scalar")
    elif case.range_vector is not None:
        _check_type(result, "matrix")
        start, _, step = case.range_vector
        found = [(labels, t, v) for labels, t, v in result.series()]
        _check_sorted([labels for labels, _, _ in found])
        _check_series(case, found, start, step)
    else:
        _check_type(result, "vector")
        if result.labels:
            _check_times(result, [time_ms])
        _check_vector(case, result, column=0, ordered=bool(case.expects("ordered")))


def _run_range(db, case):
    result = _asked(
        case,
        lambda: db.query_range(case.expr, start=case.start_ms, end=case.end_ms, step=case.step_ms),
    )
    if result is None:
        return
    _check_annotations(case, result, exact_positions=True)
    _check_type(result, "matrix")
    values, validity = result.to_numpy(), result.validity()
    times = np.asarray(result.timestamps)
    labels = list(result.labels)
    _check_sorted(labels)
    found = [(labels[s], times[validity[s]], values[s][validity[s]]) for s in range(len(labels))]
    _check_series(case, found, case.start_ms, case.step_ms)


def _run_middle(db, case, expr, at_ms):
    """The step in the middle of a range query has to give what the instant query gives."""
    result = db.query_range(expr, start=at_ms - _MINUTE, end=at_ms + _MINUTE, step=_MINUTE)
    _check_type(result, "matrix")
    if case.expects("ordered"):
        return
    if case.scalar is not None:
        _check_value(case.scalar, result.to_numpy()[0, 1], "the scalar")
    else:
        _check_vector(case, result, column=1, ordered=False)


def _asked(case, ask):
    """Answer of a query, or None if it failed as expected."""
    fails = case.expects("fail")
    try:
        result = ask()
    except QueryError as error:
        if not fails:
            raise MismatchError(f"failed: {type(error).__name__}: {error}") from error
        _check_text(fails[0], str(error), "error")
        return None
    if fails:
        raise MismatchError(f"expected an error, got {_shown(result)}")
    return result


# --- checks ------------------------------------------------------------------------------------


def _check_type(result, wanted):
    if result.type != wanted:
        raise MismatchError(f"expected a {wanted}, got {_shown(result)}")


def _check_times(result, wanted):
    if list(result.timestamps) != wanted:
        raise MismatchError(f"expected the times {wanted}, got {list(result.timestamps)}")


def _check_value(wanted, got, what):
    if not equal_floats(wanted, got):
        raise MismatchError(f"expected {wanted!r} for {what}, got {float(got)!r}")


def _check_text(expectation, text, what):
    if not _text_fits(expectation, text):
        raise MismatchError(
            f"expected {expectation.mode} {expectation.text!r}, got the {what} {text!r}"
        )


def _text_fits(expectation, text):
    if expectation.mode == "msg":
        return text == expectation.text
    if expectation.mode == "regex":
        return re2.search(expectation.text, text) is not None
    return True


def _check_annotations(case, result, *, exact_positions):
    for kind, found in (("warn", list(result.warnings)), ("info", list(result.infos))):
        if case.expects(f"no_{kind}") and found:
            raise MismatchError(f"expected no {kind}, got {found}")
        wanted = case.expects(kind)
        if not wanted:
            continue
        if not exact_positions:
            found = [_POSITION.sub("", text) for text in found]
            wanted = [replace(e, text=_POSITION.sub("", e.text)) for e in wanted]
            # A pattern that names a position fits the original text only.
            wanted = [replace(e, mode="") if r"\(" in e.text else e for e in wanted]
        for expectation in wanted:
            if not any(_text_fits(expectation, text) for text in found):
                raise MismatchError(f"expected {kind} {expectation.text!r}, got {found}")
        for text in found:
            if not any(_text_fits(expectation, text) for expectation in wanted):
                raise MismatchError(f"unexpected {kind} {text!r}")


def _check_vector(case, result, *, column, ordered):
    values, validity = result.to_numpy(), result.validity()
    present = [s for s in range(len(result.labels)) if validity[s, column]]
    labels = [_frozen(result.labels[s]) for s in present]
    got = dict(zip(labels, (values[s, column] for s in present), strict=True))
    if len(got) != len(labels):
        raise MismatchError(f"a label set occurs twice in {_shown(result)}")
    wanted = {}
    for series in case.series:
        if len(series.items) != 1:
            raise MismatchError(f"an instant result needs one value: {series.text!r}")
        wanted[_frozen(_clean(series.labels))] = series.items[0]
    if set(got) != set(wanted):
        missing = [dict(key) for key in wanted if key not in got]
        surplus = [dict(key) for key in got if key not in wanted]
        raise MismatchError(f"missing series {missing}, surplus series {surplus}")
    for key, item in wanted.items():
        _check_item(item, got[key], dict(key))
    if ordered and labels != list(wanted):
        raise MismatchError(f"wrong order: {[dict(key) for key in labels]}")


def _check_series(case, found, start_ms, step_ms):
    """Compare series given as (labels, times, values) with the lines of a case."""
    got = {_frozen(labels): (list(times), values) for labels, times, values in found if len(times)}
    if len(got) != sum(1 for _, times, _ in found if len(times)):
        raise MismatchError("a label set occurs twice")
    wanted = {}
    for series in case.series:
        items = [(start_ms + i * step_ms, v) for i, v in enumerate(series.items) if v is not None]
        if items:
            wanted[_frozen(_clean(series.labels))] = items
    if set(got) != set(wanted):
        missing = [dict(key) for key in wanted if key not in got]
        surplus = [dict(key) for key in got if key not in wanted]
        raise MismatchError(f"missing series {missing}, surplus series {surplus}")
    for key, items in wanted.items():
        times, values = got[key]
        if times != [t for t, _ in items]:
            raise MismatchError(
                f"{dict(key)}: expected the times {[t for t, _ in items]}, got {times}"
                f" with {[float(v) for v in values]}"
            )
        for (t, item), value in zip(items, values, strict=True):
            _check_item(item, value, f"{dict(key)} at {t} ms")


def _check_item(item, value, what):
    if isinstance(item, Histogram):
        raise MismatchError(f"expected a native histogram for {what}, got {float(value)!r}")
    _check_value(item, value, what)


def _check_sorted(labels):
    keys = [
        [(n.encode(), v.encode()) for n, v in sorted(ls.items(), key=lambda kv: kv[0].encode())]
        for ls in labels
    ]
    if keys != sorted(keys):
        raise MismatchError(f"series are not sorted by labels: {labels}")


def equal_floats(wanted, got) -> bool:
    """Whether two floats are the same but for rounding."""
    if wanted is STALE:
        return int(np.float64(got).view(np.uint64)) == STALE_BITS
    got = float(got)
    if np.isnan(wanted) or np.isnan(got):
        return bool(np.isnan(wanted) and np.isnan(got))
    if wanted == got:
        return True
    tiny = sys.float_info.min
    size = abs(wanted) + abs(got)
    difference = abs(wanted - got)
    if wanted == 0 or got == 0 or size < tiny:
        return difference < 1e-6 * tiny
    return difference / min(size, sys.float_info.max) < 1e-6


def _clean(labels):
    return {name: value for name, value in labels.items() if value}


def _frozen(labels):
    return frozenset(labels.items())


def _shown(result):
    if result.type == "string":
        return f"the string {result.string!r}"
    return f"a {result.type} of {list(result.labels)} with {result.to_numpy().tolist()}"


# --- the query with its time fixed -------------------------------------------------------------


def pin_time(expr: str, time_ms: int) -> str | None:
    """The query with @ on every selector that has none; None if it depends on the time anyhow."""
    tree = parse(expr, features=ALL_ON)
    if any(call.name in _TIME_DEPENDENT for call in _calls(tree)):
        return None
    return to_text(_pinned(tree, time_ms))


def _children(node):
    if isinstance(node, ast.Call):
        return list(node.args)
    if isinstance(node, ast.Binary):
        return [node.lhs, node.rhs]
    if isinstance(node, ast.Aggregate):
        return [node.expr] if node.param is None else [node.param, node.expr]
    return [node.expr] if isinstance(node, ast.Unary | ast.Paren | ast.Subquery) else []


def _calls(node):
    found = [node] if isinstance(node, ast.Call) else []
    for child in _children(node):
        found += _calls(child)
    return found


def _pinned(node, time_ms):
    if isinstance(node, ast.VectorSelector | ast.Subquery):
        shift = node.shift
        if shift.at_ms is None and shift.at_edge is None:
            return replace(node, shift=replace(shift, at_ms=time_ms))
        return node
    if isinstance(node, ast.MatrixSelector):
        return replace(node, selector=_pinned(node.selector, time_ms))
    if isinstance(node, ast.Call):
        return replace(node, args=tuple(_pinned(arg, time_ms) for arg in node.args))
    if isinstance(node, ast.Binary):
        return replace(node, lhs=_pinned(node.lhs, time_ms), rhs=_pinned(node.rhs, time_ms))
    if isinstance(node, ast.Aggregate):
        param = None if node.param is None else _pinned(node.param, time_ms)
        return replace(node, expr=_pinned(node.expr, time_ms), param=param)
    if isinstance(node, ast.Unary | ast.Paren):
        return replace(node, expr=_pinned(node.expr, time_ms))
    return node
