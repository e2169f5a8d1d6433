"""Differences about native histograms between Prometheus 3.5 and 3.14 that are no defects."""

from __future__ import annotations

import math
import re

from tests.differential.cases import Case, Rule, pairs_of_values, values_of
from tests.differential.compare import TOLERANCE, same_number, same_value
from tests.differential.grammar import Node

INCOMPATIBLE_BOUNDS = "incompatible custom buckets"
INCOMPATIBLE_LAYOUT = "incompatible bucket layout"
OVERWRITTEN = "histograms overwritten"
RECONCILED = "mismatched custom buckets were reconciled"
RECONCILED_OPERANDS = re.compile(rf"{RECONCILED} during (addition|subtraction)")
NOT_RECONCILED_OPERANDS = (("expected", INCOMPATIBLE_LAYOUT, None),)
READERS = {"histogram_count", "histogram_sum", "histogram_avg"}
MAKES_GAUGES = {"*", "/", "unary -"}
MADE_GAUGES = tuple(
    (side, r"this native histogram metric is not a (counter|gauge)", None)
    for side in ("expected", "actual")
)
"""Not compared where there may be negative factors: only 3.14 makes a gauge then."""
ZERO_RULE = 3
"""The API's number of a bucket that is closed at both ends: the zero bucket."""

NATIVE_NOTE_CHANGES = (
    # 3.14 tells of conflicting hints, and adds histograms with different custom bounds.
    ("actual", r"conflicting counter resets during histogram", None),
    ("actual", RECONCILED, None),
    ("expected", rf"vector contains histograms with {INCOMPATIBLE_BOUNDS}", None),
    # It leaves out names that it does not know, and points to the histograms.
    *(
        (side, r'(mix of classic and native histograms)(?: for metric name ".*?")?', r"\1")
        for side in ("expected", "actual")
    ),
    *(
        (side, r'(has NaN observations, .*?)(?: for metric name ".*?")?( \(\d+:\d+\))$', r"\1")
        for side in ("expected", "actual")
    ),
)
MIXED_KINDS = (
    "vector contains a mix of histograms with exponential and custom buckets",
    "encountered a mix of histograms and floats for aggregation",
)


def without_order(texts):
    """Texts but for what depends on the order of the series of a group.

    A group of floats, exponential and custom histograms has no result; which of the two reasons
    Prometheus gives is the one it meets first.
    """
    return {
        "mix in an aggregation" if any(kind in text for kind in MIXED_KINDS) else text
        for text in texts
    }


def _points_of_histograms(case):
    """[(key, expected, actual)] where the answers differ; None unless all are histograms."""
    left, right = values_of(case.expected), values_of(case.actual)
    found = []
    for key in left.keys() | right.keys():
        one, other = left.get(key), right.get(key)
        if one is not None and other is not None and same_value(one, other):
            continue
        if isinstance(one, str) or isinstance(other, str):
            return None
        found.append((key, one, other))
    return found


def _is_reconciled(case):
    """3.5 had no value, or failed to subtract, where 3.14 has a histogram."""
    points = _points_of_histograms(case)
    refusal = INCOMPATIBLE_LAYOUT if case.op in ("+", "-") else INCOMPATIBLE_BOUNDS
    return (
        case.expected["status"] == case.actual["status"] == "success"
        and any(refusal in text for text in case.expected.get("warnings") or ())
        and any(RECONCILED in text for text in case.actual.get("infos") or ())
        and points is not None
        and all(one is None or _is_limited(case, one, other) for _, one, other in points)
    )


def _is_limited_rate(case):
    points = _points_of_histograms(case)
    return points is not None and all(_is_limited(case, one, other) for _, one, other in points)


def _is_limited(case, one, other):
    """One histogram is the other one times a number below 1."""
    if case.op not in ("rate", "increase") or one is None or other is None:
        return False
    factor = float(other["count"]) / (float(one["count"]) or math.nan)
    scaled = _scaled(one, factor)
    return 0 < factor < 1 and (same_value(scaled, other) or _differ_by_zero_sign(scaled, other))


def _scaled(histogram, factor):
    def times(text):
        return repr(float(text) * factor)

    buckets = [[*bucket[:3], times(bucket[3])] for bucket in histogram.get("buckets", ())]
    return {
        "count": times(histogram["count"]), "sum": times(histogram["sum"]), "buckets": buckets
    }  # fmt: skip


