"""The reader of test scripts, and that the runner sees what is wrong."""

from pathlib import Path

import numpy as np
import pytest

from tests.promql import checking, runner
from tests.promql.pinning import pin_time
from tests.promql.script import (
    STALE,
    Clear,
    Eval,
    Histogram,
    Load,
    ScriptError,
    parse_script,
    read_script,
)

SCRIPTS = Path(__file__).parents[3] / "shared" / "promqltest"


@pytest.mark.skipif(
    not SCRIPTS.is_dir(), reason="Prometheus's test scripts are not beside the repository"
)
def test_counts_of_prometheus_scripts():
    """The figures of the README that describes the scripts."""
    commands = [c for path in sorted(SCRIPTS.glob("*.test")) for c in read_script(path)]
    evals = [c for c in commands if isinstance(c, Eval)]
    loads = [c for c in commands if isinstance(c, Load)]
    histograms = [
        s for e in evals for s in e.series if any(isinstance(item, Histogram) for item in s.items)
    ]
    starts = [s for load in loads for s in load.series if s.start_offsets_ms is not None]

    def n_expectations(*kinds):
        return sum(len(e.expects(kind)) for e in evals for kind in kinds)

    assert sum(e.is_instant for e in evals) == 1885
    assert sum(not e.is_instant for e in evals) == 329
    assert len(loads) == 310
    assert sum(load.nhcb for load in loads) == 33
    assert n_expectations("fail") == 35
    assert n_expectations("warn", "info") == 222
    assert n_expectations("no_warn", "no_info") == 414
    assert n_expectations("ordered") == 24
    assert len(histograms) == 289
    assert len(starts) == 37
    assert sum(e.string is not None for e in evals) == 5
    assert sum(e.range_vector is not None for e in evals) == 5


def items(text):
    (load,) = parse_script(f"load 1m\n  m {text}")
    return load.series[0].items


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1 -2 +3.5 1e3 .5", [1, -2, 3.5, 1000, 0.5]),
        ("_ 1 _x2 2", [None, 1, None, None, 2]),
        ("7x2", [7, 7, 7]),
        ("0x3", [0, 0, 0, 0]),
        ("1+2x3", [1, 3, 5, 7]),
        ("1-2x2 -3-10x1", [1, -1, -3, -3, -13]),
        ("stale Inf -inf", [STALE, float("inf"), float("-inf")]),
        ("1m 017", [60, 15]),
        ("1e-1x1", [0.1, 0.1]),
    ],
)
def test_items(text, expected):
    assert items(text) == expected


def test_increments_are_added_one_by_one():
    assert items("0+0.1x3")[3] == 0.1 + 0.1 + 0.1


def test_histogram_literals():
    first, second, third = items(
        "{{schema:-53 sum:1.5 custom_values:[1 2] buckets:[1 2 3] counter_reset_hint:gauge}}"
        " {{count:1}}+{{count:2}}x1"
    )
    assert first.keys == {
        "schema": -53,
        "sum": 1.5,
        "custom_values": [1, 2],
        "buckets": [1, 2, 3],
        "counter_reset_hint": "gauge",
    }
    assert second == Histogram({"count": 1}, {"count": 2}, 0)
    assert third == Histogram({"count": 1}, {"count": 2}, 1)


def test_start_timestamps():
    (load,) = parse_script("load 1m\n  m{a='b'}@st _ -1m -30s+10sx1\n  m{a='b'} 1+1x3")
    (series,) = load.series
    assert series.items == [1, 2, 3, 4]
    assert series.start_offsets_ms == [None, -60_000, -30_000, -20_000]


def test_label_sets():
    (load,) = parse_script('load 5m\n  sum{a="x y",\'b c\'="{"} 1\n  {"m.n", c="ä"} 2\n  {} 3')
    assert load.step_ms == 300_000
    assert [series.labels for series in load.series] == [
        {"__name__": "sum", "a": "x y", "b c": "{"},
        {"__name__": "m.n", "c": "ä"},
        {},
    ]
    assert [series.line for series in load.series] == [2, 3, 4]


def test_blocks_and_expectations():
    commands = parse_script("""
clear
load_with_nhcb 1m
  m 1

# comment
eval range from -1m to 1h30m step 10s sum(m) # a comment in the query
  expect warn msg: PromQL warning: x (1:2)
  expect no_info
  {} 1 2

eval_fail instant at 0 m[5m]

eval instant at 1m m
  expect ordered
  0x10
  not read
""")
    assert commands[0] == Clear(2)
    assert isinstance(commands[1], Load)
    assert commands[1].nhcb
    ranged, failing, scalar = commands[2:]
    assert (ranged.line, ranged.start_ms, ranged.end_ms, ranged.step_ms) == (
        7, -60_000, 5_400_000, 10_000,
    )  # fmt: skip
    assert ranged.expr == "sum(m) # a comment in the query"
    assert ranged.expects("warn")[0].text == "PromQL warning: x (1:2)"
    assert ranged.expects("no_info")
    assert failing.expects("fail")
    assert (scalar.scalar, scalar.series) == (16, [])


