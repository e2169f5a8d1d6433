"""The limit of bytes while a damaged part is left out, and the part comes back."""

from __future__ import annotations

import os

import numpy as np

from tests.storage.test_retention import HOUR_MS
from tests.storage.test_retention_taken import COUNT, DAY0, DAY_MS, WIDE_MS
from tests.storage.test_retention_taken import make as make
from tsengine.storage.retention_chores import Expiry

FIRST = DAY0 - 3 * DAY_MS
LATE = FIRST + 7


def large(case):
    """Beside what its day has windows are small."""
    times = np.arange(FIRST + 5000, FIRST + DAY_MS, 2_000)
    values = np.random.default_rng(1).random(len(times))
    case.db.append({"__name__": "m", "job": "big"}, times, values)


def test_no_windows_are_made_without_it(make):
    case = make(jobs=("api",), builds=False, retention=None)
    large(case)
    case.db.flush()
    case.storage.compact()
    case.append("api", [LATE])
    lost = case.storage.state.parts[-1].entry
    case.append("api", [DAY0 + HOUR_MS])
    case.db.close()
    index = os.path.join(case.path, "parts", lost.name, "index")
    os.rename(index, f"{index}.away")
    case.db = case.open()
    storage = case.storage
    assert storage.recovery.lost == [lost]
    case.db.reconfigure(retention_size=storage.size_bytes(storage.state) - 20_000)
    chore = Expiry(storage)
    for _ in range(20):
        jobs = chore.plan(storage.state, case.clock())
        if not jobs:
            break
        jobs[0].run(storage.maintenance._worker._foreground)
    assert storage.state.tiers
    assert min(part.entry.mint for part in storage.state.parts) > FIRST + DAY_MS
    case.db.reconfigure(retention_size=None)
    case.db.close()
    os.rename(f"{index}.away", index)
    case.db = case.open()
    assert case.storage.recovery.lost == []
    for k in range(1, 5):
        end = FIRST + k * WIDE_MS
        found, infos = case.ask(COUNT % "api", end, end, WIDE_MS)
        assert found == [[12.0 + (k == 1)]] or "not exact" in str(infos), (k, found)
    assert case.ask(COUNT % "api", FIRST + DAY_MS + WIDE_MS, DAY0, WIDE_MS) == ([[12.0] * 8], [])
