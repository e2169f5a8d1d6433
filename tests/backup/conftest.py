"""Databases to back up, and an S3 API on loopback."""

import logging

import pytest

import tsengine
from tests.backup.cold_case import move, opened
from tests.backup.s3 import Gate, S3Server
from tests.faults import rich_database as rich

T0 = 1_700_000_000_000


def content(path):
    """{(metric, t): value} of everything in a directory."""
    with tsengine.open(path, read_only=True) as db:
        table = db.select('{__name__=~".+"}').read_all()
    labels = (dict(item)["__name__"] for item in table["labels"].to_pylist())
    times = table["timestamp"].cast("int64").to_pylist()
    return dict(zip(zip(labels, times, strict=True), table["value"].to_pylist(), strict=True))


def append(db, name, t, value):
    db.append({"__name__": name}, [t], [value])


@pytest.fixture
def database(tmp_path):
    """A writable database with a part and a sample that only the log holds."""
    with tsengine.open(tmp_path / "db") as db:
        db.append({"__name__": "x"}, [T0, T0 + 1000], [1.0, 2.0])
        db.flush()
        append(db, "late", T0 + 2000, 3.0)
        yield db


@pytest.fixture(scope="session")
def s3_server():
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = S3Server()
    yield server
    server.stop()


@pytest.fixture
def s3(s3_server, monkeypatch):
    """`s3.url` is an empty bucket's prefix; `s3.gate` orders errors; `s3.options` reaches it."""
    for name, value in (
        ("AWS_ACCESS_KEY_ID", "key"), ("AWS_SECRET_ACCESS_KEY", "secret"),
        ("AWS_REGION", "us-east-1"),
    ):  # fmt: skip
        monkeypatch.setenv(name, value)
    for name in ("AWS_ENDPOINT_URL", "AWS_SESSION_TOKEN", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    gate = Gate(s3_server)
    yield gate
    gate.stop()


@pytest.fixture
def cold_options(s3, monkeypatch):
    """Parts of more than a day ago move to `s3`, which is given up soon."""
    monkeypatch.setattr("tsengine.backup.store._COLD_TIMEOUT_S", 1.0)
    monkeypatch.setattr("tsengine.backup.store._COLD_PATIENCE_S", 3.0)
    return tsengine.Options(cold_url=s3.url, cold_after=86400.0, cold_endpoint_url=s3.endpoint)


@pytest.fixture
def cold_database(tmp_path, cold_options):
    """The path of a rich database all of whose parts are cold, and what it holds."""
    path = tmp_path / "db"
    rich.make(path)
    with tsengine.open(path) as db:
        db.compact()
        truth = rich.content(db)
    with opened(path, cold_options) as db:
        move(db)
    return path, truth
