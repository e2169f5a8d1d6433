"""Functions of one series over one window, sample by sample, as Prometheus's documentation and
behaviour describe them. A window is a list of (time in ms, value).
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable

Sample = tuple[int, float]
Window = list[Sample]

STALE_BITS = 0x7FF0000000000002


def is_stale(x: float) -> bool:
    return struct.unpack("<Q", struct.pack("<d", x))[0] == STALE_BITS


def window(samples: Window, end_ms: int, range_ms: int) -> Window:
    return [(t, v) for t, v in samples if end_ms - range_ms < t <= end_ms]


def find_windows(times: list[int], end_ms: int, range_ms: int) -> tuple[int, int]:
    """Half-open positions of the times inside."""
    return (
        sum(t <= end_ms - range_ms for t in times),
        sum(t <= end_ms for t in times),
    )


def select_latest(
    samples: Window, end_ms: int, lookback_ms: int, *, want_time: bool
) -> float | None:
    inside = window(samples, end_ms, lookback_ms)
    if not inside or is_stale(inside[-1][1]):
        return None
    return inside[-1][0] / 1000 if want_time else inside[-1][1]


def divide(x: float, y: float) -> float:
    """IEEE division."""
    if y != 0:
        return x / y
    if x == 0 or math.isnan(x):
        return math.nan
    return math.copysign(math.inf, x) * math.copysign(1.0, y)


def neumaier(xs: list[float]) -> tuple[float, float]:
    total, error = 0.0, 0.0
    for x in xs:
        total, error = neumaier_step(total, error, x)
    return total, error


def neumaier_step(total: float, error: float, x: float) -> tuple[float, float]:
    grown = total + x
    if math.isinf(grown):
        return grown, 0.0
    if abs(total) >= abs(x):
        return grown, error + ((total - grown) + x)
    return grown, error + ((x - grown) + total)


# --- counters -----------------------------------------------------------------------------------


def extrapolate(op: str, inside: Window, end_ms: int, range_ms: int) -> float | None:
    if len(inside) < 2:
        return None
    values = [v for _, v in inside]
    raw = values[-1] - values[0]
    if op != "delta":
        for before, after in zip(values, values[1:], strict=False):
            if after < before:
                raw += before
    covered = (inside[-1][0] - inside[0][0]) / 1000
    gap = covered / (len(inside) - 1)
    head = (inside[0][0] - (end_ms - range_ms)) / 1000
    tail = (end_ms - inside[-1][0]) / 1000
    if head >= gap * 1.1:
        head = gap / 2
    if tail >= gap * 1.1:
        tail = gap / 2
    if op != "delta" and raw > 0 and values[0] >= 0:
        to_zero = covered * divide(values[0], raw)
        if to_zero < head:
            head = to_zero
    factor = (covered + head + tail) / covered
    if op == "rate":
        factor /= range_ms / 1000
    return raw * factor


def starts_anew(before: tuple[int, int], after: tuple[int, int]) -> bool:
    """Whether start timestamps tell of a reset between two (time, start timestamp or 0)."""
    (t0, start0), (t1, start1) = before, after
    if start1 == 0 or start1 >= t1 or start1 < t0:
        return False
    return start1 > t0 or (start0 != 0 and start0 < t0)


def extrapolate_from_starts(
    op: str, samples: list[tuple[int, float, int]], end_ms: int, range_ms: int
) -> tuple[float | None, bool]:
    """Rate or increase of (time, value, start timestamp or 0), and whether samples overlap."""
    begin_ms = end_ms - range_ms
    inside = [s for s in samples if begin_ms < s[0] <= end_ms]
    if not inside:
        return None, False
    first_ms, first, start = inside[0]
    begins = start != 0 and begin_ms < start < first_ms
    if len(inside) < 2 and not begins:
        return None, False
    overlaps = False
    raw = inside[-1][1] - first
    for (t0, v0, s0), (t1, v1, s1) in zip(inside, inside[1:], strict=False):
        overlaps |= s1 != 0 and s1 < t0 and s1 != s0
        if v1 < v0 or starts_anew((t0, s0), (t1, s1)):
            raw += v0
    covered = (inside[-1][0] - first_ms) / 1000
    gap = covered / (len(inside) - 1) if len(inside) > 1 else 0.0
    head = (first_ms - begin_ms) / 1000
    tail = (end_ms - inside[-1][0]) / 1000
    head, tail = (x if x < gap * 1.1 else gap / 2 for x in (head, tail))
    if begins:
        head = 0.0
        covered = (inside[-1][0] - start) / 1000
        raw += first
    elif raw > 0 and first >= 0:
        head = min(head, covered * divide(first, raw))
    factor = (covered + head + tail) / covered
    if op == "rate":
        factor /= range_ms / 1000
    return raw * factor, overlaps


def last_difference(op: str, inside: Window, end_ms: int, range_ms: int) -> float | None:
    if len(inside) < 2:
        return None
    (t0, before), (t1, x) = inside[-2:]
    if op == "idelta":
        return x - before
    return (x if x < before else x - before) / ((t1 - t0) / 1000)


def count_steps(op: str, inside: Window, end_ms: int, range_ms: int) -> float | None:
    if not inside:
        return None
    values = [v for _, v in inside]
    pairs = list(zip(values, values[1:], strict=False))
    if op == "resets":
        return float(sum(after < before for before, after in pairs))
    return float(sum(a != b and not (math.isnan(a) and math.isnan(b)) for a, b in pairs))


# --- ranges that reach beyond their ends ----------------------------------------------------------


def anchored_window(samples: Window, end_ms: int, range_ms: int, lookback_ms: int) -> Window:
    """The window, begun by the newest sample at or before its start, within the lookback."""
    inside = window(samples, end_ms, range_ms)
    before = window(samples, end_ms - range_ms, lookback_ms)
    return before[-1:] + inside if inside else []


def value_at(samples: Window, t_ms: int, *, is_counter: bool) -> float:
    """Value between the neighbours of a time; an end's value outside."""
    before = [s for s in samples if s[0] <= t_ms]
    after = [s for s in samples if s[0] >= t_ms]
    if not before:
        return after[0][1]
    if not after:
        return before[-1][1]
    (t0, y0), (t1, y1) = before[-1], after[0]
    if t0 == t1:
        return y0
    if is_counter and y1 < y0:
        y0 = 0.0
    return y0 + (y1 - y0) * (t_ms - t0) / (t1 - t0)


