"""Reads beside all that changes files: every answer has the values that were stored.

The program runs in a child: with one arena of malloc the threads get each other's freed memory at
once, so that a kernel which uses memory of others gives wrong values or dies.
"""

from __future__ import annotations

import faulthandler
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import numpy as np

import tsengine
from tsengine.errors import StorageError
from tsengine.options import Options

ROOT = Path(__file__).parents[2]
STEP_MS = 15_000
DAY_MS = 86_400_000
N_SERIES = 40
N_ROWS = 40_000
SECONDS, MORE_SECONDS = 4.0, 120.0
NEEDED = ("instant", "ranges", "flush", "compact")

TIMES = {
    "sum_over_time": lambda x: x.sum(),
    "count_over_time": len,
    "max_over_time": lambda x: x.max(),
    "last_over_time": lambda x: x[-1],
}


class Run:
    """Writers, readers and maintenance on one database; `problems` has what was wrong.

    Series s is on axis ``s % 2``: a regular one, or one with jitter. Rows below `n_visible` are
    stored.
    """

    def __init__(self, directory):
        self.directory = directory
        rng = np.random.default_rng(1)
        self.start_ms = int(time.time() * 1000) // DAY_MS * DAY_MS - 9 * DAY_MS
        regular = self.start_ms + np.arange(N_ROWS) * STEP_MS
        self.axes = (regular, regular + rng.integers(0, 5000, N_ROWS))
        shape = (N_SERIES, N_ROWS)
        self.values = rng.integers(0, 1 << rng.integers(1, 30, (N_SERIES, 1)), shape).astype(float)
        self.n_visible = 0
        self.n_deletes = 0
        self.problems = []
        self.counts = Counter()
        self.until = 0.0
        self.db = tsengine.open(directory, Options(query_threads=3, fsync="interval"))
        labels = [{"__name__": "m", "s": str(s), "axis": str(s % 2)} for s in range(N_SERIES)]
        self.refs = self.db.series_refs(labels)

    def work(self, step, seed, pause_s):
        """Repeat a step until time is up."""
        rng = np.random.default_rng(seed)
        while (time.monotonic() < self.until or self.is_short()) and not self.problems:
            try:
                step(rng)
            except StorageError as error:
                # What `build_tiers` says when samples come meanwhile; any other is a problem.
                if "new samples came" not in str(error):
                    self.problems.append(repr(error))
            except Exception as error:
                self.problems.append(repr(error))
            self.counts[step.__name__] += 1
            time.sleep(pause_s)

    def is_short(self):
        """Whether a slow machine has not come to everything twice yet; not for ever."""
        is_late = time.monotonic() > self.until + MORE_SECONDS
        return not is_late and any(self.counts[name] < 2 for name in NEEDED)

    def expect(self, what, found, wanted):
        if not np.array_equal(found, wanted, equal_nan=True):
            self.problems.append(f"{what}: {found!r} instead of {wanted!r}"[:1000])

    # --- what changes files ---------------------------------------------------------------------

    def put(self, low, high):
        t_ms = np.concatenate([self.axes[s % 2][low:high] for s in range(N_SERIES)])
        values = self.values[:, low:high].reshape(-1)
        self.db.append_columns(np.repeat(self.refs, high - low), t_ms, values)

    def write(self, rng):
        low = self.n_visible
        high = min(low + int(rng.choice([1, 30, 400, 900])), N_ROWS)
        if rng.random() < 0.3:  # The later half first: sources that overlap.
            middle = (low + high) // 2
            self.put(middle, high)
            self.db.flush()
            self.put(low, middle)
        else:
            self.put(low, high)
        self.n_visible = high

    def flush(self, rng):
        self.db.flush()

    def compact(self, rng):
        self.db.compact()

    def build_tiers(self, rng):
        self.db.build_tiers()

    def delete(self, rng):
        name = f"gone_{self.n_deletes}"
        self.n_deletes += 1
        refs = self.db.series_refs([{"__name__": name}])
        t_ms = self.start_ms + np.arange(100) * STEP_MS
        self.db.append_columns(np.repeat(refs, 100), t_ms, np.arange(100.0))
        self.db.delete_series(name, int(t_ms[20]), int(t_ms[79]))
        found = self.db.query(f"sum_over_time({name}[1d])", time=int(t_ms[-1])).to_numpy()
        self.expect(f"after deleting from {name}", found, [[sum(range(20)) + sum(range(80, 100))]])
        self.db.clean_tombstones()

    def snapshot(self, rng):
        n_visible = self.n_visible
        path = os.path.join(self.directory, "..", f"copy-{rng.integers(1 << 60)}")
        self.db.snapshot(path)
        with tsengine.open(path, read_only=True) as copy:
            self.check_range(copy, rng, n_visible)
        shutil.rmtree(path)

    # --- what reads -----------------------------------------------------------------------------

    def instant(self, rng):
        """All series at one time."""
        if self.n_visible < 2:
            return
        row = int(rng.integers(self.n_visible - 1))
        at = int(max(self.axes[0][row], self.axes[1][row]))
        result = self.db.query("m", time=at, lookback=STEP_MS / 1000)
        found = result.to_numpy()[np.argsort([int(x["s"]) for x in result.labels]), 0]
        self.expect(f"at row {row}", found, self.values[:, row])

    def ranges(self, rng):
        self.check_range(self.db, rng, self.n_visible)

    def check_range(self, db, rng, n_visible):
        """Windows of one axis' series, from samples or tiers."""
        if n_visible < 100:
            return
        name = rng.choice(list(TIMES))
        axis = int(rng.integers(2))
        window_s, step_s = int(rng.choice([90, 3600, 7200])), int(rng.choice([15, 300, 3600]))
        first = self.start_ms + int(rng.integers(1, n_visible)) * STEP_MS
        if rng.random() < 0.7:
            first = first // (step_s * 1000) * step_s * 1000
        last = min(first + 40 * step_s * 1000, self.start_ms + (n_visible - 1) * STEP_MS)
        steps_ms = np.arange(max(first, self.start_ms + STEP_MS), last + 1, step_s * 1000)
        if not len(steps_ms):
            return
        query = f'{name}(m{{axis="{axis}"}}[{window_s}s])'
        result = db.query_range(query, int(steps_ms[0]), int(steps_ms[-1]), step_s * 1000)
        high = np.searchsorted(self.axes[axis], steps_ms, side="right")
        low = np.searchsorted(self.axes[axis], steps_ms - window_s * 1000, side="right")
        found = result.to_numpy()
        what = f"{query} from {steps_ms[0]} every {step_s} s, {n_visible} rows"
        self.expect(what, len(found), N_SERIES // 2)
        for labels, row in zip(result.labels, found, strict=True):
            values = self.values[int(labels["s"])]
            wanted = [TIMES[name](values[a:b]) for a, b in zip(low, high, strict=True)]
            self.expect(f"{what}, series {labels['s']}", row, wanted)

    def select(self, rng):
        """Stored samples as they are."""
        if self.n_visible < 2000:
            return
        low = int(rng.integers(0, self.n_visible - 1500))
        t_ms = self.axes[1][low : low + 1500]
        batches = list(self.db.select('m{s="7"}', int(t_ms[0]), int(t_ms[-1])))
        times = np.concatenate([b.column("timestamp").cast("int64").to_numpy() for b in batches])
        self.expect("selected times", times, t_ms)
        values = np.concatenate([b.column("value").to_numpy() for b in batches])
        self.expect("selected values", values, self.values[7, low : low + 1500])

    def everything(self):
        """All of it at once; then what is on disk must be whole."""
        steps = [
            (self.write, 0.01), (self.flush, 0.05), (self.compact, 0.2), (self.build_tiers, 0.5),
            (self.delete, 0.2), (self.snapshot, 1.0), (self.instant, 0), (self.instant, 0),
            (self.ranges, 0), (self.ranges, 0), (self.ranges, 0), (self.select, 0),
        ]  # fmt: skip
        self.put(0, 3000)
        self.n_visible = 3000
        for step, _ in steps:  # Kernels that must be compiled first take no time of the others.
            step(np.random.default_rng(0))
        self.until = time.monotonic() + SECONDS
        threads = [
            threading.Thread(target=self.work, args=(step, seed, pause_s))
            for seed, (step, pause_s) in enumerate(steps)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.db.close()
        self.problems += [repr(problem) for problem in tsengine.check(self.directory).problems]


def main(directory):
    from tsengine.query import scheduler
    from tsengine.storage import replaced_files

    faulthandler.enable()
    replaced_files.GRACE_S = 0.0
    scheduler.SLICE_SAMPLES = 4096
    run = Run(directory)
    run.everything()
    print(json.dumps({"problems": run.problems, "counts": run.counts}))


def test_answers_beside_maintenance_are_exact(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "tests.storage.test_concurrent_reads", str(tmp_path / "db")],
        cwd=ROOT, capture_output=True, text=True, timeout=300,
        env={**os.environ, "MALLOC_ARENA_MAX": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    seen = json.loads(done.stdout.splitlines()[-1])
    assert seen["problems"] == []
    assert all(seen["counts"][step] > 1 for step in NEEDED)


if __name__ == "__main__":
    main(sys.argv[1])
