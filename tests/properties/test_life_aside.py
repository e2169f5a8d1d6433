"""The life of the data while parts are put aside and come back, as a state machine.

That of `test_life_model` without retention: parts of samples and of tiers go to the quarantine, the
database goes on without them, and they come back, one by one or all at once, after a crash too.
While a part is away nothing but its own times may differ; when all are back nothing may.

`TSENGINE_LIFE_EXAMPLES=300 pytest tests/properties/test_life_aside.py` for a longer look.
"""

from __future__ import annotations

import os
from dataclasses import replace
from unittest import mock

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule

import tsengine
from tests.faults.matrix_run import start_paused
from tests.properties.test_life_model import (
    HOUR_MS,
    NARROW,
    WIDE,
    LifeOfData,
    ago,
    float_batches,
    names,
    scrapes,
)
from tests.reference import rich_samples as rich
from tests.reference.life import NEVER
from tsengine.storage import manifest
from tsengine.storage.aside import aside_names
from tsengine.storage.filesystem import LocalFileSystem
from tsengine.storage.quarantine import Damaged, put_aside
from tsengine.storage.worker import Worker

DOINGS = (
    "beside", "beside", "append", "delete", "delete beside", "flush", "compact", "compact",
    "downsample", "downsample", "clean_tombstones", "restart", "another",
)  # fmt: skip
MUST_WAIT = "is newer and must come back before it"


class LifeBesideQuarantine(LifeOfData):
    """The database goes on while parts of it are away."""

    expire = keep = outlive = limit_bytes = None  # Nothing is erased.

    def __init__(self) -> None:
        super().__init__()
        self.either: set[tuple[str, int]] = set()
        """Samples of which a former value may have come back in a merge."""
        self.options = replace(self.options, retention=None, retention_rules=())
        self.db.reconfigure(retention=None, retention_rules=())
        self.move_clock(0)

    def move_clock(self, by_ms: int) -> None:
        super().move_clock(by_ms)
        self.life.floor_ms, self.life.floors_ms = NEVER, {}

    def _store(self, rows) -> None:
        super()._store(rows)
        self.either -= {(name, t) for name, t, _ in rows}

    @precondition(lambda self: len(aside_names(LocalFileSystem(), self.path)) < 4)
    @rule(which=st.integers(0, 30), folder=st.sampled_from(["parts", "parts", "tiers"]))
    def put_aside(self, which, folder) -> None:
        """As `check --quarantine` does with a damaged part."""
        fs = LocalFileSystem()
        self.db.close()
        current = manifest.load(fs, self.path)
        entries = current.parts if folder == "parts" else current.tiers
        if entries:
            name = entries[which % len(entries)].name
            put_aside(fs, self.path, current, [Damaged(folder, name, ("x",))], self.now_ms)
        self.db = self.open(self.path)
        self.is_built = False

    def detour(self, which, folder, scrape, doings, batch, gone, span) -> None:
        """A part goes, the database goes on without it, and it comes back."""
        self.scrape(scrape)
        self.flush()
        self.put_aside(which, folder)
        half = len(batch) // 2
        for doing in doings:
            if doing == "append":
                self.append(batch[half:])
            elif doing == "beside":
                self._store([(name, t, (rich.bits(float(which)), 0)) for name, t in self._away()])
                self.flush()
            elif doing == "delete":
                self.delete(gone, span)
            elif doing == "delete beside":
                for name, t in self._away()[:1]:
                    self.db.delete_series([f'{{s="{name}"}}'], t, t + HOUR_MS)
                    self.life.delete([name], t, t + HOUR_MS)
                    self.is_built = False
            elif doing == "another":
                self.put_aside(which // 2, folder)
            else:
                getattr(self, doing)()
            self.holds()
        self.bring_back(None)
        self.holds()
        self.append(batch[:half])
        self.downsample()

    def _away(self) -> list[tuple[str, int]]:
        """Some series and times of samples that may be away, and of one that never was."""
        holes = self.db._storage.state.holes
        found = sorted(key for key in self.held for low, high in holes if low <= key[1] <= high)
        return found[::3] + [("a", t + 1) for _, t in found[:1]]

    @precondition(lambda self: aside_names(LocalFileSystem(), self.path))
    @rule(which=st.none() | st.integers(0, 3))
    def bring_back(self, which) -> None:
        """All of them, or one."""
        holes = dict(self.db._storage._checkpointer.manifest.holes)
        there = aside_names(LocalFileSystem(), self.path)
        names = there if which is None else [there[which % len(there)]]
        self.db.close()
        with mock.patch.object(Worker, "start", start_paused):
            found = tsengine.bring_back(self.path, names)
        for one in found:
            assert one.refused is None or (which is not None and MUST_WAIT in one.refused), one
            if one.merged_with and one.name in holes:
                mint, maxt = holes[one.name]
                self.either |= {
                    (name, t) for (name, t), all_of in self.held.items()
                    if mint <= t <= maxt and len(all_of) > 1
                }  # fmt: skip
        self.db = self.open(self.path)
        assert self.db.recovery_problems == []
        self.is_built = False
        if which is None:
            assert self.db._storage.state.holes == ()
            assert aside_names(LocalFileSystem(), self.path) == []

    def query(self, *args) -> None:
        """Not while samples are away."""

    def without_unsure(self, found, expected):
        """As expected too where a merge may have kept a former value."""
        samples = super().without_unsure(found, expected)
        for name, t in self.either:
            wanted = expected.get(name, {}).get(t)
            if wanted is not None and samples.get(name, {}).get(t) in self.held[name, t]:
                samples[name][t] = wanted
        return samples

    def compare(self, db) -> None:
        """What lies in holes may be missing, or be what was there before."""
        unsure, lost = self.unsure, self.lost
        away = {
            key for key in self.held for mint, maxt in db._storage.state.holes
            if mint <= key[1] <= maxt
        }  # fmt: skip
        self.unsure = unsure | away
        self.lost = lost | {
            (name, width, -(-t // width) * width)
            for name, t in away | self.either for width in (NARROW, WIDE)
        }  # fmt: skip
        try:
            super().compare(db)
        finally:
            self.unsure, self.lost = unsure, lost


TestLifeBesideQuarantine = LifeBesideQuarantine.TestCase
TestLifeBesideQuarantine.settings = settings(
    deadline=None,
    max_examples=int(os.environ.get("TSENGINE_LIFE_EXAMPLES", "8")),
    stateful_step_count=int(os.environ.get("TSENGINE_LIFE_STEPS", "20")),
    suppress_health_check=list(HealthCheck),
)


DETOURS = st.tuples(
    st.integers(0, 30),
    st.sampled_from(["parts", "parts", "tiers"]),
    scrapes,
    st.lists(st.sampled_from(DOINGS), min_size=2, max_size=5),
    float_batches,
    st.sets(names, min_size=1, max_size=3),
    st.tuples(ago, ago),
)


@settings(
    deadline=None,
    max_examples=int(os.environ.get("TSENGINE_LIFE_EXAMPLES", "8")),
    suppress_health_check=list(HealthCheck),
)
@given(scrapes, st.booleans(), st.lists(DETOURS, min_size=1, max_size=3))
def test_what_comes_back_is_as_if_it_had_never_been_away(scrape, has_tiers, detours):
    life = LifeBesideQuarantine()
    life.scrape(scrape)
    life.flush()
    if has_tiers:
        life.downsample()
    for detour in detours:
        life.detour(*detour)
    life.teardown()
