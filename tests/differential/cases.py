"""A query with both answers, and where in it the difference comes from."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from tests.differential.clocks import BASE_MS, END_MS
from tests.differential.compare import answers_differ, points_of, same_value
from tests.differential.grammar import Times
from tsengine.promql.parser import parse


@dataclass
class Case:
    """One query, both answers, and the engines for questions about parts of it."""

    node: object
    times: object
    expected: dict
    actual: dict
    ask: Callable
    """(node, times) to the `Case` of a part."""
    _parts: list | None = field(default=None, repr=False)

    @property
    def op(self):
        return self.node.op

    @property
    def ops(self):
        """Functions and operators of the whole tree."""
        return {node.op for node in self.node.walk()}

    @property
    def parts(self):
        """The operands as cases of their own; range vectors once per step."""
        if self._parts is None:
            self._parts = []
            for child in operands(self.node):
                for times in _times_of(child, self.times, self.node):
                    self._parts.append(self.ask(child, times))
        return self._parts

    def differs(self, tolerance=1e-9):
        return answers_differ(self.expected, self.actual, tolerance=tolerance)

    def differing_points(self):
        """A case for each series and time at which the values differ, with the same operands."""
        answers = self.expected, self.actual
        left, right = values_of(self.expected), values_of(self.actual)
        for key in left.keys() | right.keys():
            one, other = left.get(key), right.get(key)
            if one is None or other is None or not same_value(one, other):
                expected, actual = (_point_of(answer, *key) for answer in answers)
                yield replace(self, expected=expected, actual=actual, _parts=self.parts)


@dataclass(frozen=True)
class Rule:
    """`holds` takes the smallest differing part."""

    name: str
    reason: str
    holds: Callable


def root_cause(case, depth=12):
    """The part that differs although its operands agree."""
    for part in case.parts if depth else ():
        if part.differs():
            return root_cause(part, depth - 1)
    return case


def operands(node):
    """The nearest parts that can be asked alone: options are looked through."""
    for child in node.children:
        if child.kind in "vsm":
            yield child
        else:
            yield from operands(child)


def _times_of(child, times, parent):
    if parent.op == "subquery":
        step_ms = _step_of(str(parent))
        return [Times(BASE_MS // step_ms * step_ms, END_MS + 600_000, step_ms)]
    if child.kind != "m" or times.step_ms == 0:
        return [times]
    n_steps = (times.end_ms - times.start_ms) // times.step_ms + 1
    if "@" in str(child):
        return []  # start() and end() would mean something else
    return [times.at(times.start_ms + idx * times.step_ms) for idx in range(min(n_steps, 70))]


def _step_of(subquery):
    text = re.findall(r":([^\]:]*)\]", subquery)[-1] or "1m"
    parsed = parse(f"vector({text})").args[0].value
    return round(parsed * 1000)


def pairs_of_values(case):
    """[(expected, actual)] of the numbers' texts; one pair that fits nothing if it is not just the
    values of floats that differ."""
    left, right = values_of(case.expected), values_of(case.actual)
    if left.keys() != right.keys():
        return [("0", "1")]
    found = []
    for key, value in left.items():
        if isinstance(value, str) and isinstance(right[key], str):
            found.append((value, right[key]))
        elif not same_value(value, right[key]):
            return [("0", "1")]
    return found


def _point_of(answer, labels, t):
    """The same answer with one series at one time only, if it is there."""
    value = values_of(answer).get((labels, t))
    rows = []
    if value is not None:
        kind = "histogram" if isinstance(value, dict) else "value"
        rows = [{"metric": dict(labels), kind: [t, value]}]
    return {**answer, "data": {"resultType": "vector", "result": rows}}


def numbers_of(case):
    """All floats of the operands, as numbers."""
    return [
        float(value)
        for part in case.parts
        for value in values_of(part.expected).values()
        if isinstance(value, str)
    ]


def values_of(answer):
    """{(labels, time): text or histogram}."""
    return {
        (tuple(sorted(row["metric"].items())), t): value
        for row in rows_of(answer)
        for t, value in points_of(row)
    }


def rows_of(answer):
    """The series of an answer; none of scalars and failures."""
    if answer["status"] != "success" or answer["data"]["resultType"] not in ("vector", "matrix"):
        return []
    return answer["data"]["result"]
