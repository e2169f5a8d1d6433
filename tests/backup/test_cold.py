"""Old parts in an object store: queries, deletes, merges, snapshots, backups, and a store away."""

import shutil
import time

import numpy as np
import pytest

import tsengine
from tests.backup.cold_case import keys, let_go, local, move, opened
from tests.faults import rich_database as rich
from tsengine import errors
from tsengine.backup.store import open_store
from tsengine.storage.cold import ColdFile, Stub, decode_stub
from tsengine.storage.cold_cache import BLOCK_BYTES, BlockCache
from tsengine.storage.cold_moves import _send
from tsengine.storage.filesystem import LocalFileSystem

DAY_MS = 86_400_000


@pytest.fixture
def options(cold_options):
    return cold_options


@pytest.fixture
def database(cold_database):
    """A rich database all of whose parts are cold, and what it holds."""
    return cold_database


def test_moved_parts_answer_as_before(database, options, s3):
    path, truth = database
    assert local(path, "values") == local(path, "axes") == []
    stubs = local(path, ".cold")
    assert len(stubs) >= 4
    assert len(keys(s3)) == len(stubs)
    with opened(path, options) as db:
        assert rich.content(db) == truth
        n_requests = len(s3.requests)
        assert rich.content(db) == truth
        assert len(s3.requests) == n_requests, "from the cache"
    shutil.rmtree(path / "cold-cache")
    # Stubs know where they are: nothing has to be configured to read.
    assert rich.content(path) == truth
    assert any(text is not None for method, _, text in s3.requests if method == "GET")


def test_it_starts_and_knows_series_while_the_store_is_away(database, options, s3):
    path, truth = database
    shutil.rmtree(path / "cold-cache", ignore_errors=True)
    s3.fail("GET", times=10_000, status=503, code="SlowDown")
    with opened(path, options) as db:
        assert db.recovery_problems == []
        assert len(db.series(['{__name__=~".+"}'])[0]) > 5
        start = time.monotonic()
        with pytest.raises(errors.StoreUnavailable, match=s3.url):
            rich.content(db)
        assert time.monotonic() - start < 60
        s3.orders.clear()
        assert rich.content(db) == truth


@pytest.mark.parametrize(
    "trouble", [{"status": 500, "code": "x"}, {"reset": True}, {"cut": True}, {"delay_s": 1.3}]
)
def test_passing_trouble_is_passed_over(database, options, s3, trouble):
    path, truth = database
    shutil.rmtree(path / "cold-cache", ignore_errors=True)
    with opened(path, options) as db:
        s3.fail("GET", times=1, **trouble)
        assert rich.content(db) == truth


def test_a_move_that_breaks_off_changes_nothing(tmp_path, options, s3):
    path = tmp_path / "db"
    rich.make(path)
    with tsengine.open(path) as db:
        db.compact()
        truth = rich.content(db)
    s3.fail("PUT", contains="values", times=10_000, status=403, code="AccessDenied")
    with opened(path, options) as db:
        with pytest.raises(errors.StoreUnavailable, match="access denied"):
            move(db)
        assert rich.content(db) == truth
        assert len(local(path, "/values")) >= 2
        s3.orders.clear()
        move(db)
        assert local(path, "/values") == []
        assert rich.content(db) == truth
    assert rich.content(path) == truth


def test_the_worker_moves_by_itself(tmp_path, options, s3):
    rich.make(tmp_path / "db")
    truth = rich.content(tmp_path / "db")
    with tsengine.open(tmp_path / "db", options) as db:
        deadline = time.monotonic() + 60
        while db.stats()["cold_parts"] < len(db._storage.state.parts):
            assert time.monotonic() < deadline
            time.sleep(0.1)
        assert db.stats()["cold_bytes"] > 0
        assert rich.content(db) == truth
        assert 0 < db.stats()["cold_cache_bytes"] <= options.cold_cache
    # Closing lets nothing wait; what a crash leaves beside stubs goes with the next run.
    assert local(tmp_path / "db", "/values") == []
    stub = tmp_path / "db/parts" / local(tmp_path / "db", "/values.cold")[0]
    left = stub.with_suffix("")
    left.write_bytes(b"left by a crash")
    with opened(tmp_path / "db", options) as db:
        move(db)
        assert not left.exists()
        assert rich.content(db) == truth


def test_what_is_sent_is_read_back(tmp_path):
    class Lossy:
        def create(self, key, data):
            return True

        def stream(self, key):
            yield b"something else"

        def delete(self, keys):
            removed.extend(keys)

    removed = []
    (tmp_path / "values").write_bytes(b"x" * 100)
    with pytest.raises(errors.StorageError, match="was read back differently"):
        _send(LocalFileSystem(), Lossy(), str(tmp_path / "values"), "s3://b/p", None, "key")
    assert removed == ["key"]


