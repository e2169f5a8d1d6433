"""What a newer version wrote is refused by all commands alike: exit code 2, nothing is changed."""

from __future__ import annotations

import struct

import google_crc32c
import pytest

import tsengine
from server import cli
from tests.http.test_process import run_serve

T0 = 1_700_000_000_000


@pytest.fixture
def data_dir(tmp_path):
    path = tmp_path / "data"
    with tsengine.open(path) as db:
        db.append({"__name__": "m"}, [T0], [1.0])
        db.flush()
    return path


def newer_manifest(path):
    (manifest,) = [file for file in path.iterdir() if file.name.lower() == "manifest"]
    first, _, rest = manifest.read_bytes().partition(b"\n")
    word, _, _ = first.rpartition(b" ")
    manifest.write_bytes(word + b" 99\n" + rest)
    return "format 99, written by a newer version"


def newer_part(path):
    (values,) = path.glob("parts/*/values")
    data = bytearray(values.read_bytes())
    struct.pack_into("<I", data, 8, 99)
    struct.pack_into("<I", data, 12, google_crc32c.value(bytes(data[:12])))
    values.write_bytes(data)
    return "version 99 is newer"


def files_of(path):
    return {file: file.read_bytes() for file in path.rglob("*") if file.is_file()}


@pytest.mark.parametrize("make_newer", [newer_manifest, newer_part])
def test_every_command_ends_with_2_and_changes_nothing(capsys, tmp_path, data_dir, make_newer):
    told = make_newer(data_dir)
    before = files_of(data_dir)
    commands = [
        ["check", "--data-dir", data_dir],
        ["check", "--data-dir", data_dir, "--json"],
        ["check", "--data-dir", data_dir, "--quarantine"],
        ["query", "m", "--data-dir", data_dir],
        ["export", "--data-dir", data_dir, "--format", "csv", tmp_path / "out.csv"],
        ["delete", "m", "--data-dir", data_dir],
        ["retention", "--data-dir", data_dir],
    ]
    if make_newer is newer_manifest:  # These don't read parts.
        commands += [
            ["inspect", "--data-dir", data_dir],
            ["snapshot", "--data-dir", data_dir, tmp_path / "copy"],
            ["backup", "--data-dir", data_dir, tmp_path / "backups"],
        ]
    for command in commands:
        code = cli.main([str(word) for word in command])
        assert (command, code) == (command, 2)
        assert told in capsys.readouterr().err
    assert {f: d for f, d in files_of(data_dir).items() if f.name != "lock"} == {
        f: d for f, d in before.items() if f.name != "lock"
    }


@pytest.mark.timeout(300)
@pytest.mark.parametrize("make_newer", [newer_manifest, newer_part])
def test_a_server_too(data_dir, make_newer):
    told = make_newer(data_dir)
    done = run_serve("--data-dir", str(data_dir), "--listen", "127.0.0.1:0")
    assert done.returncode == 2
    assert told in done.stderr
    assert "Traceback" not in done.stderr
