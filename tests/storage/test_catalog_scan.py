"""Bodies of remote write 1.0 and 2.0 through the catalog, against a model in plain Python."""

from __future__ import annotations

import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.reference import remote_write as wire
from tests.storage.test_catalog import make_catalog, read_back
from tsengine.errors import AppendError, MalformedRequest
from tsengine.model.metadata import MetadataEntry
from tsengine.options import LabelLimits
from tsengine.storage import remote_write
from tsengine.storage.catalog import Catalog

HISTOGRAM_REASON = "a native histogram is refused: its count is not the sum of its buckets"
LIMITS = LabelLimits(n_labels_max=4, name_size_max=9, value_size_max=10, series_size_max=40)

texts = st.sampled_from(
    [b"", b"a", b"b", b"job", b"zone", b"__name__", b"\xff", "ü".encode(), b"x" * 10, b"x" * 11]
)
metric = st.sampled_from([b"up", b"down", b"http_bucket"])
labels = st.lists(st.tuples(texts, texts), max_size=4)
bits = st.integers(0, 2**64 - 1) | st.sampled_from(
    [0x7FF0000000000002, 0x8000000000000000, 0x7FFC000000000000, 0x7FFCFFFFFFFFFFFF]
)
times = st.integers(-(2**63), 2**63 - 1)
metadata = st.tuples(st.integers(0, 7), texts, texts)


@st.composite
def series(draw):
    one = draw(labels)
    if draw(st.integers(0, 9)):
        one.insert(draw(st.integers(0, len(one))), (b"__name__", draw(metric)))
    return wire.Series(
        one,
        draw(st.lists(st.tuples(times, bits), max_size=3)),
        n_histograms=draw(st.sampled_from([0, 0, 0, 1, 2])),
        n_exemplars=draw(st.integers(0, 2)),
        metadata=draw(st.none() | metadata),
    )


def reason_of(one: wire.Series, limits: LabelLimits) -> str:
    """First broken rule, as the documentation orders them."""
    if sum(bool(value) for _, value in one.labels) > limits.n_labels_max:
        return "there are more than"
    size = 0
    for name, value in one.labels:
        size += len(name) + len(value)
        if not name:
            return "a label name is empty"
        if len(name) > limits.name_size_max:
            return "a label name is longer"
        if len(value) > limits.value_size_max:
            return "a label value is longer"
        if size > limits.series_size_max:
            return "the labels are longer"
        for text, what in ((name, "name"), (value, "value")):
            try:
                text.decode()
            except UnicodeDecodeError:
                return f"a label {what} is not UTF-8"
    if len({name for name, _ in one.labels}) < len(one.labels):
        return "a label name occurs twice"
    if not dict(one.labels).get(b"__name__"):
        return "there is no metric name"
    return ""


def without_handle(value: int) -> int:
    """A NaN that looks like a histogram's handle becomes another one."""
    return value - (1 << 50) if value >> 48 == 0x7FFC else value


class Model:
    """What the catalog is meant to do, with a dict."""

    def __init__(self) -> None:
        self.refs: dict[tuple, int] = {}
        self.n_exemplars = 0

    def scan(self, body: list[wire.Series], version: int) -> tuple[list, list]:
        """Samples and rejects; all histograms are invalid, all exemplars are fine."""
        samples, rejects = [], []
        for one in body:
            if not one.samples and not one.n_histograms and not one.n_exemplars:
                if version == 2:
                    rejects.append(("there are neither samples nor histograms", 0))
                continue
            is_stored = one.samples or one.n_exemplars
            if is_stored and (reason := reason_of(one, LIMITS)):
                rejects.append((reason, len(one.samples) + one.n_histograms))
                continue
            if is_stored:
                full = [label for label in one.labels if label[1]]
                key = tuple((n.decode(), v.decode()) for n, v in sorted(full))
                ref = self.refs.setdefault(key, len(self.refs))
                samples += [(ref, t, without_handle(value)) for t, value in one.samples]
                self.n_exemplars += one.n_exemplars
            if one.n_histograms:
                rejects.append((HISTOGRAM_REASON, one.n_histograms))
        return samples, rejects


