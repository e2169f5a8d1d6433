"""The configuration file: what it may say, who wins over it, what is told when it is wrong."""

import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st

import tsengine
from server import cli, config
from server.config_file import read_config
from server.config_settings import BY_PATH, SETTINGS

DOCS = Path(__file__).resolve().parents[2] / "docs" / "configuration.md"
ALL = """\
storage:
  data_dir: /var/lib/tsengine
  retention: 30d
  retention_size: 50GB
  retention_rules:
    - {match: '{job="ci"}', keep: 3d}
    - match: up{env="a:b;c"}
      keep: 0
  tiers: [{width: 5m, retention: 90d}, {width: 1h}]
  tier_delay: 1h
  compaction_rate: 50MB
  memory: 2GB
  exemplar_retention: off
  exemplars_max: 5000
  metadata_memory: 16MiB
  fsync: interval
web:
  listen: :9000
  enable_admin_api: true
  enable_lifecycle: 1
  search_max_limit: 0
  max_connections: 500
  cors_origin: https://.*\\.example\\.org
query:
  timeout: 90s
  max_samples: 1_000
  max_memory: 1GiB
  max_total_memory: 2GiB
  slow_threshold: off
  log_file: queries.log
  max_concurrency: 3
  max_steps: 100
  lookback_delta: 1m
otlp: {enabled: false, translation_strategy: NoTranslation,
       promote_resource_attributes: [a, "b"], keep_identifying_resource_attributes: true}
cold: {url: s3://bucket/prefix, after: 30d, endpoint_url: "http://127.0.0.1:9000", cache: 2GiB}
log: {level: warn, format: json}
features: [search-api]
self_scrape: off
"""


def load(*flags, environment=None):
    arguments = cli.make_parser().parse_args(["serve", *flags])
    return config.load(arguments, environment or {})


@pytest.fixture
def written(tmp_path):
    def write(text):
        path = tmp_path / "tsengine.yml"
        path.write_text(text)
        return str(path)

    return write


def test_a_file_can_say_everything(written):
    path = written(ALL)
    assert set(read_config(path)) == {setting.key for setting in SETTINGS if setting.path}
    loaded = load("--config", path)
    assert (loaded.data_dir, loaded.host, loaded.port) == ("/var/lib/tsengine", "0.0.0.0", 9000)
    assert loaded.retention_s == 30 * 86400
    assert loaded.retention_size == 50 << 30
    assert loaded.retention_rules == (
        tsengine.RetentionRule('{job="ci"}', 3 * 86400.0),
        tsengine.RetentionRule('up{env="a:b;c"}', None),
    )
    assert loaded.tiers == (tsengine.Tier(300.0, 90 * 86400.0), tsengine.Tier(3600.0, None))
    assert loaded.tier_delay_s == 3600
    assert (loaded.compaction_rate, loaded.memory) == (50 << 20, 2 << 30)
    assert loaded.exemplar_retention_s is loaded.self_scrape_s is loaded.query_slow_s is None
    assert loaded.fsync == "interval"
    assert loaded.enable_admin_api
    assert loaded.enable_lifecycle
    assert not loaded.enable_otlp
    assert loaded.otlp_promoted == {"a", "b"}
    assert loaded.features == {"search-api"}
    assert (loaded.query_timeout_s, loaded.query_samples_max) == (90, 1000)
    assert loaded.cors_origin == r"https://.*\.example\.org"
    assert loaded.limits().connections_max == 500
    options = loaded.options()
    assert options.tiers == loaded.tiers
    assert options.memory == 2 << 30
    assert (options.cold_url, options.cold_after) == ("s3://bucket/prefix", 30 * 86400)
    assert (options.cold_endpoint_url, options.cold_cache) == ("http://127.0.0.1:9000", 2 << 30)
    assert options.retention_rules == loaded.retention_rules


