"""Answers where samples begin to be there, inside a window: as of all samples or not exact."""

from __future__ import annotations

import numpy as np
import pytest

from tests.reference.memory_source import STALE
from tests.storage.test_catalog_shrink import DAY_MS, T0, Time
from tsengine.engine import Database
from tsengine.options import Options, Tier
from tsengine.storage.retention_chores import Expiry, RetentionRewriting

DAY0 = T0 // DAY_MS * DAY_MS
M, H = 60_000, 3_600_000


@pytest.fixture
def make(tmp_path):
    made = []

    def create(samples, floor_ms):
        """Two days of which what is before a time is past the retention."""
        clock = Time(DAY0 + 1)
        options = Options(tiers=(Tier(300.0), Tier(3600.0)), retention=10 * 86_400.0)
        database = Database(str(tmp_path / "db"), options, clock=clock)
        database.pause_background()
        made.append(database)
        for name, own in samples.items():
            database.append({"__name__": name}, list(own), np.array(list(own.values())))
        database.flush()
        clock.now_ms = DAY0 + DAY_MS
        database.build_tiers()
        clock.now_ms = floor_ms + 10 * DAY_MS
        for chore in (Expiry, RetentionRewriting):
            database._storage.maintenance.run(chore(database._storage))
        return database

    yield create
    for database in made:
        database.close()


def test_a_marker_that_is_hidden_ends_its_series_when_samples_are_there_again(make):
    end = DAY0 - DAY_MS
    ended = {end - 6 * M: 1.0, end - 4 * M: 2.0, end - 3 * M: STALE}
    database = make({"m": ended}, end - 2 * M)
    # Steps of which some are not the ends of windows are read as samples.
    found = database.query_range("m", end - 5 * M, end + M, M)
    present = found.validity()[0].tolist()
    assert found.to_numpy()[0, :2].tolist() == [1.0, 2.0]
    assert present == [True, True, True, False, False, False, False]
    assert len(database.query("m", end).labels) == 0