@given(st.lists(st.tuples(st.sampled_from([1, 2]), st.lists(series(), max_size=12)), max_size=5))
@settings(deadline=None, max_examples=150)
def test_bodies_of_both_versions_match_the_model(bodies):
    catalog, model = make_catalog(limits=LIMITS), Model()
    # The second round meets the senders' memo.
    for version, body in bodies + bodies:
        encoded = wire.encode_v1(body) if version == 1 else wire.encode_v2(body)
        before = len(model.refs)
        model.n_exemplars = 0
        expected, rejects = model.scan(body, version)
        result = catalog.scan_remote_write(encoded, version=version)
        batch = result.batch
        found = list(
            zip(batch.refs.tolist(), batch.t_ms.tolist(), batch.bits.tolist(), strict=True)
        )
        assert found == expected
        assert batch.refs.dtype == np.uint32
        assert (result.first_new_ref, result.n_new) == (before, len(model.refs) - before)
        assert len(result.rejected) == len(rejects)
        for reject, (reason, n_samples) in zip(result.rejected, rejects, strict=True):
            assert reject.reason.startswith(reason)
            assert reject.n_samples == n_samples
        assert result.n_floats == len(batch)
        n_exemplars = 0 if result.exemplars is None else len(result.exemplars)
        assert n_exemplars == model.n_exemplars
    catalog.publish()
    assert read_back(catalog) == list(model.refs)


@given(
    st.sampled_from([1, 2]),
    st.lists(series(), max_size=6),
    st.lists(st.tuples(st.integers(0, 10**6), st.integers(1, 255)), max_size=6),
    st.integers(0, 10**6),
    st.binary(max_size=12),
)
@settings(deadline=None, max_examples=700)
def test_damaged_bodies_are_refused_or_understood(version, body, flips, cut, inserted):
    encoded = bytearray(wire.encode_v1(body) if version == 1 else wire.encode_v2(body))
    for place, mask in flips:
        if encoded:
            encoded[place % len(encoded)] ^= mask
    if inserted and encoded:
        place = cut % len(encoded)
        encoded[place:place] = inserted
    elif cut % 3 == 0 and encoded:
        del encoded[cut % len(encoded) :]
    catalog = make_catalog(limits=LIMITS)
    try:
        first = catalog.scan_remote_write(bytes(encoded), version=version)
    except MalformedRequest:
        assert catalog.next_ref == 0
        return
    second = catalog.scan_remote_write(bytes(encoded), version=version)
    assert second.n_new == 0
    np.testing.assert_array_equal(first.batch.refs, second.batch.refs)
    np.testing.assert_array_equal(first.batch.bits, second.batch.bits)
    assert first.rejected == second.rejected


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("length", [2**63, 2**64 - 1, 2**31, 2**63 - 1, 2**32, 100])
def test_lengths_beyond_the_body_are_refused_at_every_level(version, length):
    top = 10 if version == 1 else 42
    fake = wire.varint(length)
    inside = [
        bytes([10]) + fake,
        bytes([18]) + fake,
        bytes([26]) + fake,
        bytes([34]) + fake,
        bytes([42]) + fake,
        bytes([122]) + fake,
        bytes([121]) + bytes(7),
        bytes([125]) + bytes(3),
        bytes([123]),
        bytes([18, 8, 9]) + bytes(7),
        bytes([18, 2, 16, 128]),
        bytes([18, 3, 0x18 | 2]) + fake[:2],
        bytes([18, 2, 9, 9]),
        bytes([18, 2, 10, 0]),
        bytes([16, 1]),
        b"\x80" * 11,
    ]
    catalog = make_catalog()
    for body in [bytes([top]) + fake, *(wire.length_field(top >> 3, part) for part in inside)]:
        with pytest.raises(MalformedRequest, match="break at byte"):
            catalog.scan_remote_write(body, version=version)
    label = bytes([10, 3, 10]) + fake[:2]
    body = wire.length_field(1, label + wire.length_field(2, wire.sample(1, 1)))
    with pytest.raises(MalformedRequest):
        catalog.scan_remote_write(body, version=1)
    assert catalog.next_ref == 0


