"""Names of ``--enable-feature`` and what /api/v1/features says about them."""

import logging

import pytest

from server import feature_switches
from server.lifecycle import open_database
from tests.http.conftest import make_config

PROMETHEUS = (
    "auto-reload-config", "concurrent-rule-eval", "created-timestamp-zero-ingestion",
    "delayed-compaction", "exemplar-storage", "extra-scrape-metrics", "fast-startup",
    "histograms-st-encoding", "memory-snapshot-on-shutdown", "metadata-wal-records",
    "native-histograms", "old-ui", "ooo-native-histograms", "otlp-deltatocumulative",
    "otlp-native-delta-ingestion", "promql-binop-fill-modifiers", "promql-delayed-name-removal",
    "promql-duration-expr", "promql-experimental-functions", "promql-extended-range-selectors",
    "promql-per-step-stats", "search-api", "st-storage", "st-synthesis", "type-and-unit-labels",
    "use-start-timestamps", "use-uncached-io", "xor2-encoding",
)  # fmt: skip
"""All that Prometheus 3.14 takes."""


def test_every_name_of_prometheus_is_known():
    groups = (
        feature_switches.WORKING, feature_switches.ALWAYS_ON, feature_switches.WITHOUT_EFFECT,
    )  # fmt: skip
    assert sorted(name for group in groups for name in group) == sorted(PROMETHEUS)


def test_names_that_do_nothing_are_said(tmp_path, caplog):
    config = make_config(
        "--data-dir", str(tmp_path), "--enable-feature",
        "old-ui,nonsense, promql-per-step-stats,st-storage",
    )  # fmt: skip
    with caplog.at_level(logging.INFO, "tsengine"):
        open_database(config).close()
    said = {
        (record.levelname, record.getMessage(), record.tsengine_fields["option"])
        for record in caplog.records
        if "--enable-feature" in record.getMessage()
    }
    assert said == {
        ("INFO", "This option for --enable-feature is always on here.", "st-storage"),
        ("WARNING", "This option for --enable-feature has no effect here.", "old-ui"),
        ("WARNING", "Unknown option for --enable-feature", "nonsense"),
    }


@pytest.mark.parametrize(
    ("name", "category", "feature"),
    [
        ("promql-per-step-stats", "promql", "per_step_stats"),
        ("promql-extended-range-selectors", "promql", "anchored"),
        ("promql-binop-fill-modifiers", "promql", "fill"),
        ("promql-delayed-name-removal", "promql", "delayed_name_removal"),
        ("promql-experimental-functions", "promql_functions", "limitk"),
        ("otlp-native-delta-ingestion", "otlp_receiver", "native_delta_ingestion"),
        ("type-and-unit-labels", "promql", "type_and_unit_labels"),
    ],
)
async def test_switches_show_and_work(start, tmp_path, name, category, feature):
    if feature == "limitk":
        category = "promql_operators"
    for is_on in (False, True):
        flags = ["--data-dir", str(tmp_path / str(is_on))]
        if is_on:
            flags += ["--enable-feature", name]
        database = open_database(make_config(*flags))
        running = await start(*flags, database=database)
        _, answer = await running.json("GET", "/api/v1/features")
        assert answer["data"][category][feature] is is_on
        expr = {
            "anchored": "rate(x[1m] anchored)", "fill": "x + fill(0) x", "limitk": "limitk(1, x)",
        }  # fmt: skip
        if feature in expr:
            status, _ = await running.json("POST", "/api/v1/query", data={"query": expr[feature]})
            assert status == (200 if is_on else 400)
        database.close()
