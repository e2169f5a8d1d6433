"""Passwords in URLs of the configuration are refused, and never said again."""

from __future__ import annotations

import pytest

import tsengine
from server import cli, config

SECRET = "hunter2"
PLACES = [
    ("url", f"s3://AKIA:{SECRET}@bucket/prefix"),
    ("url", f"s3://{SECRET}@bucket"),
    ("url", f"s3://AKIA:{SECRET}/slash@bucket/prefix"),
    ("url", f"https://u:{SECRET}@example.org/bucket"),
    ("endpoint_url", f"https://user:{SECRET}@127.0.0.1:9000"),
    ("endpoint_url", f"http://{SECRET}@[::1]:9000/x"),
    ("endpoint_url", f"http://user:{SECRET}/slash@127.0.0.1"),
    ("endpoint_url", f"user:{SECRET}@127.0.0.1:9000"),
    ("endpoint_url", f"http://127.0.0.1:9000/?token={SECRET}"),
]


def load(*flags, environment=None):
    arguments = cli.make_parser().parse_args(["serve", *flags])
    return config.load(arguments, environment or {})


@pytest.mark.parametrize(("key", "url"), PLACES)
def test_in_the_file_by_a_flag_by_a_variable_and_in_options(tmp_path, key, url):
    path = tmp_path / "tsengine.yml"
    path.write_text(f'cold:\n  {key}: "{url}"\n')
    flag = "--cold." + key.replace("_", "-")
    variable = f"TSENGINE_COLD_{key.upper()}"
    attempts = {
        f"{path}:2: cold.{key}: ": lambda: load("--config", str(path)),
        f"{flag}: ": lambda: load(flag, url),
        f"{variable}: ": lambda: load(environment={variable: url}),
        f"cold_{key}": lambda: tsengine.Options(**{f"cold_{key}": url}).validate(),
    }
    for named, attempt in attempts.items():
        with pytest.raises((config.ConfigError, tsengine.errors.OptionsError)) as raised:
            attempt()
        text = str(raised.value)
        assert text.startswith(named)
        assert "AWS_SECRET_ACCESS_KEY" in text
        assert SECRET not in text


@pytest.mark.parametrize(
    ("key", "url"),
    [
        ("url", "s3://bucket"),
        ("url", "s3://my.bucket-1/pre/fix=2/"),
        ("endpoint_url", "http://127.0.0.1:9000"),
        ("endpoint_url", "https://[::1]:9000/path/"),
        ("endpoint_url", "https://s3.eu-central-003.example.org"),
    ],
)
def test_others_are_taken(key, url):
    assert getattr(load("--cold." + key.replace("_", "-"), url), f"cold_{key}") == url


@pytest.mark.parametrize(
    "url", ["ftp://x", "127.0.0.1:9000", "http://", "http://a b", "https://x:y"]
)
def test_an_endpoint_that_is_none_is_told_with_its_key(url):
    with pytest.raises(config.ConfigError, match=r"--cold.endpoint-url: .* is not a URL like"):
        load("--cold.endpoint-url", url)