def test_fields_in_any_order_and_unknown_fields_are_understood():
    extra = wire.length_field(15, b"later") + wire.varint_field(16, 7) + b"\x85\x01abcd"
    sample = wire.length_field(2, wire.varint_field(2, 5) + wire.double_field(1, 6) + extra)
    name = wire.label_v1(b"__name__", b"up")
    other = wire.length_field(1, wire.length_field(2, b"x") + extra + wire.length_field(1, b"a"))
    body = extra + wire.length_field(1, extra + other + sample + name + extra)
    catalog = make_catalog()
    for _ in range(2):
        batch = catalog.scan_remote_write(body, version=1).batch
        assert (batch.refs.tolist(), batch.t_ms.tolist(), batch.bits.tolist()) == ([0], [5], [6])
    straight = wire.encode_v1([wire.Series([(b"__name__", b"up"), (b"a", b"x")], [(7, 8)])])
    assert catalog.scan_remote_write(straight, version=1).batch.refs.tolist() == [0]
    catalog.publish()
    assert read_back(catalog) == [(("__name__", "up"), ("a", "x"))]


def test_unpacked_references_and_late_symbols_are_understood():
    sample = wire.length_field(2, wire.sample(5, 6))
    refs = wire.varint_field(1, 1) + wire.length_field(1, bytes([2, 3])) + wire.varint_field(1, 4)
    symbols = [b"", b"__name__", b"up", b"a", b"x"]
    table = b"".join(wire.length_field(4, text) for text in symbols)
    body = wire.length_field(5, refs + sample) + table
    catalog = make_catalog()
    assert catalog.scan_remote_write(body, version=2).batch.refs.tolist() == [0]
    catalog.publish()
    assert read_back(catalog) == [(("__name__", "up"), ("a", "x"))]


def request_v2(refs: bytes, symbols: list[bytes], more: bytes = b"") -> bytes:
    sample = wire.length_field(2, wire.sample(5, 6))
    table = b"".join(wire.length_field(4, text) for text in symbols)
    good = wire.length_field(5, wire.length_field(1, bytes([1, 2])) + sample)
    return table + good + wire.length_field(5, wire.length_field(1, refs) + sample + more)


@pytest.mark.parametrize(
    ("refs", "more", "reason"),
    [
        (bytes([1, 2, 3]), b"", "the number of label references is odd"),
        (bytes([1, 2, 3, 4]), b"", "a symbol reference is out of range"),
        (wire.varint(1) + wire.varint(2**63), b"", "a symbol reference is out of range"),
        (wire.varint(1) + wire.varint(2**32 + 2), b"", "a symbol reference is out of range"),
        (bytes([1, 2]), wire.length_field(5, bytes([24, 9])), "a symbol reference is out of range"),
        (b"", b"", "there is no metric name"),
    ],
)
def test_a_broken_series_of_2_is_refused_by_name_and_the_others_stay(refs, more, reason):
    catalog = make_catalog()
    for _ in range(2):
        body = request_v2(refs, [b"", b"__name__", b"up", b"a"], more)
        result = catalog.scan_remote_write(body, version=2)
        assert len(result.batch) == 1
        assert [reject.reason for reject in result.rejected] == [reason]
        assert catalog.next_ref == 1


def test_a_symbol_table_without_the_empty_text_refuses_every_series():
    for symbols in ([b"x", b"__name__", b"up"], []):
        catalog = make_catalog()
        result = catalog.scan_remote_write(request_v2(bytes([1, 2]), symbols), version=2)
        assert len(result.batch) == 0
        assert {reject.reason for reject in result.rejected} == {
            "the first symbol is not the empty text"
        }
        assert len(result.rejected) == 2


def test_equal_symbol_numbers_of_other_texts_are_other_series():
    catalog = make_catalog()
    one = wire.encode_v2([wire.Series([(b"__name__", b"up")], [(1, 1)])])
    two = wire.encode_v2([wire.Series([(b"__name__", b"xx")], [(1, 1)])])
    found = [catalog.scan_remote_write(b, version=2).batch.refs[0] for b in (one, two, one, two)]
    assert found == [0, 1, 0, 1]


def test_series_limit_refuses_new_series_only():
    catalog = make_catalog(max_series=3)

    def body(*numbers: int) -> bytes:
        return wire.encode_v1(
            [wire.Series([(b"__name__", b"m%d" % number)], [(1, 1)]) for number in numbers]
        )

    result = catalog.scan_remote_write(body(0, 1, 1, 2, 3, 0, 4), version=1)
    assert result.batch.refs.tolist() == [0, 1, 1, 2, 0]
    assert [reject.series for reject in result.rejected] == ["m3{}", "m4{}"]
    assert {reject.reason for reject in result.rejected} == {"the limit of 3 series is reached"}
    catalog.publish()
    assert catalog.view().n_symbols == 4
    assert len(catalog.scan_remote_write(body(2, 5, 0), version=1).batch) == 2


