"""The names that ``--enable-feature`` takes: all of Prometheus 3.14's.

Some switch something on here, some name what is always on, some are about what this server does
not do (scraping, rules, Prometheus's own files).
"""

from __future__ import annotations

import logging

from .logs import log

PER_STEP_STATS = "promql-per-step-stats"
NATIVE_DELTA = "otlp-native-delta-ingestion"
SEARCH_API = "search-api"

WORKING = (
    "promql-experimental-functions",
    "promql-extended-range-selectors",
    "promql-binop-fill-modifiers",
    "promql-delayed-name-removal",
    "use-start-timestamps",
    "type-and-unit-labels",
    PER_STEP_STATS,
    NATIVE_DELTA,
    SEARCH_API,
)
"""Off unless named."""

ALWAYS_ON = (
    "promql-duration-expr",
    "native-histograms",
    "ooo-native-histograms",
    "exemplar-storage",
    "metadata-wal-records",
    "st-storage",
)
"""Naming them changes nothing."""

WITHOUT_EFFECT = (
    "auto-reload-config",
    "concurrent-rule-eval",
    "created-timestamp-zero-ingestion",
    "delayed-compaction",
    "extra-scrape-metrics",
    "fast-startup",
    "histograms-st-encoding",
    "memory-snapshot-on-shutdown",
    "old-ui",
    "otlp-deltatocumulative",
    "st-synthesis",
    "use-uncached-io",
    "xor2-encoding",
)
"""Prometheus has them, this server does not."""


def log_unusual(features: frozenset[str]) -> None:
    """Say which of the names that were given do nothing here, as Prometheus does."""
    for name in sorted(features.intersection(ALWAYS_ON)):
        log(logging.INFO, "This option for --enable-feature is always on here.", option=name)
    for name in sorted(features.intersection(WITHOUT_EFFECT)):
        log(logging.WARNING, "This option for --enable-feature has no effect here.", option=name)
    for name in sorted(features.difference(WORKING, ALWAYS_ON, WITHOUT_EFFECT)):
        log(logging.WARNING, "Unknown option for --enable-feature", option=name)
