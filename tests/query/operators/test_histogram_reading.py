"""Reading of samples with histograms and start timestamps, against a walk over each series."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.query.operators.support import make_context
from tests.query.operators.test_histogram_rollup import series
from tests.reference import histograms as algebra
from tests.reference.memory_source import STALE, MemorySource, is_stale
from tsengine.model.histogram_values import NativeHistogram, from_list, to_list
from tsengine.model.histograms import is_handle, rows_of
from tsengine.query.operators.histogram_reading import read_samples


def is_same_layout(a, b):
    return (a.schema, a.zero_threshold, a.custom_bounds) == (
        b.schema,
        b.zero_threshold,
        b.custom_bounds,
    )


def seen(samples, *, totals_only):
    """(time, value) with the hints that a database of chunks shows for stored ones."""
    found = []
    previous = last = None  # the sample before, and the histogram before
    for t, stored in samples:
        value = stored
        if isinstance(value, NativeHistogram):
            hint = "unknown"
            untold = replace(value, hint="unknown")
            if value.hint == "gauge":
                hint = "gauge"
            elif value.hint == "reset" and last and not algebra.detect_resets(last, untold):
                hint = "reset"
            elif (
                value.hint != "reset"
                and isinstance(previous, NativeHistogram)
                and previous.hint != "gauge"
                and is_same_layout(previous, value)
                and not algebra.detect_resets(previous, untold)
            ):
                hint = "not_reset"
            value = replace(value, hint=hint)
            if totals_only:
                if hint == "unknown" and last is not None:
                    hint = "reset" if algebra.detect_resets(last, value) else "not_reset"
                value = NativeHistogram(value.schema, value.count, value.sum, hint=hint)
            last = stored
        found.append((t, value))
        previous = stored
    return found


def text_of(samples):
    """Samples so that equal ones are equal texts."""
    texts = []
    for t, value in samples:
        if isinstance(value, NativeHistogram):
            sides = (sorted(side.items()) for side in (value.positive, value.negative))
            value = replace(value, **dict(zip(("positive", "negative"), sides, strict=True)))
        else:
            value = float(value)
        texts.append(f"{t} {value!r}")
    return texts


@st.composite
def databases(draw):
    source = MemorySource(share_axes=draw(st.booleans()))
    stored = []
    for i, rows in enumerate(draw(st.lists(series(start_times=True), min_size=1, max_size=3))):
        rows = [(t, STALE if draw(st.integers(0, 7)) == 0 else v, s) for t, v, s in rows]
        source.append(
            {"__name__": "m", "i": str(i)},
            [t for t, _, _ in rows],
            [from_list([v]) if isinstance(v, NativeHistogram) else v for _, v, _ in rows],
            [s for _, _, s in rows],
        )
        stored.append(rows)
    return source, stored


@pytest.mark.parametrize("totals_only", [False, True])
@pytest.mark.parametrize("drop_stale", [False, True])
@settings(max_examples=60, deadline=None)
@given(
    database=databases(),
    span=st.tuples(st.integers(-2, 61), st.integers(-2, 61)).map(sorted),
    lookback=st.sampled_from([5_000, 100_000, 10**7]),
)
def test_samples_are_read_with_hints_and_starts(totals_only, drop_stale, database, span, lookback):
    source, stored = database
    mint, maxt = span[0] * 10_000, span[1] * 10_000
    ctx = make_context()
    ctx.view, ctx.lookback_ms = source, lookback
    samples = read_samples(
        ctx, np.arange(len(stored), dtype=np.uint32), mint, maxt, drop_stale=drop_stale,
        totals_only=totals_only, want_starts=True,
    )  # fmt: skip
    batch = samples.batch
    table = [] if batch.histograms is None else to_list(batch.histograms)
    bits = batch.values.view(np.uint64)
    held, at, times = is_handle(bits), rows_of(bits), batch.t_ms[samples.places()]
    starts = np.zeros(len(bits), np.int64) if samples.start_ms is None else samples.start_ms
    for s, rows in enumerate(stored):
        known = [(t, v) for t, v, _ in rows if mint - lookback <= t <= maxt]
        wanted = [
            (t, v)
            for t, v in seen(known, totals_only=totals_only)
            if t >= mint and not (drop_stale and isinstance(v, float) and is_stale(v))
        ]
        span_of_row = range(batch.row_offsets[s], batch.row_offsets[s + 1])
        found = [
            (int(times[i]), table[at[i]] if held[i] else float(batch.values[i]))
            for i in span_of_row
        ]
        assert text_of(found) == text_of(wanted)
        start_of = {t: start for t, _, start in rows}
        assert [int(starts[i]) for i in span_of_row] == [start_of[t] for t, _ in wanted]
