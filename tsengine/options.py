"""Options of an opened database, with their defaults and limits."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal

from tsengine.errors import OptionsError

_DAY_MS = 86_400_000

TYPE_AND_UNIT_LABELS = "type-and-unit-labels"
"""The feature that turns metadata of remote write 2.0 into labels."""


@dataclass(frozen=True, slots=True)
class LabelLimits:
    """What a client can inflate in a label set. Sizes in bytes of UTF-8."""

    n_labels_max: int = 128
    name_size_max: int = 1024
    value_size_max: int = 16 * 1024
    series_size_max: int = 64 * 1024


_NO_CREDENTIALS = (
    "must not hold a user, a password or parameters: it is shown and stored. Credentials come from "
    "the environment, AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or from the instance's role"
)


@dataclass(frozen=True, slots=True)
class Tier:
    """Samples kept as windows of `width` seconds, for `retention` seconds; None keeps them all."""

    width: float
    retention: float | None = None


@dataclass(frozen=True, slots=True)
class RetentionRule:
    """Series that a selector matches are kept for `keep` seconds; None keeps them for ever.

    Instead of the retention of samples; tiers are kept no longer than that.
    """

    match: str
    keep: float | None


DEFAULT_TIERS = (Tier(300.0), Tier(3600.0))


MEMORY_MIN = 16 << 20
"""Bytes below which a memory budget holds nothing useful."""
RUNTIME_OPTIONS = frozenset({
    "retention", "retention_size", "retention_rules", "tiers", "tier_delay", "compaction_rate",
    "memory", "lookback", "max_samples", "query_memory", "query_memory_total", "query_timeout",
    "max_depth", "future_limit", "head_samples_max", "head_series_max", "head_age_s_max",
    "wal_size_bytes_max", "exemplar_retention", "exemplars_max", "metadata_memory", "cold_after",
    "cold_cache",
})  # fmt: skip
"""What may change while a database is open. Of tiers only their retention."""


@dataclass(frozen=True, slots=True)
class Options:
    """How a database behaves; every limit has a name here.

    Parameters
    ----------
    retention
        Seconds; older samples are refused and not returned, older parts removed. None keeps all.
    retention_size
        Bytes of files; above it the oldest data go first. None for no limit.
    retention_rules
        Series that are kept for another time; the first rule that matches a series counts.
    tiers
        What samples are summed up to in the background, finest first.
    tier_delay
        Seconds that a day must have ended before its tiers are built.
    background
        ``all``: whatever is due. ``merges``: only parts of samples are merged; nothing expires, no
        tier is built or removed, nothing is erased or moved but by a call. For who opens a
        directory for a while without the options of the program that else keeps it.
    compaction_rate
        Bytes a second that background work may write; 0 for no limit.
    memory
        Bytes of memory that head, caches and queries may take; above it new series are refused. 0
        takes half of the machine's memory, or of its cgroup's.
    cold_url, cold_after
        Parts whose newest sample is older than `cold_after` seconds are moved to the object store
        ``s3://bucket/prefix``; None moves nothing.
    cold_endpoint_url
        Of an S3-compatible service other than Amazon's.
    cold_cache
        Bytes of local disk for what was read from there.
    ballast
        Bytes of a file that is given up when the disk is full, so that recent samples can still be
        written as a part; 0 for none.
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
        a quarter of what all may hold, and what all else leaves of `memory`, at least a quarter.
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
    metadata_memory
        Bytes of memory that types, helps and units of metrics may take; above it those of further
        metrics are dropped.

    """

    retention: float | None = None
    retention_size: int | None = None
    retention_rules: tuple[RetentionRule, ...] = ()
    tiers: tuple[Tier, ...] = DEFAULT_TIERS
    tier_delay: float = 7200.0
    background: Literal["all", "merges"] = "all"
    compaction_rate: int = 0
    memory: int = 0
    ballast: int = 0
    cold_url: str | None = None
    cold_after: float | None = None
    cold_endpoint_url: str | None = None
    cold_cache: int = 1 << 30
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
    head_samples_max: int = 4 * 1024 * 1024
    head_series_max: int = 500_000
    head_age_s_max: float = 7200.0
    wal_size_bytes_max: int = 512 * 1024 * 1024
    queue_size_bytes_max: int = 64 * 1024 * 1024
    exemplar_retention: float | None = None
    exemplars_max: int = 1_000_000
    metadata_memory: int = 64 << 20
    labels: LabelLimits = field(default_factory=LabelLimits)

    @property
    def exemplars_kept(self) -> int:
        """Exemplars of which the oldest are dropped if there are more."""
        return self.exemplars_max if self.background == "all" else sys.maxsize

    @property
    def metadata_kept(self) -> int | None:
        """Bytes that types, helps and units may take; None for any."""
        return self.metadata_memory if self.background == "all" else None

    def reconfigured(self, changes: Mapping[str, Any]) -> Options:
        """These options with changes that an open database can take over.

        Raises
        ------
        OptionsError
            An option does not exist, needs the database to be opened anew, or is out of its range.

        """
        names = {field.name for field in fields(self)}
        for name in changes:
            if name not in names:
                raise OptionsError(f"there is no option {name}")
        fixed = sorted(
            name for name in set(changes) - RUNTIME_OPTIONS if changes[name] != getattr(self, name)
        )
        if fixed:
            raise OptionsError(f"needs the database to be opened anew: {', '.join(fixed)}")
        changed = replace(self, **changes)
        changed.validate()
        if [tier.width for tier in changed.tiers] != [tier.width for tier in self.tiers]:
            raise OptionsError("needs the database to be opened anew: the widths of tiers")
        return changed

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
        if self.retention_size is not None and not self.retention_size > 0:
            raise OptionsError(
                f"retention_size must be greater than 0 or None, got {self.retention_size!r}"
            )
        if 0 < self.memory < MEMORY_MIN:
            raise OptionsError(
                f"memory must be 0 or at least {MEMORY_MIN} bytes, got {self.memory}"
            )
        if self.cold_after is not None and not self.cold_after > 0:
            raise OptionsError(
                f"cold_after must be greater than 0 or None, got {self.cold_after!r}"
            )
        if self.cold_after is not None and self.cold_url is None:
            raise OptionsError("cold_after needs cold_url, where old parts are moved to")
        for name in ("cold_url", "cold_endpoint_url"):
            url = getattr(self, name)
            if url is not None and any(mark in url for mark in "@?#"):
                raise OptionsError(f"{name} {_NO_CREDENTIALS}")
        self._validate_tiers()
        if self.fsync not in ("always", "interval"):
            raise OptionsError(f"fsync must be 'always' or 'interval', got {self.fsync!r}")
        if self.background not in ("all", "merges"):
            raise OptionsError(f"background must be 'all' or 'merges', got {self.background!r}")
        for name in (
            "query_threads", "query_memory", "query_memory_total", "tier_delay",
            "compaction_rate", "memory", "ballast", "cold_cache", "metadata_memory",
        ):  # fmt: skip
            if getattr(self, name) < 0:
                raise OptionsError(f"{name} must be 0 or more, got {getattr(self, name)}")

    def _validate_tiers(self) -> None:
        for rule in self.retention_rules:
            if rule.keep is not None and not rule.keep > 0:
                raise OptionsError(
                    f"a retention rule must keep for more than 0 seconds, or None: {rule!r}"
                )
        finer_ms = 0
        for tier in self.tiers:
            width_ms = round(tier.width * 1000)
            if not 1000 <= width_ms <= _DAY_MS or _DAY_MS % width_ms:
                raise OptionsError(
                    f"a tier's width must divide a day, and be at least 1 s: {tier.width!r}"
                )
            if finer_ms and (width_ms <= finer_ms or width_ms % finer_ms):
                raise OptionsError(
                    f"a tier's width must be a multiple of the finer one's: {tier.width!r}"
                )
            if tier.retention is not None and not tier.retention > 0:
                raise OptionsError(
                    f"a tier's retention must be greater than 0 or None, got {tier.retention!r}"
                )
            finer_ms = width_ms
