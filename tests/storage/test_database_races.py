"""Windows between two steps of maintenance, held open on purpose: nothing may fall through."""

from __future__ import annotations

import errno
import os
import threading

import numpy as np
import pytest

import tsengine
from tests.faults.filesystem import FaultyFileSystem
from tsengine.errors import Closed, StorageError
from tsengine.model.metadata import MetadataEntry
from tsengine.options import Options
from tsengine.storage import filenames, manifest
from tsengine.storage.database import StorageDatabase

T0 = 1_700_000_000_000
DAY_MS = 86_400_000


def append(database, name, times):
    refs = database.series_refs([{"__name__": name}])
    t_ms = np.asarray(times, np.int64)
    bits = t_ms.astype(np.float64).view(np.uint64)
    database.append_columns(np.full(len(t_ms), refs[0], np.uint32), t_ms, bits)


def names_on_disk(directory):
    return {
        folder: sorted(os.listdir(directory / folder))
        for folder in (filenames.PARTS_DIR, filenames.CATALOG_DIR, filenames.METADATA_DIR)
    }


def test_merge_between_commit_and_publication_of_a_flush_keeps_its_part(tmp_path):
    database = StorageDatabase(str(tmp_path), Options())
    append(database, "a", [T0 + 1])
    database.flush()
    append(database, "a", [T0 + 2])
    committed, goes_on = threading.Event(), threading.Event()
    change_state = database.change_state

    def slow_change(change):
        if threading.current_thread().name == "flusher":
            committed.set()
            goes_on.wait(10)
        change_state(change)

    database.change_state = slow_change
    flusher = threading.Thread(target=database.flush, name="flusher")
    flusher.start()
    assert committed.wait(10)
    database.compact()
    goes_on.set()
    flusher.join()
    database.close()

    with tsengine.open(tmp_path) as reopened:
        result = reopened.query("count_over_time(a[1d])", time=T0 + 10)
        assert result.to_numpy().tolist() == [[2.0]]


@pytest.mark.parametrize(
    ("kind", "path"),
    [
        ("write", filenames.PARTS_DIR),
        ("write_file", filenames.CATALOG_DIR),
        ("write_file", filenames.METADATA_DIR),
        ("write_file", filenames.MANIFEST),
        ("rename", filenames.MANIFEST),
    ],
)
def test_failed_flushes_leave_no_files_and_lose_no_metadata(tmp_path, kind, path):
    fs = FaultyFileSystem()
    database = StorageDatabase(str(tmp_path), Options(), fs=fs)
    append(database, "a", [T0 + 1])
    database.append_metadata([MetadataEntry("a", "gauge", "kept", "")])
    before = names_on_disk(tmp_path)
    fs.fail(kind, error=errno.ENOSPC, path_contains=path, times=None, torn=10)
    for _ in range(3):
        with pytest.raises(StorageError):
            database.flush()
    assert names_on_disk(tmp_path) == before
    fs.heal()
    database.flush()
    database.close()

    with tsengine.open(tmp_path) as reopened:
        assert reopened.metadata() == {"a": [{"type": "gauge", "help": "kept", "unit": ""}]}
        assert reopened.query("a", time=T0 + 1).to_numpy().tolist() == [[float(T0 + 1)]]


def test_files_of_a_manifest_that_may_hold_are_kept(tmp_path):
    fs = FaultyFileSystem()
    database = StorageDatabase(str(tmp_path), Options(), fs=fs)
    append(database, "a", [T0 + 1])
    # The rename of the manifest happens, the sync of its folder fails.
    fs.fail("rename", error=errno.EIO, path_contains=filenames.MANIFEST, after=True)
    with pytest.raises(StorageError):
        database.flush()
    named = manifest.load(fs, str(tmp_path))
    assert [part.name for part in named.parts] == names_on_disk(tmp_path)[filenames.PARTS_DIR]
    database.flush()
    database.close()
    with tsengine.open(tmp_path) as reopened:
        assert reopened.query("a", time=T0 + 1).to_numpy().tolist() == [[float(T0 + 1)]]


def test_close_waits_for_a_merge_in_another_thread(tmp_path):
    database = StorageDatabase(str(tmp_path), Options())
    for number in range(2):
        append(database, "a", [T0 + number])
        database.flush()
    started, goes_on, is_closed = threading.Event(), threading.Event(), threading.Event()
    change_state = database.change_state
    events = []

    def slow_change(change):
        started.set()
        goes_on.wait(10)
        events.append("merged")
        change_state(change)

    def close():
        database.close()
        events.append("closed")
        is_closed.set()

    database.change_state = slow_change
    merger = threading.Thread(target=database.compact)
    merger.start()
    assert started.wait(10)
    closer = threading.Thread(target=close)
    closer.start()
    assert not is_closed.wait(0.2)
    goes_on.set()
    merger.join()
    closer.join()
    assert events == ["merged", "closed"]
    for verb in (database.flush, database.compact):
        with pytest.raises(Closed):
            verb()


def test_a_pinned_view_can_be_read_after_close(tmp_path):
    database = StorageDatabase(str(tmp_path), Options())
    append(database, "a", [T0 + 1, T0 + 2])
    database.flush()
    view = database.view()
    database.close()
    frames = view.read(np.zeros(1, np.uint32), T0, T0 + DAY_MS, drop_stale=False)
    assert frames.t_ms.tolist() == [T0 + 1, T0 + 2]
    with pytest.raises(Closed):
        database.view()
