"""The server over the real engine: what users and their mistakes get to see."""

import asyncio
import json
import time

import pytest

from server.lifecycle import open_database
from tests.http import wire
from tests.http.conftest import make_config
from tests.reference import histogramscan as native
from tests.reference import remote_write as body

BOTH = pytest.mark.parametrize(
    ("encode", "headers"),
    [(wire.message_v1, wire.HEADERS_V1), (wire.message_v2, wire.HEADERS_V2)],
    ids=["1.0", "2.0"],
)


@pytest.fixture
async def real(start, tmp_path):
    database = open_database(make_config("--data-dir", str(tmp_path / "data")))
    yield await start("--enable-admin-api", database=database)
    database.close()


async def write(running, message, headers=wire.HEADERS_V1):
    status, got, text = await running.call(
        "POST", "/api/v1/write", data=wire.snappy(message), headers=headers
    )
    return status, int(got["X-Prometheus-Remote-Write-Samples-Written"]), text.decode()


async def values_of(running, query, t_ms):
    path = f"/api/v1/query?time={t_ms / 1000}"
    status, answer = await running.json("POST", path, data={"query": query})
    assert status == 200, answer
    return {
        tuple(sorted(row["metric"].items())): row["value"][1] for row in answer["data"]["result"]
    }


@BOTH
async def test_write_query_and_metadata_calls(real, now_ms, encode, headers):
    t = now_ms - 60_000
    rows = [
        ({"__name__": "temperature", "room": f"{i}<&>"}, [(t, i + 0.5), (t + 15_000, -i)])
        for i in range(3)
    ]
    assert await write(real, encode(rows), headers) == (204, 6, "")
    assert await values_of(real, "sum(temperature)", t) == {(): "4.5"}
    for method in ("GET", "POST"):
        _, answer = await real.json(method, f"/api/v1/series?match[]=temperature&start={t / 1000}")
        assert [row["room"] for row in answer["data"]] == ["0<&>", "1<&>", "2<&>"]
    _, answer = await real.json("GET", "/api/v1/label/room/values?match[]=temperature&limit=2")
    assert answer["data"] == ["0<&>", "1<&>"]
    assert answer["warnings"] == ["results truncated due to limit"]
    _, answer = await real.json("GET", "/api/v1/labels?match[]=temperature")
    assert answer["data"] == ["__name__", "room"]
    path = f"/api/v1/query_range?query=temperature&start={t / 1000}&end={t / 1000 + 15}&step=15"
    _, answer = await real.json("GET", path)
    assert answer["data"]["result"][1]["values"] == [[t / 1000, "1.5"], [t / 1000 + 15, "-1"]]
    _, answer = await real.json("GET", "/api/v1/query?query=temperature&limit=1&stats=all")
    assert len(answer["data"]["result"]) == 1
    assert answer["warnings"] == ["results truncated due to limit"]
    assert answer["data"]["stats"]["samples"]["samplesRead"] >= 3


async def test_flush_and_merge_keep_everything(real, now_ms):
    for i in range(3):
        row = ({"__name__": "x", "i": str(i)}, [(now_ms - 1000 * i, i)])
        assert (await write(real, wire.message_v1([row])))[0] == 204
        assert (await real.call("POST", "/api/v1/admin/tsdb/flush"))[0] == 204
    assert await values_of(real, "count(x)", now_ms) == {(): "3"}
    assert (await real.call("POST", "/api/v1/admin/tsdb/flush?merge=1"))[0] == 204
    assert await values_of(real, "count(x)", now_ms) == {(): "3"}
    _, answer = await real.json("GET", "/api/v1/status/tsdb")
    assert answer["data"]["headStats"]["numSeries"] == 3
    assert answer["data"]["headStats"]["chunkCount"] == 1
    assert {"name": "x", "value": 3} in answer["data"]["seriesCountByMetricName"]


async def test_values_in_all_formats(real, now_ms):
    texts = {
        "nan": float("nan"), "inf": float("inf"), "ninf": float("-inf"), "small": 1e-7,
        "large": 1e21, "plain": 123456789.25, "tiny": 1e-6,
    }  # fmt: skip
    rows = [({"__name__": "v", "k": k}, [(now_ms, value)]) for k, value in texts.items()]
    assert (await write(real, wire.message_v1(rows)))[0] == 204
    found = {dict(key)["k"]: value for key, value in (await values_of(real, "v", now_ms)).items()}
    assert found == {
        "nan": "NaN", "inf": "+Inf", "ninf": "-Inf", "small": "1e-07", "large": "1e+21",
        "plain": "123456789.25", "tiny": "0.000001",
    }  # fmt: skip
    for t, text in ((1.5, b"[1.500,"), (1.25, b"[1.250,"), (1.125, b"[1.125,"), (2, b"[2,")):
        _, _, body = await real.call("GET", f"/api/v1/query?query=1&time={t}")
        assert text in body
    _, _, body = await real.call("GET", "/api/v1/query?query=%22a%3Cb%22&time=1")
    assert json.loads(body)["data"] == {"resultType": "string", "result": [1, "a<b"]}
    assert body.index(b"resultType") < body.index(b'"result"')


