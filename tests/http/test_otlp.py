"""OpenTelemetry's metrics: translation, storage through the real engine, refusals."""

import gzip
import math
import struct

import orjson
import pytest
from google.protobuf import json_format
from hypothesis import given, settings
from hypothesis import strategies as st
from opentelemetry.proto.collector.metrics.v1 import metrics_service_pb2 as service
from opentelemetry.proto.common.v1 import common_pb2 as common
from opentelemetry.proto.metrics.v1 import metrics_pb2 as pb

from server.protocols.otlp_names import STRATEGIES
from server.protocols.otlp_translation import Settings, _plain, translate

S = 1_000_000_000
T = 1_700_000_000
DELTA, CUMULATIVE = 1, 2
DEFAULT = Settings(STRATEGIES["UnderscoreEscapingWithSuffixes"])
PROTOBUF = {"Content-Type": "application/x-protobuf"}
JSON = {"Content-Type": "application/json"}


def attributes(**texts):
    """``a__b`` stands for ``a.b``."""
    return [
        common.KeyValue(key=name.replace("__", "."), value=common.AnyValue(string_value=text))
        for name, text in texts.items()
    ]


def request(*metrics, resource=(), scope="lib"):
    made = service.ExportMetricsServiceRequest()
    group = made.resource_metrics.add()
    group.resource.attributes.extend(resource)
    scoped = group.scope_metrics.add()
    scoped.scope.name = scope
    scoped.metrics.extend(metrics)
    return made


def number(value, at=T, *, start=0, **labels):
    point = pb.NumberDataPoint(
        time_unix_nano=at * S, start_time_unix_nano=start * S, attributes=attributes(**labels)
    )
    if isinstance(value, int):
        point.as_int = value
    else:
        point.as_double = value
    return point


def gauge(name, *points, unit="", description=""):
    return pb.Metric(
        name=name, unit=unit, description=description, gauge=pb.Gauge(data_points=points)
    )


def total(name, *points, temporality=CUMULATIVE, monotonic=True, unit=""):
    data = pb.Sum(data_points=points, aggregation_temporality=temporality, is_monotonic=monotonic)
    return pb.Metric(name=name, unit=unit, sum=data)


def rows(translation):
    """``{labels as text: [(value, s)]}``."""
    return {
        ",".join(f"{name}={text}" for name, text in series.labels): [
            (struct.unpack("<d", struct.pack("<Q", bits))[0], t_ms / 1000)
            for bits, t_ms, _ in series.samples
        ]
        for series in translation.series
    }


SERVICE = attributes(service__name="api", service__namespace="shop", service__instance__id="i-1")


def test_numbers_and_the_identity_of_a_resource():
    made = translate(
        request(
            gauge("room.temp", number(21.5, http__path="/x"), unit="Cel"),
            total("hits", number(3, start=T - 60), unit="{hit}"),
            total("queue", number(-2), monotonic=False),
            resource=SERVICE,
        ),
        DEFAULT,
    )
    who = "instance=i-1,job=shop/api"
    assert rows(made) == {
        f"__name__=room_temp_celsius,http_path=/x,{who}": [(21.5, T)],
        f"__name__=hits_total,{who}": [(3.0, T)],
        f"__name__=queue,{who}": [(-2.0, T)],
    }
    kinds = {dict(series.labels)["__name__"]: series.metadata.kind for series in made.series}
    assert kinds == {"room_temp_celsius": "gauge", "hits_total": "counter", "queue": "gauge"}
    assert made.series[0].metadata.unit == "celsius"
    assert made.series[1].samples[0][2] == (T - 60) * 1000
    assert (made.n_points, made.n_refused) == (3, 0)


def test_other_attributes_of_a_resource_are_in_target_info():
    resource = [*SERVICE, *attributes(k8s__pod="p-7", region="eu")]
    metrics = request(gauge("g", number(1.0, T), number(2.0, T + 400)), resource=resource)
    made = rows(translate(metrics, DEFAULT))
    info = "__name__=target_info,instance=i-1,job=shop/api,k8s_pod=p-7,region=eu"
    assert made[info] == [(1.0, T), (1.0, T + 150), (1.0, T + 300), (1.0, T + 400)]
    promoting = Settings(DEFAULT.strategy, promoted=frozenset({"k8s.pod"}), keeps_identifying=True)
    made = rows(translate(metrics, promoting))
    assert "__name__=g,instance=i-1,job=shop/api,k8s_pod=p-7" in made
    (info,) = [name for name in made if "target_info" in name]
    assert "service_name=api" in info
    nameless = request(gauge("g", number(1.0)), resource=attributes(region="eu"))
    assert list(rows(translate(nameless, DEFAULT))) == ["__name__=g"]


