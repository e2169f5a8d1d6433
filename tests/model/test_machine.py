"""model/machine.py: a thread that gives way."""

from __future__ import annotations

import os
import sys
import threading

import pytest

from tsengine.model.machine import GIVE_WAY_NICENESS, give_way


def niceness() -> int:
    return os.getpriority(os.PRIO_PROCESS, threading.get_native_id())


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere only processes have a niceness")
def test_a_thread_gives_way_and_no_other_does():
    before, found = niceness(), []

    def run() -> None:
        give_way()
        found.append(niceness())

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert found == [min(before + GIVE_WAY_NICENESS, 19)]
    assert niceness() == before


def test_a_system_that_refuses_is_no_reason_to_fail(monkeypatch):
    def refuse(which: int, who: int, priority: int) -> None:
        raise PermissionError("no")

    monkeypatch.setattr(os, "setpriority", refuse)
    give_way()
