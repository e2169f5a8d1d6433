"""The description of the API: it names every route, and generated requests get what it promises.

A short run with fixed seeds by default. With new seeds and as many requests for every operation:
`TSENGINE_HTTP_EXAMPLES=2000 pytest tests/http/test_openapi.py`.
"""

import os

import pytest
import schemathesis
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from server.api.openapi import document
from server.app import ROUTES
from tests.http import wire
from tests.real.processes import ServerChild

EXAMPLES = int(os.environ.get("TSENGINE_HTTP_EXAMPLES", "0"))
START = 1_700_000_000
DOCUMENT = yaml.safe_load(document())
BYTES = st.binary(max_size=64)
MESSAGES = st.one_of(BYTES, BYTES.map(wire.snappy), st.just(wire.snappy(wire.message_v1([]))))
schemathesis.openapi.media_type("application/x-protobuf", MESSAGES)
SCHEMA = schemathesis.openapi.from_dict(DOCUMENT)
OPERATIONS = {
    operation.label: operation
    for operation in (result.ok() for result in SCHEMA.get_all_operations())
    if operation.path != "/-/quit"
}
FORESEEN_5XX = {500: ('"unavailable"',), 503: ('"timeout"',)}
"""What generated requests may run into: switched-off calls, a timeout of nothing."""

pytestmark = pytest.mark.timeout(3600 if EXAMPLES else 300)


def test_it_names_every_route_and_method():
    described = {
        (path, method.upper())
        for path, operations in DOCUMENT["paths"].items()
        for method in operations
        if method != "parameters"
    }
    served = {
        (path, method) for path, methods, _ in ROUTES for method in methods if method != "HEAD"
    }
    assert described == served


def test_every_part_is_used_and_there():
    text = document().decode()
    for kind, parts in DOCUMENT["components"].items():
        for name in parts:
            assert f"'#/components/{kind}/{name}'" in text, name
    for name in {part.split("'")[0] for part in text.split("'#/components/")[1:]}:
        kind, _, part = name.partition("/")
        assert part in DOCUMENT["components"][kind], name


async def test_it_is_served(start):
    running = await start(ready=False)
    status, headers, body = await running.call("GET", "/api/v1/openapi.yaml?openapi_version=3.2")
    assert (status, headers["Content-Type"]) == (200, "application/yaml; charset=utf-8")
    assert body == document()
    assert yaml.safe_load(body)["openapi"] == "3.1.0"


@pytest.mark.parametrize(
    "path", sorted(path for path, methods, _ in ROUTES if "GET" in methods and "{" not in path)
)
async def test_head_is_get_without_a_body(running, path):
    status, headers, body = await running.call("HEAD", path)
    expected, got, content = await running.call("GET", path)
    assert (status, body) == (expected, b"")
    assert headers.get("Content-Type") == got.get("Content-Type")
    if path not in ("/metrics", "/api/v1/status/self_metrics"):
        assert abs(int(headers.get("Content-Length", 0)) - len(content)) < 20


@pytest.mark.parametrize("path", sorted(path for path, _, _ in ROUTES if path.startswith("/api/")))
async def test_cross_origin_requests(running, path):
    path = path.format(name="job")
    headers = {"Origin": "https://example.org"}
    status, got, body = await running.call("OPTIONS", path, headers=headers)
    assert (status, body) == (204, b"")
    assert got["Access-Control-Allow-Origin"] == "*"
    assert got["Access-Control-Allow-Methods"] == "GET, POST, OPTIONS"
    assert got["Access-Control-Allow-Headers"] == "Accept, Authorization, Content-Type, Origin"
    _, got, _ = await running.call("GET", path, headers=headers)
    assert got["Access-Control-Allow-Origin"] == "*"
    assert got["Access-Control-Expose-Headers"] == "Date"


@pytest.fixture(scope="module")
def url(tmp_path_factory):
    """A server with some series, to which generated requests go."""
    import urllib.request

    folder = tmp_path_factory.mktemp("openapi")
    child = ServerChild(
        folder / "data", folder / "log", "--retention", "0", "--query.timeout", "5s",
        "--enable-feature", "search-api",
    )  # fmt: skip
    series = [
        ({"__name__": name, "job": job}, [((START + 15 * k) * 1000, k) for k in range(60)])
        for name in ("up", "m_total") for job in "ab"
    ]  # fmt: skip
    body = wire.snappy(wire.message_v1(series))
    request = urllib.request.Request(child.url + "/api/v1/write", body, wire.HEADERS_V1)
    urllib.request.urlopen(request, timeout=30).close()
    yield child.url
    assert child.stop() == 0
    assert "Traceback" not in child.text()


def has_parameters(operation):
    return bool(list(operation.iter_parameters()) or operation.body)


def can_be_spoiled(operation):
    """Whether a request can break the document: any bytes may be a protobuf message."""
    is_binary = any(body.media_type == "application/x-protobuf" for body in operation.body)
    return has_parameters(operation) and not is_binary


REQUESTS = [(label, GenerationMode.POSITIVE) for label in sorted(OPERATIONS)] + [
    (label, GenerationMode.NEGATIVE) for label in sorted(OPERATIONS)
    if can_be_spoiled(OPERATIONS[label])
]  # fmt: skip


@pytest.mark.parametrize(("label", "mode"), REQUESTS, ids=str)
def test_generated_requests(url, label, mode):
    operation = OPERATIONS[label]

    @settings(
        max_examples=EXAMPLES or (15 if has_parameters(operation) else 1),
        derandomize=not EXAMPLES, database=None, deadline=None,
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(case=operation.as_strategy(generation_mode=mode))
    def send(case):
        response = case.call(base_url=url, timeout=30)
        foreseen = FORESEEN_5XX.get(response.status_code, ())
        checks = [status_code_conformance, content_type_conformance, response_schema_conformance]
        if not any(text in response.text for text in foreseen):
            checks.append(not_a_server_error)
        case.validate_response(response, checks=checks)

    send()