def test_attributes_that_become_one_label_are_joined():
    point = number(1.0, a__b="1", a_b="2")
    point.attributes.add(key="__name__", value=common.AnyValue(string_value="other"))
    made = translate(request(gauge("g", point)), DEFAULT)
    assert list(rows(made)) == ["__name__=g,a_b=1;2"]


def test_values_of_attributes_as_text():
    point = number(1.0)
    values = {
        "b": common.AnyValue(bool_value=True), "i": common.AnyValue(int_value=-5),
        "d": common.AnyValue(double_value=2.0), "e": common.AnyValue(double_value=0.25),
        "y": common.AnyValue(bytes_value=b"\x01\x02"),
        "l": common.AnyValue(array_value=common.ArrayValue(
            values=[common.AnyValue(int_value=1), common.AnyValue(string_value="x")])),
        "m": common.AnyValue(kvlist_value=common.KeyValueList(
            values=[common.KeyValue(key="k", value=common.AnyValue(bool_value=False))])),
    }  # fmt: skip
    for key, value in values.items():
        point.attributes.add(key=key, value=value)
    (series,) = translate(request(gauge("g", point)), DEFAULT).series
    assert dict(series.labels) == {
        "__name__": "g", "b": "true", "i": "-5", "d": "2", "e": "0.25", "y": "AQI=",
        "l": '[1,"x"]', "m": '{"k":false}',
    }  # fmt: skip


def test_explicit_histograms_become_classic_ones():
    point = pb.HistogramDataPoint(
        time_unix_nano=T * S, count=10, sum=12.5, bucket_counts=[1, 2, 7],
        explicit_bounds=[0.005, 10], attributes=attributes(a="x"),
    )  # fmt: skip
    point.exemplars.add(
        time_unix_nano=T * S, as_double=3.5, trace_id=bytes(range(16)), span_id=bytes(range(8)),
        filtered_attributes=attributes(user="u"),
    )  # fmt: skip
    data = pb.Histogram(data_points=[point], aggregation_temporality=CUMULATIVE)
    made = translate(request(pb.Metric(name="lat", unit="s", histogram=data)), DEFAULT)
    assert rows(made) == {
        "__name__=lat_seconds_sum,a=x": [(12.5, T)],
        "__name__=lat_seconds_count,a=x": [(10.0, T)],
        "__name__=lat_seconds_bucket,a=x,le=0.005": [(1.0, T)],
        "__name__=lat_seconds_bucket,a=x,le=10": [(3.0, T)],
        "__name__=lat_seconds_bucket,a=x,le=+Inf": [(10.0, T)],
    }
    assert {series.metadata.kind for series in made.series} == {"histogram"}
    ((exemplar,),) = [series.exemplars for series in made.series if series.exemplars]
    assert exemplar.value == 3.5
    assert exemplar.labels == {
        "trace_id": "000102030405060708090a0b0c0d0e0f", "span_id": "0001020304050607", "user": "u"
    }  # fmt: skip


def test_summaries():
    point = pb.SummaryDataPoint(time_unix_nano=T * S, count=4, sum=8.0)
    point.quantile_values.add(quantile=0.5, value=1.5)
    point.quantile_values.add(quantile=1, value=9.0)
    metric = pb.Metric(name="rpc", summary=pb.Summary(data_points=[point]))
    assert rows(translate(request(metric), DEFAULT)) == {
        "__name__=rpc_sum": [(8.0, T)],
        "__name__=rpc_count": [(4.0, T)],
        "__name__=rpc,quantile=0.5": [(1.5, T)],
        "__name__=rpc,quantile=1": [(9.0, T)],
    }


def exponential(scale=1, *, offset=-1, counts=(1, 0, 2), temporality=CUMULATIVE, **more):
    point = pb.ExponentialHistogramDataPoint(
        time_unix_nano=T * S, scale=scale, count=sum(counts) + 4, sum=7.5, zero_count=4,
        positive={"offset": offset, "bucket_counts": counts}, **more,
    )  # fmt: skip
    data = pb.ExponentialHistogram(data_points=[point], aggregation_temporality=temporality)
    return pb.Metric(name="exp", exponential_histogram=data)


