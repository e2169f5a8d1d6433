"""OpenTelemetry's metrics as series of Prometheus, the way Prometheus 3 translates them.

In: a parsed ``ExportMetricsServiceRequest``. Out: series for `write_message`, and which points were
refused and why. Resource attributes become ``job``, ``instance`` and a ``target_info`` series;
explicit histograms classic ones, exponential histograms native ones. A point that can't be
translated does not keep others from being stored.
"""

from __future__ import annotations

import base64
import math
import struct
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson

from ..errors import BadRequest
from .otlp_names import Kind, Strategy, Untranslatable, label_name, metric_name, unit_name
from .write_message import Exemplar, Histogram, Metadata, Series

_STALE_BITS = 0x7FF0000000000002
_NO_RECORDED_VALUE = 1
_DELTA, _CUMULATIVE = 1, 2
_SCHEMA_MIN, _SCHEMA_MAX = -4, 8
_ZERO_THRESHOLD = 1e-128
_EXEMPLAR_CHARACTERS_MAX = 128
_INDEX_END = 1 << 20
_MS_NS = 1_000_000
_SERVICE = ("service.namespace", "service.name", "service.instance.id")
_TARGET_INFO = Metadata("gauge", "Target metadata", "")


@dataclass(frozen=True, slots=True)
class Settings:
    """How to translate.

    Parameters
    ----------
    strategy
        Of names.
    promoted
        Resource attributes that become labels of every series.
    keeps_identifying
        Whether ``target_info`` has the service attributes too, beside ``job`` and ``instance``.
    accepts_delta
        Whether delta points are stored as they are, with type unknown.
    lookback_ms
        ``target_info`` gets a sample at least every half of it.

    """

    strategy: Strategy
    promoted: frozenset[str] = frozenset()
    keeps_identifying: bool = False
    accepts_delta: bool = False
    lookback_ms: int = 300_000


@dataclass(slots=True)
class Translation:
    """What became of a request; `reasons` has an example of each kind of refusal."""

    series: list[Series] = field(default_factory=list)
    n_points: int = 0
    n_refused: int = 0
    reasons: dict[str, int] = field(default_factory=dict)

    def refuse(self, n_points: int, reason: str) -> None:
        """Count points that are not stored."""
        self.n_refused += n_points
        self.reasons[reason] = self.reasons.get(reason, 0) + n_points


def translate(request: Any, settings: Settings) -> Translation:
    """Translate an ``ExportMetricsServiceRequest``."""
    return _Translator(settings).run(request)


