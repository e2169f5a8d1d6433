"""The scan of bodies as the protobuf package writes them (it leaves zeros out; we do not)."""

from __future__ import annotations

import struct

import pytest

from tests.reference import remote_write as wire
from tests.storage.test_catalog import make_catalog, read_back
from tsengine.model.exemplars import unpack_labels
from tsengine.model.histogram_values import NativeHistogram, to_list

pytest.importorskip("google.protobuf")
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

_TYPES = descriptor_pb2.FieldDescriptorProto
SCHEMA = {
    "Label": [("name", 1, "STRING", 0), ("value", 2, "STRING", 0)],
    "Sample": [("value", 1, "DOUBLE", 0), ("timestamp", 2, "INT64", 0)],
    "BucketSpan": [("offset", 1, "SINT32", 0), ("length", 2, "UINT32", 0)],
    "Histogram": [
        ("count_int", 1, "UINT64", 0),
        ("count_float", 2, "DOUBLE", 0),
        ("sum", 3, "DOUBLE", 0),
        ("schema", 4, "SINT32", 0),
        ("zero_threshold", 5, "DOUBLE", 0),
        ("zero_count_int", 6, "UINT64", 0),
        ("zero_count_float", 7, "DOUBLE", 0),
        ("negative_spans", 8, "BucketSpan", 1),
        ("negative_deltas", 9, "SINT64", 1),
        ("negative_counts", 10, "DOUBLE", 1),
        ("positive_spans", 11, "BucketSpan", 1),
        ("positive_deltas", 12, "SINT64", 1),
        ("positive_counts", 13, "DOUBLE", 1),
        ("reset_hint", 14, "INT32", 0),
        ("timestamp", 15, "INT64", 0),
        ("custom_values", 16, "DOUBLE", 1),
        ("start_timestamp", 17, "INT64", 0),
    ],
    "Exemplar1": [
        ("labels", 1, "Label", 1),
        ("value", 2, "DOUBLE", 0),
        ("timestamp", 3, "INT64", 0),
    ],
    "TimeSeries1": [
        ("labels", 1, "Label", 1),
        ("samples", 2, "Sample", 1),
        ("exemplars", 3, "Exemplar1", 1),
        ("histograms", 4, "Histogram", 1),
    ],
    "WriteRequest": [("timeseries", 1, "TimeSeries1", 1)],
    "Metadata": [
        ("type", 1, "INT32", 0),
        ("help_ref", 3, "UINT32", 0),
        ("unit_ref", 4, "UINT32", 0),
    ],
    "TimeSeries2": [
        ("labels_refs", 1, "UINT32", 1),
        ("samples", 2, "Sample", 1),
        ("metadata", 5, "Metadata", 0),
    ],
    "Request": [("symbols", 4, "STRING", 1), ("timeseries", 5, "TimeSeries2", 1)],
}  # fmt: skip


@pytest.fixture(scope="module")
def messages():
    file = descriptor_pb2.FileDescriptorProto(name="w.proto", package="w", syntax="proto3")
    for name, fields in SCHEMA.items():
        message = file.message_type.add(name=name)
        for field, number, kind, repeated in fields:
            made = message.field.add(name=field, number=number)
            made.label = _TYPES.LABEL_REPEATED if repeated else _TYPES.LABEL_OPTIONAL
            if kind in SCHEMA:
                made.type, made.type_name = _TYPES.TYPE_MESSAGE, f".w.{kind}"
            else:
                made.type = getattr(_TYPES, f"TYPE_{kind}")
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return {
        name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"w.{name}"))
        for name in SCHEMA
    }


SERIES = [
    wire.Series(
        [(b"__name__", b"m"), (b"i", b"%d" % i), ("ü".encode(), b"x" * (i % 200 + 1))],
        [(t, wire.bits_of(i / 3 - 5)) for t in (-1, 1, i << 33)],
        metadata=(1, b"Help.", b"bytes"),
    )
    for i in range(1, 300)
]


