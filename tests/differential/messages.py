"""Remote write 1.0 messages of series that hold floats and native histograms.

Prometheus stores the floats of a request first, then its histograms with integer counts, then
those with float counts. So a series whose samples change their kind is told in several requests;
so are its stale markers, which Prometheus makes the kind of the last sample it has stored.
"""

from __future__ import annotations

from itertools import groupby

from tests.differential.clocks import STALE_BITS
from tests.reference.remote_write import (
    Series,
    bits_of,
    double_field,
    encode_v1,
    length_field,
    varint,
    varint_field,
)
from tsengine.model.histograms import HINT_NAMES


def write_messages(series):
    """As few messages as possible for [(labels, samples)], to be sent in this order.

    A sample is (ms, value), its value a float or a `NativeHistogram`.
    """
    rounds = []
    for labels, samples in series:
        pairs = [(name.encode(), value.encode()) for name, value in labels.items()]
        kinds = {_kind(value) for _, value in samples}
        is_float = not kinds & {"integer", "fractional"}
        for idx, (kind, run) in enumerate(
            groupby(samples, key=lambda sample: "float" if is_float else _kind(sample[1]))
        ):
            if idx == len(rounds):
                rounds.append([])
            one = Series(sorted(pairs))
            if kind in ("float", "stale"):
                one.samples = [(t, bits_of(value)) for t, value in run]
            else:
                one.histograms = [histogram_field(t, value) for t, value in run]
            rounds[idx].append(one)
    return [encode_v1(one) for one in rounds]


def _kind(value):
    if isinstance(value, float):
        return "stale" if bits_of(value) == STALE_BITS else "float"
    return "integer" if isinstance(value.count, int) else "fractional"


def histogram_field(t_ms, value):
    """The content of a ``prometheus.Histogram``: with integer counts if `count` is an int."""
    is_integer = isinstance(value.count, int)
    out = [varint_field(1, value.count) if is_integer else double_field(2, bits_of(value.count))]
    out.append(double_field(3, bits_of(value.sum)))
    out.append(varint_field(4, _zigzag(value.schema)))
    out.append(double_field(5, bits_of(value.zero_threshold)))
    if is_integer:
        out.append(varint_field(6, value.zero_count))
    else:
        out.append(double_field(7, bits_of(value.zero_count)))
    for buckets, first in ((value.negative, 8), (value.positive, 11)):
        counts = [count for _, count in sorted(buckets.items())]
        out += [length_field(first, span) for span in _spans(buckets)]
        if is_integer:
            deltas = [b - a for a, b in zip((0, *counts), counts, strict=False)]
            out.append(length_field(first + 1, b"".join(varint(_zigzag(d)) for d in deltas)))
        else:
            out.append(length_field(first + 2, _doubles(counts)))
    out.append(varint_field(14, HINT_NAMES.index(value.hint)))
    out.append(varint_field(15, t_ms))
    out.append(length_field(16, _doubles(value.custom_bounds)))
    return b"".join(out)


def _spans(buckets):
    """(offset, length) messages; a run of indexes each."""
    end = 0
    for _, run in groupby(enumerate(sorted(buckets)), key=lambda pair: pair[1] - pair[0]):
        indexes = [idx for _, idx in run]
        yield varint_field(1, _zigzag(indexes[0] - end)) + varint_field(2, len(indexes))
        end = indexes[-1] + 1


def _zigzag(value):
    return value << 1 if value >= 0 else (-value << 1) - 1


def _doubles(values):
    return b"".join(double_field(0, bits_of(value))[1:] for value in values)
