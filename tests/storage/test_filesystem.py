"""The local file system does what the protocol says."""

import errno
import os

import pytest

from tsengine.errors import Full, StorageError
from tsengine.storage import filesystem
from tsengine.storage.filesystem import LocalFileSystem, remove_tree, storage_error

FS = LocalFileSystem()


def test_append_files_grow(tmp_path):
    path = str(tmp_path / "f")
    file = FS.open_append(path)
    assert file.size == 0
    file.write(b"hello ")
    file.write(b"")
    file.write(b"world")
    file.datasync()
    assert file.size == 11
    file.close()
    file.close()
    file = FS.open_append(path)
    assert file.size == 11
    file.write(b"!")
    file.close()
    assert FS.read_file(path) == b"hello world!"
    assert FS.size(path) == 12


def test_short_writes_are_continued_and_counted(tmp_path, monkeypatch):
    real = os.write
    monkeypatch.setattr(filesystem.os, "write", lambda fd, data: real(fd, bytes(data)[:3]))
    file = FS.open_append(str(tmp_path / "f"))
    file.write(b"0123456789")
    assert file.size == 10

    def full(fd, data):
        if len(data) < 8:
            raise OSError(errno.ENOSPC, "full")
        return real(fd, bytes(data)[:3])

    monkeypatch.setattr(filesystem.os, "write", full)
    with pytest.raises(OSError, match="full"):
        file.write(b"abcdefghij")
    assert file.size == 13
    file.close()
    assert FS.read_file(str(tmp_path / "f")) == b"0123456789abc"


def test_pread(tmp_path, monkeypatch):
    path = str(tmp_path / "f")
    FS.write_file(path, b"0123456789")
    with pytest.raises(FileNotFoundError):
        FS.open_read(str(tmp_path / "missing"))
    file = FS.open_read(path)
    assert file.size == 10
    assert file.pread(2, 3) == b"234"
    assert file.pread(8, 5) == b"89"
    assert file.pread(10, 5) == b""
    assert file.pread(3, 0) == b""
    real = os.pread
    monkeypatch.setattr(filesystem.os, "pread", lambda fd, n, at: real(fd, min(n, 2), at))
    assert file.pread(1, 7) == b"1234567"
    assert file.pread(5, 50) == b"56789"
    file.close()
    file.close()


def test_map_file(tmp_path):
    path = str(tmp_path / "f")
    FS.write_file(path, b"")
    assert FS.map_file(path).nbytes == 0
    FS.write_file(path, b"data")
    view = FS.map_file(path)
    assert view.readonly
    FS.unlink(path)
    assert bytes(view) == b"data"


def test_names(tmp_path):
    folder = str(tmp_path / "a" / "b")
    FS.mkdir(folder)
    FS.mkdir(folder)
    one, two = os.path.join(folder, "1"), os.path.join(folder, "2")
    FS.write_file(two, b"old and longer")
    FS.write_file(two, b"old")
    FS.write_file(one, b"new")
    FS.link(one, os.path.join(folder, "0"))
    assert FS.listdir(folder) == ["0", "1", "2"]
    FS.rename(one, two)
    FS.sync_dir(folder)
    assert (FS.exists(one), FS.exists(two), FS.read_file(two)) == (False, True, b"new")
    with pytest.raises(OSError):
        FS.rmdir(folder)
    assert FS.free_bytes(folder) > 0


def test_remove_tree(tmp_path):
    FS.mkdir(str(tmp_path / "part"))
    FS.write_file(str(tmp_path / "part" / "data"), b"x")
    FS.write_file(str(tmp_path / "part" / "index"), b"x")
    FS.write_file(str(tmp_path / "file"), b"x")
    remove_tree(FS, str(tmp_path / "part"))
    remove_tree(FS, str(tmp_path / "file"))
    assert os.listdir(tmp_path) == []
    with pytest.raises(FileNotFoundError):
        remove_tree(FS, str(tmp_path / "file"))


@pytest.mark.parametrize("code", ["ENOSPC", "EDQUOT", "EIO", "EROFS", "EFBIG"])
def test_full_or_failing_disks_are_full(code):
    number = getattr(errno, code)
    error = storage_error(OSError(number, os.strerror(number)), "writing x")
    assert type(error) is Full
    assert str(error) == f"writing x: {os.strerror(number)}"


def test_other_errors_are_storage_errors():
    error = storage_error(PermissionError(errno.EACCES, "Permission denied"), "opening x")
    assert type(error) is StorageError