def test_version_1_as_protobuf_writes_it(messages):
    request = messages["WriteRequest"]()
    for one in SERIES:
        series = request.timeseries.add()
        for name, value in one.labels:
            series.labels.add(name=name.decode(), value=value.decode())
        for (t_ms, _), value in zip(one.samples, values_of(one), strict=True):
            series.samples.add(value=value, timestamp=t_ms)
    check(request.SerializeToString(), wire.encode_v1(SERIES), 1)


def test_version_2_as_protobuf_writes_it(messages):
    request = messages["Request"](symbols=[""])
    refs = {"": 0}

    def ref(text: bytes) -> int:
        if text.decode() not in refs:
            refs[text.decode()] = len(refs)
            request.symbols.append(text.decode())
        return refs[text.decode()]

    for one in SERIES:
        series = request.timeseries.add()
        series.labels_refs.extend(ref(text) for label in one.labels for text in label)
        for (t_ms, _), value in zip(one.samples, values_of(one), strict=True):
            series.samples.add(value=value, timestamp=t_ms)
        series.metadata.type, help_text, unit = one.metadata
        series.metadata.help_ref, series.metadata.unit_ref = ref(help_text), ref(unit)
    check(request.SerializeToString(), wire.encode_v2(SERIES), 2)


def values_of(one: wire.Series) -> list[float]:
    return [struct.unpack("<d", struct.pack("<Q", bits))[0] for _, bits in one.samples]


def check(body: bytes, ours: bytes, version: int) -> None:
    catalog = make_catalog()
    batch = catalog.scan_remote_write(body, version=version).batch
    again = catalog.scan_remote_write(ours, version=version).batch
    for made in (batch, again):
        assert made.refs.tolist() == [i for i in range(len(SERIES)) for _ in range(3)]
        assert list(zip(made.t_ms.tolist(), made.bits.tolist(), strict=True)) == [
            sample for one in SERIES for sample in one.samples
        ]
    catalog.publish()
    assert read_back(catalog) == [
        tuple((name.decode(), value.decode()) for name, value in one.labels) for one in SERIES
    ]


def test_histograms_and_exemplars_as_protobuf_writes_them(messages):
    request = messages["WriteRequest"]()
    series = request.timeseries.add()
    series.labels.add(name="__name__", value="rpc")
    one = series.histograms.add(
        count_int=12, sum=18.4, schema=1, zero_threshold=0.001, zero_count_int=2, reset_hint=3,
        timestamp=-7, negative_deltas=[4, -3], positive_deltas=[1, 1, 0],
    )  # fmt: skip
    one.negative_spans.add(offset=-3, length=2)
    one.positive_spans.add(offset=0, length=2)
    one.positive_spans.add(offset=4, length=1)
    two = series.histograms.add(
        count_float=2.5, sum=-1.0, schema=-53, positive_counts=[0.5, 0.0, 2.0], timestamp=1 << 41,
        custom_values=[-0.5, 1.0, 7.5], start_timestamp=5,
    )  # fmt: skip
    two.positive_spans.add(offset=1, length=3)
    exemplar = series.exemplars.add(value=0.25, timestamp=9)
    exemplar.labels.add(name="trace_id", value="ü")
    found = make_catalog().scan_remote_write(request.SerializeToString(), version=1)
    assert found.rejected == ()
    assert found.batch.t_ms.tolist() == [-7, 1 << 41]
    assert to_list(found.batch.histograms) == [
        NativeHistogram(
            schema=1, count=12.0, sum=18.4, zero_threshold=0.001, zero_count=2.0,
            negative={-3: 4.0, -2: 1.0}, positive={0: 1.0, 1: 2.0, 6: 2.0}, hint="gauge",
        ),
        NativeHistogram(
            schema=-53, count=2.5, sum=-1.0, positive={1: 0.5, 3: 2.0},
            custom_bounds=(-0.5, 1.0, 7.5),
        ),
    ]  # fmt: skip
    assert found.exemplars.values.tolist() == [0.25]
    assert found.exemplars.t_ms.tolist() == [9]
    assert [unpack_labels(packed) for packed in found.exemplars.labels] == [{"trace_id": "ü"}]
