"""Large answers don't freeze the server: a short run of bench/event_loop.py, and the pieces."""

from __future__ import annotations

import asyncio
import gc
import gzip
import json
import mmap
import zlib

import numpy as np
import pytest

import tsengine
from bench.event_loop import requests_of, run
from server.api import pieces
from server.api.pieces import (
    PIECE_SIZE,
    SLAB_SIZE,
    SPARE_SLABS_MAX,
    Body,
    PiecesPayload,
    make_body,
    new_slab,
)  # fmt: skip

OWN_LAG_MS_MAX = 5 * 20
"""Five times what the bench has to show: the machine that tests run on is busy with others."""


@pytest.mark.timeout(600)
def test_the_event_loop_is_not_blocked(tmp_path):
    said = []
    for attempt in range(3):
        folder = tmp_path / str(attempt)
        folder.mkdir()
        results = run(
            folder, n_series=50_000, n_rows=40, n_steps=11_000, seconds=1,
            say=said.append,
        )  # fmt: skip
        assert [result["name"] for result in results] == [one[0] for one in requests_of(1)]
        assert [result["size"] > 3e6 for result in results] == [True] * 4
        # A neighbour may push the holder of the interpreter's lock off its processor now and then;
        # what blocks the loop does so each time.
        if all(
            len(result["own"]) > 20 and np.percentile(result["own"], 99) < OWN_LAG_MS_MAX
            for result in results
        ):
            return
    raise AssertionError("\n".join(said))


def test_small_bodies_stay_as_they_are():
    assert make_body([b"ab", b"c"], "gzip") == Body([b"abc"])
    assert make_body([], None) == Body([b""])
    assert Body([b"abc"]).content(1.0) == b"abc"


@pytest.mark.parametrize("encoding", [None, "gzip", "deflate"])
def test_large_bodies_are_packed_piece_by_piece(encoding):
    given = [bytes([k]) * 20_000 for k in range(20)]
    body = make_body(iter(given), encoding)
    unpack = {None: bytes, "gzip": gzip.decompress, "deflate": zlib.decompress}[encoding]
    assert unpack(b"".join(body.pieces)) == b"".join(given)
    assert body.encoding == encoding
    assert body.size == sum(map(len, body.pieces))
    if encoding is None:
        assert body.pieces == given


@pytest.mark.parametrize("encoding", [None, "gzip"])
@pytest.mark.parametrize("size", [SLAB_SIZE, SLAB_SIZE + 1, 2 * SLAB_SIZE, 2 * SLAB_SIZE + 7])
def test_very_large_bodies_are_kept_in_slabs(encoding, size):
    text = np.random.default_rng(1).integers(0, 256, size, np.uint8).tobytes()
    given = [text[start : start + 99_999] for start in range(0, size, 99_999)]
    body = make_body(iter(given), encoding)
    assert (gzip.decompress if encoding else bytes)(b"".join(body.pieces)) == text
    is_in_slabs = [isinstance(piece, memoryview) for piece in body.pieces]
    assert is_in_slabs == [body.size > SLAB_SIZE] * len(is_in_slabs)
    if body.size > SLAB_SIZE:
        assert [len(piece) for piece in body.pieces[:-1]] == [SLAB_SIZE] * (len(is_in_slabs) - 1)
        assert isinstance(body.pieces[0].obj.base._memory.base.obj, mmap.mmap)


class Writer:
    """Collects what is written."""

    def __init__(self, delay_s=0.0):
        self.written = []
        self.delay_s = delay_s

    async def write(self, data):
        await asyncio.sleep(self.delay_s)
        self.written.append(bytes(data))


async def test_a_payload_is_sent_in_pieces_and_lets_others_run():
    payload = Body([b"x" * (2 * PIECE_SIZE + 1), b"y" * 3]).content(5.0)
    assert isinstance(payload, PiecesPayload)
    assert payload.size == 2 * PIECE_SIZE + 4
    writer, n_turns = Writer(), 0

    async def other():
        nonlocal n_turns
        while True:
            n_turns += 1
            await asyncio.sleep(0)

    task = asyncio.create_task(other())
    await payload.write(writer)
    task.cancel()
    assert [len(piece) for piece in writer.written] == [PIECE_SIZE, PIECE_SIZE, 1, 3]
    assert b"".join(writer.written) == b"x" * (2 * PIECE_SIZE + 1) + b"yyy"
    assert n_turns >= 4


async def test_a_client_that_does_not_read_is_cut():
    payload = Body([b"x", b"y"]).content(0.01)
    with pytest.raises(ConnectionResetError, match="too long"):
        await payload.write(Writer(delay_s=5))


@pytest.mark.parametrize("encoding", ["", "gzip"])
async def test_large_answers_arrive_whole(real, now_ms, monkeypatch, encoding):
    monkeypatch.setattr(pieces, "PIECE_SIZE", 10_000)
    for k in range(2000):
        real.database.append({"__name__": "x", "row": f"{k:04}", "<": "&"}, [now_ms], [k + 0.5])
    status, headers, body = await real.call(
        "GET", f"/api/v1/query?query=x&stats=all&time={now_ms / 1000}",
        headers={"Accept-Encoding": encoding},
    )  # fmt: skip
    assert status == 200
    assert int(headers["Content-Length"]) == len(body)
    assert headers.get("Content-Encoding", "") == encoding
    assert "Accept-Encoding" in headers["Vary"]
    data = json.loads(gzip.decompress(body) if encoding else body)["data"]
    assert list(data) == ["resultType", "result", "stats"]
    rows = {row["metric"]["row"]: row["value"][1] for row in data["result"]}
    assert rows == {f"{k:04}": f"{k}.5" for k in range(2000)}
    status, headers, body = await real.call("HEAD", f"/api/v1/query?query=x&time={now_ms / 1000}")
    assert (status, body) == (200, b"")


def test_slabs_are_used_again_when_their_last_view_has_gone():
    gc.collect()  # Those of other tests come back now or never.
    slab = new_slab(10)
    assert len(slab) == SLAB_SIZE
    slab[:] = 7
    place = slab.ctypes.data
    view = slab[100:200].data
    del slab
    others = [new_slab(1) for _ in range(3)]
    assert place not in [other.ctypes.data for other in others]
    assert bytes(view) == b"\x07" * 100
    del view
    assert new_slab(1).ctypes.data == place
    many = [new_slab(1) for _ in range(SPARE_SLABS_MAX + 5)]
    assert len({other.ctypes.data for other in many + others}) == len(many) + 3
    del many, others
    assert len(pieces._spare_slabs) == SPARE_SLABS_MAX
    assert len(new_slab(SLAB_SIZE + 1)) == SLAB_SIZE + 1


@pytest.mark.parametrize("n_series", [10, 3000, 30_000])
def test_large_answers_are_written_into_slabs(n_series, tmp_path):
    with tsengine.open(tmp_path) as db:
        labels = [{"__name__": "x", "i": str(i), "long": "y" * 50} for i in range(n_series)]
        db.append_columns(db.series_refs(labels), np.full(n_series, 1000), np.arange(n_series))
        result = db.query("x", 1000)
        pieces_ = list(result.json_pieces(new_slab))
        assert b"".join(pieces_) == result.to_json()
        views = [piece for piece in pieces_ if isinstance(piece, memoryview)]
        assert bool(views) == (n_series > 1000)
        assert all(len(view) <= SLAB_SIZE for view in views)
        body = make_body(iter(pieces_), None)
        assert sum(piece is view for piece in body.pieces for view in views) == len(views)
