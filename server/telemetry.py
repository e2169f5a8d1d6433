"""All metrics of the server about itself, once. Prefix ``tsengine_``, base units.

Counters and histograms are counted where things happen; gauges that mirror a state (executor,
database) are read when the metrics are collected.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

if TYPE_CHECKING:
    from prometheus_client.metrics_core import Metric
    from prometheus_client.samples import Sample

    import tsengine

    from .executor import Executor
    from .limits import ByteBudget

_SECONDS = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 120.0)


class Telemetry:
    """The metrics of one server. Thread-safe."""

    def __init__(self, version: str) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        build = Gauge(
            "tsengine_build_info", "1, labelled with the version.", ["version"],
            registry=self.registry,
        )  # fmt: skip
        build.labels(version).set(1)
        self.http_requests = Counter(
            "tsengine_http_requests", "Answered HTTP requests.", ["handler", "method", "code"],
            registry=self.registry,
        )  # fmt: skip
        self.http_seconds = Histogram(
            "tsengine_http_request_duration_seconds", "Time from a request's head to its answer.",
            ["handler"], buckets=_SECONDS, registry=self.registry,
        )  # fmt: skip
        self.http_sent_bytes = Counter(
            "tsengine_http_response_bytes", "Bytes of answers' bodies, as sent.", ["handler"],
            registry=self.registry,
        )  # fmt: skip
        self._add_write_metrics()
        self.query_seconds = Histogram(
            "tsengine_query_duration_seconds", "Time from a query's turn to its encoded answer.",
            ["kind"], buckets=_SECONDS, registry=self.registry,
        )  # fmt: skip
        self.query_failures = Counter(
            "tsengine_query_failures", "Queries without an answer, by error type.",
            ["kind", "error_type"], registry=self.registry,
        )  # fmt: skip
        self.ready = Gauge(
            "tsengine_ready", "1 when writes and queries are served.", registry=self.registry
        )
        self.start_seconds = Gauge(
            "tsengine_start_duration_seconds", "Time from the start of the process to readiness.",
            registry=self.registry,
        )  # fmt: skip
        self.reload_successful = Gauge(
            "tsengine_config_last_reload_successful", "1 unless the last reload was refused.",
            registry=self.registry,
        )  # fmt: skip
        self.reload_timestamp = Gauge(
            "tsengine_config_last_reload_success_timestamp_seconds",
            "Unix time of the start or of the last reload that was not refused.",
            registry=self.registry,
        )  # fmt: skip
        self.self_scrape_failures = Counter(
            "tsengine_self_scrape_failures", "Rounds of own metrics that could not be stored.",
            registry=self.registry,
        )  # fmt: skip

    def _add_write_metrics(self) -> None:
        registry = self.registry
        # Children that are asked for in every request: looking them up takes longer than counting.
        self._write_counters: dict[str, tuple[Any, ...]] = {}
        self._post_counters: dict[tuple[str, int], tuple[Any, Any, Any]] = {}
        self.write_samples = Counter(
            "tsengine_remote_write_samples", "Stored samples.", ["protocol"], registry=registry
        )
        self.write_histograms = Counter(
            "tsengine_remote_write_histograms", "Stored native histogram samples.", ["protocol"],
            registry=registry,
        )  # fmt: skip
        self.write_exemplars = Counter(
            "tsengine_remote_write_exemplars", "Stored exemplars.", ["protocol"], registry=registry
        )
        self.write_series_rejected = Counter(
            "tsengine_remote_write_rejected_series", "Series refused inside written requests.",
            ["protocol"], registry=registry,
        )  # fmt: skip
        self.write_samples_rejected = Counter(
            "tsengine_remote_write_rejected_samples", "Samples of refused series.", ["protocol"],
            registry=registry,
        )  # fmt: skip
        self.write_body_bytes = Counter(
            "tsengine_remote_write_body_bytes", "Received bytes, compressed.", registry=registry
        )
        self.write_message_bytes = Counter(
            "tsengine_remote_write_message_bytes", "Received bytes, decompressed.", ["protocol"],
            registry=registry,
        )  # fmt: skip
        self.write_failures = Counter(
            "tsengine_remote_write_failures", "Requests of which nothing was stored.", ["code"],
            registry=registry,
        )  # fmt: skip

    def count_write(
        self, *, protocol: str, message_size: int, result: tsengine.WriteResult
    ) -> None:
        """Count a request that was written, wholly or in part."""
        counters = self._write_counters.get(protocol)
        if counters is None:
            counters = self._write_counters[protocol] = tuple(
                counter.labels(protocol)
                for counter in (
                    self.write_message_bytes, self.write_samples, self.write_histograms,
                    self.write_exemplars, self.write_series_rejected, self.write_samples_rejected,
                )
            )  # fmt: skip
        n_rejected = sum(reject.n_samples for reject in result.rejected)
        counts = (
            message_size, result.samples, result.histograms, result.exemplars,
            len(result.rejected), n_rejected,
        )  # fmt: skip
        for counter, count in zip(counters, counts, strict=True):
            if count:
                counter.inc(count)

    def observe_request(self, route: str, status: int, seconds: float, n_sent: int) -> None:
        """Count an answer to a POST that no middleware sees."""
        key = (route, status)
        counters = self._post_counters.get(key)
        if counters is None:
            counters = self._post_counters[key] = (
                self.http_requests.labels(route, "POST", str(status)),
                self.http_seconds.labels(route),
                self.http_sent_bytes.labels(route),
            )
        counters[0].inc()
        counters[1].observe(seconds)
        if n_sent:
            counters[2].inc(n_sent)

    def count_failed_write(self, status: int) -> None:
        """Count a request of which nothing was stored."""
        self.write_failures.labels(str(status)).inc()

    def watch(
        self,
        executor: Executor,
        write_budget: ByteBudget,
        database_stats: Callable[[], Mapping[str, float]],
    ) -> None:
        """Report the state of these objects from now on."""
        self.registry.register(_StateCollector(executor, write_budget, database_stats))

    def exposition(self, accept: str) -> tuple[bytes, str]:
        """Text of all metrics and its content type (OpenMetrics when asked for)."""
        encoder, content_type = choose_encoder(accept)
        return encoder(self.registry), content_type

    def families(self) -> list[dict[str, Any]]:
        """All metrics in the JSON form of ``io.prometheus.client.MetricFamily``."""
        return [family_json(family) for family in self.registry.collect()]


def family_json(family: Metric) -> dict[str, Any]:
    """One metric family: counters and gauges with values, histograms with buckets."""
    metrics: dict[tuple[tuple[str, str], ...], dict[str, Any]] = {}
    suffix = "_total" if family.type == "counter" else ""
    for sample in family.samples:
        if sample.name.endswith("_created"):
            continue
        labels = {name: text for name, text in sample.labels.items() if name != "le"}
        metric = metrics.setdefault(
            tuple(labels.items()),
            {"label": [{"name": name, "value": text} for name, text in labels.items()]},
        )
        if family.type == "histogram":
            _add_to_histogram(metric.setdefault("histogram", {"bucket": []}), sample)
        else:
            key = family.type if family.type in ("counter", "gauge") else "untyped"
            metric[key] = {"value": _json_number(sample.value)}
    kind = family.type if family.type in ("counter", "gauge", "histogram") else "untyped"
    return {
        "name": family.name + suffix,
        "help": family.documentation,
        "type": kind.upper(),
        "metric": list(metrics.values()),
    }


def _add_to_histogram(histogram: dict[str, Any], sample: Sample) -> None:
    """64-bit counts are texts in this form."""
    if sample.name.endswith("_bucket"):
        bound = _json_number(float(sample.labels["le"]))
        bucket = {"cumulativeCount": str(int(sample.value)), "upperBound": bound}
        histogram["bucket"].append(bucket)
    elif sample.name.endswith("_count"):
        histogram["sampleCount"] = str(int(sample.value))
    elif sample.name.endswith("_sum"):
        histogram["sampleSum"] = _json_number(sample.value)


def _json_number(value: float) -> float | str:
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "Infinity" if value > 0 else "-Infinity"
    return value


class _StateCollector(Collector):
    """Gauges read when asked for."""

    def __init__(
        self,
        executor: Executor,
        write_budget: ByteBudget,
        database_stats: Callable[[], Mapping[str, float]],
    ) -> None:
        self._executor = executor
        self._write_budget = write_budget
        self._database_stats = database_stats
        self._started = time.time()

    def describe(self) -> Iterable[Metric]:
        return ()  # Spares the registry a collection at registration.

    def collect(self) -> Iterable[Metric]:
        executor = self._executor
        yield GaugeMetricFamily(
            "tsengine_start_time_seconds", "Unix time of the start.", value=self._started
        )
        yield GaugeMetricFamily(
            "tsengine_queries_running", "Queries being evaluated.", value=executor.queries_running
        )
        yield GaugeMetricFamily(
            "tsengine_queries_waiting", "Queries waiting for a turn.",
            value=executor.queries_waiting,
        )  # fmt: skip
        yield GaugeMetricFamily(
            "tsengine_writes_running", "Writes waiting for their fsync.",
            value=executor.writes_running,
        )  # fmt: skip
        yield GaugeMetricFamily(
            "tsengine_writes_in_flight_bytes", "Bytes held by requests being written.",
            value=self._write_budget.used,
        )  # fmt: skip
        yield from database_metrics(self._database_stats())


def database_metrics(stats: Mapping[str, float]) -> Iterable[Metric]:
    """The database's own numbers (`Database.stats`) under their metric names."""
    for key, name, kind, text in DATABASE_METRICS:
        if key in stats:
            yield kind(name, text, value=float(stats[key]))
    for key, name, kind, label, text in LABELLED_METRICS:
        family = kind(name, text, labels=[label])
        for own, value in stats.items():
            if own.startswith(f"{key}:"):
                family.add_metric([own.removeprefix(f"{key}:")], float(value))
        if family.samples:
            yield family


