"""OTLP requests of few bytes that would become gigabytes, or break what stands beside them."""

import time

import pytest
from opentelemetry.proto.metrics.v1 import metrics_pb2 as pb

from server.errors import BadRequest
from server.protocols import otlp_translation
from server.protocols.otlp import check_size
from server.protocols.otlp_names import STRATEGIES
from server.protocols.otlp_translation import Settings, translate
from server.protocols.write_message import encode
from tests.http.test_otlp import attributes, gauge, number, request

SETTINGS = Settings(STRATEGIES["UnderscoreEscapingWithSuffixes"])
S = 1_000_000_000


def exponential(**columns):
    point = pb.ExponentialHistogramDataPoint(time_unix_nano=time.time_ns(), **columns)
    return pb.Metric(
        name="h",
        exponential_histogram=pb.ExponentialHistogram(
            data_points=[point], aggregation_temporality=2
        ),
    )


def test_target_info_of_many_resources_over_all_time_stays_small():
    made = request()
    for k in range(300):
        one = request(gauge("m", number(1.0, 0), number(1.0, 9_000_000_000)),
                      resource=attributes(service__instance__id=str(k), x="y"))  # fmt: skip
        made.resource_metrics.append(one.resource_metrics[0])
    series = translate(made, SETTINGS).series
    infos = [one for one in series if dict(one.labels)["__name__"] == "target_info"]
    assert len(infos) == 300
    assert all(one.samples[-1][1] == 9_000_000_000_000 for one in infos)
    assert sum(len(one.samples) for one in infos) <= 10_300


def test_requests_of_too_many_samples_are_refused(monkeypatch):
    monkeypatch.setattr(otlp_translation, "SAMPLES_MAX", 1000)
    many = pb.Metric(name="m", gauge=pb.Gauge(data_points=[pb.NumberDataPoint()] * 1001))
    with pytest.raises(BadRequest, match="1000 samples"):
        translate(request(many), SETTINGS)
    with pytest.raises(BadRequest, match="1000 samples"):
        translate(request(*[pb.Metric()] * 1001), SETTINGS)
    # A point's labels are copied for each of its buckets.
    point = pb.HistogramDataPoint(
        bucket_counts=[1] * 101, explicit_bounds=range(100), count=101,
        attributes=attributes(**{f"l{k}": "x" for k in range(400)}),
    )  # fmt: skip
    classic = pb.Histogram(data_points=[point], aggregation_temporality=2)
    with pytest.raises(BadRequest, match="1000 samples"):
        translate(request(pb.Metric(name="c", histogram=classic)), SETTINGS)


def test_messages_that_would_take_gigabytes_parsed_are_refused():
    check_size(16 * 1024 * 1024)
    with pytest.raises(BadRequest, match="over the limit"):
        check_size(16 * 1024 * 1024 + 1)


@pytest.mark.parametrize(
    "positive",
    [
        # In 32 bits the offset of this bucket would be that of bucket 0.
        pb.ExponentialHistogramDataPoint.Buckets(offset=2**31 - 1, bucket_counts=[1]),
        pb.ExponentialHistogramDataPoint.Buckets(offset=-(2**31), bucket_counts=[1]),
        pb.ExponentialHistogramDataPoint.Buckets(offset=0, bucket_counts=[2**64 - 1]),
        pb.ExponentialHistogramDataPoint.Buckets(offset=0, bucket_counts=[1, 2**64 - 1, 1]),
    ],
    ids=["above", "below", "large", "larger"],
)
def test_histograms_that_cannot_be_stored_leave_the_others_alone(positive):
    n = sum(positive.bucket_counts) % 2**64
    made = request(exponential(count=n, positive=positive), gauge("m", number(1.0)))
    translation = translate(made, SETTINGS)
    assert translation.n_refused == 1
    assert [dict(one.labels)["__name__"] for one in translation.series] == ["m"]
    assert encode(translation.series)
