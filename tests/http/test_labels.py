"""/series, /labels, /label/{name}/values, /metadata."""

import pytest

FORM = {"Content-Type": "application/x-www-form-urlencoded"}


@pytest.fixture
async def filled(running):
    running.database.rows.update(
        {
            (("__name__", "up"), ("job", "<a>")): {1000: 1.0},
            (("__name__", "up"), ("job", "b")): {1000: 1.0},
            (("__name__", "down"), ("http.status", "x")): {1000: 1.0},
        }
    )
    return running


async def test_series(filled):
    _, _, body = await filled.call("GET", "/api/v1/series?match[]=up")
    # Label objects keep < and >, unlike lists of strings.
    assert body == (
        b'{"status":"success","data":[{"__name__":"up","job":"<a>"},{"__name__":"up","job":"b"}]}'
    )


async def test_series_takes_several_selectors_and_times(filled):
    body = "match[]=up&match[]=down&start=1&end=2.5&limit=40000"
    _, answer = await filled.json("POST", "/api/v1/series", data=body, headers=FORM)
    assert len(answer["data"]) == 3
    assert filled.database.calls == [("series", ["up", "down"], 1000, 2500, 40000)]


async def test_truncation_is_a_warning(filled):
    for path in ("series?match[]=up&", "labels?", "label/job/values?"):
        _, answer = await filled.json("GET", f"/api/v1/{path}limit=1")
        assert len(answer["data"]) == 1
        assert answer["warnings"] == ["results truncated due to limit"]
        _, answer = await filled.json("GET", f"/api/v1/{path}limit=0")
        assert len(answer["data"]) >= 2
        assert "warnings" not in answer


async def test_labels(filled):
    for method in ("GET", "POST"):
        _, answer = await filled.json(method, "/api/v1/labels?match[]=up")
        assert answer == {"status": "success", "data": ["__name__", "job"]}


async def test_values_are_escaped(filled):
    _, _, body = await filled.call("GET", "/api/v1/label/job/values")
    assert body == b'{"status":"success","data":["\\u003ca\\u003e","b"]}'


@pytest.mark.parametrize("name", ["http.status", "U__http_2e_status", "http%2Estatus"])
async def test_values_of_names_with_dots(filled, name):
    _, answer = await filled.json("GET", f"/api/v1/label/{name}/values")
    assert answer["data"] == ["x"]


async def test_values_of_odd_names(filled):
    for name, seen in (("unknown", "unknown"), ("a%2Fb", "a/b"), ("%C3%A4", "ä"),
                       ("U__a_zz_", "U__a_zz_")):  # fmt: skip
        status, answer = await filled.json("GET", f"/api/v1/label/{name}/values")
        assert (status, answer["data"]) == (200, [])
        assert filled.database.calls[-1][1] == seen


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("series", "no match[] parameter provided"),
        ("series?match[]={}", 'invalid parameter "match[]": match[] must contain'),
        ("series?match[]=up&start=x", 'invalid parameter "start": cannot parse "x"'),
        ("series?match[]=up&start=2&end=1", 'invalid parameter "end": end timestamp must not'),
        ("series?match[]=up&limit=-1", 'invalid parameter "limit": limit must be non-negative'),
        ("labels?match[]={}", 'invalid parameter "match[]": '),
        ("labels?limit=x", 'invalid parameter "limit": '),
        ("label/job/values?match[]={}", 'invalid parameter "match[]": '),
        ("metadata?limit=x", 'invalid parameter "limit": '),
        ("metadata?limit_per_metric=x", 'invalid parameter "limit_per_metric": '),
    ],
)
async def test_refusals(filled, path, text):
    status, answer = await filled.json("GET", "/api/v1/" + path)
    assert (status, answer["errorType"]) == (400, "bad_data")
    assert answer["error"].startswith(text)


async def test_label_name_that_is_not_utf8(filled):
    reader, writer = await _raw(filled, b"GET /api/v1/label/%ff/values HTTP/1.1\r\nHost: x\r\n\r\n")
    assert (await reader.readline()).startswith(b"HTTP/1.1 400")
    writer.close()


async def _raw(running, request):
    import asyncio

    port = int(running.url.rpartition(":")[2])
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(request)
    await writer.drain()
    return reader, writer


async def test_metadata(filled):
    _, _, body = await filled.call("GET", "/api/v1/metadata")
    assert body == (
        b'{"status":"success","data":{"up":[{"type":"gauge","help":"a\\u003cb","unit":""}]}}'
    )
    assert (await filled.json("GET", "/api/v1/metadata?metric=down"))[1]["data"] == {}
    assert "up" in (await filled.json("GET", "/api/v1/metadata?limit=-1"))[1]["data"]
    assert (await filled.json("GET", "/api/v1/metadata?limit=0"))[1]["data"] == {}