DATABASE_METRICS: tuple[
    tuple[str, str, type[GaugeMetricFamily] | type[CounterMetricFamily], str], ...
] = (
    ("series", "tsengine_series", GaugeMetricFamily, "Series in the catalog."),
    ("head_samples", "tsengine_head_samples", GaugeMetricFamily, "Samples not yet in a part."),
    ("head_bytes", "tsengine_head_bytes", GaugeMetricFamily, "Memory of samples not in a part."),
    ("exemplars", "tsengine_exemplars", GaugeMetricFamily, "Exemplars kept."),
    ("tombstones", "tsengine_tombstones", GaugeMetricFamily, "Deletes not erased yet."),
    (
        "retention_held_bytes",
        "tsengine_retention_held_bytes",
        GaugeMetricFamily,
        "Bytes of parts over the limit that stay, for they overwrite others that stay.",
    ),
    (
        "query_memory_bytes",
        "tsengine_query_memory_bytes",
        GaugeMetricFamily,
        "Memory on the account of queries.",
    ),
    (
        "query_memory_limit_bytes",
        "tsengine_query_memory_limit_bytes",
        GaugeMetricFamily,
        "Memory that all queries together may hold.",
    ),
    (
        "memory_limit_bytes",
        "tsengine_memory_limit_bytes",
        GaugeMetricFamily,
        "The memory budget.",
    ),
    (
        "shed_series",
        "tsengine_shed_series",
        CounterMetricFamily,
        "New series refused for a limit of memory or series.",
    ),
    (
        "metadata_dropped",
        "tsengine_metadata_dropped",
        CounterMetricFamily,
        "Types, helps and units dropped over their limit of memory.",
    ),
    (
        "storage_failures",
        "tsengine_storage_failures",
        CounterMetricFamily,
        "Writes that the disk refused.",
    ),
    (
        "ballast_bytes",
        "tsengine_ballast_bytes",
        GaugeMetricFamily,
        "Disk space kept aside for a flush on a full disk.",
    ),
    ("log_bytes", "tsengine_log_bytes", GaugeMetricFamily, "Size of the write-ahead log."),
    (
        "cold_parts",
        "tsengine_cold_parts",
        GaugeMetricFamily,
        "Live parts whose samples are in an object store.",
    ),
    ("cold_bytes", "tsengine_cold_bytes", GaugeMetricFamily, "Bytes of parts in an object store."),
    (
        "cold_cache_bytes",
        "tsengine_cold_cache_bytes",
        GaugeMetricFamily,
        "Disk space of what was read from an object store.",
    ),
    ("tier_parts", "tsengine_tier_parts", GaugeMetricFamily, "Live parts of tiers."),
    ("tier_bytes", "tsengine_tier_bytes", GaugeMetricFamily, "Size of tiers on disk."),
    (
        "background_paused",
        "tsengine_background_paused",
        GaugeMetricFamily,
        "1 while background work is paused.",
    ),
    ("parts", "tsengine_parts", GaugeMetricFamily, "Live parts."),
    ("part_samples", "tsengine_part_samples", GaugeMetricFamily, "Samples in live parts."),
    ("part_bytes", "tsengine_part_bytes", GaugeMetricFamily, "Size of live parts on disk."),
    ("flushes", "tsengine_flushes", CounterMetricFamily, "Heads that became parts."),
    ("flush_failures", "tsengine_flush_failures", CounterMetricFamily, "Flushes that failed."),
    ("merges", "tsengine_merges", CounterMetricFamily, "Merges of parts."),
    ("merge_failures", "tsengine_merge_failures", CounterMetricFamily, "Merges that failed."),
    (
        "damaged_files",
        "tsengine_damaged_files",
        GaugeMetricFamily,
        "Damaged files that the start found.",
    ),
)
LABELLED_METRICS: tuple[
    tuple[str, str, type[GaugeMetricFamily] | type[CounterMetricFamily], str, str], ...
] = (
    (
        "storage_failing",
        "tsengine_storage_failing",
        GaugeMetricFamily,
        "reason",
        "1 while the disk takes no writes, by reason; nothing is accepted then.",
    ),
    (
        "memory_bytes",
        "tsengine_memory_bytes",
        GaugeMetricFamily,
        "kind",
        "Memory counted against the budget, by what holds it.",
    ),
    (
        "background_jobs",
        "tsengine_background_jobs",
        GaugeMetricFamily,
        "chore",
        "Background work that is due, in jobs.",
    ),
    (
        "background_bytes",
        "tsengine_background_bytes",
        GaugeMetricFamily,
        "chore",
        "Background work that is due, in bytes to be read or removed.",
    ),
    (
        "background_failing",
        "tsengine_background_failing_jobs",
        GaugeMetricFamily,
        "chore",
        "Jobs that failed and will be tried again; the log names them.",
    ),
    (
        "background_blocked",
        "tsengine_background_blocked_jobs",
        GaugeMetricFamily,
        "chore",
        "Jobs that wait for space on the disk; the log names the first.",
    ),
    (
        "background_done",
        "tsengine_background_jobs_done",
        CounterMetricFamily,
        "chore",
        "Background jobs that were done.",
    ),
    (
        "retention_parts",
        "tsengine_retention_parts",
        CounterMetricFamily,
        "reason",
        "Parts that retention removed or wrote anew.",
    ),
    (
        "retention_bytes",
        "tsengine_retention_freed_bytes",
        CounterMetricFamily,
        "reason",
        "Bytes of files that retention freed.",
    ),
    (
        "background_failures",
        "tsengine_background_failures",
        CounterMetricFamily,
        "chore",
        "Attempts at background jobs that failed.",
    ),
)
