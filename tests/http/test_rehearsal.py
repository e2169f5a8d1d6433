"""server/rehearsal.py: real answers, of which nothing stays."""

from __future__ import annotations

import json
import threading

import pytest

import tsengine
from server import lifecycle, rehearsal
from server.plain_exchange import PlainExchange
from server.state import Server
from tests.http.conftest import make_config
from tests.reference.background import wait_until


@pytest.fixture
def answers(monkeypatch):
    """What the requests of a rehearsal are answered, by their heads."""
    seen = []
    send = rehearsal._Nobody.send

    def note(self, data):
        seen.append(bytes(data))
        send(self, data)

    monkeypatch.setattr(rehearsal._Nobody, "send", note)
    return seen


async def test_every_request_is_answered_as_by_a_server(answers, tmp_path):
    log = tmp_path / "queries.log"
    before = threading.active_count()
    await rehearsal.rehearse(make_config("--query.log-file", str(log)))
    assert len(answers) == rehearsal._TIMES * len(rehearsal._REQUESTS)
    heads, bodies = zip(*(answer.split(b"\r\n\r\n", 1) for answer in answers), strict=True)
    assert all(head.startswith(b"HTTP/1.1 200 ") for head in heads)
    data = [json.loads(body)["data"] for body in bodies[: len(rehearsal._REQUESTS)]]
    assert [len(found["result"]) for found in data[:4]] == [8, 8, 2, 2]
    assert data[0]["result"][1]["value"] == [300, "306"]
    assert len(data[1]["result"][0]["values"]) == 11
    # 16 more every 15 s, of 8 series each.
    assert float(data[2]["result"][0]["value"][1]) == pytest.approx(8 * 16 / 15)
    assert data[4] == ["__name__", "instance", "job"]
    assert not log.exists()
    for thread in threading.enumerate():
        if thread.name.startswith(("query_", "metadata_")):
            thread.join(5)
    wait_until(lambda: threading.active_count() <= before, "its threads end")


async def test_a_rehearsal_that_fails_keeps_no_server_from_starting(monkeypatch, caplog):
    def fail(*args):
        raise RuntimeError("no rehearsal today")

    monkeypatch.setattr(PlainExchange, "begin", fail)
    server = Server(make_config())
    await lifecycle._prepare(server)
    server.executor.close()
    assert "no rehearsal today" in caplog.text


def test_the_database_can_be_asked_like_any_other():
    with tsengine.RehearsalDatabase() as database:
        result = database.query("sum(rehearsal)", 300_000)
        assert result.to_numpy().tolist() == [[sum(range(304, 320))]]
        assert database.label_values("job")[0] == ["a", "b"]
        assert result.warnings == []