@BOTH
@pytest.mark.parametrize(
    ("labels", "reason"),
    [
        ([("job", "x")], "no metric name"),
        ([("__name__", "bad"), ("a", "1"), ("a", "2")], "a"),
        ([("__name__", "bad"), ("", "1")], ""),
        ([("__name__", "bad"), (b"\xff", "1")], ""),
        ([("__name__", "bad"), ("a", b"\xff")], ""),
        ([("__name__", b"\xff\xfe")], ""),
        ([("__name__", "bad"), ("a", "x" * 1_000_000)], ""),
        ([("__name__", "bad"), ("a" * 1_000_000, "x")], ""),
        ([("__name__", "bad"), *((f"l{i}", "x") for i in range(10_000))], ""),
    ],
)
async def test_invalid_series_are_refused_by_name(real, now_ms, encode, headers, labels, reason):
    rows = [
        (labels, [(now_ms, 1.0)]),
        ({"__name__": "good"}, [(now_ms, 7.0), (now_ms - 1, 6.0)]),
    ]
    status, n_written, text = await write(real, encode(rows), headers)
    assert (status, n_written) == (400, 2)
    assert text.startswith("1 series refused, 2 samples of the others stored:\n")
    assert reason in text
    assert len(text) < 1000
    assert await values_of(real, "good", now_ms) == {(("__name__", "good"),): "7"}
    assert await values_of(real, "bad", now_ms) == {}


@BOTH
async def test_times_out_of_range(real, now_ms, encode, headers):
    day_ms = 86_400_000
    rows = [
        ({"__name__": "future"}, [(now_ms + 660_000, 1.0)]),
        ({"__name__": "soon"}, [(now_ms + 540_000, 1.0)]),
        ({"__name__": "old"}, [(now_ms - 16 * day_ms, 1.0)]),
        ({"__name__": "aged"}, [(now_ms - 14 * day_ms, 1.0)]),
    ]
    status, n_written, text = await write(real, encode(rows), headers)
    assert (status, n_written) == (400, 2)
    assert "future" in text
    assert "old" in text
    assert "soon" not in text.replace("10 minutes", "")
    assert await values_of(real, "aged", now_ms - 14 * day_ms) != {}


@BOTH
async def test_accepted_oddities(real, now_ms, encode, headers):
    rows = [([("z", "1"), ("__name__", "odd"), ("a", "2"), ("empty", "")], [(now_ms, 1.0)])]
    assert (await write(real, encode(rows), headers))[0] == 204
    key = (("__name__", "odd"), ("a", "2"), ("z", "1"))
    assert await values_of(real, "odd", now_ms) == {key: "1"}


@pytest.mark.parametrize("version", [1, 2])
async def test_histograms_and_exemplars_are_counted_and_bad_ones_refused_by_name(
    real, now_ms, version
):
    good = native.Message(count=3, positive_spans=[(0, 1)], positive=[3], t_ms=now_ms)
    bad = native.Message(count=4, positive_spans=[(0, 1)], positive=[3], t_ms=now_ms)
    fine = body.Exemplar([(b"trace_id", b"ab")], now_ms, 0)
    long = body.Exemplar([(b"trace_id", b"a" * 121)], now_ms, 0)
    series = [
        body.Series([(b"__name__", b"float")], [(now_ms, 0)], exemplars=[fine, long]),
        body.Series([(b"__name__", b"good")], histograms=[native.encode(good)] * 2),
        body.Series([(b"__name__", b"bad")], histograms=[native.encode(bad)]),
    ]
    message, headers = body.encode_v1(series), wire.HEADERS_V1
    if version == 2:
        message, headers = body.encode_v2(series), wire.HEADERS_V2
    status, got, text = await real.call(
        "POST", "/write", data=wire.snappy(message), headers=headers
    )
    written = [
        got[f"X-Prometheus-Remote-Write-{kind}-Written"]
        for kind in ("Samples", "Histograms", "Exemplars")
    ]
    assert (status, written) == (400, ["1", "2", "1"])
    assert text.decode() == (
        "2 series refused, 3 samples of the others stored:\n"
        "float{}: an exemplar is refused: its labels have more than 128 characters\n"
        "bad{}: a native histogram is refused: its count is not the sum of its buckets\n"
    )
    _, _, metrics = await real.call("GET", "/metrics")
    protocol = f'{{protocol="{version}.0"}}'
    for name, count in (("samples", 1), ("histograms", 2), ("exemplars", 1)):
        line = f"tsengine_remote_write_{name}_total{protocol} {count}.0\n"
        assert line.encode() in metrics
    _, answer = await real.json("GET", "/api/v1/series?match[]={__name__=~'.%2B'}")
    assert [row["__name__"] for row in answer["data"]] == ["float", "good"]


