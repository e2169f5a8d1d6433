"""Makes golden databases, whole directories; run once each with the version of its time.

    python tests/golden/make_database.py floats tests/golden/database-floats          # at 334dae4
    python tests/golden/make_database.py histograms tests/golden/database-histograms  # at 334dae4
    python tests/golden/make_database.py life tests/golden/database-life

The first two are of versions without and with native histograms, before there were tiers, deletes
and catalogs that shrink; the third has these. tests/storage/test_golden_databases.py opens all of
them, with every later version. What they hold is told by `content`, in plain values.
"""

from __future__ import annotations

import os
import sys

import numpy as np

import tsengine

DAY_MS = 86_400_000
HOUR_MS = 3_600_000
T0 = 20_010 * DAY_MS
N_DAYS = 3
STEP_MS = 1_800_000
STALE = 0x7FF0000000000002
SPECIAL = [STALE, 1 << 63, 0x7FF0000000000000, 0x7FF8000000000001, 0x3FB999999999999A]

Content = dict[str, dict[int, object]]
"""By series and time: bits of a float, or what a histogram was made of: (count, sum, buckets)."""


def content(kind: str) -> Content:
    """What the database of a kind holds."""
    found: Content = {}
    for s in range(3):
        own = found[f"m{s}"] = {}
        for k in range(1, N_DAYS * DAY_MS // STEP_MS + 1):
            own[T0 + k * STEP_MS] = _bits(k % 40 * (s + 0.5))
    # Late ones that replace some.
    for k in range(5, 50, 5):
        found["m1"][T0 + k * STEP_MS] = _bits(-float(k))
    found["special"] = {T0 + 100 + i: bits for i, bits in enumerate(SPECIAL)}
    found["in the log"] = {T0 + N_DAYS * DAY_MS + 7: _bits(7.0)}
    if kind != "floats":
        own = found["native"] = {}
        for k in range(1, 20):
            own[T0 + k * 3 * HOUR_MS] = (4.0 * k, 6.5 * k, {0: k, 1: 2 * k, 3: k})
    if kind == "life":
        for t in [t for t in found["m2"] if T0 + DAY_MS < t <= T0 + DAY_MS + 12 * HOUR_MS]:
            del found["m2"][t]  # by a tombstone in a file
        del found["m0"][T0 + 2 * DAY_MS + HOUR_MS]  # by one in the log
        del found["special"][T0 + 102]
        found["back"] = {T0 + 3 * DAY_MS: _bits(2.0)}
    return found


def _bits(value: float) -> int:
    return int(np.float64(value).view(np.uint64))


def make(kind: str, path: str) -> None:
    """Write the database with the façade alone, which every version has."""
    data = content("histograms" if kind == "life" else kind)
    late = {T0 + k * STEP_MS: data["m1"][T0 + k * STEP_MS] for k in range(5, 50, 5)}
    before = {t: _bits(float((t - T0) // STEP_MS % 40 * 1.5)) for t in late}
    database = _open(kind, path)
    if kind == "life":
        _dead_series(database)
    for day in range(N_DAYS):
        for s in range(3):
            own = data[f"m{s}"] | (before if s == 1 else {})
            first = T0 + day * DAY_MS
            _append(
                database, f"m{s}", {t: v for t, v in own.items() if first < t <= first + DAY_MS}
            )
        if day == 0:
            database.append_metadata("golden", "gauge", "What lasts.", "days")
            _append(database, "special", data["special"])
        if kind != "floats" and day == 1:
            _append_histograms(database, data["native"])
        database.flush()
    _append(database, "m1", late)
    database.flush()
    if kind == "life":
        _live(database)
    _append(database, "in the log", data["in the log"])
    if kind == "life":
        database.delete_series('{s="m0"}', T0 + 2 * DAY_MS + HOUR_MS, T0 + 2 * DAY_MS + HOUR_MS)
    database.close()
    # The start removes what merges replaced; nothing new is written.
    _open(kind, path).close()


def _open(kind: str, path: str):
    if kind != "life":
        return tsengine.open(path)
    options = tsengine.Options(tiers=(tsengine.Tier(3600.0), tsengine.Tier(6 * 3600.0)))
    database = tsengine.open(path, options)
    database.pause_background()
    # Nothing but what is said here makes files.
    database._storage.maintenance.request_flush = lambda: None
    return database


def _dead_series(database) -> None:
    """Series of which nothing is left: the catalog has gaps then."""
    for k in range(6):
        _append(database, f"dead{k}", {T0 + k: 0})
    database.flush()
    database.delete_series('{s=~"dead.*"}')


def _live(database) -> None:
    """Tiers, a clean-up, a smaller catalog, then late samples and deletes that make some dirty."""
    database.compact()
    database.build_tiers()
    database.clean_tombstones()
    # As after a restart: refs are held by nobody.
    database._storage.held_refs.__init__()
    assert database._storage.shrink_catalog() == 6
    _append(database, "back", {T0 + 3 * DAY_MS: _bits(2.0)})
    database.delete_series('{s="m2"}', T0 + DAY_MS + 1, T0 + DAY_MS + 12 * HOUR_MS)
    database.delete_series('{s="special"}', T0 + 102, T0 + 102)
    database.flush()


def _append(database, name: str, samples: dict[int, object]) -> None:
    times = sorted(samples)
    values = np.array([samples[t] for t in times], np.uint64).view(np.float64)
    database.append({"__name__": "golden", "s": name}, np.array(times, np.int64), values)


def _append_histograms(database, samples: dict[int, object]) -> None:
    made = []
    for t in sorted(samples):
        count, total, buckets = samples[t]
        made.append(
            tsengine.NativeHistogram(
                0, count, total, positive={key: float(n) for key, n in buckets.items()}
            )
        )
    database.append_histograms({"__name__": "golden", "s": "native"}, sorted(samples), made)


if __name__ == "__main__":
    make(sys.argv[1], sys.argv[2])
    for name in ("lock", "ballast"):
        if os.path.exists(os.path.join(sys.argv[2], name)):
            os.remove(os.path.join(sys.argv[2], name))
