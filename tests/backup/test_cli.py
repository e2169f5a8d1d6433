"""The verbs snapshot, backup and restore."""

import pytest

import tsengine
from server import cli
from tests.backup.conftest import T0, append, content

FULL = {("x", T0): 1.0, ("x", T0 + 1000): 2.0, ("late", T0 + 2000): 3.0}


def run(capsys, *arguments):
    code = cli.main([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_snapshot_beside_a_writer(capsys, database, tmp_path):
    code, out, err = run(capsys, "snapshot", "--data-dir", database.path, tmp_path / "copy")
    assert (code, out, err) == (0, f"{tmp_path / 'copy'}: made\n", "")
    assert content(tmp_path / "copy") == FULL
    code, _, err = run(capsys, "snapshot", "--data-dir", database.path, tmp_path / "copy")
    assert code == 2
    assert "is there already" in err
    code, _, _ = run(
        capsys, "snapshot", "--data-dir", database.path, tmp_path / "parts", "--skip-head"
    )
    assert code == 0
    assert ("late", T0 + 2000) not in content(tmp_path / "parts")


def test_backup_list_check_restore(capsys, database, tmp_path):
    dest = tmp_path / "backups"
    code, out, err = run(capsys, "backup", "--data-dir", database.path, dest)
    assert (code, err) == (0, "")
    name = out.partition(":")[0]
    append(database, "x", T0 + 7000, 7.0)
    code, out, _ = run(capsys, "backup", "--data-dir", database.path, dest, "--keep", 5)
    assert code == 0
    assert "removed" not in out
    code, out, _ = run(capsys, "restore", dest, "--list")
    assert code == 0
    assert out.split()[0] == name
    assert len(out.splitlines()) == 2
    code, out, _ = run(capsys, "backup", "--check", dest)
    assert code == 0
    assert "no problems found" in out
    code, out, _ = run(capsys, "restore", dest, "--data-dir", tmp_path / "old", "--backup", name)
    assert (code, out) == (
        0, f"{tmp_path / 'old'}: restored {name}, 3 samples of 2 series\n"
    )  # fmt: skip
    assert content(tmp_path / "old") == FULL
    code, _, _ = run(capsys, "restore", dest, "--data-dir", tmp_path / "new", "--at", "now")
    assert code == 0
    assert content(tmp_path / "new")["x", T0 + 7000] == 7.0
    code, out, _ = run(
        capsys, "backup", "--data-dir", database.path, dest, "--keep", 1, "--verify", "all"
    )
    assert code == 0
    assert out.count("removed ") == 2
    assert len(tsengine.list_backups(dest)) == 1


def test_damage_and_wrong_usage(capsys, database, tmp_path):
    dest = tmp_path / "backups"
    run(capsys, "backup", "--data-dir", database.path, dest)
    code, _, err = run(
        capsys, "restore", dest, "--data-dir", tmp_path / "b", "--at", "2001-01-01T00:00:00Z"
    )
    assert code == 1
    assert "no backup of that time" in err
    next((dest / "contents").rglob("?" * 64)).write_bytes(b"x")
    code, out, _ = run(capsys, "backup", "--check", dest)
    assert code == 1
    assert "1 problem found" in out
    code, _, err = run(capsys, "restore", dest, "--data-dir", tmp_path / "back")
    assert code == 1
    assert "contents/" in err
    for arguments in (
        ("backup", dest),
        ("backup", dest, "--data-dir", database.path, "--keep", "0"),
        ("backup", dest, "--data-dir", database.path, "--keep-within", "long"),
        ("backup", dest, "--data-dir", tmp_path / "nothing"),
        ("restore", dest),
        ("restore", dest, "--data-dir", tmp_path / "c", "--at", "never"),
        ("restore", dest, "--data-dir", tmp_path / "c", "--at", "now", "--backup", "x"),
    ):
        assert run(capsys, *arguments)[0] == 2, arguments


def test_object_storage(capsys, database, tmp_path, s3, monkeypatch):
    code, _, err = run(
        capsys, "backup", "--data-dir", database.path, s3.url, "--endpoint-url", s3.endpoint
    )
    assert (code, err) == (0, "")
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3.endpoint)
    code, _, _ = run(capsys, "restore", s3.url, "--data-dir", tmp_path / "back")
    assert code == 0
    assert content(tmp_path / "back") == FULL
    s3.fail("GET", times=1000, status=403, code="AccessDenied")
    code, _, err = run(capsys, "restore", s3.url, "--data-dir", tmp_path / "again")
    assert code == 1
    assert "access denied" in err


@pytest.mark.parametrize("verb", ["snapshot", "backup", "restore"])
def test_help(capsys, verb):
    with pytest.raises(SystemExit) as left:
        cli.main([verb, "--help"])
    assert left.value.code == 0
    assert "directory" in capsys.readouterr().out
