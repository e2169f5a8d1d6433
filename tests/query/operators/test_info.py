"""info() against plain Python, step by step, over random base and info series."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.reference.memory_source import STALE, MemorySource, is_stale
from tsengine.errors import QueryError
from tsengine.options import Options
from tsengine.promql.functions import ALL_ON
from tsengine.query.engine import Engine

MINUTE = 60_000
N_STEPS = 4
LOOKBACK_MS = 2 * MINUTE


def label_sets(names, others):
    """Strategy of label sets with a name, maybe identifying labels, maybe others."""
    return st.fixed_dictionaries(
        {"__name__": st.sampled_from(names)},
        optional={
            "instance": st.sampled_from(["a", "b"]),
            "job": st.sampled_from(["j", "k"]),
            **{name: st.sampled_from(["1", "2"]) for name in others},
        },
    )


def series(names, others):
    items = st.sampled_from([None, 1.0, 2.0, STALE])
    run = st.lists(items, min_size=N_STEPS, max_size=N_STEPS)
    return st.lists(
        st.tuples(label_sets(names, others), run),
        max_size=5,
        unique_by=lambda pair: tuple(sorted(pair[0].items())),
    )


def newest(run, t_ms):
    """(time, value) of the newest sample in the lookback; None if there is none, or a marker."""
    times = [k * MINUTE for k, v in enumerate(run) if v is not None]
    times = [t for t in times if t_ms - LOOKBACK_MS < t <= t_ms]
    if not times or is_stale(run[times[-1] // MINUTE]):
        return None
    return times[-1], run[times[-1] // MINUTE]


def enriched(base, infos, t_ms, names, wanted, must_match):
    """The answer at one step as {labels: value}; None if it is an error."""
    here = [(labels, newest(run, t_ms)) for labels, run in base]
    here = [(labels, found[1]) for labels, found in here if found is not None]
    if not here:
        return {}
    known = {
        key: {labels[key] for labels, _ in base if key in labels} for key in ("instance", "job")
    }
    best = {}
    for labels, run in infos if any(known.values()) else []:
        found = newest(run, t_ms)
        fits = all(labels.get(key) in values for key, values in known.items() if values)
        if labels["__name__"] not in names or not fits or found is None or not must_match(labels):
            continue
        key = (labels["__name__"], labels.get("instance"), labels.get("job"))
        if key in best and best[key][0] == found[0]:
            return None
        if key not in best or best[key][0] < found[0]:
            best[key] = (found[0], labels)
    answer = {}
    for labels, value in here:
        added, n_found = {}, 0
        for name in names:
            _, info = best.get((name, labels.get("instance"), labels.get("job")), (0, None))
            if info is None:
                continue
            n_found += 1
            for key, text in info.items():
                if key == "__name__" or key in labels or (wanted and key not in wanted):
                    continue
                if added.setdefault(key, text) != text:
                    return None
        if n_found == 0 and not must_match({}):
            continue
        key = frozenset({**labels, **added}.items())
        if key in answer:
            return None
        answer[key] = value
    return answer


SELECTORS = {
    "": (["target_info"], set(), lambda labels: True),
    ', {x=~".+"}': (["target_info"], {"x"}, lambda labels: "x" in labels),
    ', {x=~".*", y!="2"}': (["target_info"], {"x", "y"}, lambda labels: labels.get("y") != "2"),
    ', {__name__=~"(target|build)_info"}': (
        ["target_info", "build_info"], set(), lambda labels: True,
    ),
    ', {__name__!="target_info"}': (["build_info"], set(), lambda labels: True),
}  # fmt: skip


@settings(max_examples=150, deadline=None)
@given(
    series(["m", "n"], ["x"]),
    series(["target_info", "build_info"], ["x", "y"]),
    st.sampled_from(sorted(SELECTORS)),
    st.booleans(),
)
def test_info_matches_reference(base, infos, selector, share_axes):
    source = MemorySource(share_axes=share_axes)
    for labels, run in base + infos:
        times = [k * MINUTE for k, v in enumerate(run) if v is not None]
        source.append(labels, times, [v for v in run if v is not None])
    options = Options(features=ALL_ON, lookback=LOOKBACK_MS / 1000, query_threads=1)
    engine = Engine(source, options)
    text = f'info({{__name__=~"m|n"}}{selector})'
    # The base of a range query is of all its steps: those without any sample do not narrow it.
    base = [(labels, run) for labels, run in base if has_sample(run)]
    steps = [k * MINUTE for k in range(N_STEPS + 1)]
    wanted = [enriched(base, infos, t, *SELECTORS[selector]) for t in steps]
    if None in wanted:
        with pytest.raises(QueryError, match=r"duplicate series|conflicting|same labelset"):
            engine.query_range(text, 0, steps[-1], MINUTE)
        return
    result = engine.query_range(text, 0, steps[-1], MINUTE)
    valid = np.ones(result.values.shape, bool) if result.valid is None else result.valid
    for column, answer in enumerate(wanted):
        rows = np.flatnonzero(valid[:, column])
        got = {frozenset(result.labels[s].items()): result.values[s, column] for s in rows}
        assert got == answer


def has_sample(run):
    return any(newest(run, k * MINUTE) is not None for k in range(N_STEPS + 1))


def test_the_plan_says_when_info_series_are_looked_at():
    engine = Engine(MemorySource(), Options(features=ALL_ON, query_threads=1))
    text = 'info(max_over_time(m[5m:1m] offset 2m) + n @ 7, {x=~"a"})'
    assert engine.explain(text, 0, 0, 0).splitlines()[0] == (
        "labels of info series {x=~'a'} offset 120000 ms"
    )
    # All parts are of one time, so it is enough to look once.
    first = engine.explain("info(m @ 7 offset 1m)", 0, MINUTE, MINUTE).splitlines()[:2]
    assert first == ["once for all steps", "  labels of info series {} at 7000 offset 60000 ms"]
    text = engine.explain("info(vector(1))", 0, MINUTE, MINUTE)
    assert text.startswith("labels of info series {}\n  once for all steps\n")
