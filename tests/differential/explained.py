"""Differences between Prometheus 3.5 and tsengine, which speaks 3.14, that are no defects.

A rule has a reason and a test on the smallest part of the query that differs while all its operands
are the same. What no rule covers is a finding.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass, field

from tests.differential.compare import answers_differ
from tests.differential.data import BASE_MS, END_MS
from tests.differential.grammar import Times
from tsengine.promql.parser import parse

NEW_WORDS = (
    "unknown function with name", "experimental duration expression is not enabled",
    'unexpected "("', "unexpected <op:/>",
)  # fmt: skip
NEW_PARTS = re.compile(
    r"first_over_time|\[5m \* 2\]|\(1m \+ 1m\)|step\(\)|max_of\(|(?<!@ )start\(\)|>/"
    r"|histogram_quantiles"
)
COMPARISONS = ("==", "!=", ">", "<", ">=", "<=")
NOT_UNIQUE = "multiple matches for labels"
# (side, pattern, what becomes of it); None drops the whole text.
NOTE_CHANGES = (
    ("actual", r"sort is ineffective for range queries", None),
    (
        "expected",
        r'(bucket label "le" is missing .*?) for metric name ".*?"( \(\d+:\d+\))$',
        r"\1\2",
    ),
    (
        "actual",
        r'(bucket label "le" is missing .*?) for metric name ".*?"( \(\d+:\d+\))$',
        r"\1\2",
    ),
    (
        "expected",
        r'(to be fixed for monotonicity .*?) for metric name ".*?"( \(\d+:\d+\))$',
        r"\1\2",
    ),
    (
        "actual",
        r'(to be fixed for monotonicity .*?)(?: for metric name ".*?")?, from buckets .*?Z'
        r"( \(\d+:\d+\))$",
        r"\1\2",
    ),
)
SUMS = ("sum", "avg", "stddev", "stdvar")
PICKS = ("topk", "bottomk")
QUANTILES = ("quantile", "quantile_over_time", "mad_over_time")


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


@dataclass(frozen=True)
class Rule:
    """`holds` takes the smallest differing part."""

    name: str
    reason: str
    holds: Callable


def explanation(case):
    """Name of the rule that covers a difference; None when there is none."""
    problem = answers_differ(case.expected, case.actual)
    if problem is None:
        return _explained_notes(case)
    cause = root_cause(case)
    for rule in RULES:
        if rule.holds(cause):
            return rule.name
    return None


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


# --- warnings and infos ------------------------------------------------------------------------


def _explained_notes(case):
    """3.14 warns of sorts, tells more about monotonicity, no longer names metrics there, and points
    into parentheses where 3.5 sometimes pointed at them. Texts that become equal are one in 3.14.
    """
    changed = {"expected": _notes(case.expected), "actual": _notes(case.actual)}
    for side, pattern, replacement in NOTE_CHANGES:
        texts = changed[side]
        if replacement is None:
            changed[side] = {text for text in texts if not re.search(pattern, text)}
        else:
            changed[side] = {re.sub(pattern, replacement, text) for text in texts}
    query = str(case.node)
    left, right = (_places(changed[side], query) for side in ("expected", "actual"))
    if left.keys() == right.keys() and all(right[text] <= left[text] for text in right):
        return "newer annotations"
    if _is_frozen_parameter(case):
        return "parameter of a constant vector"
    return None


def _notes(answer):
    return {*(answer.get("warnings") or ()), *(answer.get("infos") or ())}


def _places(texts, query):
    """Columns (in bytes) that each message points to, past parentheses."""
    data = query.encode()
    found = {}
    for text in texts:
        message, place = re.fullmatch(r"(.*?)(?: \(1:(\d+)\))?", text, re.DOTALL).groups()
        at = int(place or 1) - 1
        while data[at : at + 1] == b"(":
            at += 1
        # The last digits of a number may differ.
        message = re.sub(r"got (-?\d\.\d{12})\d+$", r"got \1", message)
        found.setdefault(message, set()).add(at)
    return found


# --- values --------------------------------------------------------------------------------------


def _is_newer_language(case):
    return (
        case.expected.get("errorType") == "bad_data"
        and any(words in case.expected["error"] for words in NEW_WORDS)
        and NEW_PARTS.search(str(case.node)) is not None
    )


def _is_refused_filter(case):
    return (
        case.op in COMPARISONS
        and f"{case.op} bool" not in str(case.node)
        and NOT_UNIQUE in case.actual.get("error", "")
        and case.expected["status"] == "success"
    )


def _is_rounding(case):
    """The operands are the same but for their last digits."""
    return any(part.differs(tolerance=0) for part in case.parts)


def _is_log_of_subnormal(case):
    values = [abs(float(v)) for part in case.parts for v in _numbers(part.expected).values()]
    return case.op in ("ln", "log2", "log10") and any(0 < v < 2.3e-308 for v in values)


def _is_forgotten_offset(case):
    return case.op == "timestamp" and all(word in str(case.node) for word in (" @ ", " offset "))


def _is_between_steps(case):
    """Every step asked alone is answered alike."""
    times = case.times
    if times.step_ms == 0 or "start()" in str(case.node) or "end()" in str(case.node):
        return False
    n_steps = (times.end_ms - times.start_ms) // times.step_ms + 1
    steps = (times.at(times.start_ms + idx * times.step_ms) for idx in range(n_steps))
    return not any(case.ask(case.node, at).differs() for at in steps)


def _is_unused_point(case):
    return (
        case.expected.get("errorType") == "execution"
        and case.actual["status"] == "success"
        and any(node.op == "subquery" for node in case.node.walk())
        and _is_between_steps(case)
    )


def _is_frozen_parameter(case):
    return any(_has_frozen_parameter(node) for node in case.node.walk()) and _is_between_steps(case)


def _has_frozen_parameter(node):
    selectors = [
        below
        for below in node.walk()
        if below.kind in "vm" and all(child.kind not in "vm" for child in below.children)
    ]
    return (
        node.op in (*PICKS, "quantile", "limit_ratio", "limitk")
        and "time()" in "".join(str(child) for child in node.children if child.kind == "s")
        and all(" @ " in str(below) or "vector(" in str(below) for below in selectors)
    )


def _is_doubly_matched(case):
    if not case.op.startswith("absent"):
        return False
    names = re.findall(r"(\w+)(?:!=|=~|!~|=)", str(case.node))
    return len(names) > len(set(names))


def _is_fraction(case):
    """Only where the lowest bucket is cut: elsewhere the versions agree."""
    return case.op == "histogram_fraction" and all(
        a == b or math.isnan(float(a)) or float(a) > float(b) or case.parts
        for a, b in _pairs_of_values(case)
    )


def _is_refused_count(case):
    refusals = ("Parameter value is NaN", "underflows int64", "overflows int64")
    return (
        re.search("topk|bottomk|limitk", str(case.node)) is not None
        and case.expected["status"] == "success"
        and any(text in case.actual.get("error", "") for text in refusals)
    )


def _is_nan_in_mad(case):
    return case.op == "mad_over_time" and all(
        a == b or math.isnan(float(b)) for a, b in _pairs_of_values(case)
    )


def _has_empty_sort_label(case):
    if not case.op.startswith("sort_by_label"):
        return False
    names = re.findall(r', "(\w+)"', str(case.node).rsplit(")", 2)[-2])
    rows = [row["metric"] for part in case.parts for row in _rows(part.expected)]
    return any(not row.get(name) for row in rows for name in names)


def _is_tie(case):
    """topk among equals: which of them is nobody's business."""
    if case.op not in PICKS:
        return False
    for part in case.parts:
        by_time = {}
        for row in _rows(part.expected):
            for t, value in row.get("values") or [row["value"]]:
                number = float(value)
                key = (t, "NaN" if math.isnan(number) else number)
                by_time[key] = by_time.get(key, 0) + 1
        if any(n > 1 for n in by_time.values()):
            return True
    return False