def _is_sign_of_sum(case):
    """Histograms whose sums are 0 and -0, and nothing else."""
    points = _points_of_histograms(case)
    return points is not None and all(
        one and other and _differ_by_zero_sign(one, other) for _, one, other in points
    )


def _differ_by_zero_sign(one, other):
    return float(one["sum"]) == float(other["sum"]) == 0 and same_value(
        {**one, "sum": "0"}, {**other, "sum": "0"}
    )


def _is_infinite_mean(case):
    """Averages with a field that is infinite, and NaN in 3.5."""
    points = _points_of_histograms(case)
    return case.op in ("avg", "avg_over_time") and points is not None and all(
        one and other and one["sum"] == "NaN" and math.isinf(float(other["sum"]))
        and same_value({**one, "sum": "0"}, {**other, "sum": "0"})
        for _, one, other in points
    )  # fmt: skip


def _is_worse_mean(case):
    """Prometheus's own sum divided by its count is what tsengine calls the mean."""
    if case.op not in ("avg", "avg_over_time"):
        return False
    total, number = (
        Node("v", (case.node.parts[0].replace("avg", name), *case.node.parts[1:]), name)
        for name in ("sum", "count")
    )
    quotient = Node("v", ("(", total, " / ", number, ")"), "/")
    means = values_of(case.ask(quotient, case.times).expected)
    actual = values_of(case.actual)
    return values_of(case.expected).keys() == actual.keys() <= means.keys() and all(
        same_value(means[key], value) for key, value in actual.items()
    )


def _is_overwritten(case):
    """Prometheus agrees if it is asked for the points alone."""
    text = str(case.node)
    if case.times.step_ms == 0 or "start()" in text or "end()" in text:
        return False
    points = _points_of_histograms(case) or []
    return points != [] and all(
        other is not None and same_value(_asked_alone(case, *key) or "", other)
        for key, _, other in points
    )


def _asked_alone(case, labels, t):
    """Prometheus's value of a series in an instant query; None if there is none."""
    answer = case.ask(case.node, case.times.at(round(t * 1000))).expected
    return values_of(answer).get((labels, t))


def _is_layout_change(case):
    """More changes than can be seen."""
    pairs = pairs_of_values(case)
    return (
        case.op == "changes"
        and all(float(one) >= float(other) for one, other in pairs)
        and any(isinstance(value, dict) for part in case.parts
                for value in values_of(part.expected).values())
    )  # fmt: skip


def _is_unlike(case):
    """Histograms that Prometheus calls different although they show the same."""
    if case.op not in ("==", "!="):
        return False
    left, right = values_of(case.expected), values_of(case.actual)
    found = [
        (left.get(key), right.get(key))
        for key in left.keys() | right.keys()
        if left.get(key) != right.get(key)
    ]
    if case.op == "==":
        found = [pair[::-1] for pair in found]
    return all(pair == ("1", "0") or _is_alone(*pair) for pair in found)


def _is_alone(one, other):
    return isinstance(one, dict) and other is None


def is_skipped(case, difference_of=Case.differs):
    """There is no difference if Prometheus is made to skip all buckets or none."""
    return case.ops & READERS != set() and any(
        not difference_of(case.ask(Node("v", ("(", variant, ")")), case.times))
        for variant in (case.node, _all_read(case.node))
    )


def _all_read(node):
    """The tree with another first selector under each function that lets buckets be skipped."""
    parts = [_all_read(part) if isinstance(part, Node) else part for part in node.parts]
    if node.op in READERS:
        parts = [parts[0], "(missing or ", *parts[1:-1], ")", parts[-1]]
    return Node(node.kind, tuple(parts), node.op)


def _inputs(case):
    """[(histogram, expected, actual)] of a function of histograms where its values differ."""
    inputs = {}
    for part in case.parts:
        for (labels, t), value in values_of(part.expected).items():
            if isinstance(value, dict):
                plain = tuple(pair for pair in labels if pair[0] != "__name__")
                inputs[plain, t] = value
    left, right = values_of(case.expected), values_of(case.actual)
    if left.keys() != right.keys():
        return [(None, "0", "1")]
    return [
        (inputs.get((tuple(pair for pair in labels if pair[0] != "__name__"), t)), one, other)
        for (labels, t), one in left.items()
        if not same_value(one, other := right[labels, t])
    ]


def _is_side_of_zero(case):
    if case.op not in ("histogram_quantile", "histogram_fraction"):
        return False
    return all(
        histogram is not None and _is_in_zero(case, histogram, one, other)
        for histogram, one, other in _inputs(case)
    )


