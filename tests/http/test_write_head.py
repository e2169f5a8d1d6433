"""Heads of writes: what is known of earlier ones changes nothing."""

from __future__ import annotations

import itertools

import pytest

import server.write_head as heads
from server.write_head import WriteHead, WriteHeads

SIZE_MAX = 1000
LINES = (b"POST /api/v1/write HTTP/1.1", b"POST /write HTTP/1.1", b"POST /x HTTP/1.1")
SIZES = (
    b"Content-Length: 7", b"Content-Length:7", b"content-length:  7  ", b"Content-Length: 1000",
    b"Content-Length: 1001", b"Content-Length: -7", b"Content-Length: 7 7", b"Content-Length:",
    b"Content-Length:\t7", b"Content-Length: 7\x0b", b"Content-Length: 7\n",
    b"Content-Length: \xb2",
    b"Content-Length: 0000000000007", b"X-Content-Length: 7", b"Content-Length : 7",
    b"Content-Length: 7\r\nContent-Length: 7", b"Content-Length: 8\r\ncontent-length: 7", b"A: b",
)  # fmt: skip
OTHERS = (
    b"", b"Content-Encoding: snappy\r\n", b"Content-Encoding: gzip\r\n", b"Origin: x\r\n",
    b"Content-Type: application/x-protobuf;proto=io.prometheus.write.v2.Request\r\n",
    b"X: \r\nContent-Length: 9\r\n", b"Connection: close\r\n",
)  # fmt: skip


def all_heads() -> list[bytes]:
    found = []
    for line, size, other in itertools.product(LINES, SIZES, OTHERS):
        found.append(line + b"\r\nHost: a\r\n" + size + b"\r\n" + other)
        found.append(line + b"\r\n" + other + size + b"\r\nHost: a\r\n")
    return [*found, b"", b"\r\n", b"POST /write HTTP/1.1\r\n", b"POST /write HTTP/1.1"]


@pytest.mark.parametrize("n_known_max", [0, 3, 100])
def test_known_heads_are_read_as_others(monkeypatch, n_known_max):
    monkeypatch.setattr(heads, "_HEADS_MAX", n_known_max)
    knowing = WriteHeads()
    wanted = [WriteHeads().parse(head, SIZE_MAX) for head in all_heads()]
    for _ in range(2):
        assert [knowing.parse(head, SIZE_MAX) for head in all_heads()] == wanted
    with_own_size = itertools.product(("/api/v1/write", "/write"), (1, 2), (7, 1000))
    with_other_size = itertools.product(("/api/v1/write", "/write"), (1,), (9,))
    assert set(wanted) == {*itertools.starmap(WriteHead, [*with_own_size, *with_other_size]), None}
    assert len(knowing._known) <= n_known_max
    assert (len(knowing._known) > 0) == (n_known_max > 0)


def test_sizes_are_those_of_the_heads():
    knowing = WriteHeads()
    for size in (1, 22, 333, 4444, 55555):
        head = b"POST /write HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\nA: b\r\n" % size
        assert knowing.parse(head, 5000) == (WriteHead("/write", 1, size) if size < 5000 else None)
    assert len(knowing._known) == 1
