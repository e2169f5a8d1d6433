"""Queries of a real database with tiers against one of the same samples without."""

import numpy as np
import pytest

import tsengine
from tests.reference.memory_source import STALE
from tsengine import NativeHistogram

DAY_MS = 86_400_000
HOUR_MS = 3_600_000
START_MS = 20_454 * DAY_MS  # 2026-01-01
END_MS = START_MS + 4 * DAY_MS
GRIDS = {
    "hours": (START_MS + 6 * HOUR_MS, END_MS + 2 * HOUR_MS, HOUR_MS),
    "minutes": (START_MS + 30 * HOUR_MS, START_MS + 40 * HOUR_MS, HOUR_MS // 12),
}


def fill(database):
    """Four days, of which the last one has not been flushed when tiers are built."""
    rng = np.random.default_rng(5)
    t_ms = START_MS + 7000 + np.arange(4 * 1440) * 60_000
    is_late = t_ms >= START_MS + 3 * DAY_MS
    made = []
    for k in range(6):
        kept = rng.random(len(t_ms)) > 0.02 * k
        jitter = rng.integers(-3, 4, len(t_ms)) if k % 2 else 0
        times = (t_ms + jitter)[kept]
        gauge = np.round(rng.normal(20, 5, kept.sum()), 2)
        gauge[rng.integers(0, kept.sum(), 5)] = STALE
        gauge[rng.integers(0, kept.sum(), 3)] = np.nan
        counter = np.cumsum(rng.integers(0, 50, kept.sum())).astype(float)
        for at in rng.integers(1, kept.sum(), k):
            counter[at:] -= counter[at] - rng.integers(0, 9)
        made += [("gauge", k, times, gauge, kept), ("ops_total", k, times, counter, kept)]
    for wanted in (~is_late, is_late):
        for name, k, times, values, kept in made:
            some = wanted[kept]
            labels = {"__name__": name, "i": str(k), "job": f"j{k % 2}"}
            database.append(labels, times[some], values[some])
        append_histograms(database, t_ms[wanted][::5])
        if wanted[0]:
            database.flush()
            database.compact()
            database.build_tiers()
    # Late samples make the windows of an hour dirty.
    late = START_MS + 11 * HOUR_MS + np.arange(10) * 1000 + 123
    database.append({"__name__": "gauge", "i": "0", "job": "j0"}, late, np.arange(10.0))


def append_histograms(database, t_ms):
    """A counter that begins anew every 70 samples."""
    grown = (np.arange(len(t_ms)) % 70 + 1.0).tolist()
    made = [NativeHistogram(0, 4 * n, 6 * n, positive={0: n, 1: 2 * n, 3: n}) for n in grown]
    database.append_histograms({"__name__": "latency"}, t_ms, made)


@pytest.fixture(scope="module")
def databases(tmp_path_factory):
    path = tmp_path_factory.mktemp("tiers")
    features = frozenset({"promql-experimental-functions"})
    with (
        tsengine.open(path / "with", tsengine.Options(features=features)) as tiered,
        tsengine.open(path / "without", tsengine.Options(tiers=(), features=features)) as plain,
    ):
        for database in (tiered, plain):
            fill(database)
        yield tiered, plain


def ask(database, expr, grid):
    """Present values by labels, histograms by their numbers, and the result."""
    start_ms, end_ms, step_ms = GRIDS[grid]
    result = database.query_range(expr, start_ms, end_ms, step_ms / 1000)
    found = {}
    for labels, row, valid in zip(result.labels, result.to_numpy(), result.validity(), strict=True):
        found[tuple(sorted(labels.items()))] = np.where(valid, row, -1.0), valid
    return found, result


RANGES = {"hours": ("1h", "6h"), "minutes": ("5m", "20m")}


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize(
    "expr",
    [
        "avg_over_time(gauge[%s])", "sum_over_time(gauge[%s])", "min_over_time(gauge[%s])",
        "max_over_time(gauge[%s])", "count_over_time(gauge[%s])", "last_over_time(gauge[%s])",
        "first_over_time(gauge[%s])", "ts_of_last_over_time(gauge[%s])", "rate(ops_total[%s])",
        "increase(ops_total[%s])", "delta(gauge[%s])", "sum by (job) (rate(ops_total[%s]))",
        "max(avg_over_time(gauge[%s]))", "gauge", "sum(ops_total)", "timestamp(gauge)",
        "histogram_quantile(0.9, rate(latency[%s]))", "histogram_count(increase(latency[%s]))",
        "histogram_sum(sum_over_time(latency[%s]))", "histogram_avg(avg_over_time(latency[%s]))",
        "histogram_count(latency)", "count_over_time(latency[%s])",
        "histogram_sum(last_over_time(latency[%s]))",
    ],
)  # fmt: skip
def test_answers_are_those_of_samples(databases, expr, grid):
    tiered, plain = databases
    for range_text in RANGES[grid] if "%s" in expr else ("",):
        text = expr.replace("%s", range_text)
        got, result = ask(tiered, text, grid)
        want, plain_result = ask(plain, text, grid)
        assert got.keys() == want.keys()
        for labels, (values, valid) in want.items():
            np.testing.assert_array_equal(got[labels][1], valid)
            np.testing.assert_allclose(
                got[labels][0], values, rtol=1e-9, atol=1e-9, err_msg=str(labels)
            )
        assert result.infos == plain_result.infos
        # Windows don't keep what hints say of neighbours inside them.
        clash = "conflicting counter resets"
        assert result.warnings == [w for w in plain_result.warnings if clash not in w]
        assert plain_result.stats["tiers"] == ("raw",)
        width = {"hours": "1h", "minutes": "5m"}[grid]
        assert width in result.stats["tiers"]


def test_what_is_read_is_named(databases):
    tiered, _ = databases
    _, result = ask(tiered, "avg_over_time(gauge[1h])", "hours")
    assert result.stats["tiers"] == ("1h", "raw")
    assert result.plan.splitlines()[1].endswith(" from 1h windows")
    _, result = ask(tiered, "stddev_over_time(gauge[1h])", "hours")
    assert result.stats["tiers"] == ("raw",)
    start_ms, end_ms, step_ms = GRIDS["minutes"]
    text = tiered.explain("sum(gauge)", start_ms, end_ms, step_ms / 1000)
    assert text.splitlines()[1] == "  latest samples of gauge{} from 5m windows"


def test_samples_that_become_windows_count(databases):
    """Where tiers are not built yet, slices are as small as if samples were read."""
    view = databases[0]._storage.view()
    refs = view.all_refs()
    hour, late = HOUR_MS, START_MS + 3 * DAY_MS
    of_windows = view.count_windows(refs, hour, START_MS + 1, START_MS + hour * 10)
    assert of_windows == 10 * len(refs)
    n_samples = view.count_samples(refs, late + 1, END_MS)
    assert view.count_windows(refs, hour, late + 1, END_MS) == n_samples > 6 * 1000
