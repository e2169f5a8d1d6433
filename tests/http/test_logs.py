import io
import json
import logging
import re

import pytest

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
