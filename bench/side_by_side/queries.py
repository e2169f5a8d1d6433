"""The dashboard queries, fixed before the first measurement, and how answers are compared."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from bench.side_by_side.systems import System

Kind = Literal["instant", "range", "label_names", "label_values", "series"]
_HOST = "host-00007.eu-west-1.compute.internal:9100"
_SERVICE = "service-07-checkout-and-payments"


@dataclass(frozen=True, slots=True)
class Query:
    """One query: `span_s` before the data's end in steps of `step_s`, or at the end.

    ``load`` is the data set it runs on: "load" (2 h), "day" (24 h), "million" (1 M series).
    `uses_rate`: VictoriaMetrics computes rate and increase in its own way.
    """

    name: str
    kind: Kind
    text: str
    load: str = "load"
    span_s: int = 0
    step_s: int = 0
    uses_rate: bool = False


def _range(name: str, text: str, hours: int, step_s: int, load: str = "load") -> Query:
    uses_rate = any(word in text for word in ("rate(", "increase(", "predict_linear(", "subquery"))
    return Query(name, "range", text, load, hours * 3600, step_s, uses_rate)


def _instant(name: str, text: str, load: str = "load") -> Query:
    uses_rate = any(word in text for word in ("rate(", "increase(", "predict_linear("))
    return Query(name, "instant", text, load, uses_rate=uses_rate)


_BY_SERVICE = (
    "histogram_quantile(0.99, sum by (le, service) "
    "(rate(http_request_duration_seconds_bucket[5m])))"
)
_CPU = "sum by (mode) (rate(node_cpu_seconds_total[5m]))"
_BUSY = '1 - avg by (instance) (rate(node_cpu_seconds_total{mode="idle"}[5m]))'

QUERIES = (
    _range("one series, raw, 1 h", f'node_load1{{instance="{_HOST}"}}', 1, 15),
    _range("one host, raw, 1 h", f'{{instance="{_HOST}"}}', 1, 15),
    _instant("instant, equality", f'node_load5{{service="{_SERVICE}"}}'),
    _instant("instant, prefix regex", 'node_load1{instance=~"host-000.*"}'),
    _instant(
        "instant, alternation and negation",
        'node_cpu_seconds_total{mode=~"user|system|iowait",cpu!="1",team!~"team-0.*"}',
    ),
    _instant("instant, all series", '{job="node-exporter"}'),
    _range("sum by of rate, 1 h", _CPU, 1, 15),
    _range("sum by of rate, 2 h", _CPU, 2, 60),
    _range("avg by of a gauge, 1 h", "avg by (team) (node_hwmon_temp_celsius)", 1, 15),
    _range("busy share by instance, 1 h", _BUSY, 1, 60),
    _instant("topk, instant", "topk(10, rate(node_network_transmit_bytes_total[5m]))"),
    _range(
        "topk, 1 h",
        "topk(5, sum by (instance) (rate(node_network_transmit_bytes_total[5m])))", 1, 60,
    ),
    _instant(
        "histogram_quantile, instant",
        "histogram_quantile(0.99, sum by (le) (rate(http_request_duration_seconds_bucket[5m])))",
    ),
    _range("histogram_quantile by service, 1 h", _BY_SERVICE, 1, 60),
    _range("max_over_time, 1 h", "max by (team) (max_over_time(node_load1[1h]))", 1, 60),
    _range(
        "quantile_over_time, 1 h", "max by (team) (quantile_over_time(0.9, node_load1[30m]))", 1, 60
    ),
    _range("increase, 1 h", "sum by (code) (increase(http_requests_total[1h]))", 1, 60),
    _range(
        "binary on, 1 h",
        "node_filesystem_avail_gigabytes / on (instance, mountpoint) "
        "node_filesystem_size_gigabytes",
        1, 60,
    ),
    _range(
        "group_left, 1 h", "node_load1 * on (instance) group_left (version) node_os_info", 1, 60
    ),
    _range("and, 1 h", "node_load1 > 300 and on (instance) node_load5 > 300", 1, 60),
    _instant(
        "subquery 1h:1m", "max_over_time(sum by (team) (rate(http_requests_total[5m]))[1h:1m])"
    ),
    _instant(
        "offset ratio",
        "sum(rate(http_requests_total[5m])) / sum(rate(http_requests_total[5m] offset 1h))",
    ),
    _instant("predict_linear", "predict_linear(node_filesystem_avail_gigabytes[1h], 14400)"),
    _instant("count by name, 100 k series", 'count by (__name__) ({job="node-exporter"})'),
    Query("label names", "label_names", "", span_s=3600),
    Query("label values", "label_values", "instance", span_s=3600),
    Query("series of a service", "series", f'{{service="{_SERVICE}"}}', span_s=3600),
    _range("one series, raw, 24 h", f'node_load1{{instance="{_HOST}"}}', 24, 15, "day"),
    _range("one host, raw, 24 h", f'{{instance="{_HOST}"}}', 24, 60, "day"),
    _range("sum by of rate, 6 h", _CPU, 6, 60, "day"),
    _range("sum by of rate, 24 h", _CPU, 24, 60, "day"),
    _range("avg by of a gauge, 24 h", "avg by (team) (node_hwmon_temp_celsius)", 24, 60, "day"),
    _range("histogram_quantile by service, 24 h", _BY_SERVICE, 24, 60, "day"),
    _range("max_over_time, 24 h", "max by (team) (max_over_time(node_load1[1h]))", 24, 300, "day"),
    _range("increase, 24 h", "sum by (code) (increase(http_requests_total[1h]))", 24, 300, "day"),
    _instant(
        "subquery 24h:5m",
        "max_over_time(sum by (team) (rate(http_requests_total[5m]))[24h:5m])", "day",
    ),
    _instant("count by name, 1 M series", 'count by (__name__) ({job="node-exporter"})', "million"),
)  # fmt: skip


def run(system: System, query: Query, end_ms: int) -> Any:
    """The data of the answer, parsed."""
    return json.loads(ask(system, query, end_ms))["data"]


def time_ms(system: System, query: Query, end_ms: int, repeats: int) -> float:
    """Median milliseconds from sending to the last byte."""
    taken = []
    for _ in range(repeats):
        started = time.perf_counter()
        ask(system, query, end_ms)
        taken.append(time.perf_counter() - started)
    return float(np.median(taken)) * 1e3


def ask(system: System, query: Query, end_ms: int) -> bytes:
    """The answer as it comes."""
    end_s = end_ms // 1000
    start_s = end_s - query.span_s
    match query.kind:
        case "instant":
            return system.call("/api/v1/query", {"query": query.text, "time": end_s})
        case "range":
            grid = {"start": start_s, "end": end_s, "step": query.step_s}
            return system.call("/api/v1/query_range", {"query": query.text, **grid})
        case "label_names":
            return system.call("/api/v1/labels", {"start": start_s, "end": end_s})
        case "label_values":
            connection = f"/api/v1/label/{query.text}/values?start={start_s}&end={end_s}"
            return system.get(connection)
        case "series":
            limits = {"start": start_s, "end": end_s}
            return system.call("/api/v1/series", {"match[]": query.text, **limits})


def size_of(query: Query, data: Any) -> int:
    """Series or texts in an answer."""
    return len(data["result"]) if query.kind in ("instant", "range") else len(data)


def difference(query: Query, ours: Any, theirs: Any) -> str:
    """What tells two answers apart: empty if nothing does, values to a relative 1e-9."""
    if query.kind not in ("instant", "range"):
        one, other = (
            sorted(json.dumps(item, sort_keys=True) for item in d) for d in (ours, theirs)
        )
        return "" if one == other else f"{len(one)} and {len(other)} texts"
    one, other = _rows(ours), _rows(theirs)
    if one.keys() != other.keys():
        return f"{len(one)} and {len(other)} series, {len(one.keys() ^ other.keys())} differ"
    worst = 0.0
    for key, (times, values) in one.items():
        other_times, other_values = other[key]
        if len(times) != len(other_times) or (times != other_times).any():
            return f"{len(times)} and {len(other_times)} points in {key}"
        scale = np.maximum(np.abs(values), np.abs(other_values))
        apart = np.abs(values - other_values) / np.where(scale == 0, 1, scale)
        same = (values == other_values) | (np.isnan(values) & np.isnan(other_values))
        worst = max(worst, float(np.where(same, 0, apart).max(initial=0)))
    return "" if worst <= 1e-9 else f"values differ by {worst:.2g} of their size"


def _rows(data: Any) -> dict[str, tuple[Any, Any]]:
    rows = {}
    for series in data["result"]:
        points = series["values"] if "values" in series else [series["value"]]
        times = np.array([float(point[0]) for point in points])
        values = np.array([float(point[1]) for point in points])
        rows[json.dumps(series["metric"], sort_keys=True)] = (times, values)
    return rows
