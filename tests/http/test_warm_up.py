"""A start whose kernels can't be stored: it takes long, and serves."""

from __future__ import annotations

import errno

import pytest

import tsengine
from server.lifecycle import _open
from server.state import Server
from tests.http.conftest import make_config
from tsengine.kernels import loading


async def test_kernels_that_can_not_be_compiled_ahead_are_no_end(tmp_path, monkeypatch, caplog):
    def fail(report):
        raise RuntimeError("aggregate.add_sum: OSError: [Errno 28] No space left on device")

    monkeypatch.setattr(tsengine, "missing_kernel_count", lambda: 1, raising=False)
    monkeypatch.setattr(tsengine, "warmup", fail, raising=False)
    server = Server(make_config("--data-dir", str(tmp_path / "data")))
    database = await _open(server)
    assert isinstance(database, tsengine.Database)
    database.close()
    server.executor.close()
    assert "can't compile all kernels ahead" in caplog.text


def test_all_kernels_are_loaded_though_some_can_not_be_stored(monkeypatch):
    tried = []

    class Made:
        def __init__(self, name):
            self.name = name

        def compile(self):
            tried.append(self.name)
            if self.name != "c":
                raise OSError(errno.ENOSPC, self.name)

    monkeypatch.setattr(loading, "import_all_kernels", lambda: [Made(name) for name in "abc"])
    with pytest.raises(OSError, match=r"Errno 28. a"):
        loading.load_kernels()
    assert tried == ["a", "b", "c"]
