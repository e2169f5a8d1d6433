"""One writer per directory, told by the kernel."""

import os
import signal
import socket
import subprocess
import sys

import pytest

from tsengine.errors import Closed, Locked, StorageError
from tsengine.storage.filesystem import LocalFileSystem
from tsengine.storage.lock import DirectoryLock, check_process

FS = LocalFileSystem()

HOLD = """
import sys, time
from tsengine.storage.filesystem import LocalFileSystem
from tsengine.storage.lock import DirectoryLock
lock = DirectoryLock(LocalFileSystem(), sys.argv[1])
print("held", flush=True)
time.sleep(60)
"""


def test_one_holder_at_a_time(tmp_path):
    directory = str(tmp_path / "new")
    lock = DirectoryLock(FS, directory)
    with pytest.raises(Locked) as caught:
        DirectoryLock(FS, directory)
    assert f"process {os.getpid()} on {socket.gethostname()}" in str(caught.value)
    assert directory in str(caught.value)
    lock.check()
    lock.release()
    lock.release()
    with pytest.raises(Closed):
        lock.check()
    DirectoryLock(FS, directory).release()


def test_another_process_is_named_and_its_death_frees_the_lock(tmp_path):
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True
    ) as child:
        assert child.stdout.readline() == "held\n"
        with pytest.raises(Locked, match=f"process {child.pid} on "):
            DirectoryLock(FS, str(tmp_path))
        child.send_signal(signal.SIGKILL)
        child.wait(10)
    DirectoryLock(FS, str(tmp_path)).release()


def test_a_forked_child_neither_holds_nor_frees_the_lock(tmp_path):
    lock = DirectoryLock(FS, str(tmp_path))
    go_read, go_write = os.pipe()
    said_read, said_write = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(go_write)
        try:
            lock.check()
            os.write(said_write, b"usable\n")
        except Closed:
            os.write(said_write, b"closed\n")
        lock.release()
        os.read(go_read, 1)
        os._exit(0)
    os.close(go_read)
    os.close(said_write)
    with os.fdopen(said_read) as pipe:
        assert pipe.readline() == "closed\n"
        # The child is alive and released: the parent still holds.
        with pytest.raises(Locked):
            DirectoryLock(FS, str(tmp_path))
        # The parent releases, and the living child does not keep the lock.
        lock.release()
        DirectoryLock(FS, str(tmp_path)).release()
        os.close(go_write)
    assert os.waitpid(pid, 0)[1] == 0


def test_check_process():
    check_process(os.getpid())
    with pytest.raises(Closed, match="process 1 opened"):
        check_process(1)


def test_a_directory_that_can_not_be_made(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StorageError):
        DirectoryLock(FS, str(tmp_path / "file" / "db"))
