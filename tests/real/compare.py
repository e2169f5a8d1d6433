"""Whether two servers gave the same answer."""

from __future__ import annotations

import math

TOLERANCE = 1e-9


def difference(expected, actual):
    """What differs between two API data objects, as a text; None when nothing does."""
    if expected["resultType"] != actual["resultType"]:
        return f"type {actual['resultType']}, expected {expected['resultType']}"
    left, right = _by_labels(expected["result"]), _by_labels(actual["result"])
    if left.keys() != right.keys():
        missing = [dict(key) for key in left.keys() - right.keys()][:3]
        extra = [dict(key) for key in right.keys() - left.keys()][:3]
        return f"{len(right)} series, expected {len(left)}; missing {missing}, extra {extra}"
    for key, points in left.items():
        if problem := _points_differ(points, right[key]):
            return f"{dict(key)}: {problem}"
    return None


def _by_labels(result):
    return {
        tuple(sorted(row["metric"].items())): row["values"] if "values" in row else [row["value"]]
        for row in result
    }


def _points_differ(left, right):
    if [t for t, _ in left] != [t for t, _ in right]:
        return f"times {[t for t, _ in right][:5]}, expected {[t for t, _ in left][:5]}"
    for (t, expected), (_, actual) in zip(left, right, strict=True):
        a, b = float(expected), float(actual)
        same = a == b or (math.isnan(a) and math.isnan(b))
        if not same and not math.isclose(a, b, rel_tol=TOLERANCE, abs_tol=0):
            return f"{actual} at {t}, expected {expected}"
    return None


def count_points(data):
    """Values in an answer."""
    return sum(len(row["values"]) if "values" in row else 1 for row in data["result"])
