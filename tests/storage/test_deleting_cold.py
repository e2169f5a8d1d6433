"""What an object store lacks, or does not give, keeps nothing else from being erased."""

import threading
from collections import Counter

import pytest

from tests.reference.background import paused, without_chores
from tests.storage.test_catalog_shrink import DAY_MS, T0, Time
from tests.storage.test_retention import append, run
from tsengine.errors import ObjectMissing, StorageError, StoreUnavailable
from tsengine.options import Options
from tsengine.storage.cold_moves import ColdMoves
from tsengine.storage.database import StorageDatabase
from tsengine.storage.deleting import Erasing

COLD_DAYS = (10, 9, 8)
WARM_DAYS = (2, 1)
# No common step, so that axes must be read to count.
OFFSETS = [k * 60_000 + k * k * 7919 % 50_000 for k in range(600)]
DELETED_MS = 6_000_000
N_LEFT = sum(offset > DELETED_MS for offset in OFFSETS)


class Store:
    """Objects in memory."""

    def __init__(self):
        self.objects = {}
        self.is_down = False
        self.n_reads = 0
        self._thread = threading.get_ident()

    def create(self, key, data):
        self.objects[key] = bytes(data)
        return True

    def upload(self, key, path):
        with open(path, "rb") as file:
            self.objects[key] = file.read()

    def read_range(self, key, offset, size):
        if threading.get_ident() == self._thread:
            self.n_reads += 1  # the background looks too
        if self.is_down:
            raise StorageError("no answer")
        if key not in self.objects:
            raise FileNotFoundError(key)
        return self.objects[key][offset : offset + size]

    def stream(self, key):
        yield self.objects[key]

    def delete(self, keys):
        for key in keys:
            self.objects.pop(key, None)


@pytest.fixture
def parts(tmp_path):
    """Three parts in a store and two here, the first hundred minutes of each deleted."""
    store, clock = Store(), Time(T0)
    options = Options(tiers=(), cold_url="s3://bucket/p", cold_after=5 * 86_400.0, cold_cache=0)

    def opened():
        with paused():
            database = StorageDatabase(
                str(tmp_path / "db"), options, clock=clock, open_store=lambda url, endpoint: store
            )
        return without_chores(database)  # They would read axes.

    database = opened()
    for day in (*COLD_DAYS, *WARM_DAYS):
        append(database, "api", [T0 - day * DAY_MS + offset for offset in OFFSETS])
        database.flush()
    run(database, ColdMoves(database))
    assert sum(part.remote_bytes > 0 for part in database.state.parts) == len(COLD_DAYS)
    refs = database.view().all_refs()
    database.close()
    database = opened()  # without axes in memory
    for day in (*COLD_DAYS, *WARM_DAYS):
        start = T0 - day * DAY_MS
        database.delete(refs, start, start + DELETED_MS)
    yield database, store, clock
    database.close()


def left(database):
    """Samples on the disk and in the store, by day."""
    found = Counter()
    for part in database.state.parts:
        found[(part.entry.mint - T0) // DAY_MS] += part.entry.n_samples
    return found


def test_a_missing_object_stops_no_other_part(parts, caplog):
    database, store, _ = parts
    lost = min(key for key in store.objects if key.endswith("axes"))
    data = store.objects.pop(lost)
    with pytest.raises(ObjectMissing, match=lost):
        database.clean_tombstones()
    assert sorted(left(database).values()) == [N_LEFT] * 4 + [600]
    assert len(database.state.tombstones) == 1, "that of the part that could not be read"
    assert f"{lost}: the store has no such object" in caplog.text
    store.objects[lost] = data
    database.clean_tombstones()
    assert set(left(database).values()) == {N_LEFT}
    assert database.state.tombstones == ()


def test_a_store_that_is_away_stops_no_local_part(parts):
    database, store, _ = parts
    store.is_down = True
    with pytest.raises(StoreUnavailable, match="no answer"):
        database.clean_tombstones()
    assert sorted(left(database).values()) == [N_LEFT] * 2 + [600] * 3
    assert len(database.state.tombstones) == len(COLD_DAYS)
    store.is_down = False
    database.clean_tombstones()
    assert set(left(database).values()) == {N_LEFT}


def test_a_store_that_is_away_is_not_asked_all_the_time(parts):
    database, store, clock = parts
    erasing = Erasing(database)
    store.is_down = True
    store.n_reads = 0
    for _ in range(3):
        erasing.plan(database.state, clock())
    assert store.n_reads == 1
    clock.now_ms += 600_000
    store.is_down = False
    erasing.plan(database.state, clock())
    assert store.n_reads > len(COLD_DAYS)
