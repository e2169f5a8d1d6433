import io
import json
import logging
import re

import pytest
from aiohttp.http_exceptions import BadHttpMethod

from server import logs


@pytest.fixture
def stream():
    names = ("tsengine", "aiohttp", "asyncio")
    before = [(logging.getLogger(n), list(logging.getLogger(n).handlers)) for n in names]
    yield io.StringIO()
    for logger, handlers in before:
        logger.handlers = handlers
        logger.propagate = True
        logger.setLevel(logging.NOTSET)


def test_logfmt(stream):
    logs.setup("info", "logfmt", stream)
    logs.log(logging.INFO, "two words", path="a b", n=3, quote='"', empty="", newline="a\nb")
    logs.log(logging.WARNING, "careful")
    logs.LOGGER.debug("not shown")
    first, second = stream.getvalue().splitlines()
    assert re.fullmatch(
        r"ts=\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z level=info "
        r'msg="two words" path="a b" n=3 quote="\\"" empty="" newline="a\\nb"',
        first,
    )
    assert second.endswith("level=warn msg=careful")


def test_json(stream):
    logs.setup("error", "json", stream)
    logs.log(logging.WARNING, "not shown")
    try:
        raise ValueError("inside")
    except ValueError:
        logs.log(logging.ERROR, "failed", exc_info=True, path="x")
    (line,) = stream.getvalue().splitlines()
    entry = json.loads(line)
    assert (entry["level"], entry["msg"], entry["path"]) == ("error", "failed", "x")
    assert "ValueError: inside" in entry["trace"]


@pytest.mark.parametrize("level", ["info", "error"])
def test_bytes_that_are_no_request_are_a_warning_of_one_line(stream, level):
    logs.setup(level, "logfmt", stream)
    try:
        raise BadHttpMethod(error="Invalid method encountered:\n\n  b'+\\xa8'\n  ^")
    except BadHttpMethod as error:
        logging.getLogger("aiohttp.server").exception(
            "Error handling request from %s", "127.0.0.1", exc_info=error
        )
    if level == "error":
        assert stream.getvalue() == ""
        return
    (line,) = stream.getvalue().splitlines()
    assert "level=warn " in line
    assert "Error handling request from 127.0.0.1: BadHttpMethod: Invalid method" in line
    assert "trace" not in line
    assert "xa8" not in line


def test_other_errors_of_aiohttp_keep_their_trace(stream):
    logs.setup("info", "logfmt", stream)
    try:
        raise ValueError("inside")
    except ValueError as error:
        logging.getLogger("aiohttp.server").exception("Unhandled exception", exc_info=error)
    assert "level=error" in stream.getvalue()
    assert "ValueError: inside" in stream.getvalue()
