"""Functions of one series over windows of a tier, window by window, as dicts of their columns."""

from __future__ import annotations

import math

from tests.reference.rangewindows import divide, neumaier


def within(windows, end_ms, range_ms):
    """Windows with floats whose ends lie in (end - range, end]."""
    return [w for w in windows if end_ms - range_ms < w["end"] <= end_ms and w["count"]]


def add_windows(op, windows, end_ms, range_ms):
    inside = within(windows, end_ms, range_ms)
    if not inside:
        return None
    total = sum(neumaier([w["sum"] for w in inside]))
    return total if op == "sum" else total / sum(w["count"] for w in inside)


def extrapolate_windows(op, windows, end_ms, range_ms):
    inside = within(windows, end_ms, range_ms)
    n = sum(w["count"] for w in inside)
    if n < 2:
        return None
    first, last = inside[0], inside[-1]
    raw = last["last"] - first["first"]
    if op != "delta":
        raw += first["resets"]
        for before, after in zip(inside, inside[1:], strict=False):
            raw += after["resets"]
            if after["first"] < before["last"]:
                raw += before["last"]
    covered = (last["last_t"] - first["first_t"]) / 1000
    gap = covered / (n - 1)
    head = (first["first_t"] - (end_ms - range_ms)) / 1000
    tail = (end_ms - last["last_t"]) / 1000
    head, tail = (x if x < gap * 1.1 else gap / 2 for x in (head, tail))
    if op != "delta" and raw > 0 and first["first"] >= 0:
        head = min(head, covered * divide(first["first"], raw))
    factor = (covered + head + tail) / covered
    return raw * factor / (range_ms / 1000 if op == "rate" else 1)


def latest_of_windows(windows, end_ms, lookback_ms, *, want_time):
    seen = [w for w in windows if end_ms - lookback_ms < w["end"] <= end_ms]
    if not seen or seen[-1]["stale"] or not seen[-1]["count"]:
        return None
    newest = seen[-1]
    if newest["last_t"] <= end_ms - lookback_ms:
        return None
    x = newest["last_t"] / 1000 if want_time else newest["last"]
    assert not math.isinf(x) or not want_time
    return x