def test_flags_win_over_variables_and_these_over_the_file(written):
    path = written(ALL)
    environment = {
        "TSENGINE_CONFIG": path, "TSENGINE_RETENTION": "20d", "TSENGINE_MEMORY": "1GB",
        "TSENGINE_RETENTION_RULE": '{a="x;y:1d"}:1d; {b="c"}:0',
    }  # fmt: skip
    loaded = load("--retention", "10d", environment=environment)
    assert loaded.retention_s == 10 * 86400
    assert loaded.memory == 1 << 30
    assert loaded.retention_size == 50 << 30
    assert [(rule.match, rule.keep) for rule in loaded.retention_rules] == [
        ('{a="x;y:1d"}', 86400.0), ('{b="c"}', None),
    ]  # fmt: skip
    loaded = load("--config", path, "--retention-rule", "a:1d", "--retention-rule", "b:2d")
    assert [rule.match for rule in loaded.retention_rules] == ["a", "b"]
    assert load("--config", path, "--tiers", "off").tiers == ()
    assert load("--tiers", "10m,2h:1y").tiers == (
        tsengine.Tier(600.0, None), tsengine.Tier(7200.0, 365 * 86400.0),
    )  # fmt: skip


def test_an_empty_file_says_nothing(written):
    for text in ("", "# nothing\n", "storage:\n", "storage: {}\nweb:\n"):
        path = written(text)
        assert read_config(path) == {}
        assert config.as_yaml(load("--config", path)) == config.as_yaml(load())


def test_the_effective_yaml_reads_the_same(written):
    before = load("--config", written(ALL))
    text = config.as_yaml(before)
    assert yaml.safe_load(text)["storage"]["tiers"][1] == {"width": "1h", "retention": 0}
    after = load("--config", written(text))
    assert after == before


durations = st.integers(1, 10**11).map(lambda ms: ms / 1000)


