"""The notation of native histograms in test scripts, and that the runner sees wrong ones."""

import math

import pytest

from tests.promql import checking, runner
from tests.promql.classic_conversion import ConversionError, converted
from tests.promql.histogram_notation import (
    HINTS,
    NotationError,
    Noted,
    columns,
    combined,
    difference,
    expanded,
    from_columns,
    upper_bound,
)
from tests.promql.script import parse_script


def items_of(text):
    (load,) = parse_script(f"load 1m\n  h {text}\n")
    return expanded(load.series[0].items)


def one(text):
    (found,) = items_of(text)
    return found


def test_a_literal_with_every_key():
    found = one(
        "{{schema:2 sum:-3.5 count:12 z_bucket:2 z_bucket_w:0.01 buckets:[1 0 3] offset:-1"
        " n_buckets:[4 2] n_offset:7 counter_reset_hint:gauge}}"
    )
    assert found == Noted(
        schema=2,
        hint=HINTS["gauge"],
        count=12.0,
        sum=-3.5,
        zero_threshold=0.01,
        zero_count=2.0,
        positive={-1: 1.0, 1: 3.0},
        negative={7: 4.0, 8: 2.0},
    )


def test_custom_bounds():
    found = one("{{schema:-53 custom_values:[-1 2.5] buckets:[0 4 1] count:5}}")
    assert found == Noted(schema=-53, count=5.0, positive={1: 4.0, 2: 1.0}, bounds=(-1.0, 2.5))


def test_unknown_keys_are_refused():
    with pytest.raises(NotationError, match="bucket_count"):
        one("{{bucket_count:3}}")


def test_series_by_repetition_and_addition():
    text = "{{sum:1 buckets:[1]}}+{{sum:2 buckets:[0 1]}}x2 _ {{count:1}}x1 stale"
    first, second, third, gap, *ones, stale = items_of(text)
    assert first == Noted(sum=1.0, positive={0: 1.0})
    assert second == Noted(sum=3.0, positive={0: 1.0, 1: 1.0})
    assert third == Noted(sum=5.0, positive={0: 1.0, 1: 2.0})
    assert gap is None
    assert ones == [Noted(count=1.0)] * 2
    assert checking.equal_floats(stale, float("nan")) is False


def test_series_by_subtraction():
    last = items_of("{{count:3 buckets:[3 1]}}-{{count:1 buckets:[1]}}x3")[-1]
    assert last == Noted(count=0.0, positive={1: 1.0})


def test_an_increment_of_lower_resolution_is_refused():
    with pytest.raises(NotationError):
        items_of("{{schema:1}}+{{schema:0}}x1")


def test_sums_take_the_lower_resolution():
    fine = Noted(schema=1, positive={1: 1.0, 2: 2.0, 3: 4.0, -1: 8.0}, negative={0: 1.0})
    assert combined(Noted(schema=0), fine, 1.0) == Noted(
        schema=0, positive={1: 3.0, 2: 4.0, 0: 8.0}, negative={0: 1.0}
    )


def test_sums_take_the_wider_zero_bucket():
    wide = Noted(zero_threshold=1.5, zero_count=1.0)
    fine = Noted(zero_threshold=0.5, zero_count=2.0, positive={0: 4.0, 1: 8.0, 2: 16.0})
    # The bucket (1, 2] holds something and would be cut, so the zero bucket ends at 2.
    assert combined(wide, fine, 1.0) == Noted(
        zero_threshold=2.0, zero_count=15.0, positive={2: 16.0}
    )


def test_sums_take_the_shared_custom_bounds():
    a = Noted(schema=-53, bounds=(1.0, 2.0, 3.0), positive={0: 1.0, 1: 2.0, 3: 4.0})
    b = Noted(schema=-53, bounds=(2.0, 4.0), positive={0: 8.0, 1: 16.0, 2: 32.0})
    found = combined(a, b, 1.0)
    assert found == Noted(schema=-53, bounds=(2.0,), positive={0: 11.0, 1: 52.0})


@pytest.mark.parametrize(
    ("a", "b", "hint"),
    [
        ("reset", "reset", "reset"),
        ("gauge", "reset", "gauge"),
        ("unknown", "gauge", "gauge"),
        ("unknown", "not_reset", "unknown"),
        ("reset", "not_reset", "unknown"),
    ],
)
def test_hints_of_sums(a, b, hint):
    assert combined(Noted(hint=HINTS[a]), Noted(hint=HINTS[b]), 1.0).hint == HINTS[hint]


@pytest.mark.parametrize(
    ("idx", "schema", "bound"),
    [(0, 0, 1.0), (3, 0, 8.0), (-1, 0, 0.5), (1, -2, 16.0), (8, 3, 2.0), (1, 1, math.sqrt(2))],
)
def test_bounds_of_buckets(idx, schema, bound):
    assert upper_bound(idx, schema) == pytest.approx(bound, rel=1e-15)


def test_columns_and_back():
    histograms = [
        Noted(schema=3, count=2.0, positive={-5: 1.0, 9: 2.0}, negative={0: 3.0, -2: 4.0}),
        Noted(),
        Noted(schema=-53, positive={1: 1.0}, bounds=(0.5, 1.0), hint=HINTS["reset"]),
        Noted(schema=-53, bounds=()),
        Noted(schema=-4, sum=-1.0, zero_count=7.0, zero_threshold=1e-9),
    ]
    table = columns(histograms)
    assert [from_columns(table, row) for row in range(len(histograms))] == histograms
    assert (table.keys[:4] < 0).tolist() == [True, True, False, False]
    assert sorted(table.keys[:4].tolist()) == table.keys[:4].tolist()


