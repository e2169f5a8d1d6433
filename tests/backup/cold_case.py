"""Databases whose old parts are moved when a test says so, and a look at what is where."""

import contextlib
import dataclasses
import time

import obstore

import tsengine
from tests.reference.background import paused, without_chores
from tsengine.backup.store import open_store
from tsengine.storage.cold_moves import ColdMoves


@contextlib.contextmanager
def opened(path, options):
    """Open without background work, which would do at any time what the tests do themselves."""
    with paused():
        database = tsengine.open(path, dataclasses.replace(options, cold_after=None))
    with database as db:
        # Plans of chores read, and keep parts.
        without_chores(db._storage)
        db.reconfigure(cold_after=options.cold_after)
        yield db


def move(db):
    """Run the chore as the worker does, and let the local files go."""
    storage = db._storage
    storage.maintenance.run(ColdMoves(storage))
    let_go(db)


def let_go(db):
    """What was replaced goes without waiting, but for what a view needs."""
    # The map made last holds readers of its parts until there is a newer one, which plans ask for.
    assert db._storage.state.tier_map is not None
    replaced = db._storage.maintenance._worker._replaced
    # The thread that saves memory looks at all parts for a moment.
    for _ in range(20):
        replaced.remove_due(everything=True)
        if not replaced.has_any:
            break
        time.sleep(0.01)


def local(path, suffix):
    """Files of parts that are here."""
    return sorted(
        str(file.relative_to(path / "parts"))
        for file in (path / "parts").rglob("*")
        if file.is_file() and str(file).endswith(suffix)
    )


def keys(s3):
    """Keys of all objects below the URL of `s3`."""
    store = open_store(s3.url, s3.options)
    prefix = s3.url.removeprefix(f"s3://{s3.bucket}/") + "/"
    found = [item["path"] for page in obstore.list(store._store) for item in page]
    return sorted(key.removeprefix(prefix) for key in found)
