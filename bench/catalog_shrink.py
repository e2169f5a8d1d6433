"""What memory and disk get back when series die: 1 M series, of which 900,000 lose their data.

    python -m bench.catalog_shrink [--series 1000000] [--live 100000]

Series are those of `bench.bodies` (ten labels), sent by remote write, so the senders' memo is full
too. Prints bytes of the catalog's arrays, resident memory, segment bytes before and after, how long
the shrink took, and the longest append meanwhile, beside the longest of as many appends without it.
"""

from __future__ import annotations

import argparse
import gc
import os
import tempfile
import threading
import time

import numpy as np

from bench.bodies import SERIES_PER_BODY, T_MS, labels_of
from tests.reference import remote_write as wire
from tsengine.options import Options
from tsengine.storage import filenames
from tsengine.storage.database import StorageDatabase
from tsengine.storage.retention_chores import Expiry

DAY_MS = 86_400_000


class Clock:
    now_ms = T_MS

    def __call__(self):
        return self.now_ms


def send(database, first, last, t_ms):
    for start in range(first, last, SERIES_PER_BODY):
        numbers = range(start, min(last, start + SERIES_PER_BODY))
        bits = wire.bits_of(1.5)
        body = wire.encode_v1([wire.Series(labels_of(i), [(t_ms, bits)]) for i in numbers])
        database.append_remote_write(body, version=1)


def array_bytes(catalog):
    """Bytes of all arrays of a catalog, each counted once."""
    found = {}

    def look(thing, depth):
        if isinstance(thing, np.ndarray):
            owner = thing
            while isinstance(owner.base, np.ndarray):
                owner = owner.base
            found[id(owner)] = owner.nbytes
        elif isinstance(thing, (list, tuple, dict)):
            for item in thing.values() if isinstance(thing, dict) else thing:
                look(item, depth)
        elif depth < 6 and type(thing).__module__.startswith("tsengine"):
            names = list(getattr(thing, "__dict__", ())) or list(getattr(thing, "__slots__", ()))
            for name in names:
                look(getattr(thing, name, None), depth + 1)

    look(catalog, 0)
    return sum(found.values())


def resident_bytes():
    gc.collect()
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def slowest_append(database, body, seconds, stop):
    """Longest of appends one after the other until `stop`, or for some seconds."""
    slowest = 0.0
    end = time.perf_counter() + seconds
    while not stop.is_set() and time.perf_counter() < end:
        begin = time.perf_counter()
        database.append_remote_write(body, version=1)
        slowest = max(slowest, time.perf_counter() - begin)
    return slowest


def report(name, database, directory):
    folder = os.path.join(directory, filenames.CATALOG_DIR)
    named = database._checkpointer.manifest.catalog_segments
    segments = sum(os.path.getsize(os.path.join(folder, segment)) for segment in named)
    arrays = array_bytes(database.catalog)
    n_series = database.catalog.n_series
    print(
        f"{name}: {n_series:,} series, arrays {arrays / 2**20:.1f} MiB "
        f"({arrays / max(1, n_series):.0f} bytes a series), "
        f"resident {resident_bytes() / 2**20:.0f} MiB, segments {segments / 2**20:.2f} MiB"
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--series", type=int, default=1_000_000)
    parser.add_argument("--live", type=int, default=100_000)
    args = parser.parse_args()
    clock = Clock()
    with tempfile.TemporaryDirectory() as directory:
        database = StorageDatabase(directory, Options(retention=86_400.0, tiers=()), clock=clock)
        database.maintenance.pause()
        print(f"empty: resident {resident_bytes() / 2**20:.0f} MiB")
        send(database, 0, args.series, T_MS)
        database.flush()
        clock.now_ms += 2 * DAY_MS
        send(database, args.series - args.live, args.series, clock.now_ms)
        database.flush()
        database.maintenance.run(Expiry(database))
        report("before", database, directory)
        numbers = range(args.series - 1000, args.series)
        body = wire.encode_v1(
            [wire.Series(labels_of(i), [(clock.now_ms, wire.bits_of(2.5))]) for i in numbers]
        )
        stop = threading.Event()
        found = []
        alone = slowest_append(database, body, 3.0, stop)
        thread = threading.Thread(
            target=lambda: found.append(slowest_append(database, body, 60.0, stop))
        )
        thread.start()
        begin = time.perf_counter()
        n_gone = database.shrink_catalog()
        seconds = time.perf_counter() - begin
        stop.set()
        thread.join()
        print(
            f"shrink: {n_gone:,} series left in {seconds:.2f} s; longest append meanwhile "
            f"{found[0] * 1e3:.0f} ms, without it {alone * 1e3:.0f} ms"
        )
        report("after", database, directory)
        database.close()
        begin = time.perf_counter()
        database = StorageDatabase(directory, Options(tiers=()), clock=clock)
        print(f"opened again in {time.perf_counter() - begin:.2f} s")
        database.close()


if __name__ == "__main__":
    main()