@pytest.mark.parametrize(
    ("change", "wrong"),
    [
        ({}, None),
        ({"sum": 1.0 + 1e-9}, None),
        ({"sum": 1.1}, "sum"),
        ({"schema": 1}, "schema"),
        ({"count": 4.0}, "count"),
        ({"zero_threshold": 1e-9}, "zero_threshold"),
        ({"zero_count": 1.0}, "zero_count"),
        ({"positive": {1: 2.0, 2: 1.0}}, "positive buckets"),
        ({"positive": {1: 3.0}}, "positive counts"),
        ({"negative": {1: 2.0}}, "negative buckets"),
        ({"hint": HINTS["gauge"]}, "hint"),
    ],
)
def test_differences(change, wrong):
    given = {"sum": 1.0, "count": 3.0, "positive": {1: 2.0}}
    wanted, got = Noted(**given), Noted(**(given | change))
    for with_hint in (True, False):
        found = difference(wanted, got, checking.equal_floats, with_hint=with_hint)
        assert found == (None if wrong == "hint" and not with_hint else wrong)


# --- classic histograms --------------------------------------------------------------------------


def bucket(le, *values, name="h", **labels):
    return ({"__name__": f"{name}_bucket", "le": le, **labels}, list(values))


def test_conversion_of_a_classic_histogram():
    series = [
        bucket("2", 3.0, 4.0, a="b"),
        bucket("1", 1.0, 1.0, a="b"),
        bucket("+Inf", 3.0, 7.0, a="b"),
        ({"__name__": "h_sum", "a": "b"}, [5.0, 9.5]),
        ({"__name__": "h_count", "a": "b"}, [3.0, 7.0]),
        ({"__name__": "other"}, [1.0, 1.0]),
        bucket("one", 1.0, 1.0, a="b"),
    ]
    assert converted(series, 1000) == [
        (
            {"__name__": "h", "a": "b"},
            [0, 1000],
            [
                Noted(schema=-53, count=3.0, sum=5.0, positive={0: 1.0, 1: 2.0}, bounds=(1.0, 2.0)),
                Noted(
                    schema=-53,
                    count=7.0,
                    sum=9.5,
                    positive={0: 1.0, 1: 3.0, 2: 3.0},
                    bounds=(1.0, 2.0),
                ),
            ],
        )
    ]


def test_conversion_without_a_count_or_a_last_bucket():
    ((_, _, (found,)),) = converted([bucket("1", 2.0), bucket("3", 5.0)], 1000)
    assert found == Noted(schema=-53, count=5.0, positive={0: 2.0, 1: 3.0}, bounds=(1.0, 3.0))


@pytest.mark.parametrize(
    "series",
    [
        [bucket("1", 2.0), bucket("2", 1.0)],
        [bucket("1", -1.0)],
        [bucket("+Inf", 2.0), ({"__name__": "h_count"}, [3.0])],
    ],
)
def test_conversion_of_contradictions(series):
    with pytest.raises(ConversionError):
        converted(series, 1000)


# --- the runner ----------------------------------------------------------------------------------

LOAD = """
load 1m
  h {{count:3 sum:5 buckets:[1 2]}} {{count:5 sum:9 buckets:[2 3]}}
  f 1 2

"""


@pytest.mark.parametrize(
    ("case", "problem"),
    [
        ("eval instant at 1m h\n  h {{count:5 sum:9 buckets:[2 3]}}", None),
        ("eval instant at 1m h\n  h {{count:5 sum:9.1 buckets:[2 3]}}", "wrong sum"),
        ("eval instant at 1m h\n  h {{count:5 sum:9 buckets:[3 2]}}", "wrong positive counts"),
        ("eval instant at 1m h\n  h {{count:5 sum:9 buckets:[2 3] offset:1}}", "positive buckets"),
        ("eval instant at 1m h\n  h {{schema:1 count:5 sum:9 buckets:[2 3]}}", "wrong schema"),
        (
            "eval instant at 1m h\n"
            "  h {{count:5 sum:9 buckets:[2 3] counter_reset_hint:not_reset}}",
            None,
        ),
        (
            "eval instant at 1m h\n  h {{count:5 sum:9 buckets:[2 3] counter_reset_hint:gauge}}",
            "wrong hint",
        ),
        ("eval instant at 1m h\n  h 5", "expected 5.0"),
        ("eval instant at 1m f\n  f {{count:2}}", "expected a native histogram"),
        ("eval range from 0 to 1m step 1m h\n  h {{count:3 sum:5 buckets:[1 2]}}", "the times"),
        (
            "eval range from 0 to 1m step 1m h\n"
            "  h {{count:3 sum:5 buckets:[1 2]}} {{count:5 sum:9 buckets:[2 3]}}",
            None,
        ),
        (
            "eval range from 0 to 1m step 1m h\n"
            "  h {{count:3 sum:5 buckets:[1 2]}}+{{count:2 sum:3 buckets:[1 1]}}x1",
            "wrong sum",
        ),
    ],
)
def test_the_runner_compares_histograms(case, problem):
    (outcome,) = runner.run_script(parse_script(LOAD + case))
    if problem is None:
        assert outcome.problem is None
    else:
        assert problem in outcome.problem
