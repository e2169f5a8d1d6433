"""Native histograms on the wire: written for remote write, read from the API's JSON."""

import math
import struct
from dataclasses import dataclass
from itertools import pairwise

from tests.http.wire import field, varint
from tests.promql.histogram_notation import Noted, from_columns, upper_bound


def rows(table):
    """All histograms of a table as `Noted`."""
    return [from_columns(table, row) for row in range(len(table))]


def write_request(labels, samples, histograms, version) -> bytes:
    """Remote-write message of one series.

    Parameters
    ----------
    samples, histograms
        (time in ms, float or `Noted`, start time in ms or 0); version 1 has no start times.
    """
    pairs = sorted((name.encode(), value.encode()) for name, value in labels.items())
    if version == 1:
        inner = b"".join(field(1, field(1, name) + field(2, value)) for name, value in pairs)
        inner += b"".join(field(2, _sample(*sample)) for sample in samples)
        inner += b"".join(field(4, _histogram(*sample)) for sample in histograms)
        return field(1, inner)
    symbols = {b"": 0}
    refs = [symbols.setdefault(text, len(symbols)) for pair in pairs for text in pair]
    inner = field(1, b"".join(varint(ref) for ref in refs))
    inner += b"".join(field(2, _sample(*sample)) for sample in samples)
    inner += b"".join(field(3, _histogram(*sample)) for sample in histograms)
    return b"".join(field(4, text) for text in symbols) + field(5, inner)


def _double(number, value):
    return varint(number << 3 | 1) + struct.pack("<d", value)


def _integer(number, value):
    return varint(number << 3) + varint(value) if value else b""


def _zigzag(value):
    return value << 1 if value >= 0 else (-value << 1) - 1


def _doubles(number, values):
    return field(number, struct.pack(f"<{len(values)}d", *values)) if values else b""


def _sample(t_ms, value, start_ms):
    return _double(1, value) + _integer(2, t_ms) + _integer(3, start_ms)


def _histogram(t_ms, histogram: Noted, start_ms):
    return b"".join((
        _double(2, histogram.count),
        _double(3, histogram.sum),
        _integer(4, _zigzag(histogram.schema)),
        _double(5, histogram.zero_threshold),
        _double(7, histogram.zero_count),
        *(field(8, span) for span in _spans(histogram.negative)),
        _doubles(10, [count for _, count in sorted(histogram.negative.items())]),
        *(field(11, span) for span in _spans(histogram.positive)),
        _doubles(13, [count for _, count in sorted(histogram.positive.items())]),
        _integer(14, histogram.hint),
        _integer(15, t_ms),
        _doubles(16, list(histogram.bounds)),
        _integer(17, start_ms),
    ))  # fmt: skip


def _spans(buckets):
    runs = []
    for idx in sorted(buckets):
        if runs and runs[-1][1] == idx:
            runs[-1][1] = idx + 1
        else:
            runs.append([idx, idx + 1])
    end = 0
    for first, stop in runs:
        yield _integer(1, _zigzag(first - end)) + _integer(2, stop - first)
        end = stop


# --- JSON --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Shown:
    """A histogram as the API shows it: buckets are (rule, lower, upper, count), ascending."""

    count: float
    sum: float
    buckets: tuple

    @classmethod
    def of_json(cls, data):
        assert data.keys() <= {"count", "sum", "buckets"}, data
        buckets = tuple(
            (rule, float(lower), float(upper), float(count))
            for rule, lower, upper, count in data.get("buckets", ())
        )
        return cls(float(data["count"]), float(data["sum"]), buckets)

    @classmethod
    def of_noted(cls, histogram: Noted):
        return cls(histogram.count, histogram.sum, tuple(_shown_buckets(histogram)))


_OPEN_LEFT, _OPEN_RIGHT, _CLOSED = 0, 1, 3


def _shown_buckets(histogram):
    if histogram.is_custom:
        bounds = list(pairwise((-math.inf, *histogram.bounds, math.inf)))
        for idx, count in sorted(histogram.positive.items()):
            yield (_CLOSED if idx == 0 else _OPEN_LEFT, *bounds[idx], count)
        return
    # Buckets that reach into the zero bucket begin where it ends.
    schema, threshold = histogram.schema, histogram.zero_threshold
    for idx, count in sorted(histogram.negative.items(), reverse=True):
        upper = -max(upper_bound(idx - 1, schema), threshold)
        yield (_OPEN_RIGHT, -upper_bound(idx, schema), upper, count)
    if histogram.zero_count > 0:
        yield (_CLOSED, -threshold, threshold, histogram.zero_count)
    for idx, count in sorted(histogram.positive.items()):
        lower = max(upper_bound(idx - 1, schema), threshold)
        yield (_OPEN_LEFT, lower, upper_bound(idx, schema), count)


def shown_difference(wanted: Noted, got: Shown, equal_floats) -> str | None:
    """What is wrong with a histogram of a JSON answer; None if it is the expected one."""
    expected = Shown.of_noted(wanted)
    for name in ("count", "sum"):
        if not equal_floats(getattr(expected, name), getattr(got, name)):
            return name
    if len(expected.buckets) != len(got.buckets):
        return "number of buckets"
    for left, right in zip(expected.buckets, got.buckets, strict=True):
        if left[0] != right[0]:
            return "rule of a bucket"
        if not all(equal_floats(a, b) for a, b in zip(left[1:], right[1:], strict=True)):
            return "bucket"
    return None
