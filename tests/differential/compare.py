"""Whether two answers of the HTTP API's shape say the same."""

from __future__ import annotations

import math
from itertools import pairwise

TOLERANCE = 1e-9
NOTES_MAX = 10
"""Prometheus names so many warnings and counts the others."""

_BY_VALUE = {"sort", "sort_desc"}
_BY_LABEL = {"sort_by_label", "sort_by_label_desc"}


def answers_differ(expected, actual, *, root_op="", tolerance=TOLERANCE):
    """(class, text) of the first difference of the values; None when there is none."""
    if expected["status"] != actual["status"]:
        shown = [a.get("error") or "success" for a in (expected, actual)]
        return "status", f"{shown[1]!r}, expected {shown[0]!r}"
    if expected["status"] == "error":
        kinds = expected["errorType"], actual["errorType"]
        if kinds[0] != kinds[1]:
            return (
                "error type",
                f"{kinds[1]} {actual['error']!r}, expected {kinds[0]} {expected['error']!r}",
            )
        return None
    return _data_differ(expected["data"], actual["data"], root_op, tolerance)


def notes_differ(expected, actual):
    """(class, text) of a difference of warnings or infos; None when there is none."""
    if expected["status"] != "success" or actual["status"] != "success":
        return None
    for key in ("warnings", "infos"):
        left, right = set(expected.get(key) or ()), set(actual.get(key) or ())
        if max(len(left), len(right)) > NOTES_MAX:
            continue
        if left != right:
            return key, f"missing {sorted(left - right)}, surplus {sorted(right - left)}"
    return None


def error_texts_differ(expected, actual):
    """A text when both failed alike but in other words."""
    if expected["status"] == "error" == actual["status"] and expected["error"] != actual["error"]:
        return f"{actual['error']!r}, expected {expected['error']!r}"
    return None


def points_of(row):
    """[[time, value]] of a series by time; a value is a text, or what the API shows of a histogram.

    A time occurs twice where an answer gives both, which it must not.
    """
    if "value" in row or "histogram" in row:
        return [row[key] for key in ("value", "histogram") if key in row]
    points = row.get("values", []) + row.get("histograms", [])
    return sorted(points, key=lambda point: point[0])


def _data_differ(expected, actual, root_op, tolerance):
    if expected["resultType"] != actual["resultType"]:
        return "result type", f"{actual['resultType']}, expected {expected['resultType']}"
    left, right = expected["result"], actual["result"]
    if expected["resultType"] == "string":
        return None if left == right else ("value", f"{right}, expected {left}")
    if expected["resultType"] == "scalar":
        problem = _points_differ([left], [right], tolerance)
        return ("value", problem) if problem else None
    if problem := _rows_differ(left, right, tolerance):
        return problem
    return _order_differs(expected["resultType"], left, right, root_op, tolerance)


def _rows_differ(left, right, tolerance):
    by_left, by_right = _by_labels(left), _by_labels(right)
    if len(by_right) != len(right):
        return "labels", "a label set occurs twice"
    if by_left.keys() != by_right.keys():
        missing = [dict(key) for key in by_left.keys() - by_right.keys()][:3]
        surplus = [dict(key) for key in by_right.keys() - by_left.keys()][:3]
        text = f"{len(right)} series, expected {len(left)}; missing {missing}, surplus {surplus}"
        return "labels", text
    for key, points in by_left.items():
        if problem := _points_differ(points, by_right[key], tolerance):
            return "value", f"{dict(key)}: {problem}"
    return None


def _order_differs(kind, left, right, root_op, tolerance):
    if kind == "matrix" or root_op in _BY_LABEL:
        if [row["metric"] for row in left] != [row["metric"] for row in right]:
            return "order", f"{[row['metric'] for row in right][:4]}"
    elif root_op in _BY_VALUE:
        pairs = zip(left, right, strict=True)
        if not all(same_value(points_of(a)[0][1], points_of(b)[0][1], tolerance) for a, b in pairs):
            return "order", f"{[points_of(row)[0][1] for row in right][:8]}"
    return None


def _by_labels(rows):
    return {tuple(sorted(row["metric"].items())): points_of(row) for row in rows}


def _points_differ(left, right, tolerance):
    times = [t for t, _ in right]
    if [t for t, _ in left] != times:
        return (
            f"times {times[:5]} ({len(times)}), expected {[t for t, _ in left][:5]} ({len(left)})"
        )
    if any(b <= a for a, b in pairwise(times)):
        return f"times {times[:5]} do not ascend"
    for (t, expected), (_, actual) in zip(left, right, strict=True):
        if not same_value(expected, actual, tolerance):
            return f"{_what_differs(expected, actual, tolerance)} at {t}"
    return None


def _what_differs(expected, actual, tolerance):
    if not (isinstance(expected, dict) and isinstance(actual, dict)):
        return f"{actual}, expected {expected}"
    for key in ("count", "sum"):
        if not same_number(expected[key], actual[key], tolerance):
            return f"{key} {actual[key]}, expected {expected[key]}"
    left, right = _buckets(expected), _buckets(actual)
    wrong = {key for key in left.keys() | right.keys() if left.get(key) != right.get(key)}
    shown = [(key, right.get(key), left.get(key)) for key in sorted(wrong)]
    return f"buckets (bounds, count, expected): {shown}"


def same_value(expected, actual, tolerance=TOLERANCE):
    """Whether two samples' values are equal but for rounding."""
    if isinstance(expected, dict) and isinstance(actual, dict):
        return same_histogram(expected, actual, tolerance)
    return (
        isinstance(expected, str)
        and isinstance(actual, str)
        and same_number(expected, actual, tolerance)
    )


def same_histogram(expected, actual, tolerance=TOLERANCE):
    """Whether two histograms as the API shows them are equal but for rounding.

    A bucket that is left out is empty. Counts are as exact as the largest one: a bucket may be what
    is left of numbers of that size.
    """
    if expected == actual:
        return True
    left, right = _buckets(expected), _buckets(actual)
    counts = [abs(count) for count in (*left.values(), *right.values())]
    scale = max((count for count in counts if math.isfinite(count)), default=0.0)
    return (
        same_number(expected["sum"], actual["sum"], tolerance)
        and _same_count(float(expected["count"]), float(actual["count"]), tolerance, scale)
        and all(
            _same_count(left.get(key, 0.0), right.get(key, 0.0), tolerance, scale)
            for key in left.keys() | right.keys()
        )
    )


def _buckets(histogram):
    """{(rule, lower, upper): count}."""
    return {
        (rule, float(lower), float(upper)): float(count)
        for rule, lower, upper, count in histogram.get("buckets", ())
    }


def _same_count(left, right, tolerance, scale):
    if math.isnan(left) or math.isnan(right):
        return math.isnan(left) and math.isnan(right)
    return left == right or (
        math.isclose(left, right, rel_tol=tolerance, abs_tol=tolerance * scale)
    )


def same_number(expected, actual, tolerance=TOLERANCE):
    """Whether two numbers as the API writes them are equal but for rounding; 0 is not -0."""
    if expected == actual:
        return True
    a, b = float(expected), float(actual)
    if math.isnan(a) or math.isnan(b):
        return math.isnan(a) and math.isnan(b)
    if a == b:
        return math.copysign(1, a) == math.copysign(1, b)
    if math.isinf(a) or math.isinf(b):
        return False
    return math.isclose(a, b, rel_tol=tolerance, abs_tol=0)
