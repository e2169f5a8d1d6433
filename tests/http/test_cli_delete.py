"""``tsengine delete`` and ``tsengine inspect --tombstones``."""

from __future__ import annotations

import json

import pytest

import tsengine
from server.cli import main

T0 = 1_700_000_000_000


@pytest.fixture
def directory(tmp_path):
    path = str(tmp_path / "data")
    with tsengine.open(path) as db:
        for name in ("a", "b", "c"):
            db.append({"__name__": "m", "s": name}, [T0, T0 + 1000, T0 + 2000], [1.0, 2.0, 3.0])
        db.flush()
    return path


def stored(path):
    with tsengine.open(path, read_only=True) as db:
        return {
            dict(labels)["s"]: len([x for x in batch["labels"].to_pylist() if x == labels])
            for batch in db.select("m")
            for labels in batch["labels"].to_pylist()
        }


def test_delete_a_range_and_look_at_the_tombstone(directory, capsys):
    arguments = ["--data-dir", directory, "--start", "1700000001", "--end", "1700000001"]
    assert main(["delete", 'm{s="a"}', 'm{s="b"}', *arguments]) == 0
    assert capsys.readouterr().out == "deleted samples of 2 series\n"
    assert stored(directory) == {"a": 2, "b": 2, "c": 3}
    assert main(["inspect", "--data-dir", directory, "--tombstones", "--json"]) == 0
    (tombstone,) = json.loads(capsys.readouterr().out)["tombstones"]
    assert tombstone["series"] == tombstone["samples"] == 2
    assert (tombstone["mint"], tombstone["maxt"]) == (T0 + 1000, T0 + 1000)
    assert tombstone["bytes"] > 0
    assert main(["inspect", "--data-dir", directory, "--tombstones"]) == 0
    assert "tombstones: 1\n  - sequence=" in capsys.readouterr().out
    assert main(["inspect", "--data-dir", directory, "--json"]) == 0
    assert "tombstones" not in json.loads(capsys.readouterr().out)
    assert main(["check", "--data-dir", directory]) == 0


def test_clean_takes_the_bytes_from_the_disk(directory, capsys):
    assert main(["delete", "m", "--data-dir", directory, "--clean"]) == 0
    assert stored(directory) == {}
    capsys.readouterr()
    assert main(["inspect", "--data-dir", directory, "--tombstones", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["parts"], found["tombstones"]) == ([], [])


@pytest.mark.parametrize(
    "arguments",
    [["m{"], ["{}"], ["m", "--start", "2", "--end", "1"], ["m", "--start", "x"], []],
)
def test_wrong_usage(directory, arguments, capsys):
    try:
        code = main(["delete", *arguments, "--data-dir", directory])
    except SystemExit as stop:
        code = stop.code
    assert code == 2
    assert stored(directory) == {"a": 3, "b": 3, "c": 3}
    assert capsys.readouterr().err
