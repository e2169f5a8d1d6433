"""What a sender says about a metric besides its samples."""

from __future__ import annotations

from dataclasses import dataclass

METRIC_TYPES = (
    "unknown", "counter", "gauge", "histogram", "gaugehistogram", "summary", "info", "stateset",
)  # fmt: skip
"""Names of the types by their number in remote write, 1.0 and 2.0 alike."""


@dataclass(frozen=True, slots=True)
class MetadataEntry:
    """Type, help and unit of a metric (family); ``type`` is one of METRIC_TYPES."""

    metric: str
    type: str
    help: str
    unit: str


_FAMILY_SUFFIXES = {
    "histogram": ("_bucket", "_count", "_sum", "_created"),
    "gaugehistogram": ("_bucket", "_gcount", "_gsum"),
    "summary": ("_count", "_sum", "_created"),
}


def family_name(metric: str, metric_type: str) -> str:
    """Name of the metric family that a series' metric name belongs to."""
    for suffix in _FAMILY_SUFFIXES.get(metric_type, ()):
        if metric.endswith(suffix) and len(metric) > len(suffix):
            return metric[: -len(suffix)]
    return metric