def test_rejects_are_named_up_to_a_limit():
    count = 1500
    body = [wire.Series([(b"a", b"%d" % i)], [(1, 1), (2, 2)]) for i in range(count)]
    result = make_catalog().scan_remote_write(wire.encode_v1(body), version=1)
    assert len(result.rejected) == 1001
    assert result.rejected[7].series == '{a="7"}'
    assert result.rejected[-1].series == "500 more series"
    assert sum(reject.n_samples for reject in result.rejected) == 2 * count


def test_metadata_is_told_when_it_changes():
    catalog = make_catalog()
    listed = [(1, b"http_total", b"Requests.", b""), (4, b"lag", b"Lag.", b"seconds")]
    told = catalog.scan_remote_write(wire.encode_v1([], listed), version=1).metadata
    assert told == (
        MetadataEntry("http_total", "counter", "Requests.", ""),
        MetadataEntry("lag", "gaugehistogram", "Lag.", "seconds"),
    )
    assert catalog.scan_remote_write(wire.encode_v1([], listed), version=1).metadata == ()
    changed = [(99, b"http_total", b"Requests.", b"")]
    told = catalog.scan_remote_write(wire.encode_v1([], changed), version=1).metadata
    assert told == (MetadataEntry("http_total", "unknown", "Requests.", ""),)
    with pytest.raises(MalformedRequest):
        catalog.scan_remote_write(wire.length_field(3, b"\x12\x7fab"), version=1)


def test_series_metadata_is_told_once_for_each_family():
    def body(help_text: bytes) -> bytes:
        return wire.encode_v2(
            [
                wire.Series(
                    [(b"__name__", name), (b"le", b"%d" % le)],
                    [(1, 1)],
                    metadata=(3, help_text, b"seconds"),
                )
                for le in range(50)
                for name in (b"rpc_bucket", b"rpc_count")
            ]
        )

    catalog = make_catalog()
    told = catalog.scan_remote_write(body(b"Time."), version=2).metadata
    assert told == (MetadataEntry("rpc", "histogram", "Time.", "seconds"),)
    assert catalog.scan_remote_write(body(b"Time."), version=2).metadata == ()
    told = catalog.scan_remote_write(body(b"Times."), version=2).metadata
    assert told == (MetadataEntry("rpc", "histogram", "Times.", "seconds"),)
    assert catalog.next_ref == 100


def test_a_large_value_and_many_labels():
    name = (b"__name__", b"m")
    large = wire.Series([name, (b"a", b"x" * 2**20)], [(1, 1)])
    many = wire.Series(
        [name] + [(b"l%d" % (i * 7919 % 10007), b"x") for i in range(10000)], [(1, 1)]
    )
    for body, version in ((wire.encode_v1, 1), (wire.encode_v2, 2)):
        result = make_catalog().scan_remote_write(body([large, many]), version=version)
        assert len(result.batch) == 0
        assert [reject.reason[:18] for reject in result.rejected] == [
            "a label value is l", "there are more tha",
        ]  # fmt: skip
        wide = make_catalog(limits=LabelLimits(20000, 10**7, 10**7, 10**8))
        for _ in range(2):
            refs = wide.scan_remote_write(body([large, many]), version=version).batch.refs
            assert refs.tolist() == [0, 1]
        wide.publish()
        row = wide.view().labels(np.array([1], np.uint32))
        assert len(row.pairs) == 10001


def test_more_series_than_the_memo_holds_stay_right(monkeypatch):
    monkeypatch.setattr("tsengine.storage.catalog.MEMO_SIZE_BYTES_MAX", 20 * 1024)
    catalog = Catalog(secret=bytes(32), limits=LabelLimits(), max_series=10**6)
    body = wire.encode_v1(
        [wire.Series([(b"__name__", b"m"), (b"i", b"%d" % i)], [(i, i)]) for i in range(5000)]
    )
    for _ in range(3):
        assert catalog.scan_remote_write(body, version=1).batch.refs.tolist() == list(range(5000))