def test_exponential_histograms_become_native_ones():
    (series,) = translate(request(exponential()), DEFAULT).series
    (histogram,) = series.histograms
    assert (histogram.schema, histogram.count, histogram.sum) == (1, 7, 7.5)
    assert (histogram.zero_count, histogram.zero_threshold) == (4, 1e-128)
    assert histogram.positive == {0: 1, 2: 2}, "an index is one above OpenTelemetry's"
    (series,) = translate(request(exponential(10, offset=4, counts=[1] * 8)), DEFAULT).series
    assert series.histograms[0].schema == 8
    assert series.histograms[0].positive == {2: 4, 3: 4}
    made = translate(request(exponential(-5)), DEFAULT)
    assert made.series == []
    (reason,) = made.reasons
    assert reason == (
        'metric "exp": cannot convert exponential to native histogram: its scale must be >= -4, '
        "was -5"
    )


def test_delta_points_are_refused_unless_switched_on():
    metrics = request(
        total("d", number(1), number(2), temporality=DELTA), exponential(temporality=DELTA),
        gauge("g", number(1.0)),
    )  # fmt: skip
    made = translate(metrics, DEFAULT)
    assert list(rows(made)) == ["__name__=g"]
    assert (made.n_points, made.n_refused) == (4, 3)
    assert made.reasons == {
        'invalid temporality and type combination for metric "d"': 2,
        'invalid temporality and type combination for metric "exp"': 1,
    }
    made = translate(metrics, Settings(DEFAULT.strategy, accepts_delta=True))
    assert made.n_refused == 0
    kinds = {dict(series.labels)["__name__"]: series.metadata.kind for series in made.series}
    assert kinds == {"d_total": "unknown", "exp": "unknown", "g": "gauge"}


def test_points_without_a_value_are_stale():
    point = number(5.0)
    point.flags = 1
    (series,) = translate(request(gauge("g", point)), DEFAULT).series
    assert series.samples == [(0x7FF0000000000002, T * 1000, 0)]


@settings(max_examples=60, derandomize=True)
@given(st.floats(allow_nan=False, allow_infinity=False))
def test_bounds_read_back(value):
    text = _plain(value)
    assert "e" not in text
    assert float(text) == value
    assert not (text.endswith("0") and "." in text)


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.005, "0.005"), (1.0, "1"), (1e21, "1" + "0" * 21), (1e-7, "0.0000001"),
     (-2.5e-9, "-0.0000000025"), (math.inf, "+Inf"), (100.0, "100"), (1.5e22, "15" + "0" * 21)],
)  # fmt: skip
def test_bounds_as_text(value, text):
    assert _plain(value) == text


# --- over HTTP with the real engine --------------------------------------------------------------


async def post(running, body, headers=PROTOBUF):
    return await running.call("POST", "/api/v1/otlp/v1/metrics", data=body, headers=headers)


async def ask(running, expr, at):
    _, answer = await running.json("POST", "/api/v1/query", data={"query": expr, "time": str(at)})
    return {
        tuple(sorted(row["metric"].items())): row["value"][1] for row in answer["data"]["result"]
    }


@pytest.fixture
def now_s(now_ms):
    return now_ms // 1000


@pytest.mark.parametrize("form", ["protobuf", "json", "gzip", "gzip json"])
async def test_what_is_written_can_be_queried(real, now_s, form):
    metrics = request(
        total("http.requests", number(7, now_s, method="GET"), unit="{request}"),
        resource=[*SERVICE, *attributes(region="eu")],
    )
    body = metrics.SerializeToString()
    headers = dict(PROTOBUF)
    if "json" in form:
        body, headers = json_format.MessageToJson(metrics).encode(), dict(JSON)
    if "gzip" in form:
        body, headers["Content-Encoding"] = gzip.compress(body), "gzip"
    status, got, answer = await post(real, body, headers)
    assert (status, answer) == (200, b"{}" if "json" in form else b"")
    assert got["Content-Type"] == headers["Content-Type"]
    who = (("instance", "i-1"), ("job", "shop/api"))
    assert await ask(real, "http_requests_total", now_s) == {
        (("__name__", "http_requests_total"), *who, ("method", "GET")): "7"
    }
    assert await ask(real, "target_info", now_s) == {
        (("__name__", "target_info"), *who, ("region", "eu")): "1"
    }
    _, found = await real.json("GET", "/api/v1/metadata?metric=http_requests_total")
    assert found["data"]["http_requests_total"][0]["type"] == "counter"


async def test_exponential_histograms_are_stored(real, now_s):
    metric = exponential()
    metric.exponential_histogram.data_points[0].time_unix_nano = now_s * S
    status, _, answer = await post(real, request(metric).SerializeToString())
    assert (status, answer) == (200, b"")
    assert await ask(real, "histogram_count(exp)", now_s) == {(): "7"}
    assert await ask(real, "histogram_sum(exp)", now_s) == {(): "7.5"}