def _is_in_zero(case, histogram, one, other):
    """Whether the values are told by where the zero bucket of a one-sided histogram begins.

    With a negative count no rank is reached, and the last bucket is told, though it be empty.
    """
    if float(histogram["count"]) < 0 and case.op == "histogram_quantile":
        return True
    buckets = histogram.get("buckets", ())
    widths = [float(upper) for rule, _, upper, _ in buckets if rule == ZERO_RULE]
    others = [bucket for bucket in buckets if bucket[0] != ZERO_RULE]
    signs = {float(bucket[1]) >= 0 for bucket in others}
    if not widths or len(signs) == 2 or math.isinf(widths[0]):
        return False
    limit = widths[0] * (1 + TOLERANCE)
    return case.op == "histogram_fraction" or all(abs(float(x)) <= limit for x in (one, other))


def _is_lost_bucket(case):
    return case.op == "histogram_quantile" and all(
        histogram is not None
        and (histogram["sum"] == "NaN" or _is_in_zero(case, histogram, one, other))
        for histogram, one, other in _inputs(case)
    )


def _is_nan_of_empty(case):
    """Buckets with the count NaN that one side does not have; all else is equal."""
    points = _points_of_histograms(case)
    return (
        case.op in ("*", "/")
        and points is not None
        and all(one and other and _differ_by_nan(one, other) for _, one, other in points)
    )


def _differ_by_nan(one, other):
    counts = [
        {tuple(bucket[:3]): bucket[3] for bucket in histogram.get("buckets", ())}
        for histogram in (one, other)
    ]
    return all(same_number(one[key], other[key]) for key in ("count", "sum")) and all(
        same_number(left, right)
        for left, right in (
            (counts[0].get(key, "NaN"), counts[1].get(key, "NaN"))
            for key in counts[0].keys() | counts[1].keys()
        )
    )


NATIVE_RULES = (
    Rule(
        "custom bounds reconciled",
        "3.5 left out sums and differences of histograms with different custom bounds; 3.14 "
        "reduces them to the common bounds",
        _is_reconciled,
    ),
    Rule(
        "rate of histograms limited to zero",
        "3.14 does not extrapolate a histogram's rate and increase beyond where its count would "
        "have been zero; 3.5 did that for floats only",
        _is_limited_rate,
    ),
    Rule(
        "empty buckets in the database",
        "Prometheus lets the zero bucket begin at zero if there are buckets on one side only, "
        "empty ones included, and which of these there are depends on the chunk that a sample "
        "lies in; tsengine looks at populated buckets",
        _is_side_of_zero,
    ),
    Rule(
        "equality of empty buckets",
        "to Prometheus histograms are equal if they have the same empty buckets too, and which of "
        "these there are depends on the chunk that a sample lies in",
        lambda case: _is_layout_change(case) or _is_unlike(case),
    ),
    Rule(
        "buckets that are skipped",
        "under histogram_count, histogram_sum and histogram_avg 3.5 skipped the buckets of the "
        "first selector only, and of none if the function is the outermost part; 3.14 skips all, "
        "which changes what resets and layouts are seen",
        is_skipped,
    ),
    Rule(
        "sign of a histogram's zero sum",
        "0 + -0 is 0, so the sign depends on what the sum starts with and on compensation, which "
        "3.5 did not have",
        _is_sign_of_sum,
    ),
    Rule(
        "mean of infinite sums",
        "3.5 subtracted infinity from infinity in the incremental mean; 3.14 does not",
        _is_infinite_mean,
    ),
    Rule(
        "mean of histograms of several layouts",
        "3.5 took differences to a running mean, and lost observations where zero buckets or "
        "schemas differ; its sum divided by its count is right",
        _is_worse_mean,
    ),
    Rule(
        OVERWRITTEN,
        "3.5 did not copy histograms that come out of a subquery, and later steps wrote over them "
        "(issue 16879); instant queries at each step are right",
        _is_overwritten,
    ),
    Rule(
        "quantile of a sum that is NaN",
        "Prometheus (3.5 and 3.14) looks for observations of NaN with the variable that holds the "
        "bucket, and then interpolates in the last one; tsengine in the right one",
        _is_lost_bucket,
    ),
    Rule(
        "NaN in empty buckets",
        "an empty bucket times infinity is NaN, and which empty buckets there are depends on the "
        "chunk that a sample lies in; tsengine has none",
        _is_nan_of_empty,
    ),
)