def test_bodies_may_be_memoryviews_and_batches_outlive_them():
    catalog = make_catalog()
    body = bytearray(wire.encode_v1([wire.Series([(b"__name__", b"m")], [(3, 4)])]))
    batch = catalog.scan_remote_write(memoryview(body), version=1).batch
    body[:] = bytes(len(body))
    catalog.scan_remote_write(
        wire.encode_v1([wire.Series([(b"__name__", b"n")], [(9, 9)])]), version=1
    )
    assert (batch.t_ms.tolist(), batch.bits.tolist()) == ([3], [4])


def test_values_keep_their_bits():
    stale = struct.unpack("<Q", struct.pack("<Q", 0x7FF0000000000002))[0]
    body = wire.encode_v1([wire.Series([(b"__name__", b"m")], [(-1, stale), (1 << 62, 1 << 63)])])
    batch = make_catalog().scan_remote_write(body, version=1).batch
    assert batch.bits.tolist() == [stale, 1 << 63]
    assert batch.t_ms.tolist() == [-1, 1 << 62]
    assert issubclass(MalformedRequest, AppendError)


def test_series_without_real_metadata_tell_nothing():
    series = wire.Series([(b"__name__", b"m")], [(1, 1)], metadata=(0, b"", b""))
    assert make_catalog().scan_remote_write(wire.encode_v2([series]), version=2).metadata == ()


@pytest.mark.parametrize("version", [1, 2])
def test_scratch_of_a_large_body_is_given_back(version, monkeypatch):
    monkeypatch.setattr("tsengine.storage.remote_write._SCRATCH_KEPT_MAX", 20_000)
    catalog = make_catalog()
    encode = wire.encode_v1 if version == 1 else wire.encode_v2
    for n in (10, 8000, 10, 3, 9000, 9000, 1):
        body = [
            wire.Series([(b"__name__", b"m"), (b"i", b"%d" % i)], [(i, n), (i + 1, n)])
            for i in range(n)
        ]
        batch = catalog.scan_remote_write(encode(body), version=version).batch
        assert batch.refs.tolist() == [i for i in range(n) for _ in range(2)]
        assert batch.t_ms.tolist() == [t for i in range(n) for t in (i, i + 1)]
        assert set(batch.bits.tolist()) == {n}
    assert len(catalog._scanner._t_ms) <= 20_000


@pytest.mark.parametrize("encode", [wire.encode_v1, wire.encode_v2])
@pytest.mark.parametrize("is_known", [False, True])
def test_a_body_with_too_many_samples_is_refused(encode, is_known, monkeypatch):
    monkeypatch.setattr(remote_write, "SAMPLES_PER_REQUEST_MAX", 5000)
    version = 1 if encode is wire.encode_v1 else 2
    catalog = make_catalog()

    def body(n: int) -> bytes:
        return encode([wire.Series([(b"__name__", b"up")], [(t, 0) for t in range(n)])])

    if is_known:
        assert len(catalog.scan_remote_write(body(5000), version=version).batch) == 5000
    with pytest.raises(MalformedRequest, match="more than 5000 samples in one request"):
        catalog.scan_remote_write(body(5001), version=version)
    assert catalog.next_ref == is_known
    assert len(catalog.scan_remote_write(body(5000), version=version).batch) == 5000


def test_a_body_with_too_many_messages_is_refused(monkeypatch):
    """Also if they are empty; symbols of 2.0 are counted, references to them are not."""
    monkeypatch.setattr(remote_write, "MESSAGES_PER_REQUEST_MAX", 5000)
    monkeypatch.setattr(remote_write, "SAMPLES_PER_REQUEST_MAX", 5000)
    catalog = make_catalog()
    for version, field in ((1, 1), (1, 3), (2, 5), (2, 4)):
        empty = wire.length_field(field, b"")
        catalog.scan_remote_write(5000 * empty, version=version)
        with pytest.raises(MalformedRequest, match="more than 5000 series, symbols"):
            catalog.scan_remote_write(5001 * empty, version=version)
    long = wire.Series([(b"__name__", b"up"), *[(b"a", b"")] * 50_000], [(1, 0)])
    assert len(catalog.scan_remote_write(wire.encode_v2([long]), version=2).batch) <= 1
