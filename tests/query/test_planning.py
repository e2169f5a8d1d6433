"""Plans are kept for texts whose plan is the same at all times, and only for these."""

import pytest

from tsengine.errors import ParseError
from tsengine.promql.durations import resolve_durations
from tsengine.promql.parser import parse
from tsengine.query.build import QueryTimes, build
from tsengine.query.optimize import optimize, shared_keys
from tsengine.query.planning import make_plan

TIMELESS = [
    "1",
    "'text'",
    "x",
    "x[5m]",
    "sum by (a) (rate(x[5m] offset 1h))",
    "x @ 100 + x @ 100",
    "max_over_time(rate(x[5m])[1h:1m] offset -5m)",
    "-(x) + on (a) group_left y",
    "topk(3, x) or vector(time())",
]
TIMELY = [
    "x @ start()",
    "rate(x[5m] @ end())",
    "sum(x @ end()) + 1",
    "max_over_time(x[1h:1m] @ start())",
    "x[step()]",
    "max_over_time(x[range():step()])",
    "x offset step()",
    "topk(scalar(sum_over_time(x[step() * 2])), y)",
]
TIMES = [(0, 0, 0), (0, 600_000, 60_000), (60_000, 660_000, 30_000)]


def made(text, start_ms, end_ms, step_ms, **others):
    n_steps = 1 if step_ms == 0 else (end_ms - start_ms) // step_ms + 1
    options = {"features": frozenset(), "max_depth": 100} | others
    return make_plan(
        text, start_ms=start_ms, end_ms=end_ms, step_ms=step_ms, n_steps=n_steps, **options
    )


def reference(text, start_ms, end_ms, step_ms):
    expr = resolve_durations(parse(text), start_ms=start_ms, end_ms=end_ms, step_ms=step_ms)
    n_steps = 1 if step_ms == 0 else (end_ms - start_ms) // step_ms + 1
    return optimize(build(expr, QueryTimes(start_ms, end_ms)), n_steps=n_steps)


@pytest.mark.parametrize("text", TIMELESS + TIMELY)
def test_plans_are_those_of_their_times(text):
    # At one time there is no step, and a range without one is refused.
    times_of_text = TIMES[1:] if "step()" in text else TIMES
    for times in [*times_of_text, *reversed(times_of_text)]:
        planned = made(text, *times)
        plan = reference(text, *times)
        assert planned.plan == plan
        assert planned.shared_keys == shared_keys(plan)


def test_what_is_kept():
    for text in TIMELESS:
        assert made(text, *TIMES[1]) is made(text, *TIMES[2])
        assert made(text, *TIMES[0]) is not made(text, *TIMES[1])
    for text in TIMELY:
        assert made(text, *TIMES[1]) is not made(text, *TIMES[1])
    long = "x" * 1025
    assert made(long, *TIMES[1]) is not made(long, *TIMES[1])


def test_refusals_come_again():
    for _ in range(2):
        with pytest.raises(ParseError):
            made("sum(", *TIMES[0])
        with pytest.raises(ParseError):
            made("mad_over_time(x[5m])", *TIMES[0])
        made(
            "mad_over_time(x[5m])", *TIMES[0], features=frozenset({"promql-experimental-functions"})
        )
        with pytest.raises(ParseError):
            made("((x))", *TIMES[0], max_depth=2)
        made("((x))", *TIMES[0])