@pytest.mark.parametrize("media", ["protobuf", "json"])
async def test_refused_points_are_a_partial_success(real, now_s, media):
    metrics = request(
        total("d", number(1, now_s), number(2, now_s), temporality=DELTA),
        gauge("old", number(1.0, now_s - 40 * 86400)),
        gauge("kept", number(3.0, now_s)),
    )
    if media == "json":
        status, _, body = await post(real, json_format.MessageToJson(metrics).encode(), JSON)
        partial = orjson.loads(body)["partialSuccess"]
        n_rejected, text = int(partial["rejectedDataPoints"]), partial["errorMessage"]
    else:
        status, _, body = await post(real, metrics.SerializeToString())
        answer = service.ExportMetricsServiceResponse.FromString(body)
        n_rejected = answer.partial_success.rejected_data_points
        text = answer.partial_success.error_message
    assert (status, n_rejected) == (200, 3)
    assert 'invalid temporality and type combination for metric "d" (2 points)' in text
    assert "old" in text
    assert await ask(real, "kept", now_s) == {(("__name__", "kept"),): "3"}
    assert await ask(real, "old", now_s) == {}


async def test_ids_of_traces_in_json_are_hexadecimal(real, now_s):
    point = {
        "timeUnixNano": str(now_s * S), "asInt": "4",
        "exemplars": [{
            "timeUnixNano": str(now_s * S), "asDouble": 1.5,
            "traceId": "5B8EFFF798038103D269B633813FC60C", "spanId": "EEE19B7EC3C1B174",
        }],
    }  # fmt: skip
    tree = {"resourceMetrics": [{"scopeMetrics": [{"metrics": [{
        "name": "m", "unknownField": 1,
        "sum": {"aggregationTemporality": 2, "isMonotonic": True, "dataPoints": [point]},
    }]}]}]}  # fmt: skip
    status, _, answer = await post(real, orjson.dumps(tree), JSON)
    assert (status, answer) == (200, b"{}")
    assert await ask(real, "m_total", now_s) == {(("__name__", "m_total"),): "4"}
    _, found = await real.json("GET", f"/api/v1/query_exemplars?query=m_total&start={now_s - 9}")
    assert found["data"] == [{
        "seriesLabels": {"__name__": "m_total"},
        "exemplars": [{
            "labels": {
                "trace_id": "5b8efff798038103d269b633813fc60c", "span_id": "eee19b7ec3c1b174",
            },
            "value": "1.5", "timestamp": now_s,
        }],
    }]  # fmt: skip


@pytest.mark.parametrize(
    ("body", "headers", "status", "text"),
    [
        (b"\xff\xff", PROTOBUF, 400, "not an ExportMetricsServiceRequest"),
        (b"{", JSON, 400, "not an ExportMetricsServiceRequest"),
        (b"[1]", JSON, 400, "not an ExportMetricsServiceRequest"),
        (b'{"resourceMetrics":[{"scopeMetrics":5}]}', JSON, 400, "not an Export"),
        (b"", {"Content-Type": "text/plain"}, 400, "unsupported content type: text/plain, supp"),
        (b"", {**PROTOBUF, "Content-Encoding": "zstd"}, 400, "unsupported compression: zstd"),
        (b"x" * 30, {**PROTOBUF, "Content-Encoding": "gzip"}, 400, "body"),
        (gzip.compress(b"{")[:-1] + b"\x7f", {**JSON, "Content-Encoding": "gzip"}, 400, "limit"),
    ],
)
async def test_refusals(real, body, headers, status, text):
    got, _, answer = await post(real, body, headers)
    assert got == status
    assert text in answer.decode()


async def test_nothing_is_stored_twice_or_needs_a_body(real):
    status, _, answer = await post(real, b"")
    assert (status, answer) == (200, b"")


async def test_the_receiver_can_be_switched_off(start):
    running = await start("--web.enable-otlp-receiver=false")
    status, _, _ = await post(running, b"")
    assert status == 404
    _, answer = await running.json("GET", "/api/v1/features")
    assert answer["data"]["api"]["otlp_write_receiver"] is False


def test_writes_are_counted_under_their_protocol():
    from server.telemetry import Telemetry
    from tsengine.engine import WriteResult

    telemetry = Telemetry("1")
    result = WriteResult(3, 0, 0, [])
    telemetry.count_write(protocol="otlp", message_size=10, result=result)
    counted = telemetry.registry.get_sample_value(
        "tsengine_remote_write_samples_total", {"protocol": "otlp"}
    )
    assert counted == 3