def difference_of_edges(
    op: str, samples: Window, end_ms: int, range_ms: int, lookback_ms: int, *, smoothed: bool
) -> float | None:
    start_ms = end_ms - range_ms
    is_counter = op in ("rate", "increase")
    if smoothed:
        seen = window(samples, end_ms + lookback_ms, range_ms + 2 * lookback_ms)
        if not seen or seen[0][0] > end_ms or seen[-1][0] <= start_ms:
            return None
        left = value_at(seen, start_ms, is_counter=is_counter)
        right = value_at(seen, end_ms, is_counter=is_counter)
    else:
        seen = anchored_window(samples, end_ms, range_ms, lookback_ms)
        if not seen:
            return None
        left, right = seen[0][1], seen[-1][1]
    if op in ("left", "right"):
        return left if op == "left" else right
    path = [left, *(v for t, v in seen if start_ms < t < end_ms), right]
    lost = sum(a for a, b in zip(path, path[1:], strict=False) if b < a) if is_counter else 0.0
    difference = right - left + lost
    return difference / (range_ms / 1000) if op == "rate" else difference


def interpolate_instants(samples: Window, end_ms: int, lookback_ms: int) -> float | None:
    if not window(samples, end_ms, lookback_ms):
        return None
    seen = window(samples, end_ms + lookback_ms, 2 * lookback_ms)
    return value_at(seen, end_ms, is_counter=False)


# --- over time ----------------------------------------------------------------------------------


def pick_samples(op: str, inside: Window, end_ms: int, range_ms: int) -> float | None:
    if not inside:
        return None
    return {
        "count": float(len(inside)),
        "present": 1.0,
        "first": inside[0][1],
        "last": inside[-1][1],
        "ts_of_first": inside[0][0] / 1000,
        "ts_of_last": inside[-1][0] / 1000,
    }[op]


def sum_windows(op: str, inside: Window, end_ms: int, range_ms: int) -> float | None:
    if not inside:
        return None
    values = [v for _, v in inside]
    if op == "sum":
        total, error = neumaier(values)
        return total + error
    if op == "avg":
        return mean(values)
    variance = welford(values)
    if op == "stdvar":
        return variance
    return math.sqrt(variance) if variance >= 0 else math.nan


def mean(values: list[float]) -> float:
    total, error = values[0], 0.0
    for k, x in enumerate(values[1:], start=2):
        new_total, new_error = neumaier_step(total, error, x)
        if math.isinf(new_total):
            return incremental_mean(values, k - 1, total, error)
        total, error = new_total, new_error
    return total / len(values) + error / len(values)


def incremental_mean(values: list[float], n_done: int, total: float, error: float) -> float:
    result, error = total / n_done, error / n_done
    for k, x in enumerate(values[n_done:], start=n_done + 1):
        share = (k - 1) / k
        result, error = neumaier_step(share * result, share * error, x / k)
    return result + error


def welford(values: list[float]) -> float:
    centre = centre_error = squares = squares_error = 0.0
    for k, x in enumerate(values, start=1):
        delta = x - (centre + centre_error)
        centre, centre_error = neumaier_step(centre, centre_error, delta / k)
        squares, squares_error = neumaier_step(
            squares, squares_error, delta * (x - (centre + centre_error))
        )
    return (squares + squares_error) / len(values)


