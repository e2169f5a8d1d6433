"""OpenTelemetry's names as Prometheus writes them; values as Prometheus's own translator gives."""

import pytest

from server.config import STRATEGY_NAMES
from server.protocols.otlp_names import (
    STRATEGIES,
    Untranslatable,
    label_name,
    metric_name,
    unit_name,
)

ESCAPED = STRATEGIES["UnderscoreEscapingWithSuffixes"]
ESCAPED_PLAIN = STRATEGIES["UnderscoreEscapingWithoutSuffixes"]
UTF8 = STRATEGIES["NoUTF8EscapingWithSuffixes"]
UNTOUCHED = STRATEGIES["NoTranslation"]


def test_the_flag_knows_every_strategy():
    assert tuple(STRATEGIES) == STRATEGY_NAMES


@pytest.mark.parametrize(
    ("name", "unit", "kind", "expected"),
    [
        ("http.server.duration", "s", "histogram", "http_server_duration_seconds"),
        ("requests.count", "1", "counter", "requests_count_total"),
        ("memory.usage", "By", "gauge", "memory_usage_bytes"),
        ("cpu.utilization", "1", "gauge", "cpu_utilization_ratio"),
        ("cpu.ratio", "1", "gauge", "cpu_ratio"),
        ("a.total.b", "", "counter", "a_b_total"),
        ("disk.io", "By/s", "gauge", "disk_io_bytes_per_second"),
        ("speed", "m/s", "gauge", "speed_meters_per_second"),
        ("broken", "{packets}", "counter", "broken_total"),
        ("broken", "{packets}/s", "sum", "broken_per_second"),
        ("seconds.used", "s", "counter", "seconds_used_total"),
        ("2xx", "", "gauge", "_2xx"),
        ("a..b__c", "", "gauge", "a_b_c"),
        ("weird", "a/b", "gauge", "weird_a_per_b"),
        ("weird", "°C", "gauge", "weird_C"),
        ("process.percent", "%", "gauge", "process_percent"),
        ("x", "/s", "gauge", "x_per_second"),
        ("x", "/", "gauge", "x"),
        ("rule:sum", "", "gauge", "rule:sum"),
        ("_leading", "", "gauge", "leading"),
    ],
)
def test_escaped_with_suffixes(name, unit, kind, expected):
    assert metric_name(name, unit, kind, ESCAPED) == expected


def test_other_strategies():
    asked = ("http.requests", "By/s", "counter")
    assert metric_name(*asked, ESCAPED_PLAIN) == "http_requests"
    assert metric_name(*asked, UTF8) == "http.requests_bytes_per_second_total"
    assert metric_name(*asked, UNTOUCHED) == "http.requests"
    assert metric_name("used.ratio", "1", "gauge", UTF8) == "used_ratio"
    assert metric_name("in.total", "", "counter", UTF8) == "in_total"
    assert metric_name("9.a_b", "", "gauge", ESCAPED_PLAIN) == "_9_a_b"


@pytest.mark.parametrize("strategy", [ESCAPED, ESCAPED_PLAIN])
@pytest.mark.parametrize("name", ["", "...", "äö"])
def test_names_of_which_nothing_is_left(name, strategy):
    with pytest.raises(Untranslatable):
        metric_name(name, "", "gauge", strategy)


@pytest.mark.parametrize(
    ("unit", "expected"),
    [
        ("s", "seconds"), ("1", ""), ("By/s", "bytes_per_second"), ("{x}", ""),
        ("ms", "milliseconds"),
    ],
)  # fmt: skip
def test_units(unit, expected):
    assert unit_name(unit) == expected


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("http.method", "http_method"), ("9lives", "key_9lives"), ("__reserved__", "__reserved__"),
        ("a--b", "a_b"), ("_private", "_private"), ("a__b", "a_b"), ("__a.b__", "__a_b__"),
    ],
)  # fmt: skip
def test_labels(name, expected):
    assert label_name(name, ESCAPED) == expected
    assert label_name(name, UNTOUCHED) == name


@pytest.mark.parametrize("name", ["", "_", "____", "ä"])
def test_labels_of_which_nothing_is_left(name):
    with pytest.raises(Untranslatable):
        label_name(name, ESCAPED)
