"""/federate: negotiation, refusals, answers."""

import pytest

from server.api.federate import Format, negotiate

TEXT, OPEN = "text/plain", "application/openmetrics-text"
PROMETHEUS_3 = (
    "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,"
    "application/openmetrics-text;version=0.0.1;q=0.5,"
    "text/plain;version=1.0.0;escaping=allow-utf-8;q=0.4,text/plain;version=0.0.4;q=0.3,*/*;q=0.2"
)


@pytest.mark.parametrize(
    ("accept", "expected"),
    [
        ("", Format()),
        ("*/*", Format()),
        ("text/html", Format()),
        (PROMETHEUS_3, Format(openmetrics=True, utf8=True)),
        (f"{OPEN};q=0.2, {TEXT};q=0.7", Format()),
        (f"{OPEN};q=x, {TEXT};escaping=allow-utf-8", Format(utf8=True)),
        (f"{TEXT}, {OPEN}", Format()),
        (f"{OPEN};q=0", Format()),
    ],
)
def test_negotiation(accept, expected):
    assert negotiate(accept) == expected


async def test_answers(real, now_ms):
    real.database.append({"__name__": "b", "job": "x<&>"}, [now_ms - 1000], [2.5])
    real.database.append({"__name__": "a", "instance": "i"}, [now_ms - 2000], [1])
    real.database.append({"__name__": "old"}, [now_ms - 400_000], [1])
    path = "/federate?match[]=b&match[]=%7B__name__%3D~%22a|old%22%7D"
    status, headers, body = await real.call("GET", path)
    assert status == 200
    assert headers["Content-Type"] == (
        "text/plain; version=0.0.4; charset=utf-8; escaping=underscores"
    )
    assert body.decode().splitlines() == [
        "# TYPE a untyped",
        f'a{{instance="i"}} 1 {now_ms - 2000}',
        "# TYPE b untyped",
        f'b{{job="x<&>",instance=""}} 2.5 {now_ms - 1000}',
    ]
    _, headers, body = await real.call("GET", path, headers={"Accept": PROMETHEUS_3})
    assert headers["Content-Type"] == (
        "application/openmetrics-text; version=1.0.0; charset=utf-8; escaping=allow-utf-8"
    )
    assert body.endswith(b"# EOF\n")


async def test_refusals(real):
    status, headers, body = await real.call("GET", "/federate?match[]=sum(")
    assert status == 400
    assert headers["Content-Type"].startswith("text/plain")
    assert b"1:4: parse error" in body
    assert (await real.call("GET", "/federate?match[]={}"))[0] == 400
    assert (await real.call("GET", "/federate"))[::2] == (200, b"")
    assert (await real.call("POST", "/federate"))[0] == 405