@BOTH
async def test_cut_messages(real, now_ms, encode, headers):
    message = encode([({"__name__": f"cut{i}", "a": "b" * i}, [(now_ms, 1.0)]) for i in range(5)])
    for size in range(1, len(message), 7):
        status, _, text = await write(real, message[:size], headers)
        assert status in (204, 400), text
    assert (await write(real, message, headers))[:2] == (204, 5)


HOSTILE_QUERIES = {
    "parentheses": "(" * 100_000 + "1" + ")" * 100_000,
    "open parentheses": "(" * 100_000,
    "unary": "-" * 100_000 + "1",
    "sums": "1" + "+1" * 50_000,
    "functions": "abs(" * 50_000 + "x" + ")" * 50_000,
    "subqueries": "x" + "[1h:1s]" * 10_000,
    "braces": "{" * 100_000,
    "long name": "x" * 1_000_000,
    "long text": '"' + "x" * 1_000_000 + '"',
    "regex size": 'x{a=~"' + "(" * 100_000 + ")" * 100_000 + '"}',
    "regex of label_replace": 'label_replace(x, "b", "$1", "a", "'
    + "(" * 2_000
    + ")" * 2_000
    + '")',
    "regex repeat": 'x{a=~"((((a{1,100}){1,100}){1,100}){1,100}){1,100}"}',
    "not utf-8 after decoding": "x\x00y",
    "million steps of a subquery": "count_over_time(x[10y:1ms])",
}


@pytest.mark.parametrize("name", HOSTILE_QUERIES)
async def test_hostile_queries(real, now_ms, name):
    row = ({"__name__": "x", "a": "a" * 5000 + "!"}, [(now_ms, 1.0)])
    assert (await write(real, wire.message_v1([row])))[0] == 204
    started = time.monotonic()
    status, answer = await real.json(
        "POST", "/api/v1/query", data={"query": HOSTILE_QUERIES[name], "timeout": "5s"}
    )
    assert time.monotonic() - started < 15
    assert status in (200, 400, 422, 503), answer
    if status != 200:
        assert answer["error"]
        assert len(answer["error"]) < 3_000_000
    assert (await real.call("GET", "/-/ready"))[0] == 200


async def test_regex_bomb_is_answered_quickly(real, now_ms):
    rows = [({"__name__": "x", "a": "a" * 10_000 + str(i)}, [(now_ms, 1.0)]) for i in range(50)]
    assert (await write(real, wire.message_v1(rows)))[0] == 204
    started = time.monotonic()
    assert await values_of(real, 'count(x{a=~"(a*)*(a|aa)+(.*a){8}b"} or x)', now_ms) == {(): "50"}
    assert time.monotonic() - started < 5


async def test_parentheses_in_the_url(real):
    status, answer = await real.json("GET", "/api/v1/query?query=" + "(" * 100_000)
    assert (status, answer["errorType"]) == (400, "bad_data")
    status, _, _ = await real.call("GET", "/api/v1/query?query=" + "1" * 2_000_000)
    assert status in (400, 414)
    assert (await real.call("GET", "/-/ready"))[0] == 200


async def test_error_positions_and_types(real):
    _, answer = await real.json("GET", "/api/v1/query?query=sum(")
    assert answer["error"].startswith('invalid parameter "query": 1:5: parse error: ')
    path = "/api/v1/query_range?query=up[5m]&start=0&end=10&step=1"
    status, answer = await real.json("GET", path)
    assert (status, answer["errorType"]) == (400, "bad_data")
    assert "must be Scalar or instant Vector" in answer["error"]
    status, answer = await real.json("GET", "/api/v1/series?match[]={}")
    assert status == 400
    status, _, _ = await real.call("GET", "/api/v1/query_exemplars?query=1%2B1")
    assert status == 204


async def test_a_client_that_leaves_stops_the_evaluation(real, now_ms):
    rows = [({"__name__": "x", "i": str(i)}, [(now_ms - 1000, 1.0)]) for i in range(100)]
    assert (await write(real, wire.message_v1(rows)))[0] == 204
    heavy = "+".join(f"sum_over_time(x[{i}h])" for i in range(1, 200))
    form = {"query": heavy, "start": now_ms / 1000 - 11_000, "end": now_ms / 1000, "step": 1}
    call = asyncio.create_task(real.call("POST", "/api/v1/query_range", data=form))
    async with asyncio.timeout(10):
        while not real.server.executor.queries_running and not call.done():
            await asyncio.sleep(0.001)
    assert not call.done(), call.result()
    call.cancel()
    async with asyncio.timeout(5):
        while real.server.executor.queries_running:
            await asyncio.sleep(0.01)
