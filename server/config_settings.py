"""The table of settings: flag, Prometheus's spelling, variable, key in the file, kind, default.

The table makes the command line, the environment, the configuration file, the status pages and
(checked by a test) ``docs/configuration.md``.
"""

from __future__ import annotations

from dataclasses import dataclass

from . import feature_switches
from .config_values import (
    COUNT,
    COUNT_OR_0,
    DEFAULT_LISTEN,
    DURATION,
    DURATION_OR_0,
    ENDPOINT,
    LISTEN,
    NAMES,
    OBJECT_STORE,
    PATTERN,
    RETENTION,
    RULES,
    SELF_SCRAPE,
    SIZE,
    SIZE_OR_NONE,
    SLOW,
    SWITCH,
    TEXT,
    TIERS,
    Kind,
    one_of,
)
from .logs import LEVELS

STRATEGY_NAMES = (
    "UnderscoreEscapingWithSuffixes",
    "UnderscoreEscapingWithoutSuffixes",
    "NoUTF8EscapingWithSuffixes",
    "NoTranslation",
)
KNOWN_FEATURES = feature_switches.WORKING


@dataclass(frozen=True, slots=True)
class Setting:
    """One line of the table.

    Parameters
    ----------
    key
        Names the environment variable.
    field
        The `Config`'s field that takes the value.
    path
        Key in the configuration file, with a dot below its section; empty for none.
    flags
        The first is ours, the others are Prometheus's spellings.
    default
        As a text; None for no value.
    is_live
        Whether a reload applies it; else it takes effect at the next start.

    """

    key: str
    field: str
    path: str
    flags: tuple[str, ...]
    default: str | None
    kind: Kind
    metavar: str
    help: str
    is_live: bool = True

    @property
    def variable(self) -> str:
        """Name of the environment variable."""
        return "TSENGINE_" + self.key.upper()

    @property
    def is_switch(self) -> bool:
        """Whether the flag stands alone (``--hints``) or takes a value."""
        return self.kind is SWITCH

    @property
    def is_repeatable(self) -> bool:
        """Whether the flag may be given several times."""
        return self.kind is RULES


