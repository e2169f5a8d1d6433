"""The memory budget over HTTP with the real engine: one refused query, others that go on."""

import asyncio
import time

import pytest
import pytest_asyncio

from server.lifecycle import open_database
from tests.http import wire
from tests.http.conftest import make_config

N_SERIES = 1000


@pytest_asyncio.fixture
async def budgeted(start, tmp_path, now_ms):
    """Starts servers with flags over a directory of a thousand series."""
    databases = []

    async def make(*flags):
        flags = ("--data-dir", str(tmp_path / "data"), *flags)
        database = open_database(make_config(*flags))
        databases.append(database)
        running = await start(*flags, database=database)
        samples = [(now_ms - k * 15_000, k) for k in range(9, 0, -1)]
        series = [({"__name__": "m_total", "i": str(i)}, samples) for i in range(N_SERIES)]
        body = wire.snappy(wire.message_v1(series))
        status, _, _ = await running.call(
            "POST", "/api/v1/write", data=body, headers=wire.HEADERS_V1
        )
        assert status == 204
        return running

    yield make
    for database in databases:
        database.close()


def range_query(now_ms, expr, n_steps):
    return {"query": expr, "start": now_ms / 1000 - n_steps, "end": now_ms / 1000, "step": 1}


async def test_a_query_over_the_limit_is_refused_while_others_go_on(budgeted, now_ms):
    running = await budgeted("--query.max-memory", "8MiB")
    huge = range_query(now_ms, "rate(m_total[1m])", 10_000)
    small = range_query(now_ms, "count(m_total)", 100)

    async def ask_small():
        status, answer = await running.json("POST", "/api/v1/query_range", data=small)
        return status, answer["data"]["result"][0]["values"][-1][1]

    started = time.monotonic()
    (status, refused), *others = await asyncio.gather(
        running.json("POST", "/api/v1/query_range", data=huge), *(ask_small() for _ in range(20))
    )
    assert time.monotonic() - started < 60
    assert status == 422
    assert refused["errorType"] == "execution"
    assert refused["error"] == (
        "query would need about 172 MiB of memory (1000 series at 10001 steps), over the limit of "
        "8 MiB; take a larger step, a shorter range or fewer series"
    )
    assert others == [(200, str(N_SERIES))] * 20
    _, answer = await running.json("GET", "/api/v1/status/flags")
    assert answer["data"]["query-memory-bytes"] == str(8 << 20)


async def test_the_text_of_an_answer_counts(budgeted, now_ms):
    """The columns of 100,000 samples fit, their text does not."""
    running = await budgeted("--query.max-memory", "4MiB")
    asked = range_query(now_ms, "m_total", 100)
    status, answer = await running.json("POST", "/api/v1/query_range", data=asked)
    assert (status, answer["errorType"]) == (422, "execution")
    assert answer["error"].startswith("query needs at least 7 MiB of memory, over the limit of 4")
    asked["query"] = "sum(m_total)"
    status, answer = await running.json("POST", "/api/v1/query_range", data=asked)
    assert status == 200


async def test_all_queries_together_have_a_limit(budgeted, now_ms):
    """Three queries of which only one fits at a time: all are answered, one after the other."""
    running = await budgeted("--query.max-total-memory", "16MiB", "--query.max-memory", "16MiB")
    asked = range_query(now_ms, "m_total", 140)
    answers = await asyncio.gather(
        *(running.json("POST", "/api/v1/query_range", data=asked) for _ in range(6))
    )
    assert [answer.get("error") for _, answer in answers] == [None] * 6
    assert {len(answer["data"]["result"]) for _, answer in answers} == {N_SERIES}
    pool = running.database._engine.memory
    deadline = time.monotonic() + 60
    while pool.used and time.monotonic() < deadline:
        await asyncio.sleep(0.01)
    assert pool.used == 0


@pytest.mark.parametrize("text", ["1XB", "x", "-1", "1.5GiB", "8 MiB"])
def test_sizes_are_checked(text):
    with pytest.raises(ValueError, match=r"--query.max-memory: .* is not a size like 512MiB"):
        make_config("--query.max-memory=" + text)


@pytest.mark.parametrize(
    ("text", "size"), [("0", 0), ("123", 123), ("2KB", 2048), ("1GiB", 1 << 30), ("3B", 3)]
)
def test_sizes(text, size):
    assert make_config("--query.max-memory", text).query_memory_bytes == size