class _Translator:
    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._out = Translation()
        self._series: dict[tuple[tuple[str, str], ...], Series] = {}
        self._names: dict[str, str] = {}
        self._resource: dict[str, str] = {}
        self._promoted: dict[str, str] = {}
        self._n_made = 0
        self._n_info_left = _TARGET_INFO_MAX

    def run(self, request: Any) -> Translation:
        for resource_metrics in request.resource_metrics:
            self._run_resource(resource_metrics)
        self._out.series = list(self._series.values())
        return self._out

    def _run_resource(self, resource_metrics: Any) -> None:
        attributes = _texts(resource_metrics.resource.attributes)
        metrics = [m for scope in resource_metrics.scope_metrics for m in scope.metrics]
        self._count(1 + len(metrics))
        self._resource = _identity(attributes)
        try:
            self._promoted = {
                self._label(name): text
                for name, text in sorted(attributes.items())
                if name in self._settings.promoted
            }
        except Untranslatable as error:
            n_points = sum(len(_points(metric)) for metric in metrics)
            self._out.n_points += n_points
            self._out.refuse(n_points, str(error))
            return
        for metric in metrics:
            self._run_metric(metric)
        times = [int(p.time_unix_nano) for m in metrics for p in _points(m)]
        if times:
            self._add_target_info(attributes, min(times), max(times))

    def _run_metric(self, metric: Any) -> None:
        points = _points(metric)
        self._out.n_points += len(points)
        shape = metric.WhichOneof("data")
        temporality = _temporality(metric)
        accepted = {None, _CUMULATIVE} | ({_DELTA} if self._settings.accepts_delta else set())
        if temporality not in accepted:
            self._out.refuse(
                len(points),
                f'invalid temporality and type combination for metric "{metric.name}"',
            )
            return
        try:
            kind = _kind(metric)
            name = metric_name(metric.name, metric.unit, kind, self._settings.strategy)
        except Untranslatable as error:
            self._out.refuse(len(points), str(error))
            return
        prometheus_type = {"sum": "gauge"}.get(kind, str(kind))
        if temporality == _DELTA:
            prometheus_type = "unknown"
        metadata = Metadata(prometheus_type, metric.description, unit_name(metric.unit))
        add: Callable[[str, Metadata, Any, bool], None] = {
            "gauge": self._add_number, "sum": self._add_number, "histogram": self._add_classic,
            "exponential_histogram": self._add_native, "summary": self._add_summary,
        }[shape]  # fmt: skip
        for point in points:
            try:
                add(name, metadata, point, temporality == _DELTA)
            except Untranslatable as error:
                self._out.refuse(1, f'metric "{metric.name}": {error}')

    def _add_number(self, name: str, metadata: Metadata, point: Any, is_delta: bool) -> None:
        value = point.as_double
        if point.WhichOneof("value") == "as_int":
            value = float(point.as_int)
        series = self._add_float(name, self._labels(point), metadata, point, value)
        series.exemplars += _exemplars(point)

    def _add_classic(self, name: str, metadata: Metadata, point: Any, is_delta: bool) -> None:
        labels = self._labels(point)
        if point.HasField("sum"):
            self._add_float(f"{name}_sum", labels, metadata, point, point.sum)
        self._add_float(f"{name}_count", labels, metadata, point, float(point.count))
        exemplars = _exemplars(point)
        n_below = 0
        for bound, count in zip(point.explicit_bounds, point.bucket_counts, strict=False):
            n_below += count
            bucket = {**labels, "le": _plain(bound)}
            series = self._add_float(f"{name}_bucket", bucket, metadata, point, float(n_below))
            series.exemplars += [one for one in exemplars if one.value <= bound]
            exemplars = [one for one in exemplars if not one.value <= bound]
        bucket = {**labels, "le": "+Inf"}
        series = self._add_float(f"{name}_bucket", bucket, metadata, point, float(point.count))
        series.exemplars += exemplars

    def _add_native(self, name: str, metadata: Metadata, point: Any, is_delta: bool) -> None:
        if point.scale < _SCHEMA_MIN:
            raise Untranslatable(
                "cannot convert exponential to native histogram: its scale must be >= "
                f"{_SCHEMA_MIN}, was {point.scale}"
            )
        labels = self._labels(point)
        if point.flags & _NO_RECORDED_VALUE:
            self._add_float(name, labels, metadata, point, 0.0)
            return
        scale_down = max(point.scale - _SCHEMA_MAX, 0)
        positive = _buckets(point.positive, scale_down)
        negative = _buckets(point.negative, scale_down)
        self._count(1)
        series = self._series_of(name, labels, metadata)
        series.histograms.append(
            Histogram(
                t_ms=int(point.time_unix_nano) // _MS_NS,
                start_ms=int(point.start_time_unix_nano) // _MS_NS,
                schema=min(point.scale, _SCHEMA_MAX),
                count=point.count,
                sum=point.sum if point.HasField("sum") else 0.0,
                zero_count=point.zero_count,
                zero_threshold=_ZERO_THRESHOLD,
                positive=positive,
                negative=negative,
                is_gauge=is_delta,
            )
        )
        series.exemplars += _exemplars(point)

    def _add_summary(self, name: str, metadata: Metadata, point: Any, is_delta: bool) -> None:
        labels = self._labels(point)
        self._add_float(f"{name}_sum", labels, metadata, point, point.sum)
        self._add_float(f"{name}_count", labels, metadata, point, float(point.count))
        for quantile in point.quantile_values:
            one = {**labels, "quantile": _plain(quantile.quantile)}
            self._add_float(name, one, metadata, point, quantile.value)

    def _add_float(
        self, name: str, labels: Mapping[str, str], metadata: Metadata, point: Any, value: float
    ) -> Series:
        bits = struct.unpack("<Q", struct.pack("<d", value))[0]
        if point.flags & _NO_RECORDED_VALUE:
            bits = _STALE_BITS
        # Every bucket of a classic histogram copies its point's labels.
        self._count(1 + len(labels) // 32)
        series = self._series_of(name, labels, metadata)
        t_ms, start_ms = int(point.time_unix_nano), int(point.start_time_unix_nano)
        series.samples.append((bits, t_ms // _MS_NS, start_ms // _MS_NS))
        return series

    def _count(self, n_made: int) -> None:
        """Stop a request of few bytes that becomes too much."""
        self._n_made += n_made
        if self._n_made > SAMPLES_MAX:
            raise BadRequest(f"more than {SAMPLES_MAX} samples in a request; send smaller ones")

    def _series_of(self, name: str, labels: Mapping[str, str], metadata: Metadata) -> Series:
        key = tuple(sorted({**labels, "__name__": name}.items()))
        series = self._series.get(key)
        if series is None:
            series = self._series[key] = Series(key, metadata)
        return series

    def _labels(self, point: Any) -> dict[str, str]:
        attributes = _texts(point.attributes)
        attributes.pop("__name__", None)
        labels = self._escaped(attributes)
        for name, text in self._promoted.items():
            labels.setdefault(name, text)
        labels.update(self._resource)
        return labels

    def _escaped(self, attributes: Mapping[str, str]) -> dict[str, str]:
        """Attributes as labels; values of those that become equal are joined in their order."""
        labels: dict[str, str] = {}
        for name, text in sorted(attributes.items()):
            label = self._label(name)
            labels[label] = f"{labels[label]};{text}" if labels.get(label) else text
        return labels

    def _label(self, name: str) -> str:
        known = self._names.get(name)
        if known is None:
            known = self._names[name] = label_name(name, self._settings.strategy)
        return known

    def _add_target_info(self, attributes: Mapping[str, str], first_ns: int, last_ns: int) -> None:
        """A series that tells the resource's other attributes, as often as queries look back."""
        others = {name: text for name, text in attributes.items() if name not in _SERVICE}
        if not others or not self._resource:
            return
        try:
            labels = self._escaped(attributes if self._settings.keeps_identifying else others)
        except Untranslatable:
            return
        series = self._series_of("target_info", {**labels, **self._resource}, _TARGET_INFO)
        first_ms, last_ms = first_ns // _MS_NS, last_ns // _MS_NS
        known = {t_ms for _, t_ms, _ in series.samples}
        one = struct.unpack("<Q", struct.pack("<d", 1.0))[0]
        interval_ms = self._settings.lookback_ms // 2
        first_ms = max(first_ms, last_ms - self._n_info_left * interval_ms)
        self._n_info_left -= -(-(last_ms - first_ms) // interval_ms)
        for t_ms in (*range(first_ms, last_ms, interval_ms), last_ms):
            if t_ms not in known:
                series.samples.append((one, t_ms, 0))


_TARGET_INFO_MAX = 10_000
"""Repetitions of ``target_info`` in a request: a point with the time 0 must not make a million."""

SAMPLES_MAX = 500_000
"""Samples, metrics and resources of one request."""


def _identity(attributes: Mapping[str, str]) -> dict[str, str]:
    """``job`` and ``instance`` of a resource."""
    labels = {}
    if "service.name" in attributes:
        labels["job"] = attributes["service.name"]
        if "service.namespace" in attributes:
            labels["job"] = f"{attributes['service.namespace']}/{labels['job']}"
    if "service.instance.id" in attributes:
        labels["instance"] = attributes["service.instance.id"]
    return {name: text for name, text in labels.items() if text}


def _points(metric: Any) -> Sequence[Any]:
    shape = metric.WhichOneof("data")
    points: Sequence[Any] = () if shape is None else getattr(metric, shape).data_points
    return points


def _temporality(metric: Any) -> int | None:
    shape = metric.WhichOneof("data")
    if shape in ("sum", "histogram", "exponential_histogram"):
        return int(getattr(metric, shape).aggregation_temporality)
    return None


def _kind(metric: Any) -> Kind:
    match metric.WhichOneof("data"):
        case "gauge":
            return "gauge"
        case "sum":
            return "counter" if metric.sum.is_monotonic else "sum"
        case "summary":
            return "summary"
        case "histogram" | "exponential_histogram":
            return "histogram"
    raise Untranslatable(f'metric "{metric.name}" has a type that is not known')


def _buckets(buckets: Any, scale_down: int) -> dict[int, int]:
    """Filled buckets by Prometheus's index, which is one above OpenTelemetry's.

    Raises Untranslatable for what the store can't hold.
    """
    out: dict[int, int] = {}
    for position, count in enumerate(buckets.bucket_counts):
        if count:
            index = ((buckets.offset + position) >> scale_down) + 1
            if not -_INDEX_END < index < _INDEX_END:
                raise Untranslatable("the index of a bucket is out of range")
            out[index] = out.get(index, 0) + count
            if out[index] >= 1 << 63:
                raise Untranslatable("a bucket's count is too large")
    return out


def _exemplars(point: Any) -> list[Exemplar]:
    out = []
    for exemplar in point.exemplars:
        shape = exemplar.WhichOneof("value")
        if shape is None:
            continue
        labels = {}
        if exemplar.trace_id.strip(b"\0"):
            labels["trace_id"] = exemplar.trace_id.hex()
        if exemplar.span_id.strip(b"\0"):
            labels["span_id"] = exemplar.span_id.hex()
        more = _texts(exemplar.filtered_attributes)
        n_characters = sum(len(name) + len(text) for name, text in (labels | more).items())
        if n_characters <= _EXEMPLAR_CHARACTERS_MAX:
            labels = {**more, **labels}
        t_ms = int(exemplar.time_unix_nano or point.time_unix_nano) // _MS_NS
        out.append(Exemplar(labels, float(getattr(exemplar, shape)), t_ms))
    return sorted(out, key=lambda one: one.value)


def _texts(attributes: Iterable[Any]) -> dict[str, str]:
    return {one.key: _text(one.value) for one in attributes}


def _text(value: Any) -> str:
    """An attribute's value as OpenTelemetry's libraries write it."""
    plain = _plain_value(value)
    if isinstance(plain, bool):
        return "true" if plain else "false"
    if isinstance(plain, float):
        return orjson.dumps(plain).decode() if math.isfinite(plain) else str(plain)
    if isinstance(plain, (list, dict)):
        return orjson.dumps(plain, option=orjson.OPT_SORT_KEYS).decode()
    return "" if plain is None else str(plain)


def _plain_value(value: Any) -> Any:
    match value.WhichOneof("value"):
        case None:
            return None
        case "array_value":
            return [_plain_value(one) for one in value.array_value.values]
        case "kvlist_value":
            return {one.key: _plain_value(one.value) for one in value.kvlist_value.values}
        case "bytes_value":
            return base64.b64encode(value.bytes_value).decode()
        case "double_value" if value.double_value.is_integer() and abs(value.double_value) < 1e15:
            return int(value.double_value)
        case name:
            return getattr(value, name)


def _plain(number: float) -> str:
    """A bound or quantile without an exponent: ``0.005``, ``1``, ``+Inf``."""
    if math.isinf(number):
        return "+Inf" if number > 0 else "-Inf"
    if math.isnan(number):
        return "NaN"
    text = repr(number)
    if "e" in text:
        mantissa, _, exponent = text.partition("e")
        digits = mantissa.lstrip("-").replace(".", "")
        point = len(mantissa.lstrip("-").partition(".")[0]) + int(exponent)
        if point <= 0:
            text = "0." + "0" * -point + digits
        else:
            digits = digits.ljust(point, "0")
            text = f"{digits[:point]}.{digits[point:]}"
        text = ("-" if mantissa.startswith("-") else "") + text
    return text.rstrip("0").rstrip(".") if "." in text else text
