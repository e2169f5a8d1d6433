"""Options of an opened database, with their defaults and limits."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from tsengine.errors import OptionsError

TYPE_AND_UNIT_LABELS = "type-and-unit-labels"
"""The feature that turns metadata of remote write 2.0 into labels."""


@dataclass(frozen=True, slots=True)
class LabelLimits:
    """What a client can inflate in a label set. Sizes in bytes of UTF-8."""

    n_labels_max: int = 128
    name_size_max: int = 1024
    value_size_max: int = 16 * 1024
    series_size_max: int = 64 * 1024


@dataclass(frozen=True, slots=True)
class Options:
    """How a database behaves; every limit has a name here.

    Parameters
    ----------
    retention
        Seconds; older samples are refused and not returned, older parts removed. None keeps all.
    lookback
        Seconds an instant selector looks back.
    delayed_name_removal
        Keep metric names until the end of the evaluation (Prometheus's feature of that name).
    features
        Prometheus's feature switches that are on, e.g. ``promql-experimental-functions``.
    max_samples
        Samples one query may hold in memory.
    query_memory, query_memory_total
        Bytes of memory that one query, and all queries of the database together, may hold; 0 takes
        an eighth and a half of the machine's memory, or of its cgroup's.
    query_timeout
        Seconds.
    max_depth
        Nesting allowed in a PromQL expression.
    max_series
        Series the catalog accepts.
    future_limit
        Seconds a timestamp may be ahead of the clock; None accepts any.
    fsync
        ``always``: acknowledged means fsynced. ``interval``: fsynced once a second.
    query_threads
        Threads that evaluate queries; 0 takes one per core.
    head_samples_max, head_series_max, head_age_s_max, wal_size_bytes_max
        The head is flushed to a part when one of these is reached.
    queue_size_bytes_max
        Decompressed bytes that may wait for the log.
    exemplar_retention
        Seconds; older exemplars are dropped. None keeps them as long as samples.
    exemplars_max
        Exemplars kept; of more the oldest are dropped.

    """

    retention: float | None = None
    lookback: float = 300.0
    delayed_name_removal: bool = False
    features: frozenset[str] = frozenset()
    max_samples: int = 50_000_000
    query_memory: int = 0
    query_memory_total: int = 0
    query_timeout: float = 120.0
    max_depth: int = 250
    max_series: int = 50_000_000
    future_limit: float | None = None
    fsync: Literal["always", "interval"] = "always"
    query_threads: int = 0
    head_samples_max: int = 16 * 1024 * 1024
    head_series_max: int = 500_000
    head_age_s_max: float = 7200.0
    wal_size_bytes_max: int = 512 * 1024 * 1024
    queue_size_bytes_max: int = 64 * 1024 * 1024
    exemplar_retention: float | None = None
    exemplars_max: int = 1_000_000
    labels: LabelLimits = field(default_factory=LabelLimits)

    def validate(self) -> None:
        """Raise OptionsError for the first value out of range."""
        positive = (
            "lookback", "max_samples", "query_timeout", "max_depth", "max_series",
            "head_samples_max", "head_series_max", "head_age_s_max", "wal_size_bytes_max",
            "queue_size_bytes_max", "exemplars_max",
        )  # fmt: skip
        for name in positive:
            if not getattr(self, name) > 0:
                raise OptionsError(f"{name} must be greater than 0, got {getattr(self, name)!r}")
        if self.retention is not None and not self.retention > 0:
            raise OptionsError(f"retention must be greater than 0 or None, got {self.retention!r}")
        if self.exemplar_retention is not None and not self.exemplar_retention > 0:
            raise OptionsError(
                "exemplar_retention must be greater than 0 or None, "
                f"got {self.exemplar_retention!r}"
            )
        if self.fsync not in ("always", "interval"):
            raise OptionsError(f"fsync must be 'always' or 'interval', got {self.fsync!r}")
        for name in ("query_threads", "query_memory", "query_memory_total"):
            if getattr(self, name) < 0:
                raise OptionsError(f"{name} must be 0 or more, got {getattr(self, name)}")