SETTINGS = (
    Setting("data_dir", "data_dir", "storage.data_dir", ("--data-dir", "--storage.tsdb.path"),
            "data", TEXT, "DIR", "directory of the database; made when absent", is_live=False),
    Setting("listen", "listen", "web.listen", ("--listen", "--web.listen-address"), DEFAULT_LISTEN,
            LISTEN, "HOST:PORT",
            "address to listen on; port 0 lets the system choose; no host means all addresses",
            is_live=False),
    Setting("config", "config_file", "", ("--config", "--config.file"), None, TEXT, "FILE",
            "configuration file (YAML); flags and variables win over it", is_live=False),
    Setting("retention", "retention_s", "storage.retention",
            ("--retention", "--storage.tsdb.retention.time"), "15d", RETENTION, "D",
            "how long samples are kept (1d, 4w, 2y); 0 keeps them for ever"),
    Setting("retention_size", "retention_size", "storage.retention_size",
            ("--retention-size", "--storage.tsdb.retention.size"), "0", SIZE_OR_NONE, "SIZE",
            "bytes of files (50GB); above it the oldest data go first; 0 for no limit"),
    Setting("retention_rule", "retention_rules", "storage.retention_rules", ("--retention-rule",),
            "", RULES, "SELECTOR:D",
            "series that are kept for another time, such as {job=\"ci\"}:3d; may be repeated, "
            "the first that matches counts"),
    Setting("tiers", "tiers", "storage.tiers", ("--tiers",), "5m:90d,1h:2y", TIERS, "W:D,W:D",
            "widths of windows that samples are summed up to, and how long these are kept; off "
            "for none"),
    Setting("tier_delay", "tier_delay_s", "storage.tier_delay", ("--tier-delay",), "2h",
            DURATION_OR_0, "D", "how long a day must have ended before its tiers are built"),
    Setting("compaction_rate", "compaction_rate", "storage.compaction_rate",
            ("--compaction-rate",), "0", SIZE, "SIZE",
            "bytes a second that background work may write (50MB); 0 for no limit"),
    Setting("memory", "memory", "storage.memory", ("--memory",), "0", SIZE, "SIZE",
            "memory for recent samples, series, caches and queries; above it new series are "
            "refused; 0 takes half of the machine's"),
    Setting("cold_url", "cold_url", "cold.url", ("--cold.url",), None, OBJECT_STORE, "URL",
            "object store that old parts are moved to: s3://bucket/prefix", is_live=False),
    Setting("cold_after", "cold_after_s", "cold.after", ("--cold.after",), "0", RETENTION, "D",
            "age at which parts are moved there; 0 moves nothing"),
    Setting("cold_endpoint_url", "cold_endpoint_url", "cold.endpoint_url",
            ("--cold.endpoint-url",), None, ENDPOINT, "URL",
            "of an S3-compatible service other than Amazon's", is_live=False),
    Setting("cold_cache", "cold_cache", "cold.cache", ("--cold.cache",), "1GiB", SIZE, "SIZE",
            "local disk for what was read from there"),
    Setting("exemplar_retention", "exemplar_retention_s", "storage.exemplar_retention",
            ("--exemplar-retention",), "0", RETENTION, "D",
            "how long exemplars are kept; 0 keeps them as long as samples"),
    Setting("exemplars_max", "exemplars_max", "storage.exemplars_max", ("--exemplars-max",),
            "1000000", COUNT, "N", "exemplars that are kept; of more the oldest go"),
    Setting("metadata_memory", "metadata_memory", "storage.metadata_memory",
            ("--metadata-memory",), "64MiB", SIZE, "SIZE",
            "memory for types, helps and units of metrics; above it those of further metrics are "
            "dropped"),
    Setting("enable_admin_api", "enable_admin_api", "web.enable_admin_api",
            ("--enable-admin-api", "--web.enable-admin-api"), "false", SWITCH, "",
            "allow POST /api/v1/admin/... (flush, merge, delete, snapshot)"),
    Setting("enable_lifecycle", "enable_lifecycle", "web.enable_lifecycle",
            ("--enable-lifecycle", "--web.enable-lifecycle"), "false", SWITCH, "",
            "allow POST /-/quit and /-/reload"),
    Setting("enable_feature", "features", "features", ("--enable-feature",), "", NAMES, "A,B",
            "features as in Prometheus, with commas: " + ", ".join(KNOWN_FEATURES),
            is_live=False),
    Setting("self_scrape", "self_scrape_s", "self_scrape", ("--self-scrape",), "15s", SELF_SCRAPE,
            "D|off", 'how often the server stores its own metrics (job="tsengine")',
            is_live=False),
    Setting("hints", "hints", "", ("--hints",), "false", SWITCH, "",
            "after the start print what to try next (always on a terminal)", is_live=False),
    Setting("query_timeout", "query_timeout_s", "query.timeout", ("--query.timeout",), "2m",
            DURATION, "D", "longest time a query may take"),
    Setting("query_max_samples", "query_samples_max", "query.max_samples",
            ("--query.max-samples",), "50000000", COUNT, "N",
            "samples one query may hold in memory"),
    Setting("query_max_memory", "query_memory_bytes", "query.max_memory", ("--query.max-memory",),
            "0", SIZE, "SIZE",
            "memory one query may hold (512MiB, 4GiB); 0 takes a quarter of what all may hold"),
    Setting("query_max_total_memory", "query_memory_total_bytes", "query.max_total_memory",
            ("--query.max-total-memory",), "0", SIZE, "SIZE",
            "memory all queries together may hold; 0 takes what --memory leaves them"),
    Setting("query_slow_threshold", "query_slow_s", "query.slow_threshold",
            ("--query.slow-threshold",), "10s", SLOW, "D|off",
            "queries that take longer are logged as warnings"),
    Setting("query_log_file", "query_log_file", "query.log_file", ("--query.log-file",), None,
            TEXT, "FILE",
            "append a JSON line for every query, with the fields of Prometheus's query log"),
    Setting("query_max_concurrency", "queries_running_max", "query.max_concurrency",
            ("--query.max-concurrency",), "20", COUNT, "N",
            "queries evaluated at once; further ones wait", is_live=False),
    Setting("query_max_steps", "query_steps_max", "query.max_steps", ("--query.max-steps",),
            "11000", COUNT, "N", "steps of one range query"),
    Setting("search_max_limit", "search_results_max", "web.search_max_limit",
            ("--web.search.max-limit",), "10000", COUNT_OR_0, "N",
            "largest limit that a search (feature search-api) may ask for; 0 allows any"),
    Setting("max_connections", "connections_max", "web.max_connections",
            ("--web.max-connections",), "10000", COUNT, "N",
            "connections open at once; further ones are closed"),
    Setting("query_lookback_delta", "query_lookback_s", "query.lookback_delta",
            ("--query.lookback-delta",), "5m", DURATION, "D",
            "how far an instant selector looks back for a sample"),
    Setting("enable_otlp", "enable_otlp", "otlp.enabled",
            ("--enable-otlp-receiver", "--web.enable-otlp-receiver"), "true", SWITCH, "",
            "accept OpenTelemetry's metrics on /api/v1/otlp/v1/metrics"),
    Setting("otlp_translation_strategy", "otlp_strategy", "otlp.translation_strategy",
            ("--otlp.translation-strategy",), "UnderscoreEscapingWithSuffixes",
            one_of(*STRATEGY_NAMES), "NAME",
            "how OpenTelemetry's names are translated: " + ", ".join(STRATEGY_NAMES)),
    Setting("otlp_promote_resource_attributes", "otlp_promoted",
            "otlp.promote_resource_attributes", ("--otlp.promote-resource-attributes",), "",
            NAMES, "A,B", "resource attributes that become labels of every series"),
    Setting("otlp_keep_identifying_resource_attributes", "otlp_keeps_identifying",
            "otlp.keep_identifying_resource_attributes",
            ("--otlp.keep-identifying-resource-attributes",), "false", SWITCH, "",
            "keep service.name and the like in target_info, beside job and instance"),
    Setting("cors_origin", "cors_origin", "web.cors_origin", ("--web.cors.origin",), ".*",
            PATTERN, "REGEX",
            "origins of web pages that may read answers (whole origin must match)",
            is_live=False),
    Setting("fsync", "fsync", "storage.fsync", ("--fsync",), "always",
            one_of("always", "interval"), "always|interval",
            "always: a write is answered when it is on the disk; interval: at most 1 s earlier",
            is_live=False),
    Setting("log_level", "log_level", "log.level", ("--log.level",), "info", one_of(*LEVELS),
            "|".join(LEVELS), "least severe messages to log on stderr"),
    Setting("log_format", "log_format", "log.format", ("--log.format",), "logfmt",
            one_of("logfmt", "json"), "logfmt|json", "shape of log lines"),
)  # fmt: skip

BY_KEY = {setting.key: setting for setting in SETTINGS}
BY_PATH = {setting.path: setting for setting in SETTINGS if setting.path}