@pytest.mark.parametrize(
    "text",
    ["nonsense", "load\n m 1", "load 1m\n m 1+2", "load 1m\n m x", "eval instant at m", "load 1m\n"
     " m@st 1m\n other 1", "eval instant at 0 m\n expect nothing", "load 1m\n m{a} 1 'x'"],
)  # fmt: skip
def test_broken_scripts(text):
    with pytest.raises(ScriptError, match=r"^name:1: "):
        parse_script(text, name="name")


@pytest.mark.parametrize(
    ("wanted", "got", "equal"),
    [
        (1.0, 1.0 + 1e-7, True),
        (1.0, 1.0 + 1e-5, False),
        (0.0, 1e-9, False),
        (0.0, -0.0, True),
        (float("nan"), float("nan"), True),
        (float("inf"), float("inf"), True),
        (float("inf"), 1.7e308, False),
        (1.7e308, 1.7e308 * (1 + 1e-9), True),
        (STALE, float("nan"), False),
        (STALE, np.array([checking.STALE_BITS], np.uint64).view(np.float64)[0], True),
    ],
)
def test_equal_floats(wanted, got, equal):
    assert checking.equal_floats(wanted, got) is equal


LOAD = """
load 1m
  m{a="1"} 1 2 3
  m{a="2"} 10 20 30

"""


@pytest.mark.parametrize(
    ("case", "problem"),
    [
        ('eval instant at 1m m\n  m{a="1"} 2\n  m{a="2"} 20', None),
        ('eval instant at 1m m\n  m{a="1"} 2\n  m{a="2"} 21', "expected 21.0"),
        ('eval instant at 1m m\n  m{a="1"} 2', "surplus series [{'"),
        ('eval instant at 1m m{a="1"}\n  {a="1"} 2', "missing series"),
        ("eval instant at 1m sum(m)\n  22", "expected a scalar"),
        ("eval instant at 1m 1\n  2", "expected 2.0"),
        ("eval instant at 1m 1\n  {} 1", "expected a vector"),
        ('eval instant at 1m "a"\n  expect string "b"', "expected string 'b'"),
        ("eval instant at 1m m\n  expect fail", "expected an error"),
        ("eval instant at 1m abs(m) + on() m", "failed: QueryError"),
        ("eval instant at 1m abs(m) + on() m\n  expect fail msg: x", "expected msg 'x'"),
        ("eval instant at 1m quantile(2, m)\n  expect no_warn\n  {} Inf", "expected no warn"),
        ("eval instant at 1m quantile(2, m)\n  expect warn regex: y\n  {} Inf", "'y'"),
        ("eval instant at 1m sum(m)\n  expect info\n  {} 22", "expected info"),
        (
            'eval instant at 1m sort_desc(m)\n  expect ordered\n  m{a="1"} 2\n  m{a="2"} 20',
            "wrong order",
        ),
        ("eval range from 0 to 2m step 1m sum(m)\n  {} 11 22", "expected the times"),
        ("eval range from 0 to 2m step 1m sum(m)\n  {} 11 22 34", "expected 34.0"),
        ("eval range from 0 to 2m step 1m sum(m)\n  {} 11 22 33", None),
        (
            'eval instant at 1m m{a="1"}[1m]\n  expect range vector from 0 to 1m step 1m\n'
            '  m{a="1"} 1 2',
            "expected the times",
        ),
        ('eval instant at 1m m{a="1"}\n  m{a="1"} {{count:1}}', "expected a native histogram"),
        # Only the variants with @ differ: the evaluation time is in the answer.
        ("eval instant at 1m vector(time())\n  {} 60", None),
        ("eval instant at 1m sum(m) + on() absent(m @ end() > 100)\n  {} 23", None),
        ("eval instant at 1m sum(m @ start())\n  {} 22", "with @, at -600000 ms"),
    ],
)
def test_the_runner_sees_problems(case, problem):
    (outcome,) = runner.run_script(parse_script(LOAD + case))
    if problem is None:
        assert outcome.problem is None
    else:
        assert outcome.problem is not None
        assert problem in outcome.problem


def test_clear_forgets_everything():
    script = parse_script(f"{LOAD}\nclear\n\neval instant at 1m m\n  m 1")
    (outcome,) = runner.run_script(script)
    assert "missing series" in outcome.problem


@pytest.mark.parametrize(
    ("expr", "pinned"),
    [
        ("m", "m @ 90.000"),
        ("sum(rate(m[5m] offset 1m)) / m @ 5", "sum(rate(m[5m] @ 90.000 offset 1m)) / m @ 5.000"),
        ("max_over_time(m[5m:1m])", "max_over_time(m[5m:1m] @ 90.000)"),
        ("max_over_time(m[5m:1m] @ end())", "max_over_time(m[5m:1m] @ end())"),
        ("m + time()", None),
        ("predict_linear(m[5m], 1)", None),
    ],
)
def test_fixing_the_time(expr, pinned):
    assert pin_time(expr, 90_000) == pinned
