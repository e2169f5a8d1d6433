"""Functions of one series over one window of floats and native histograms, sample by sample.

From Prometheus's documentation and behaviour. A sample is (time in ms, value, start timestamp in
ms or 0); a value is a float or a `NativeHistogram`. Every function gives a float, a histogram or
None, and adds the names of what has to be annotated to a set.
"""

import math
from dataclasses import replace

from tests.reference import histograms as algebra
from tests.reference import rangewindows
from tests.reference.histograms import CUSTOM
from tsengine.model.histogram_values import NativeHistogram


def is_histogram(value):
    return isinstance(value, NativeHistogram)


def inside(samples, end_ms, range_ms):
    return [s for s in samples if end_ms - range_ms < s[0] <= end_ms]


def floats_of(samples):
    return [(t, v) for t, v, _ in samples if not is_histogram(v)]


def histograms_of(samples):
    return [s for s in samples if is_histogram(s[1])]


def scaled(h, factor):
    return replace(
        h,
        count=h.count * factor,
        sum=h.sum * factor,
        zero_count=h.zero_count * factor,
        positive={i: c * factor for i, c in h.positive.items()},
        negative={i: c * factor for i, c in h.negative.items()},
    )


def start_reset(before, after):
    """Whether start timestamps tell of a reset between two samples."""
    (t0, _, s0), (t1, _, s1) = before, after
    if s1 == 0 or s1 >= t1 or s1 < t0:
        return False
    return s1 > t0 or (s0 != 0 and s0 < t0)


def was_reset(before, after):
    if start_reset(before, after):
        return True
    if is_histogram(after[1]):
        return algebra.detect_resets(before[1], after[1])
    return after[1] < before[1]


def total(histograms, factors, notes, names, floor=8):
    """Sum, or None; `names` says how reconciling at position 1 and at later ones is called."""
    made, reconciled = algebra.sum_histograms(histograms, factors, floor)
    if made is None:
        notes.add("mixed schemas")
        return None
    notes |= {names[0 if position == 1 else 1] for position in reconciled}
    return made


# --- sums ---------------------------------------------------------------------------------------


def sum_over_time(window, notes, *, mean=False):
    histograms = [h for _, h, _ in histograms_of(window)]
    floats = floats_of(window)
    if histograms and floats:
        notes.add("mixed")
        return None
    if floats:
        return rangewindows.sum_windows("avg" if mean else "sum", floats, 0, 0)
    if not histograms:
        return None
    own = set()
    made = total(histograms, [1.0] * len(histograms), own, ("reconciled", "reconciled"))
    if {"reset", "not_reset"} <= {h.hint for h in histograms} and made is not None:
        own.add("clash")
    notes |= own if made is not None else {"mixed schemas"}
    if made is None:
        return None
    return algebra.divided(made, len(histograms)) if mean else made


# --- increases ----------------------------------------------------------------------------------


def extrapolated(op, samples, end_ms, range_ms, notes):
    window = inside(samples, end_ms, range_ms)
    kinds = {is_histogram(v) for _, v, _ in window}
    if len(kinds) == 2:
        notes.add("mixed")
        return None
    if not window:
        return None
    is_counter = op != "delta"
    begin_ms = end_ms - range_ms
    first_ms, last_ms, start = window[0][0], window[-1][0], window[0][2]
    begins = is_counter and start != 0 and begin_ms < start < first_ms
    if len(window) < 2 and not begins:
        return None
    if kinds == {True}:
        grown = histogram_increase(window, notes, is_counter=is_counter)
        size = None if grown is None else grown.count
        first_size = window[0][1].count
    else:
        grown = size = float_increase(window, notes, is_counter=is_counter)
        first_size = window[0][1]
    if grown is None:
        return None
    covered = (last_ms - first_ms) / 1000
    gap = covered / (len(window) - 1) if len(window) > 1 else 0.0
    head, tail = (first_ms - begin_ms) / 1000, (end_ms - last_ms) / 1000
    if begins:
        head, covered = 0.0, (last_ms - start) / 1000
        if kinds == {True} and len(window) > 1:
            grown = total([grown, window[0][1]], [1.0, 1.0], notes, ("added", "added"))
        elif kinds == {False}:
            grown += first_size
    else:
        head = gap / 2 if head >= gap * 1.1 else head
        if is_counter and size > 0 and first_size >= 0:
            head = min(head, covered * first_size / size)
    tail = gap / 2 if tail >= gap * 1.1 else tail
    factor = (covered + head + tail) / covered
    if op == "rate":
        factor /= range_ms / 1000
    if grown is None:
        return None
    return scaled(grown, factor) if kinds == {True} else grown * factor


