"""The command line: usage, exit codes, settings, and answers of a server printed in all formats."""

import asyncio
import csv
import io
import json
import subprocess
import sys

import pytest

from server import cli, config
from server.commands_query import Answer, parse_moment, rows_of, series_text
from server.exits import UsageError
from tests.http.conftest import make_config

VERBS = ("serve", "query", "import", "export", "inspect", "check", "warmup", "check-config")


def run(*arguments, capsys=None):
    try:
        return cli.main(arguments)
    except SystemExit as error:
        return error.code


@pytest.mark.parametrize("verb", VERBS)
def test_help(verb, capsys):
    assert run(verb, "--help") == 0
    text = capsys.readouterr().out
    assert text.startswith(f"usage: tsengine {verb}")
    if verb != "warmup":
        assert "--data-dir DIR" in text


def test_help_names_every_verb(capsys):
    assert run("--help") == 0
    text = capsys.readouterr().out
    assert all(f"\n    {verb}" in text for verb in VERBS)


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("nonsense",),
        ("query",),
        ("query", "up"),
        ("query", "up", "--data-dir", "d", "--url", "http://x"),
        ("query", "up", "--data-dir", "no/such/directory"),
        ("query", "up", "--url", "x"),
        ("query", "up", "--url", "http://x", "--step", "1m"),
        ("query", "up", "--url", "http://x", "--time", "1", "--start", "1"),
        ("query", "up", "--url", "http://x", "--time", "yesterday"),
        ("query", "up", "--url", "http://x", "--start", "5", "--end", "4"),
        ("query", "up", "--url", "http://x", "--start", "5", "--step", "0"),
        ("query", "up", "--url", "http://x", "--format", "xml"),
        ("inspect", "--data-dir", "no/such/directory"),
        ("check", "--data-dir", "no/such/directory"),
        ("export", "x.om", "--data-dir", "no/such/directory"),
        ("export", "x.unknown", "--data-dir", "no/such/directory"),
        ("import", "no-such-file.om", "--data-dir", "d"),
        ("warmup", "--cpu", "z80"),
        ("serve", "--listen", "nowhere"),
        ("serve", "--listen", "x:99999"),
        ("serve", "--retention", "soon"),
        ("serve", "--config", "file.yml"),
        ("serve", "--self-scrape", "0s"),
        ("serve", "--query.max-samples", "0"),
        ("serve", "--web.cors.origin", "("),
        ("serve", "--fsync", "never"),
        ("serve", "--retent", "1d"),
    ],
)
def test_wrong_usage(arguments, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run(*arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.strip()
    assert "Traceback" not in captured.err
    assert list(tmp_path.iterdir()) == []


def test_serve_without_its_packages_says_what_to_install(tmp_path):
    """With aiohttp hidden as if it was never installed."""
    code = (
        "import importlib.util, sys\n"
        "real = importlib.util.find_spec\n"
        "importlib.util.find_spec = lambda n, *a: None if n == 'aiohttp' else real(n, *a)\n"
        "sys.modules['aiohttp'] = None\n"
        "from server.cli import main\n"
        "sys.exit(main(['serve']))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert done.stderr == (
        "tsengine: the server is not installed; run: pip install 'tsengine[server]'\n"
    )


def test_prometheus_spellings_and_environment():
    theirs = make_config(
        "--storage.tsdb.path", "p", "--web.listen-address", ":9090",
        "--storage.tsdb.retention.time", "30d", "--web.enable-admin-api", "--web.enable-lifecycle",
        "--log.level", "warn", "--log.format", "json",
    )  # fmt: skip
    assert (theirs.data_dir, theirs.host, theirs.port) == ("p", "0.0.0.0", 9090)
    assert theirs.retention_s == 30 * 86400
    assert theirs.enable_admin_api
    assert theirs.enable_lifecycle
    assert (theirs.log_level, theirs.log_format) == ("warn", "json")
    parser = cli.make_parser()
    environment = {
        "TSENGINE_LISTEN": "[::1]:0", "TSENGINE_RETENTION": "0",
        "TSENGINE_ENABLE_ADMIN_API": "true",
        "TSENGINE_QUERY_TIMEOUT": "5s", "TSENGINE_SELF_SCRAPE": "off", "TSENGINE_DATA_DIR": "x",
        "TSENGINE_ENABLE_FEATURE": "a, b",
    }  # fmt: skip
    loaded = config.load(parser.parse_args(["serve", "--data-dir", "flag"]), environment)
    assert (loaded.data_dir, loaded.host, loaded.port) == ("flag", "::1", 0)
    assert loaded.retention_s is loaded.self_scrape_s is None
    assert loaded.enable_admin_api
    assert loaded.query_timeout_s == 5
    assert loaded.features == {"a", "b"}
    with pytest.raises(config.ConfigError, match="TSENGINE_FSYNC: 'x' is none of always, interval"):
        config.load(parser.parse_args(["serve"]), {"TSENGINE_FSYNC": "x"})


def test_defaults():
    defaults = config.load(cli.make_parser().parse_args(["serve"]), {})
    assert (defaults.host, defaults.port, defaults.data_dir) == ("127.0.0.1", 9201, "data")
    assert defaults.retention_s == 15 * 86400
    assert defaults.self_scrape_s == 15
    assert not defaults.enable_admin_api
    assert defaults.query_timeout_s == 120
    assert defaults.limits().queries_running_max == 20


@pytest.fixture
async def served(running):
    running.database.rows.update(
        {
            (("__name__", "up"), ("job", 'a"b')): {1000: 1.0, 2000: 2.5},
            (("__name__", "up"), ("instance", "x")): {1000: 4.0},
        }
    )
    return running


async def ask(running, *arguments):
    """Run `tsengine query` in a thread, as the server runs on this one."""
    return await asyncio.to_thread(cli.main, ["query", *arguments, "--url", running.url])


async def test_query_table(served, capsys):
    assert await ask(served, "up", "--time", "1") == 0
    assert capsys.readouterr().out == (
        "SERIES            TIME                      VALUE\n"
        'up{instance="x"}  1970-01-01T00:00:01.000Z  4.0\n'
        'up{job="a\\"b"}    1970-01-01T00:00:01.000Z  1.0\n'
    )


async def test_query_csv(served, capsys):
    assert await ask(served, "up", "--start", "1", "--end", "2", "--step", "1s",
                     "--format", "csv") == 0  # fmt: skip
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert [(r["job"], r["instance"], r["timestamp"], r["value"]) for r in rows] == [
        ("", "x", "1.0", "4.0"), ('a"b', "", "1.0", "1.0"), ('a"b', "", "2.0", "2.5"),
    ]  # fmt: skip


async def test_query_json(served, capsys):
    assert await ask(served, "1+1", "--time", "4", "--format", "json") == 0
    assert json.loads(capsys.readouterr().out) == {"resultType": "scalar", "result": [4.0, "2.0"]}


async def test_query_arrow(served, capsysbinary):
    import pyarrow as pa

    assert await ask(served, "up", "--start", "1", "--end", "2", "--step", "1s",
                     "--format", "arrow") == 0  # fmt: skip
    table = pa.ipc.open_stream(capsysbinary.readouterr().out).read_all()
    assert table["value"].to_pylist() == [4.0, 1.0, 2.5]
    assert table["timestamp"].cast(pa.int64()).to_pylist() == [1000, 1000, 2000]
    assert dict(table["labels"].to_pylist()[0]) == {"__name__": "up", "instance": "x"}


async def test_query_notes_and_errors(served, capsys):
    served.database.rows[(("__name__", "noted"),)] = {1000: 1.0}
    assert await ask(served, "noted", "--time", "1") == 0
    assert capsys.readouterr().err.startswith("PromQL warning: 0\n")
    assert await ask(served, "nothing", "--time", "1") == 0
    assert capsys.readouterr().err == "no data\n"
    assert await ask(served, "up(") == 2
    assert "parse error" in capsys.readouterr().err
    assert await ask(served, "many") == 1
    assert "too many samples" in capsys.readouterr().err
    code = await asyncio.to_thread(cli.main, ["query", "up", "--url", "http://127.0.0.1:1"])
    assert code == 1
    assert "can't reach" in capsys.readouterr().err


def test_moments():
    assert parse_moment("now", "--time", 5000) == 5000
    assert parse_moment("now-2s", "--time", 5000) == 3000
    assert parse_moment("1.5", "--time", 0) == 1500
    with pytest.raises(UsageError, match="--time: 'now-' is no time"):
        parse_moment("now-", "--time", 0)


def test_rows_of_histograms_and_strings():
    series = {"metric": {"__name__": "h"}, "values": [[3, "1"]], "histograms": [[2, {"sum": "7"}]]}
    rows = list(rows_of(Answer("matrix", [series])))
    assert [(row.t_s, row.value) for row in rows] == [(2, '{"sum": "7"}'), (3, "1")]
    assert [row.value for row in rows_of(Answer("string", [1, "text"]))] == ["text"]


def test_series_text():
    assert series_text({"__name__": "up"}) == "up"
    assert series_text({}) == "{}"
    assert series_text({"b": "2", "a": "1"}) == '{a="1", b="2"}'
