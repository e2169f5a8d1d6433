"""A database against a dict: appends in any order, duplicates, flushes, merges, restarts."""

from __future__ import annotations

import struct
import tempfile

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import tsengine

T0 = 1_700_000_000_000
STALE = 0x7FF0000000000002
SPECIAL = [STALE, 0x7FF8000000000000, 0x7FF80000DEADBEEF, 0x8000000000000000, 0x7FF0000000000000]

bits = st.one_of(
    st.integers(0, 50).map(lambda n: int(np.float64(n).view(np.uint64))),
    st.floats(width=64, allow_nan=False).map(
        lambda v: struct.unpack("<Q", struct.pack("<d", v))[0]
    ),
    st.sampled_from(SPECIAL),
)
times = st.one_of(
    st.integers(0, 60).map(lambda k: T0 + 15_000 * k),
    st.integers(-3 * 86_400_000, 3 * 86_400_000).map(lambda d: T0 + d),
)
rows = st.lists(st.tuples(st.integers(0, 4), times, bits), min_size=1, max_size=25)
operations = st.lists(
    st.one_of(
        rows, rows, rows, st.sampled_from(["flush", "flush", "compact", "restart"])
    ),
    min_size=1,
    max_size=12,
)  # fmt: skip


def labels_of(series):
    return {"__name__": "m", "series": str(series), "job": f"job-{series % 2}"}


def stored(db):
    found = {}
    for batch in db.select("m"):
        columns = (batch.column("labels").to_pylist(), batch.column("timestamp").cast("int64"))
        values = batch.column("value").to_numpy().view(np.uint64).tolist()
        for labels, t, value in zip(columns[0], columns[1].to_pylist(), values, strict=True):
            found[int(dict(labels)["series"]), t] = value
    return found


def latest_sums(model, at, lookback_ms):
    """sum by (job) of the newest sample in (at - lookback, at], stale markers absent."""
    sums = {}
    for series in {key[0] for key in model}:
        inside = [t for s, t in model if s == series and at - lookback_ms < t <= at]
        if inside and model[series, max(inside)] != STALE:
            value = float(np.uint64(model[series, max(inside)]).view(np.float64))
            sums.setdefault(f"job-{series % 2}", []).append(value)
    return sums


@given(operations, st.integers(0, 60))
@settings(
    deadline=None, max_examples=40, suppress_health_check=[HealthCheck.too_slow]
)  # fmt: skip
def test_a_database_is_a_dict(script, step):
    model = {}
    with tempfile.TemporaryDirectory() as path:
        db = tsengine.open(path)
        try:
            for operation in script:
                if operation == "restart":
                    db.close()
                    db = tsengine.open(path)
                elif isinstance(operation, str):
                    getattr(db, operation)()
                else:
                    refs = db.series_refs([labels_of(series) for series, _, _ in operation])
                    t = np.array([t for _, t, _ in operation], np.int64)
                    values = np.array([value for _, _, value in operation], np.uint64)
                    db.append_columns(refs, t, values.view(np.float64))
                    model |= {(series, when): value for series, when, value in operation}
            assert stored(db) == model
            at = T0 + 15_000 * step
            result = db.query("sum by (job) (m)", time=at)
            expected = latest_sums(model, at, 300_000)
            found = {
                labels["job"]: value
                for labels, value in zip(result.labels, result.to_numpy()[:, 0], strict=True)
            }
            assert found.keys() == expected.keys()
            for job, values in expected.items():
                with np.errstate(all="ignore"):
                    total = np.sum(np.array(values))
                scale = 1e-9 * np.sum(np.abs(values)) if np.isfinite(total) else 0.0
                np.testing.assert_allclose(found[job], total, rtol=1e-9, atol=scale)
            assert tsengine.check(path).problems == []
        finally:
            db.close()
