"""format_query and parse_query."""

import orjson
import pytest


@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_answers_are_escaped_and_sorted(running, method):
    status, _, body = await running.call(method, "/api/v1/format_query?query=a%3Cb")
    assert (status, body) == (200, b'{"status":"success","data":"A\\u003cB"}')
    status, _, body = await running.call(method, "/api/v1/parse_query?query=a%3Cb")
    assert (status, body) == (
        200, b'{"status":"success","data":{"a":"a\\u003cb","bool":null,"type":"x"}}'
    )  # fmt: skip


@pytest.mark.parametrize("call", ["format_query", "parse_query"])
async def test_errors_name_the_place(real, call):
    status, answer = await real.json("POST", f"/api/v1/{call}", data={"query": "sum("})
    assert (status, answer["errorType"]) == (400, "bad_data")
    assert answer["error"].startswith('invalid parameter "query": 1:5: parse error: ')
    status, answer = await real.json("GET", f"/api/v1/{call}")
    assert status == 400
    assert "no expression found in input" in answer["error"]


async def test_long_queries_get_lines(real):
    query = "sum by(job)(rate(" + "x" * 90 + "[5m]))"
    _, answer = await real.json("POST", "/api/v1/format_query", data={"query": query})
    assert answer["data"] == "sum by (job) (\n  rate(" + "x" * 90 + "[5m])\n)"
    _, answer = await real.json("POST", "/api/v1/parse_query", data={"query": "1 + foo{a='b'}"})
    tree = answer["data"]
    assert (tree["type"], tree["op"], tree["matching"]) == ("binaryExpr", "+", None)
    assert tree["lhs"] == {"type": "numberLiteral", "val": "1"}
    assert tree["rhs"]["matchers"][1] == {"name": "a", "value": "b", "type": "="}


async def test_the_deepest_query_is_answered(real):
    query = "(" * 240 + "x" * 101 + ")" * 240
    _, _, body = await real.call("POST", "/api/v1/format_query", data={"query": query})
    assert orjson.loads(body)["data"].count("\n") == 480
    status, _, body = await real.call("POST", "/api/v1/parse_query", data={"query": query})
    assert (status, body.count(b"parenExpr")) == (200, 240)