def _is_order_of_sum(case):
    """The sum depends on the order of the series only where big numbers cancel."""
    if case.op not in SUMS:
        return False
    sizes = [
        abs(float(value))
        for part in case.parts
        for row in _rows(part.expected)
        for _, value in row.get("values") or [row["value"]]
        if math.isfinite(float(value))
    ]
    power = 2 if case.op == "stdvar" else 1
    try:
        scale = 1e-12 * max(sizes, default=0.0) ** power
    except OverflowError:
        return True
    return all(a == b or abs(float(a) - float(b)) <= scale for a, b in _pairs_of_values(case))


def _is_zero_sign(case):
    """Equal values of a rank: 0 and -0 are sorted in no defined order."""
    return case.op in QUANTILES and all(
        float(a) == float(b) or (math.isnan(float(a)) and math.isnan(float(b)))
        for a, b in _pairs_of_values(case)
    )


def _pairs_of_values(case):
    left, right = _numbers(case.expected), _numbers(case.actual)
    if left.keys() != right.keys():
        return [("0", "1")]
    return [(left[key], right[key]) for key in left]


def _numbers(answer):
    return {
        (tuple(sorted(row["metric"].items())), t): value
        for row in _rows(answer)
        for t, value in row.get("values") or [row["value"]]
    }


