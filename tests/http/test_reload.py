"""Reload: what changes at once, what waits for a start, and that a bad file changes nothing."""

import asyncio
import json
import os
import signal
import time
import urllib.error
import urllib.request

import pytest

from server import cli, config
from server.lifecycle import open_database
from server.reload import plan_reload, reload
from tests.http import wire
from tests.real.processes import ServerChild
from tsengine import Tier
from tsengine.errors import OptionsError

WRITE = "/api/v1/write"


@pytest.fixture
async def reloadable(start, tmp_path):
    """A server over the real engine, and a function that writes its file."""
    path = tmp_path / "tsengine.yml"
    path.write_text("storage: {retention: 10d}\nweb: {enable_lifecycle: true}\n")

    def reread():
        flags = ["serve", "--config", str(path), "--data-dir", str(tmp_path / "data")]
        arguments = cli.make_parser().parse_args([*flags, "--query.timeout", "1m"])
        return config.load(arguments, {})

    loaded = reread()
    database = open_database(loaded)
    running = await start("--enable-lifecycle", database=database)
    running.server.config = loaded
    running.server.reread = reread
    yield running, path.write_text
    database.close()


async def metric(running, name):
    _, _, body = await running.call("GET", "/metrics")
    line = next(line for line in body.decode().splitlines() if line.startswith(name + " "))
    return float(line.split()[1])


async def write_sample(running, t_ms):
    body = wire.snappy(wire.message_v1([({"__name__": "m"}, [(t_ms, 1.0)])]))
    status, _, _ = await running.call("POST", WRITE, data=body, headers=wire.HEADERS_V1)
    return status


async def test_a_reload_applies_what_may_change(reloadable, now_ms):
    running, write = reloadable
    assert await write_sample(running, now_ms - 12 * 86_400_000) == 400
    write(
        "storage: {retention: 20d, retention_size: 1GB, memory: 3GB, compaction_rate: 5MB}\n"
        "web: {enable_lifecycle: true, listen: ':1'}\nquery: {timeout: 5m, max_steps: 7}\n"
    )
    before = await metric(running, "tsengine_config_last_reload_success_timestamp_seconds")
    status, _, body = await running.call("POST", "/-/reload")
    assert status == 200
    assert body.decode() == (
        "changed: storage.retention, storage.retention_size, storage.compaction_rate, "
        "storage.memory, query.max_steps\n"
        "not before the next start: web.listen\n"
    )
    # The flag still wins over the file.
    assert running.server.config.query_timeout_s == 60
    options = running.database.options
    assert options is running.database._storage.options
    assert (options.retention, options.retention_size) == (20 * 86400, 1 << 30)
    assert (options.memory, options.compaction_rate) == (3 << 30, 5 << 20)
    assert running.database._engine.memory.size_max == 3 << 30
    assert await write_sample(running, now_ms - 12 * 86_400_000) == 204
    asked = "/api/v1/query_range?query=1&start=0&end=8&step=1"
    assert (await running.call("GET", asked))[0] == 400
    assert await metric(running, "tsengine_config_last_reload_successful") == 1
    assert await metric(running, "tsengine_config_last_reload_success_timestamp_seconds") > before
    _, answer = await running.json("GET", "/api/v1/status/config")
    assert "  retention: 20d\n" in answer["data"]["yaml"]
    _, answer = await running.json("GET", "/api/v1/status/flags")
    assert answer["data"]["retention"] == "20d"
    _, answer = await running.json("GET", "/api/v1/status/runtimeinfo")
    assert answer["data"]["storageRetention"] == "20d or 1GiB"
    assert (await running.call("PUT", "/-/reload"))[2] == (
        b"not before the next start: web.listen\n"
    )


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("storage: {retention: 20d}\nquery: {timeout: x, max_steps: 5}", ":2: query.timeout: 'x'"),
        ("storage: {retention: 20d", "not YAML"),
        ("scrape_configs: []", "this looks like Prometheus's configuration"),
        ("storage: {retention: 20d}\nquery: {log_file: /no/such/folder/x}", "No such file"),
    ],
)
async def test_a_bad_file_changes_nothing(reloadable, text, told):
    running, write = reloadable
    server = running.server
    before = (server.config, running.database.options, server.limits)
    write(text)
    status, _, body = await running.call("POST", "/-/reload")
    assert status == 500
    assert body.decode().startswith("failed to reload config: ")
    assert told in body.decode()
    assert (server.config, running.database.options, server.limits) == before
    assert await metric(running, "tsengine_config_last_reload_successful") == 0
    _, answer = await running.json("GET", "/api/v1/status/runtimeinfo")
    assert answer["data"]["reloadConfigSuccess"] is False
    _, answer = await running.json("GET", "/api/v1/notifications")
    (note,) = answer["data"]
    assert (note["text"], note["active"]) == ("Configuration reload has failed.", True)
    assert note["date"].endswith("Z")
    write("web: {enable_lifecycle: true}")
    assert (await running.call("POST", "/-/reload"))[0] == 200
    assert await metric(running, "tsengine_config_last_reload_successful") == 1
    assert server.config.retention_s == 15 * 86400


