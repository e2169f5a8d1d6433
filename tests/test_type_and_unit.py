"""Types and units as labels: what remote write 2.0 brings, and what rate() makes of them."""

import struct

import pytest

import tsengine
from tests.http.wire import field as message_field
from tests.http.wire import varint
from tsengine.options import Options

ON = frozenset({"type-and-unit-labels"})
COUNTER, GAUGE = 1, 2


def body(*rows):
    """Rows (labels, type, unit): a sample 1.0 at 1000 ms each."""
    symbols = [""]

    def number(text):
        if text not in symbols:
            symbols.append(text)
        return symbols.index(text)

    series = b""
    for labels, kind, unit in rows:
        refs = b"".join(varint(number(text)) for pair in sorted(labels.items()) for text in pair)
        sample = b"\x09" + struct.pack("<d", 1.0) + b"\x10" + varint(1000)
        metadata = b"\x08" + varint(kind) + b"\x20" + varint(number(unit))
        series += message_field(
            5, message_field(1, refs) + message_field(2, sample) + message_field(5, metadata)
        )
    return b"".join(message_field(4, text.encode()) for text in symbols) + series


ROWS = (
    ({"__name__": "a", "Zone": "x"}, COUNTER, "seconds"),
    ({"__name__": "b", "__type__": "mine", "__unit__": "mine", "x": "1"}, GAUGE, ""),
    ({"__name__": "c", "__type__": "mine"}, 0, ""),
    ({"__name__": "d"}, 0, "bytes"),
)


@pytest.fixture(params=[False, True], ids=["off", "on"])
def is_on(request):
    return request.param


def test_metadata_becomes_labels_if_the_feature_is_on(tmp_path, is_on):
    options = Options(features=ON if is_on else frozenset())
    with tsengine.open(tmp_path / "data", options) as database:
        for _ in range(2):
            assert database.append_remote_write(body(*ROWS), version=2).samples == 4
        found, _ = database.series(['{__name__!=""}'])
    as_sent = [labels for labels, _, _ in ROWS]
    if not is_on:
        assert found == as_sent
        return
    assert found == [
        {"__name__": "a", "Zone": "x", "__type__": "counter", "__unit__": "seconds"},
        {"__name__": "b", "__type__": "gauge", "x": "1"},
        {"__name__": "c", "__type__": "mine"},
        {"__name__": "d", "__unit__": "bytes"},
    ]


def test_rate_doubts_by_type_if_the_feature_is_on(tmp_path, is_on):
    options = Options(features=ON if is_on else frozenset())
    with tsengine.open(tmp_path / "data", options) as database:
        for labels in (
            {"__name__": "good", "__type__": "counter"},
            {"__name__": "bad_total", "__type__": "gauge", "n": "1"},
            {"__name__": "none_total", "n": "2"},
        ):
            database.append(labels, [1000, 2000], [1.0, 2.0])
        result = database.query('rate({__name__=~".+"}[5s])', time=3000)
    suffix = "name does not end in _total/_sum/_count/_bucket"
    kind = '__type__ label is not set to "counter" or "histogram", got'
    start = "PromQL info: metric might not be a counter, "
    expected = [f'{start}{suffix}: "good" (1:6)']
    if is_on:
        expected = [
            f'{start}{kind} "": "none_total" (1:6)',
            f'{start}{kind} "gauge": "bad_total" (1:6)',
        ]
    assert sorted(result.infos) == expected
