"""A tenth of the crash matrix, the same each time; `TSENGINE_CRASH_MATRIX=all` runs all of it.

`python -m tests.faults.matrix` does so with a table and a summary.
"""

from __future__ import annotations

import os
import random
import tempfile
from collections import Counter

import pytest

from tests.faults.matrix import (
    FAILURES,
    NEEDS_NO_SPACE,
    chosen,
    prepare,
    quick_folder,
    run_point,
    table,
)
from tests.faults.matrix_run import CHANGING, RECORDED, QuickFileSystem
from tests.faults.matrix_scenarios import SCENARIOS
from tsengine.storage.filesystem import FileSystem

SHARE = 1.0 if os.environ.get("TSENGINE_CRASH_MATRIX") == "all" else 0.1
NAMES = [scenario.name for scenario in SCENARIOS]
PURE = {
    "open_read", "map_file", "read_file", "listdir", "exists", "size", "free_bytes", "pread",
}  # fmt: skip


@pytest.fixture(scope="module")
def matrix():
    """Every scenario, prepared and recorded, by its name."""
    with tempfile.TemporaryDirectory(dir=quick_folder()) as folder:
        yield {
            scenario.name: prepare(scenario, os.path.join(folder, scenario.name.replace(" ", "-")))
            for scenario in SCENARIOS
        }


def test_the_matrix_has_enough_points(matrix):
    points = [point for prepared in matrix.values() for point in prepared.points]
    print(table(points))
    assert len(points) == len(set(map(str, points))) >= 500
    assert {point.failure for point in points} == set(FAILURES)
    assert {p.kind for p in points} == RECORDED - {"allocate"}, "no scenario has a ballast"
    by_scenario = Counter(point.scenario for point in points)
    assert min(by_scenario.values()) > 30
    some = chosen(points, 0.1)
    assert some == chosen(points, 0.1)
    assert abs(len(some) - len(points) / 10) <= 1
    for what in ("scenario", "failure", "kind"):
        assert {getattr(p, what) for p in some} == {getattr(p, what) for p in points}


def test_every_call_that_changes_the_disk_is_a_kind():
    methods = {name for name in vars(FileSystem) if not name.startswith("_")}
    assert methods - PURE == CHANGING - {"write", "datasync"}, "those are calls of an open file"
    assert NEEDS_NO_SPACE < RECORDED


@pytest.mark.timeout(7200 if SHARE == 1.0 else 600)
@pytest.mark.parametrize("name", NAMES)
def test_a_fault_loses_nothing(matrix, name, tmp_path):
    prepared = matrix[name]
    points = [point for one in matrix.values() for point in one.points]
    folder = os.path.dirname(prepared.root)
    for point in chosen(points, SHARE):
        if point.scenario == name:
            try:
                run_point(prepared, point, os.path.join(folder, "run"))
            except Exception as error:
                raise AssertionError(str(point)) from error


def test_a_lost_sync_is_noticed(matrix, monkeypatch):
    """The matrix itself: a database that forgets to sync the folder of a part is found out."""
    monkeypatch.setattr(QuickFileSystem, "sync_dir", lambda self, path: None)
    prepared = matrix["flush"]
    folder = os.path.dirname(prepared.root)
    points = [p for p in prepared.points if p.failure == "power cut" and p.kind == "unlink"]
    n_failed = 0
    for point in random.Random(1).sample(points, min(4, len(points))):
        try:
            run_point(prepared, point, os.path.join(folder, "run"))
        except Exception:
            n_failed += 1
    assert n_failed > 0