async def test_a_database_that_refuses_keeps_everything(reloadable, monkeypatch):
    running, write = reloadable
    before = running.server.config

    def refuse(**changes):
        raise OptionsError("no")

    monkeypatch.setattr(running.database, "reconfigure", refuse)
    write("storage: {retention: 20d}\nweb: {enable_lifecycle: true}\nquery: {max_steps: 5}")
    status, _, body = await running.call("POST", "/-/reload")
    assert (status, body) == (500, b"failed to reload config: no\n")
    assert running.server.config is before


async def test_lifecycle_can_be_switched_off_by_a_reload(reloadable):
    running, write = reloadable
    write("storage: {retention: 10d}")
    assert (await running.call("POST", "/-/reload"))[0] == 200
    assert (await running.call("POST", "/-/reload"))[0] == 403


async def test_the_query_log_is_opened_anew(reloadable, tmp_path):
    running, write = reloadable
    log = tmp_path / "queries.log"
    write(f"web: {{enable_lifecycle: true}}\nquery: {{log_file: {log}}}")
    assert (await running.call("POST", "/-/reload"))[0] == 200
    await running.call("GET", "/api/v1/query?query=1")
    assert len(log.read_text().splitlines()) == 1
    log.rename(tmp_path / "queries.log.1")
    assert (await running.call("POST", "/-/reload"))[0] == 200
    await running.call("GET", "/api/v1/query?query=2")
    assert json.loads(log.read_text())["params"]["query"] == "2"
    write("web: {enable_lifecycle: true}")
    assert (await running.call("POST", "/-/reload"))[0] == 200
    await running.call("GET", "/api/v1/query?query=3")
    assert len(log.read_text().splitlines()) == 1


def test_plan_of_tiers():
    def with_tiers(text):
        return config.load(cli.make_parser().parse_args(["serve", "--tiers", text]), {})

    plan = plan_reload(with_tiers("5m:90d,1h:2y"), with_tiers("5m:10d,1h"))
    assert (plan.applied, plan.kept) == (("storage.tiers",), ())
    assert plan.changes == {"tiers": (Tier(300.0, 864000.0), Tier(3600.0, None))}
    plan = plan_reload(with_tiers("5m:90d,1h:2y"), with_tiers("5m:10d"))
    assert (plan.applied, plan.kept, plan.changes) == ((), ("storage.tiers",), {})


def call(url, data=None):
    try:
        with urllib.request.urlopen(url, data, timeout=10) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def test_a_process_reloads_by_signal(tmp_path):
    path = tmp_path / "tsengine.yml"
    path.write_text("storage: {retention: 10d}\nlog: {level: info}\n")
    child = ServerChild(tmp_path / "data", tmp_path / "log", "--config", str(path))
    try:
        assert call(child.url + "/-/reload", b"")[0] == 403
        _, text = call(child.url + "/api/v1/status/config")
        assert "retention: 10d" in json.loads(text)["data"]["yaml"]

        def after_signal(content, expected):
            path.write_text(content)
            os.kill(child.process.pid, signal.SIGHUP)
            deadline = time.monotonic() + 60
            while time.monotonic() < deadline:
                _, text = call(child.url + "/metrics")
                if f"tsengine_config_last_reload_successful {expected}\n" in text:
                    return json.loads(call(child.url + "/api/v1/status/config")[1])["data"]["yaml"]
                time.sleep(0.05)
            raise AssertionError("the signal was not heard")

        assert "retention: 10d" in after_signal("storage: {retention: bad}\n", "0.0")
        assert "retention: 11d" in after_signal("storage: {retention: 11d}\n", "1.0")
        child.wait_for("storage.retention: 'bad' is not a duration")
        child.wait_for("configuration reloaded")
    finally:
        code = child.stop()
    assert code == 0


async def test_a_reload_ends_though_who_asked_goes_away(reloadable):
    running, write = reloadable
    write("storage: {retention: 20d}\nweb: {enable_lifecycle: true}\n")
    asked = asyncio.ensure_future(reload(running.server))
    await asyncio.sleep(0)
    asked.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asked
    for _ in range(6000):
        if running.server.config.retention_s == 20 * 86_400:
            break
        await asyncio.sleep(0.01)
    assert running.server.config.retention_s == 20 * 86_400
    assert running.server.database.options.retention == 20 * 86_400