def _rows(answer):
    if answer["status"] != "success" or answer["data"]["resultType"] not in ("vector", "matrix"):
        return []
    return answer["data"]["result"]


RULES = (
    Rule(
        "newer language",
        "first_over_time, ts_of_first_over_time, histogram_quantiles, step(), range(), start(), "
        "end(), min_of(), max_of(), trim operators came after 3.5; duration expressions were "
        "behind a flag there",
        _is_newer_language,
    ),
    Rule(
        "matching before filtering",
        "3.5 looked for several matches only among the pairs that a comparison keeps; 3.14 looks "
        "at all pairs",
        _is_refused_filter,
    ),
    Rule(
        "logarithm of subnormal numbers",
        "Go's assembler for amd64 gets logarithms of numbers below 2.2e-308 wrong",
        _is_log_of_subnormal,
    ),
    Rule(
        "offset in timestamp() with @",
        "Prometheus (3.5 and 3.14) forgets the offset in timestamp(metric @ t offset d); tsengine "
        "looks at the same sample as the selector alone",
        _is_forgotten_offset,
    ),
    Rule(
        "point of a subquery that nobody sees",
        "Prometheus evaluates the inside of a subquery also between the windows of the steps and "
        "beyond the last step up to the end of the query, and fails where only that fails",
        _is_unused_point,
    ),
    Rule(
        "parameter of a constant vector",
        "Prometheus (3.5 and 3.14) computes an aggregation over a vector that is the same at all "
        "steps once, even if its parameter changes; tsengine looks at both",
        _is_frozen_parameter,
    ),
    Rule(
        "absent of a label with several matchers",
        "whether the label stays depends on the order of the matchers, which Prometheus changes "
        "while it looks up the series",
        _is_doubly_matched,
    ),
    Rule(
        "histogram_fraction below the lowest bound",
        "3.5 let the lowest bucket begin at -Inf even if its bound is positive, so that cutting it "
        "gave NaN; 3.14 lets it begin at 0",
        _is_fraction,
    ),
    Rule(
        "refused number of series",
        "topk, bottomk and limitk of NaN or of a number beyond int64 became an error after 3.5",
        _is_refused_count,
    ),
    Rule("mad_over_time of NaN", "3.14 answers NaN if any sample is NaN", _is_nan_in_mad),
    Rule(
        "sorting empty labels",
        "Prometheus's natural order calls an empty text neither smaller nor larger than any other, "
        "so where it lands is chance; tsengine puts it first",
        _has_empty_sort_label,
    ),
    Rule("ties of topk", "which of several equal samples is taken is not defined", _is_tie),
    Rule(
        "order of summation",
        "sums of numbers that cancel keep fewer digits, and which ones depends on the order of "
        "the series, which is not defined",
        _is_order_of_sum,
    ),
    Rule(
        "sign of zero in quantiles",
        "0 and -0 are equal, so their order among the sorted values is not defined",
        _is_zero_sign,
    ),
    Rule(
        "rounding made larger",
        "elementary functions and sums may differ in the last digit between Go and C; steps, "
        "comparisons, label values and differences of near-equal numbers show it",
        _is_rounding,
    ),
)