def test_deleted_samples_leave_the_store(database, options, s3):
    path, truth = database
    before = set(keys(s3))
    with opened(path, options) as db:
        db.delete_series('{__name__="gone_total"}', rich.T0, rich.T0 + DAY_MS - 1)
        db.clean_tombstones()
        let_go(db)
        gone = before - set(keys(s3))
        assert gone, "the rewritten part's objects"
        db.compact()
        move(db)
        after = rich.content(db)
    assert len(after) < len(truth)
    assert after.items() <= truth.items()
    assert local(path, "/values") == []
    assert rich.content(path) == after


def test_late_samples_for_a_cold_day(database, options):
    path, truth = database
    with opened(path, options) as db:
        db.append({"__name__": "late"}, [rich.T0 + 5], [1.0])
        db.flush()
        db.compact()
        after = rich.content(db)
    assert after.pop(("__name__=late", rich.T0 + 5))
    assert after == truth


def test_a_snapshot_shares_the_objects_until_it_goes(database, options, s3, tmp_path):
    path, truth = database
    with opened(path, options) as db:
        db.snapshot(tmp_path / "copy")
        db.delete_series('{__name__=~".+"}')
        db.clean_tombstones()
        let_go(db)
        assert not rich.content(db)
    assert rich.content(tmp_path / "copy") == truth


def test_a_backup_is_whole_without_the_cold_store(database, options, s3, tmp_path):
    path, truth = database
    with opened(path, options) as db:
        first = db.backup(tmp_path / "backups")
        assert not [file for file in first.record.files if file.path.endswith(".cold")]
        assert db.backup(tmp_path / "backups").n_sent == 0
    s3.fail("GET", times=10_000, status=403, code="AccessDenied")
    tsengine.restore_backup(tmp_path / "backups", tmp_path / "back")
    assert rich.content(tmp_path / "back") == truth
    assert tsengine.check(tmp_path / "back").problems == []


def test_check_reads_cold_parts(database, options, s3):
    path, _ = database
    report = tsengine.check(path)
    assert report.problems == []
    stub = path / "parts" / local(path, "/values.cold")[0]
    found = decode_stub(stub.read_bytes(), "x")
    store = open_store(s3.url, s3.options)
    whole = store.read(found.key)
    broken = bytearray(whole)
    broken[len(broken) // 2] ^= 1
    store.replace(found.key, bytes(broken))
    shutil.rmtree(path / "cold-cache", ignore_errors=True)
    assert len(tsengine.check(path).problems) == 1
    store.replace(found.key, whole)
    shutil.rmtree(path / "cold-cache", ignore_errors=True)
    assert tsengine.check(path).problems == []
    stub.write_bytes(stub.read_bytes().replace(b"size", b"sise"))
    assert [p.file for p in tsengine.check(path).problems] == [str(stub)]


class CountingStore:
    def __init__(self, data):
        self.data = data
        self.requests = []

    def read_range(self, key, offset, size):
        self.requests.append((offset, size))
        return self.data[offset : offset + size]


def test_range_reads_and_the_bound_of_the_cache(tmp_path):
    rng = np.random.default_rng(1)
    data = rng.bytes(10 * BLOCK_BYTES + 1000)
    store = CountingStore(data)
    stub = Stub("s3://b/p", None, "k", len(data), "ab" * 32, data[:64].hex())
    size_max = 4 * (BLOCK_BYTES + 4)
    cache = BlockCache(str(tmp_path / "cache"), lambda: size_max)
    file = ColdFile(stub, lambda: store, cache)
    assert file.pread(0, 16) == data[:16]
    assert store.requests == [], "heads are known"
    assert file.pread(5, 100) == data[5:105]
    assert store.requests == [(0, BLOCK_BYTES)]
    assert file.pread(50, 2 * BLOCK_BYTES) == data[50 : 50 + 2 * BLOCK_BYTES]
    assert store.requests[1:] == [(BLOCK_BYTES, 2 * BLOCK_BYTES)], "only what is missing, at once"
    for offset, size in rng.integers(0, len(data), (200, 2)).tolist():
        assert (
            file.pread(offset, size % (3 * BLOCK_BYTES))
            == (data[offset : offset + size % (3 * BLOCK_BYTES)])
        )
        on_disk = sum(f.stat().st_size for f in (tmp_path / "cache").iterdir())
        assert on_disk == cache.n_bytes <= size_max
    assert file.pread(len(data) - 3, 100) == data[-3:]
    # A new process finds what is there; a damaged block is fetched again.
    for found in (tmp_path / "cache").iterdir():
        found.write_bytes(b"x" + found.read_bytes()[1:])
    again = ColdFile(stub, lambda: store, BlockCache(str(tmp_path / "cache"), lambda: size_max))
    assert again.pread(100, 3 * BLOCK_BYTES) == data[100 : 100 + 3 * BLOCK_BYTES]


def test_options(tmp_path):
    with pytest.raises(errors.OptionsError, match="cold_after needs cold_url"):
        tsengine.open(tmp_path / "db", tsengine.Options(cold_after=5.0))
    with pytest.raises(errors.OptionsError, match="cold_after must be"):
        tsengine.open(tmp_path / "db", tsengine.Options(cold_url="s3://b/p", cold_after=0.0))