@given(
    data_dir=st.text(st.characters(codec="utf-8", categories=("L", "N", "P", "S", "Zs"))),
    retention=st.none() | durations,
    size=st.integers(1, 1 << 50),
    names=st.frozensets(
        st.text(st.characters(codec="ascii", categories=("L", "N", "S")), min_size=1)
    ),
    listen=st.tuples(st.sampled_from(["::1", "h", "0.0.0.0"]), st.integers(0, 65535)),
    rules=st.lists(st.tuples(st.sampled_from(["up", '{a="\'#:;"}']), st.none() | durations)),
)
@example(
    data_dir="d", retention=None, size=10**15 + 1, names=frozenset(), listen=("h", 1), rules=[]
)
@settings(max_examples=60, deadline=None)
def test_any_configuration_can_be_written_and_read(
    tmp_path_factory, data_dir, retention, size, names, listen, rules
):
    values = {
        setting.field: None if setting.default is None else setting.kind.parse(setting.default)
        for setting in SETTINGS
    }
    values |= {
        "data_dir": data_dir, "retention_s": retention, "retention_size": size,
        "features": names, "listen": listen,
        "retention_rules": tuple(tsengine.RetentionRule(*rule) for rule in rules),
    }  # fmt: skip
    path = tmp_path_factory.mktemp("c") / "c.yml"
    values["config_file"] = str(path)
    before = config.make(values)
    path.write_text(config.as_yaml(before))
    assert load("--config", str(path)) == before


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("storage:\n  retension: 1d", "2: storage.retension: unknown key; did you mean retention?"),
        ("storage:\n  timeout: 1m", "2: storage.timeout: unknown key; did you mean query.timeout?"),
        ("qery: {}", "1: qery: unknown key; did you mean query?"),
        ("zzz: 1", "1: zzz: unknown key"),
        ("\nstorage: 5", "2: storage: must be a section with keys, not the value '5'"),
        ("- a", "1: the file is not a mapping of sections like 'storage:'"),
        ("storage:\n  retention: soon",
         "2: storage.retention: 'soon' is not a duration like 15s, 2m or 15d"),
        ("storage: {retention: [1d]}", "1: storage.retention: must be one value, not a list"),
        ("storage: {retention: }", "1: storage.retention: has no value"),
        ("storage: {memory: -1}", "1: storage.memory: '-1' is not a size like 512MiB or 4GiB"),
        ("storage: {retention_size: 50}",
         "1: storage.retention_size: '50' has no unit; write 50GB or the like"),
        ("cold: {url: bucket}", "1: cold.url: 'bucket' is not a place like s3://bucket/prefix"),
        ("cold: {after: 1d}", "cold_after needs cold_url, where old parts are moved to"),
        ("storage: {memory: 2}", "memory must be 0 or at least 16777216 bytes, got 2"),
        ("storage: {tiers: 5m}",
         "1: storage.tiers: must be a list of items like {width: 5m, retention: 90d}, not the "
         "value '5m'"),
        ("storage:\n  tiers:\n  - width: 5m\n  - widht: 1h",
         "4: storage.tiers[1].widht: unknown key; did you mean width?\n"
         "F:4: storage.tiers[1]: the key width is missing"),
        ("storage:\n  tiers:\n  - {width: 5m, retention: x}",
         "3: storage.tiers[0].retention: 'x' is not a duration like 15s, 2m or 15d"),
        ("storage:\n  tiers: [{width: 7m}]",
         "2: storage.tiers: a tier's width must divide a day, and be at least 1 s: 420.0"),
        ("storage:\n  retention_rules:\n  - {match: {job: ci}, keep: 3d}",
         "3: storage.retention_rules[0].match: must be one value, not a mapping; put the selector "
         "in quotes: '{job=\"ci\"}'"),
        ("storage:\n  retention_rules:\n  - {match: 'a{', keep: 3d}",
         "3: storage.retention_rules[0]: 'a{' is not a selector: 1:3: parse error: unexpected end "
         "of input inside braces"),
        ("storage:\n  retention_rules: [x]",
         "2: storage.retention_rules[0]: must have the keys match, keep, not be the value 'x'"),
        ("features: search-api",
         "1: features: must be a list of items like - name, not the value 'search-api'"),
        ("log: {level: loud}", "1: log.level: 'loud' is none of debug, info, warn, error"),
        ("web: {enable_admin_api: yes}",
         "1: web.enable_admin_api: 'yes' is neither true nor false"),
        ("storage: {retention: 1d}\nweb: {}\nstorage: {}", "3: storage: stands on line 1 already"),
        ("web: {listen: a, listen: b}", "1: web.listen: 'a' is not HOST:PORT like 127.0.0.1:9201\n"
         "F:1: web.listen: stands on line 1 already"),
        ("storage: {a: 1", "1:15: not YAML: expected ',' or '}', but got '<stream end>'"),
        ("a: b: c", "1:5: not YAML: mapping values are not allowed here"),
        ("? [a]\n: b", "1: a key must be a word"),
        ("x: 1\ny: 2", "1: x: unknown key\nF:2: y: unknown key"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_told_with_line_and_key(written, text, told):
    path = written(text)
    with pytest.raises(config.ConfigError) as raised:
        load("--config", path)
    # What only several settings together say has no line.
    expected = told if told.startswith(("memory", "cold_after")) else f"F:{told}"
    assert str(raised.value).replace(path, "F") == expected


def test_a_prometheus_configuration_is_recognised(written):
    path = written("# theirs\nglobal:\n  scrape_interval: 15s\nscrape_configs: []\n")
    with pytest.raises(config.ConfigError) as raised:
        load("--config", path)
    assert str(raised.value).startswith(
        f"{path}:2: this looks like Prometheus's configuration (global:). tsengine scrapes nothing"
    )
    assert "remote_write" in str(raised.value)


def test_files_that_can_not_be_read(tmp_path):
    with pytest.raises(config.ConfigError, match=r"nothing\.yml: No such file"):
        load("--config", str(tmp_path / "nothing.yml"))
    with pytest.raises(config.ConfigError, match="Is a directory"):
        load("--config", str(tmp_path))
    path = tmp_path / "x"
    path.write_bytes(b"storage: \xff\n")
    with pytest.raises(config.ConfigError, match="not UTF-8 at byte 9"):
        load("--config", str(path))
    path.write_bytes(b"a: \x00\n")
    with pytest.raises(config.ConfigError, match="not YAML"):
        load("--config", str(path))
    path.write_bytes(b"[" * 100_000)
    with pytest.raises(config.ConfigError, match="not YAML"):
        load("--config", str(path))
    path.write_bytes(b" " * (2 << 20))
    with pytest.raises(config.ConfigError, match="larger than 1048576 bytes"):
        load("--config", str(path))


def test_wrong_flags_of_lists():
    for flags, told in (
        (("--tiers", "5m:x"), "--tiers: 'x' is not a duration"),
        (("--tiers", "1h,5m"), "--tiers: a tier's width must be a multiple of the finer one's"),
        (("--retention-rule", "up"), "--retention-rule: 'up' is not SELECTOR:DURATION"),
        (("--retention-rule", "up{:1d"), "--retention-rule: 'up{' is not a selector"),
    ):
        with pytest.raises(config.ConfigError, match=told):
            load(*flags)


# --- check-config --------------------------------------------------------------------------------


def test_check_config(written, capsys, monkeypatch):
    path = written("storage:\n  retention: 30d\n  tiers: []\nquery: {timeout: 1m}\n")
    assert cli.main(["check-config", path]) == 0
    assert capsys.readouterr().out.replace(path, "F") == (
        "F:2: storage.retention = 30d\nF:3: storage.tiers = off\nF:4: query.timeout = 1m\n"
        "F: fine, 3 settings\n"
    )
    monkeypatch.setenv("TSENGINE_QUERY_TIMEOUT", "3m")
    assert cli.main(["check-config", path, "--retention", "3d"]) == 0
    out = capsys.readouterr().out.replace(path, "F")
    assert "F:2: warning: --retention sets storage.retention to 3d instead\n" in out
    assert "F:4: warning: TSENGINE_QUERY_TIMEOUT sets query.timeout to 3m instead\n" in out


def test_check_config_refuses(written, tmp_path, capsys):
    path = written("storage:\n  retention: soon\n")
    assert cli.main(["check-config", path]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == (
        f"{path}:2: storage.retention: 'soon' is not a duration like 15s, 2m or 15d\n"
    )
    assert cli.main(["check-config", str(tmp_path / "none.yml")]) == 2
    assert "there is no such file" in capsys.readouterr().err
    assert cli.main(["serve", "--config", path]) == 2
    assert f"{path}:2: storage.retention" in capsys.readouterr().err


def test_no_yaml_is_loaded_without_a_file():
    code = (
        "import sys\n"
        "from server import cli, config\n"
        "config.load(cli.make_parser().parse_args(['serve']), {})\n"
        "assert 'yaml' not in sys.modules and 'numpy' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


# --- the document --------------------------------------------------------------------------------


def test_every_key_is_documented():
    text = DOCS.read_text()
    for path in BY_PATH:
        section, _, name = path.rpartition(".")
        assert f"`{path}`" in text, path
        assert section or name
    for setting in SETTINGS:
        if setting.path:
            (row,) = [r for r in text.splitlines() if r.startswith(f"| `{setting.path}`")]
            assert f"`{setting.flags[0]}`" in row
            assert ("| at once |" if setting.is_live else "| at the next start |") in row


def test_the_examples_of_the_document_are_fine(tmp_path):
    blocks = DOCS.read_text().split("```yaml\n")[1:]
    assert blocks
    for number, block in enumerate(blocks):
        path = tmp_path / f"{number}.yml"
        path.write_text(block.split("```")[0])
        assert read_config(str(path))