def note_overlaps(window, notes):
    for (t0, _, s0), (_, _, s1) in zip(window, window[1:], strict=False):
        if s1 != 0 and s1 < t0 and s1 != s0:
            notes.add("overlap")


def float_increase(window, notes, *, is_counter):
    grown = window[-1][1] - window[0][1]
    if is_counter:
        note_overlaps(window, notes)
        for before, after in zip(window, window[1:], strict=False):
            if was_reset(before, after):
                grown += before[1]
    return grown


def histogram_increase(window, notes, *, is_counter):
    if len(window) == 1:
        return window[0][1]
    histograms = [h for _, h, _ in window]
    gauges = [h.hint == "gauge" for h in histograms]
    resets = [False] * len(histograms)
    if is_counter:
        for i in range(1, len(window)):
            resets[i] = was_reset(window[i - 1], window[i])
    leading = histograms[1] if resets[1] else histograms[0]
    is_custom = leading.schema == CUSTOM
    if is_counter and (gauges[0] or gauges[-1]):
        notes.add("not a counter")
    if (histograms[-1].schema == CUSTOM) != is_custom:
        notes.add("mixed schemas")
        return None
    if is_counter:
        if any((h.schema == CUSTOM) != is_custom for h in histograms[1:-1]):
            notes.add("mixed schemas")
            return None
        if any(gauges):
            notes.add("not a counter")
        note_overlaps(window, notes)
    elif not (gauges[0] and gauges[-1]):
        notes.add("not a gauge")
    if resets[1]:
        empty = NativeHistogram(leading.schema, custom_bounds=leading.custom_bounds)
        parts = [(histograms[-1], 1.0), (empty, 0.0), (empty, 0.0)]
    else:
        parts = [(histograms[-1], 1.0), (histograms[0], -1.0)]
    parts += [(histograms[i - 1], 1.0) for i in range(2, len(histograms)) if resets[i]]
    considered = (histograms[1:] if resets[1] else histograms) if is_counter else []
    floor = min([8, *(h.schema for h in considered)])
    names = ("subtracted", "added")
    made = total([h for h, _ in parts], [f for _, f in parts], notes, names, floor)
    return None if made is None else replace(made, hint="gauge")


def last_difference(op, window, notes):
    if len(window) < 2:
        return None
    before, after = window[-2:]
    if is_histogram(before[1]) != is_histogram(after[1]):
        notes.add("mixed")
        return None
    seconds = (after[0] - before[0]) / 1000
    is_rate = op == "irate"
    is_reset = is_rate and was_reset(before, after)
    if not is_histogram(after[1]):
        grown = after[1] if is_reset else after[1] - before[1]
        return grown / seconds if is_rate else grown
    gauges = [before[1].hint == "gauge", after[1].hint == "gauge"]
    if is_rate and any(gauges):
        notes.add("not a counter")
    if not is_rate and not all(gauges):
        notes.add("not a gauge")
    grown = after[1]
    if not is_reset:
        grown = total([after[1], before[1]], [1.0, -1.0], notes, ("subtracted", "added"))
    if grown is None:
        return None
    return replace(algebra.divided(grown, seconds) if is_rate else grown, hint="gauge")


# --- everything else ----------------------------------------------------------------------------


def count_steps(op, window):
    if not window:
        return None
    found = 0
    for before, after in zip(window, window[1:], strict=False):
        a, b = before[1], after[1]
        if is_histogram(a) != is_histogram(b):
            found += 1
        elif op == "resets":
            found += was_reset(before, after)
        elif is_histogram(a):
            found += not algebra.equal_histograms(a, b)
        else:
            found += a != b and not (math.isnan(a) and math.isnan(b))
    return float(found)


