"""Remote read: requests parsed, responses decoded by a slow reader."""

import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tsengine
from tests.http import wire
from tsengine import errors
from tsengine.interop.remote_read import parse_request, sample_fields
from tsengine.model.matchers import Matcher, MatchOp

STALE = np.uint64(0x7FF0000000000002).view(np.float64)
T = 1_700_000_000_000


def request(*queries, accepted=None):
    """`queries`: (mint, maxt, [(operator number, name, value), ...])."""
    out = b""
    for mint, maxt, matchers in queries:
        inner = b"\x08" + wire.varint(mint) + b"\x10" + wire.varint(maxt)
        for op, name, value in matchers:
            pair = wire.field(2, name.encode()) + wire.field(3, value.encode())
            inner += wire.field(3, (b"\x08" + wire.varint(op) if op else b"") + pair)
        inner += wire.field(4, b"\x08\x01")  # hints
        out += wire.field(1, inner)
    if accepted is not None:
        out += wire.field(2, bytes(accepted))
    return out


def response(data):
    """Per query: {labels as sorted tuple: [(t, bits)]}, in the order sent."""
    results = []
    for number, result in wire.fields(data):
        assert number == 1
        found = {}
        for inner, series in wire.fields(result):
            assert inner == 1
            labels, samples = {}, []
            for field, content in wire.fields(series):
                values = dict(wire.fields(content))
                if field == 1:
                    labels[values[1].decode()] = values[2].decode()
                else:
                    t = values[2] - (1 << 64) if values[2] >> 63 else values[2]
                    samples.append((t, struct.unpack("<Q", values[1])[0]))
            found[tuple(labels.items())] = samples
        results.append(found)
    return results


def test_requests():
    message = request((-5, T, [(0, "__name__", "a"), (3, "b", ".+é")]), (1, 2, []), accepted=[1, 0])
    parsed = parse_request(message)
    assert parsed.accepted == (1, 0)
    first, second = parsed.queries
    assert (first.mint, first.maxt) == (-5, T)
    assert first.matchers == (
        Matcher("__name__", MatchOp.EQUAL, "a"), Matcher("b", MatchOp.NOT_REGEX, ".+é"),
    )  # fmt: skip
    assert (second.mint, second.maxt, second.matchers) == (1, 2, ())
    assert parse_request(b"").queries == ()


@given(st.binary(max_size=60))
def test_any_bytes_parse_or_are_refused(data):
    try:
        parse_request(data)
    except errors.MalformedRequest:
        pass


@given(st.lists(st.tuples(st.integers(-(2**63), 2**63 - 1), st.integers(0, 2**64 - 1)),
                max_size=20))  # fmt: skip
def test_samples_are_read_back(rows):
    t_ms = np.array([t for t, _ in rows], np.int64)
    bits = np.array([b for _, b in rows], np.uint64)
    data, bounds = sample_fields(t_ms, bits.view(np.float64))
    assert bounds[-1] == len(data)
    for k, (t, b) in enumerate(rows):
        ((number, content),) = wire.fields(data[bounds[k] : bounds[k + 1]].tobytes())
        assert number == 2
        values = dict(wire.fields(content))
        assert values[1] == struct.pack("<Q", b)
        assert values[2] == t % (1 << 64)


def test_answers(tmp_path):
    with tsengine.open(tmp_path / "data") as db:
        db.append({"__name__": "a", "x": "1" * 200}, [T, T + 5, T + 9], [1.5, STALE, -0.0])
        db.append({"__name__": "a", "x": "é"}, [T + 10], [2.0])
        db.append({"__name__": "b"}, [-7, T], [float("inf"), 3.0])
        message = request(
            (T, T + 9, [(0, "__name__", "a")]), (-10, 0, [(2, "__name__", "a|b")]),
            (0, T, [(0, "__name__", "none")]),
        )  # fmt: skip
        first, second, third = response(db.remote_read(message, 100))
        bits = [struct.unpack("<Q", struct.pack("<d", v))[0] for v in (1.5, -0.0, float("inf"))]
        assert first == {
            (("__name__", "a"), ("x", "1" * 200)): [
                (T, bits[0]), (T + 5, 0x7FF0000000000002), (T + 9, bits[1]),
            ]
        }  # fmt: skip
        assert second == {(("__name__", "b"),): [(-7, bits[2])]}
        assert third == {}
        assert db.remote_read(b"", 100) == b""
        with pytest.raises(errors.QueryLimitExceeded, match="over the limit of 2"):
            db.remote_read(message, 2)
        with pytest.raises(errors.MalformedRequest, match="accept SAMPLES"):
            db.remote_read(request(accepted=[1]), 100)
        with pytest.raises(errors.MalformedRequest, match="error parsing regexp"):
            db.remote_read(request((0, 1, [(2, "a", "(")])), 100)
