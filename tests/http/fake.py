"""A database of dicts with the façade's methods: HTTP tests need no engine behind it.

It "evaluates" only what the tests send: a metric name gives its stored series, a number a scalar,
a quoted text a string; some names misbehave on purpose.
"""

from __future__ import annotations

import contextlib
import re
import time
from dataclasses import dataclass, field

import orjson

from tests.http import wire
from tsengine import errors


@dataclass
class FakeReject:
    series: str
    reason: str
    n_samples: int


@dataclass
class FakeWriteResult:
    samples: int = 0
    histograms: int = 0
    exemplars: int = 0
    rejected: list = field(default_factory=list)
    shed: int = 0
    shed_reason: str = ""


class FakeResult:
    def __init__(self, kind, result, warnings=(), infos=()):
        self.type = kind
        self.result = result
        self.warnings = list(warnings)
        self.infos = list(infos)
        self.n_samples = 1
        self.plan = "the plan"
        self.stats = {
            "plan_s": 0.25, "evaluate_s": 0.5, "finish_s": 0.125,
            "n_samples_read": 5, "n_samples_peak": 3,
        }  # fmt: skip

    def truncate(self, limit):
        if limit and self.type in ("vector", "matrix") and len(self.result) > limit:
            return FakeResult(self.type, self.result[:limit], self.warnings, self.infos)
        return self

    def json_pieces(self, new_buffer=None):
        yield orjson.dumps({"resultType": self.type, "result": self.result})


class FakeDatabase:
    """Also remembers the arguments of calls in `calls`."""

    def __init__(self):
        self.rows: dict[tuple, dict[int, float]] = {}
        self.calls: list[tuple] = []
        self.append_error: Exception | None = None
        self.is_closed = False

    def submit_remote_write(self, body, on_done, *, version=1, sender="", waited=0.0):
        on_done(self.append_remote_write(body, version=version, sender=sender), None)

    def writes_together(self):
        return contextlib.nullcontext()

    def append_remote_write(self, body, version=1, sender=""):
        if self.append_error is not None:
            raise self.append_error
        result = FakeWriteResult()
        for labels, samples in wire.decode(bytes(body), version):
            if "__name__" not in labels:
                result.rejected.append(FakeReject(str(labels), "no metric name", len(samples)))
                continue
            row = self.rows.setdefault(tuple(sorted(labels.items())), {})
            for t_ms, value in samples:
                row[t_ms] = value
            result.samples += len(samples)
        return result

    def query(self, expr, time=None, *, timeout=None, lookback=None, cancel=None, **_):
        self.calls.append(("query", expr, time, timeout, lookback))
        return self._evaluate(expr, [time], cancel, timeout)

    def query_range(self, expr, start, end, step, *, timeout=None, lookback=None, cancel=None, **_):
        self.calls.append(("query_range", expr, start, end, step, timeout, lookback))
        step_ms = round(step * 1000)
        return self._evaluate(expr, range(start, end + 1, step_ms), cancel, timeout)

    def _evaluate(self, expr, steps, cancel, timeout):
        if expr.startswith("hang"):
            end = None if timeout is None else time.monotonic() + timeout
            while not cancel.is_set():
                if end is not None and time.monotonic() > end:
                    raise errors.QueryTimeout("query timed out in query execution")
                time.sleep(0.005)
            self.calls.append(("canceled", expr))
            raise errors.QueryCanceled("query was canceled in query execution")
        if expr == "bug":
            raise ZeroDivisionError("inside")
        if expr == "many":
            raise errors.QueryLimitExceeded("query processing would load too many samples")
        if expr == "damaged":
            raise errors.CorruptionError("checksum", path="part-1", offset=7)
        if expr == "ranged":
            raise errors.InvalidQueryType('invalid expression type "matrix" for range query')
        if expr == "matchless <&>":
            raise errors.QueryError("many-to-many <&>")
        if re.fullmatch(r"[0-9.+]+", expr):
            value = str(sum(float(x) for x in expr.split("+")))
            return FakeResult("scalar", [steps[0] / 1000, value])
        if not re.fullmatch(r"[a-z_]+", expr):
            raise errors.ParseError("unexpected end of input", line=1, column=len(expr) + 1)
        matrix = []
        for key, row in sorted(self.rows.items()):
            labels = dict(key)
            if labels["__name__"] == expr:
                values = [[t / 1000, str(row[t])] for t in steps if t in row]
                matrix.append({"metric": labels, "values": values})
        notes = [f"PromQL warning: {i}" for i in range(12)] if expr == "noted" else []
        if len(steps) > 1:
            return FakeResult("matrix", matrix, notes)
        vector = [{"metric": m["metric"], "value": m["values"][0]} for m in matrix if m["values"]]
        return FakeResult("vector", vector, notes)

    def has_selectors(self, expr):
        if "(" in expr and ")" not in expr:
            raise errors.ParseError("unclosed left parenthesis", line=1, column=1)
        return bool(re.search("[a-z]", expr))

    def query_exemplars(self, expr, start=None, end=None):
        self.has_selectors(expr)
        return []

    def _matching(self, selectors):
        for selector in selectors:
            if selector == "{}":
                raise errors.QueryError("match[] must contain at least one non-empty matcher")
        names = set(selectors)
        labels = [dict(key) for key in sorted(self.rows)]
        return [row for row in labels if not names or row["__name__"] in names]

    @staticmethod
    def _cut(items, limit):
        return (items[:limit], True) if limit and len(items) > limit else (items, False)

    def series(self, selectors, start=None, end=None, limit=0, check=None):
        self.calls.append(("series", list(selectors), start, end, limit))
        return self._cut(self._matching(selectors), limit)

    def series_json(self, selectors, start=None, end=None, limit=0, check=None):
        rows, is_cut = self.series(selectors, start, end, limit)
        return iter([orjson.dumps(rows, option=orjson.OPT_SORT_KEYS)]), is_cut

    def label_names(self, selectors=(), start=None, end=None, limit=0, check=None):
        names = {name for row in self._matching(selectors) for name in row}
        return self._cut(sorted(names), limit)

    def label_values(self, name, selectors=(), start=None, end=None, limit=0, check=None):
        self.calls.append(("label_values", name, list(selectors), start, end, limit))
        values = {row[name] for row in self._matching(selectors) if name in row}
        return self._cut(sorted(values), limit)

    def label_value_batches(self, name, selectors=(), start=None, end=None, check=None):
        yield self.label_values(name, selectors, start, end)[0]

    def metadata(self, metric=None, limit=0, limit_per_metric=0):
        known = {"up": [{"type": "gauge", "help": "a<b", "unit": ""}]}
        return known if metric in (None, "up") else {}

    def format_query(self, expr):
        self.has_selectors(expr)
        return expr.upper()

    def parse_query(self, expr):
        self.has_selectors(expr)
        return {"type": "x", "bool": None, "a": expr}

    def promql_features(self):
        return {"promql": {"offset": True}, "promql_operators": {">=": True}}

    def tsdb_blocks(self):
        return []

    def tsdb_status(self, limit=10):
        return {"headStats": {"numSeries": len(self.rows)}, "limit": limit}

    def stats(self):
        return {"series": len(self.rows)}

    def flush(self):
        self.calls.append(("flush",))

    def compact(self):
        self.calls.append(("compact",))

    def close(self):
        self.is_closed = True