def of_floats(function, window, notes):
    """A function that ignores histograms, given the floats as `rangewindows` takes them."""
    floats = floats_of(window)
    if floats and len(floats) < len(window):
        notes.add("ignored")
    return function(floats)


# --- edges --------------------------------------------------------------------------------------


def between(before, after, t_ms, notes, *, is_counter):
    fraction = (t_ms - before[0]) / (after[0] - before[0])
    if is_counter and algebra.detect_resets(before[1], after[1]):
        return scaled(after[1], fraction)
    rise = total([after[1], before[1]], [1.0, -1.0], notes, ("subtracted", "added"))
    return total([scaled(rise, fraction), before[1]], [1.0, 1.0], notes, ("added", "added"))


def edges(op, samples, end_ms, range_ms, lookback_ms, notes, *, smoothed):
    """rate, increase or delta of histograms in an anchored or smoothed range."""
    begin_ms = end_ms - range_ms
    reach = [
        s
        for s in samples
        if begin_ms - lookback_ms < s[0] <= end_ms + (lookback_ms if smoothed else 0)
    ]
    if len({is_histogram(v) for _, v, _ in reach}) == 2:
        notes.add("mixed")
        return None
    is_counter = op != "delta"
    before = [i for i, s in enumerate(reach[:-1]) if s[0] <= begin_ms]
    first = before[-1] if before else 0
    last = len(reach) - 1
    if smoothed:
        last = next((i for i, s in enumerate(reach) if s[0] >= end_ms), last)
    if not reach or reach[last][0] <= begin_ms or (smoothed and reach[first][0] > end_ms):
        return None
    used = [h for _, h, _ in reach[first : last + 1]]
    if len({h.schema == CUSTOM for h in used}) == 2:
        notes.add("mixed schemas")
        return None
    if is_counter and any(h.hint == "gauge" for h in used):
        notes.add("not a counter")
    left, right = reach[first][1], reach[last][1]
    cuts_left = smoothed and reach[first][0] < begin_ms
    if cuts_left:
        left = between(reach[first], reach[first + 1], begin_ms, notes, is_counter=is_counter)
    if smoothed and last > 0 and reach[last][0] > end_ms:
        right = between(reach[last - 1], reach[last], end_ms, notes, is_counter=is_counter)
    if not is_counter and not left.hint == right.hint == "gauge":
        notes.add("not a gauge")
    grown = total([right, left], [1.0, -1.0], notes, ("subtracted", "added"))
    if is_counter:
        lost = []
        for i in range(first + 1 + cuts_left, last + 1):
            if algebra.detect_resets(reach[i - 1][1], reach[i][1]):
                lost.append(reach[i - 1][1])
        if lost:
            grown = total([grown, *lost], [1.0] * (1 + len(lost)), notes, ("added", "added"))
    if op == "rate":
        grown = algebra.divided(grown, range_ms / 1000)
    return replace(grown, hint="gauge")


def instant(samples, t_ms, lookback_ms, notes):
    """A smoothed instant selector of histograms."""
    reach = [s for s in samples if t_ms - lookback_ms < s[0] <= t_ms + lookback_ms]
    if len({is_histogram(v) for _, v, _ in reach}) == 2:
        notes.add("mixed")
        return None
    before = [s for s in reach if s[0] <= t_ms]
    after = [s for s in reach if s[0] > t_ms]
    if not before:
        return None
    if before[-1][0] == t_ms:
        return before[-1][1]
    if not after:
        return replace(before[-1][1], hint="unknown")
    pair = before[-1], after[0]
    if (pair[0][1].schema == CUSTOM) != (pair[1][1].schema == CUSTOM):
        notes.add("mixed schemas")
        return None
    is_counter = not pair[0][1].hint == pair[1][1].hint == "gauge"
    return between(*pair, t_ms, notes, is_counter=is_counter)