def extreme_windows(op: str, inside: Window, end_ms: int, range_ms: int) -> float | None:
    if not inside:
        return None
    numbers = [(t, v) for t, v in inside if not math.isnan(v)]
    if not numbers:
        best_t, best = inside[-1]
    else:
        best = (max if op.endswith("max") else min)(v for _, v in numbers)
        best_t = max(t for t, v in numbers if v == best)
    return best_t / 1000 if op.startswith("ts_of") else best


def quantile(q: float, values: list[float]) -> float:
    if math.isnan(q):
        return math.nan
    if q < 0 or q > 1:
        return math.copysign(math.inf, q)
    ordered = sorted(values, key=lambda v: (not math.isnan(v), 0.0 if math.isnan(v) else v))
    rank = q * (len(ordered) - 1)
    lower = math.floor(rank)
    upper = min(lower + 1, len(ordered) - 1)
    weight = rank - lower
    return ordered[lower] * (1 - weight) + ordered[upper] * weight


def quantile_windows(op: str, inside: Window, end_ms: int, range_ms: int, q: float) -> float | None:
    if not inside:
        return None
    values = [v for _, v in inside]
    if op == "quantile":
        return quantile(q, values)
    if any(math.isnan(v) for v in values):
        return math.nan
    median = quantile(0.5, values)
    return quantile(0.5, [abs(v - median) for v in values])


def fit_lines(
    op: str, inside: Window, end_ms: int, range_ms: int, ahead_s: float, origin_ms: int
) -> float | None:
    if len(inside) < 2:
        return None
    values = [v for _, v in inside]
    origin = inside[0][0] if op == "deriv" else origin_ms
    if all(v == values[0] for v in values[1:]):
        if math.isinf(values[0]):
            return math.nan
        return 0.0 if op == "deriv" else 0.0 * ahead_s + values[0]
    xs = [(t - origin) / 1000 for t, _ in inside]
    n = float(len(inside))
    sum_x, sum_y = sum(neumaier(xs)), sum(neumaier(values))
    sum_xy = sum(neumaier([x * y for x, y in zip(xs, values, strict=True)]))
    sum_xx = sum(neumaier([x * x for x in xs]))
    slope = divide(sum_xy - sum_x * sum_y / n, sum_xx - sum_x * sum_x / n)
    intercept = sum_y / n - slope * sum_x / n
    return slope if op == "deriv" else slope * ahead_s + intercept


def smooth_windows(
    inside: Window, end_ms: int, range_ms: int, level_factor: float, trend_factor: float
) -> float | None:
    if len(inside) < 2:
        return None
    values = [v for _, v in inside]
    levels = [values[0]]
    trend = values[1] - values[0]
    for k, x in enumerate(values[1:], start=1):
        if k > 1:
            trend = trend_factor * (levels[-1] - levels[-2]) + (1 - trend_factor) * trend
        levels.append(level_factor * x + (1 - level_factor) * (levels[-1] + trend))
    return levels[-1]


# --- all of it ----------------------------------------------------------------------------------


def rolled(
    samples: Window,
    ends_ms: list[int],
    range_ms: int,
    function: Callable[[Window, int, int], float | None],
) -> list[float | None]:
    """A function at every step; None is absence."""
    return [function(window(samples, end, range_ms), end, range_ms) for end in ends_ms]


def summed(
    rows: list[Window],
    groups: list[int],
    n_groups: int,
    ends_ms: list[int],
    range_ms: int,
    function: Callable[[Window, int, int], float | None],
) -> list[list[list[float]]]:
    """What each group adds up at every step."""
    cells: list[list[list[float]]] = [[[] for _ in ends_ms] for _ in range(n_groups)]
    for row, group in zip(rows, groups, strict=True):
        for step, x in enumerate(rolled(row, ends_ms, range_ms, function)):
            if x is not None:
                cells[group][step].append(x)
    return cells


def extrapolate_sums(
    op: str, rows: list[Window], groups: list[int], n_groups: int, ends_ms: list[int], range_ms: int
) -> list[list[list[float]]]:
    """The rates, or the like, that each group adds up."""

    def one(inside: Window, end_ms: int, length_ms: int) -> float | None:
        return extrapolate(op, inside, end_ms, length_ms)

    return summed(rows, groups, n_groups, ends_ms, range_ms, one)


def latest_sums(
    rows: list[Window], groups: list[int], n_groups: int, ends_ms: list[int], lookback_ms: int
) -> list[list[list[float]]]:
    """The newest values that each group adds up."""

    def one(inside: Window, end_ms: int, length_ms: int) -> float | None:
        return select_latest(inside, end_ms, length_ms, want_time=False)

    return summed(rows, groups, n_groups, ends_ms, lookback_ms, one)
