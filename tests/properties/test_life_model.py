"""A database against a dict, in any order: the whole life of the data as a state machine.

Appends of floats and histograms in and out of order, duplicates, deletes, flushes, merges, tiers,
retention by time (raised and lowered), by rules and by size, the catalog shrunk, snapshots,
restarts, kills, queries. After each step everything that can be read is compared: samples, windows
of both tiers, PromQL.

`TSENGINE_LIFE_EXAMPLES=500 pytest tests/properties/test_life_model.py` for a longer look.
"""

from __future__ import annotations

import math
import os
import shutil
import tempfile
from dataclasses import replace
from unittest import mock

import numpy as np
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

import tsengine
from tests.faults.matrix import quick_folder
from tests.faults.matrix_run import start_paused
from tests.reference import life as reference
from tests.reference import rich_samples as rich
from tests.reference.life import DAY_MS, NEVER, Life
from tests.reference.memory_source import MemorySource
from tests.reference.rich_samples import Histogram
from tsengine.engine import Database
from tsengine.model.labels import label_dicts
from tsengine.model.windows import Column
from tsengine.options import Options, RetentionRule, Tier
from tsengine.query.engine import Engine
from tsengine.storage.catalog_shrink import CatalogShrink
from tsengine.storage.retention_chores import Expiry, RetentionRewriting
from tsengine.storage.worker import Worker

HOUR_MS = 3_600_000
NARROW, WIDE = HOUR_MS, 6 * HOUR_MS
KEEP_DAYS, CI_DAYS = 6, 3
BEGIN = 20_010 * DAY_MS
OPTIONS = Options(
    tiers=(Tier(NARROW / 1000), Tier(WIDE / 1000)),
    retention=KEEP_DAYS * 86_400.0,
    retention_rules=(
        RetentionRule('{job="ci"}', CI_DAYS * 86_400.0), RetentionRule('{job="slo"}', None),
    ),
    query_threads=1,
)  # fmt: skip
JOBS = {"a": "api", "b": "api", "c": "ci", "s": "slo", "h": "api"}
QUERIES = (
    'm{s!="h"}', 'sum by (job) (m{s!="h"})', 'count_over_time(m{s!="h"}[6h])',
    'sum_over_time(m{s!="h"}[6h])', 'max_over_time(m{s!="h"}[1h])', 'avg_over_time(m{s!="h"}[6h])',
    'last_over_time(m{s!="h"}[1h])', 'rate(m{s!="h"}[6h])',
    'sum by (job) (increase(m{s!="h"}[6h]))',
)  # fmt: skip

numbers = st.integers(0, 9).map(lambda n: rich.bits(float(n)))
floats = st.one_of(numbers, numbers, numbers, st.just(rich.STALE))
natives = st.builds(
    lambda n, keys: Histogram(
        0, 0, rich.bits(float(sum(n + k for k in keys))), rich.bits(float(n)), rich.bits(0.001), 0,
        tuple((2**20 + k, rich.bits(float(n + k))) for k in sorted(keys)), None,
    ),
    st.integers(1, 20), st.sets(st.integers(0, 4), min_size=1, max_size=3),
)  # fmt: skip
ago = st.one_of(
    st.integers(0, 8 * 24).map(lambda k: k * HOUR_MS),  # the border of windows
    st.integers(0, 8 * 24 * 12).map(lambda k: k * HOUR_MS // 12),
    st.integers(0, 2 * DAY_MS),
)
names = st.sampled_from("abcs")
float_batches = st.lists(
    st.tuples(names, ago, floats), min_size=1, max_size=12, unique_by=lambda r: r[:2]
)
scrapes = st.tuples(names, ago, st.integers(1, 40), st.sampled_from([HOUR_MS // 4, HOUR_MS // 2]))
native_batches = st.lists(st.tuples(ago, natives), min_size=1, max_size=6, unique_by=lambda r: r[0])


class LifeOfData(RuleBasedStateMachine):
    """The database `db` and the model `life` of one directory."""

    def __init__(self) -> None:
        super().__init__()
        self.root = tempfile.mkdtemp(dir=quick_folder())
        self.path = os.path.join(self.root, "db")
        self.now_ms = BEGIN + 10 * DAY_MS + 1
        self.life = Life()
        self.touched: list[tuple[str, int, int]] = []
        self.known: dict[tuple[str, int, int], list[object]] = {}
        """What each window was to be until now."""
        self.options = OPTIONS
        self.keep_days = KEEP_DAYS
        self.gone_ms = dict.fromkeys(JOBS, NEVER)
        """Samples of each series before it may have been erased; windows tell of them."""
        self.unsure: set[tuple[str, int]] = set()
        """Samples, by series and time, that may have been erased."""
        self.held: dict[tuple[str, int], list[object]] = {}
        """What each sample was until now."""
        self.lost: set[tuple[str, int, int]] = set()
        """Windows that nothing may tell of any more."""
        self.told: set[tuple[str, int, int]] = set()
        """Windows that a tier has had: they never are as if nothing were known."""
        self.is_built = False
        """Whether tiers were built and nothing has changed since."""
        self.n_copies = 0
        self.db = self.open(self.path)
        self.move_clock(0)

    def open(self, path: str, *, read_only: bool = False) -> Database:
        with mock.patch.object(Worker, "start", start_paused):
            db = Database(path, self.options, read_only=read_only, clock=lambda: self.now_ms)
        if not read_only:
            # Flushes are steps of ours.
            db._storage.maintenance.request_flush = lambda: None
        return db

    def teardown(self) -> None:
        self.db.close()
        problems = tsengine.check(self.path).problems
        shutil.rmtree(self.root)
        assert problems == []

    # --- writes ---------------------------------------------------------------------------------

    @initialize(scrape=scrapes)
    def fill(self, scrape) -> None:
        """Something to begin with."""
        self.scrape(scrape)

    @rule(batch=float_batches)
    def append(self, batch) -> None:
        """Any series, any times, what is there already among them."""
        self._store([(name, self.now_ms - 1 - back, (bits, 0)) for name, back, bits in batch])

    @rule(scrape=scrapes)
    def scrape(self, scrape) -> None:
        """A counter at steady times."""
        name, back, n, step_ms = scrape
        last = (self.now_ms - 1 - back) // step_ms * step_ms
        self._store([
            (name, last - (n - k) * step_ms, (rich.bits(float(k % 17)), 0)) for k in range(n)
        ])  # fmt: skip

    @rule(batch=native_batches)
    def append_histograms(self, batch) -> None:
        """Of one series, with start timestamps."""
        self._store([("h", self.now_ms - 1 - back, (native, 5)) for back, native in batch])

    def _store(self, rows) -> None:
        rows = [row for row in rows if row[1] >= self._floor(row[0])]
        if not rows:
            return
        storage = self.db._storage
        with storage.refs_in_use([labels_of(name) for name, _, _ in rows]) as refs:
            batch = rich.batch_of(
                [(ref, t, s) for ref, (_, t, s) in zip(refs.tolist(), rows, strict=True)]
            )
            outcome = storage.append_columns(
                batch.refs, batch.t_ms, batch.bits,
                histograms=batch.histograms, start_ms=batch.start_ms,
            )  # fmt: skip
        assert (outcome.rejected, outcome.too_old, outcome.too_new) == ((), (), ())
        self.life.append(rows)
        for name, t, value in rows:
            self.unsure.discard((name, t))
            self.held.setdefault((name, t), []).append(value)
        self.is_built = False

    def _floor(self, name: str) -> int:
        return self.life.floors_ms.get(name, self.life.floor_ms)

    @rule(gone=st.sets(st.sampled_from("abcsh"), min_size=1, max_size=3), span=st.tuples(ago, ago))
    def delete(self, gone, span) -> None:
        """Some series in a range that need not have anything."""
        mint, maxt = self.now_ms - 1 - max(span), self.now_ms - 1 - min(span)
        self.db.delete_series([f'{{s="{name}"}}' for name in gone], mint, maxt)
        self.life.delete(gone, mint, maxt)
        self.is_built = False
        self.touched += [(name, mint, maxt) for name in gone]

    # --- background work ------------------------------------------------------------------------

    @rule()
    def flush(self) -> None:
        self._erases()
        self.db.flush()

    @rule()
    def compact(self) -> None:
        self._erases()
        self.db.flush()
        self.db.compact()

    @rule()
    def downsample(self) -> None:
        self._erases()
        self.db.build_tiers()
        self.is_built = True

    @rule()
    def clean_tombstones(self) -> None:
        self._erases()
        self.db.clean_tombstones()

    @rule(n=st.sampled_from([1, 2, 4, 4, 8, 12]))
    def expire(self, n) -> None:
        """Six hours go by, or some days; what is past its retention leaves the disk."""
        self.move_clock(n * WIDE)
        self._erases()
        for chore in (Expiry, RetentionRewriting):
            self.db._storage.maintenance.run(chore(self.db._storage))

    @rule(days=st.sampled_from([2, 4, 6, 9, 9]))
    def keep(self, days) -> None:
        """The retention is raised or lowered."""
        self.keep_days = days
        self.options = replace(OPTIONS, retention=days * 86_400.0)
        self.db.reconfigure(retention=self.options.retention)
        self.move_clock(0)

    @rule(n=st.integers(8, 32), scrape=scrapes, late=names)
    def outlive(self, n, scrape, late) -> None:
        """Samples go that tiers have; then the retention is raised, and others come there."""
        self.scrape(scrape)
        self.downsample()
        self.expire(n)
        self.keep(30)
        self.holds()
        self.scrape((late, scrape[1] + n * WIDE, *scrape[2:]))
        self.holds()
        self.downsample()

    def _erases(self) -> None:
        """What is past its retention now may leave the disk."""
        for name in JOBS:
            if self._floor(name) > self.gone_ms[name]:
                self.gone_ms[name] = self._floor(name)
            own = self.life.samples.get(name, {})
            self.unsure |= {(name, t) for t in own if t < self._floor(name)}

    @precondition(lambda self: len(self.db._storage.state.parts) > 1)
    @rule(share=st.sampled_from([0.05, 0.3, 0.6]))
    def limit_bytes(self, share) -> None:
        """The oldest parts go, of samples and of tiers."""
        storage = self.db._storage
        self.db.flush()  # Or heads become parts meanwhile, and go without being in ``before``.
        before = storage.state
        self._erases()
        storage.maintenance.run(Expiry(storage))
        size = sum(e.entry.size_bytes for e in (*storage.state.parts, *storage.state.tiers))
        limit = storage.size_bytes(storage.state) - int(size * share)
        self.db.reconfigure(retention_size=max(1, limit))
        storage.maintenance.run(Expiry(storage))
        self.db.reconfigure(retention_size=None)
        kept = {part.entry.name for part in storage.state.parts}
        tiers = {tier.entry.name for tier in storage.state.tiers}
        self._lose(
            before,
            [part for part in before.parts if part.entry.name not in kept],
            [tier.entry for tier in before.tiers if tier.entry.name not in tiers],
        )
        self.is_built = False

    def _lose(self, before, parts, tiers) -> None:
        """Parts of samples and of tiers went, whatever was in them."""
        for key in list(self.told):
            # Built again from samples that stay; until then nothing tells it once they are hidden.
            if any(t.width_ms == key[1] and t.cover_min <= key[2] <= t.cover_max for t in tiers):
                self.told.discard(key)
                self.known[key].append(None)
        view = self.db._storage.view()
        names = dict(zip(
            view.all_refs().tolist(),
            [labels["s"] for labels in label_dicts(view.catalog, view.labels(view.all_refs()))],
            strict=True,
        ))  # fmt: skip

        def rows_of(part):
            columns = part.collect(None, NEVER, 2**63 - 1)
            owner = np.repeat(columns.refs, np.diff(columns.offsets)).tolist()
            times = columns.t_ms.tolist()
            return {(names[ref], t) for ref, t in zip(owner, times, strict=True)}

        # Of parts that were split something stays.
        old = {part.entry.name for part in before.parts}
        new = [part for part in self.db._storage.state.parts if part.entry.name not in old]
        left = set().union(*map(rows_of, new))
        for part in parts:
            gone = rows_of(part) - left
            self.unsure |= gone
            for _, t_ms in gone:
                end = -(-t_ms // WIDE) * WIDE + 1
                self.gone_ms = {name: max(t, end) for name, t in self.gone_ms.items()}
        for width_ms in (NARROW, WIDE):
            clean = before.tier_map.clean(width_ms)
            for name, t in self.unsure:
                end = -(-t // width_ms) * width_ms
                is_clean = any(owned.mint <= end <= owned.maxt for owned in clean)
                went = any(
                    e.width_ms == width_ms and e.cover_min <= end <= e.cover_max for e in tiers
                )
                if not is_clean or went:
                    self.lost.add((name, width_ms, end))

    @rule(n=st.sampled_from([1, 4]))
    def wait(self, n) -> None:
        """Time goes by and nothing is done."""
        self.move_clock(n * WIDE)

    @rule()
    def shrink(self) -> None:
        chore = CatalogShrink(self.db._storage, n_dead_min=1, share_min=0.0, look_every_s=0.0)
        self.db._storage.maintenance.run(chore)

    def move_clock(self, by_ms: int) -> None:
        self.now_ms += by_ms
        self.is_built = False
        self.life.floor_ms = self.now_ms - self.keep_days * DAY_MS
        self.life.floors_ms = {"c": self.now_ms - CI_DAYS * DAY_MS, "s": NEVER}

    # --- life of the process --------------------------------------------------------------------

    @rule()
    def restart(self) -> None:
        self.db.close()
        self.db = self.open(self.path)

    @rule()
    def kill(self) -> None:
        """The next process finds what this one has written so far."""
        self.n_copies += 1
        after = os.path.join(self.root, f"killed-{self.n_copies}")
        shutil.copytree(self.path, after)
        self.db.close()
        shutil.rmtree(self.path)
        os.rename(after, self.path)
        self.db = self.open(self.path)
        assert self.db.recovery_problems == []

    @rule()
    def snapshot(self) -> None:
        """It holds the same, and is whole."""
        self.n_copies += 1
        path = self.db.snapshot(os.path.join(self.root, f"snapshot-{self.n_copies}"))
        assert tsengine.check(path).problems == []
        copy = self.open(path, read_only=True)
        self.compare(copy)
        copy.close()
        shutil.rmtree(path)

    # --- looks ----------------------------------------------------------------------------------

    @rule(expr=st.sampled_from(QUERIES), back=st.integers(0, 12), n=st.integers(1, 4))
    def query(self, expr, back, n) -> None:
        """PromQL at the ends of windows, where all samples are there, as over the plain samples."""
        end = (self.now_ms - 1) // WIDE * WIDE - back * HOUR_MS
        complete_ms = max(self.life.floor_ms, *self.gone_ms.values())
        start = max(end - n * WIDE, -(-(complete_ms - 1) // WIDE) * WIDE + WIDE)
        start += (end - start) % WIDE
        if start > end:
            return
        source = MemorySource()
        for name, own in self.life.kept().items():
            if name != "h":
                times = sorted(own)
                bits = np.array([own[t][0] for t in times], np.uint64)
                source.append(labels_of(name), times, bits.view(np.float64).tolist())
        engine = Engine(source, self.options)
        wanted = engine.query_range(expr, start, end, WIDE)
        found = self.db.query_range(expr, start, end, WIDE)
        assert_same_answers(found, tsengine.Result(wanted), expr)
        engine.close()

    @invariant()
    def holds(self) -> None:
        self.compare(self.db)

    def compare(self, db: Database) -> None:
        """Samples to the bit, and windows, where they are said to be complete."""
        mint = (BEGIN // DAY_MS) * DAY_MS + 1
        maxt = -(-self.now_ms // DAY_MS) * DAY_MS
        found = reference.found_in(db._storage, (NARROW, WIDE), mint, maxt)
        expected = self.life.content((NARROW, WIDE), mint, maxt)
        samples = self.without_unsure(found.samples, expected.samples)
        samples = reference.Content(samples, {}, set(), {})
        assert samples == (wanted := reference.Content(expected.samples, {}, set(), {})), (
            reference.difference(samples, wanted)
        )
        for width_ms, windows in expected.windows.items():
            self.compare_windows(db, width_ms, found.windows[width_ms], windows)

    def without_unsure(self, found, expected):
        """The samples as expected where they may have been erased and are none that never was."""
        samples = {name: dict(own) for name, own in found.items()}
        for name, t in self.unsure:
            wanted = expected.get(name, {}).get(t)
            if wanted is not None and samples.get(name, {}).get(t) in [None, *self.held[name, t]]:
                samples.setdefault(name, {})[t] = wanted
        return samples

    def compare_windows(self, db: Database, width_ms: int, found, expected) -> None:
        """Those in which all samples are there, and all that were just built, are exact.

        Where samples are past their retention, what came since the windows were built is in them
        when they are built again; and windows that a delete cuts may be gone. Where samples were
        erased before the retention was raised, what comes then is added to what is known of them.
        Whatever the reason, a window that is not that of all samples is said to be in doubt.
        """
        clean = self.db._storage.state.tier_map.clean(width_ms)
        for name in found.keys() | expected.keys():
            own, wanted = found.get(name, {}), expected.get(name, {})
            missing: list[tuple[int, int]] | None = None
            for end in own.keys() | wanted.keys():
                is_in_tier = any(owned.mint <= end <= owned.maxt for owned in clean)
                known = self.known.setdefault((name, width_ms, end), [None])
                if (name, width_ms, end) in self.told:
                    known[:] = [window for window in known if window is not None]
                elif width_ms < WIDE and end <= self.gone_ms[name]:
                    # The wide tier may be all that is left of then, and what comes late is in it.
                    known.append(None)
                if wanted.get(end) not in known:
                    known.append(wanted.get(end))
                if own.get(end) == wanted.get(end):
                    if self.is_built and is_in_tier and end in own:
                        self.told.add((name, width_ms, end))
                    continue
                if missing is None:
                    missing, doubtful = inexact_spans(db, name, width_ms)
                is_missing = meets(missing, end, width_ms)
                assert is_missing or meets(doubtful, end, width_ms), (
                    f"not said: {name}, {width_ms} ms, {end - self.now_ms}: {own.get(end)}, "
                    f"expected {wanted.get(end)}"
                )
                if (name, width_ms, end) in self.lost:
                    continue
                is_old = end < max(self._floor(name), self.gone_ms[name])
                is_late = self._is_late(name, end, width_ms)
                is_there = is_old and (is_late or not self.is_built)
                is_there = is_there and (
                    own.get(end) in known
                    or any(is_merged(own.get(end), k, wanted.get(end)) for k in known)
                )
                is_cut = is_old and end not in own and self._is_touched(name, end, width_ms)
                # Where only the wide tier was left, what came late and is hidden is in its windows
                # alone.
                is_wide = is_old and end not in own and width_ms < WIDE and is_missing
                is_wide = is_wide and (name, width_ms, end) not in self.told
                is_wide = is_wide and end <= self.gone_ms[name]
                is_wide = is_wide and not self._is_visible(name, end, width_ms)
                assert is_there or is_cut or is_wide, (
                    f"{name}, {width_ms} ms, {end - self.now_ms}: {own.get(end)}, "
                    f"expected {wanted.get(end)}"
                )

    def _is_late(self, name: str, end: int, width_ms: int) -> bool:
        """Whether samples of a window were stored after others were erased."""
        own = [t for t in self.life.samples.get(name, {}) if end - width_ms < t <= end]
        return end <= self.gone_ms[name] and any((name, t) not in self.unsure for t in own)

    def _is_visible(self, name: str, end: int, width_ms: int) -> bool:
        """Whether samples of a window are neither hidden nor perhaps gone."""
        return any(
            end - width_ms < t <= end and t >= self._floor(name) and (name, t) not in self.unsure
            for t in self.life.samples.get(name, {})
        )

    def _is_touched(self, name: str, end: int, width_ms: int) -> bool:
        return any(
            name == n and end - width_ms < maxt and end >= mint for n, mint, maxt in self.touched
        )


def inexact_spans(db: Database, name: str, width_ms: int):
    """Where the database says that windows of a series are missing, and where they are in doubt."""
    view = db._storage.view()
    refs = view.all_refs()
    names = [labels["s"] for labels in label_dicts(view.catalog, view.labels(refs))]
    own = refs[np.flatnonzero(np.array(names) == name)]
    span = BEGIN - DAY_MS + 1, BEGIN + 1000 * DAY_MS
    if len(own) == 0:
        # It has left the catalog.
        return [span], []
    return view.missing_spans(width_ms, own, *span), view.doubtful_spans(width_ms, own, *span)


def meets(spans, end: int, width_ms: int) -> bool:
    """Whether closed ranges have anything of a window."""
    return any(low <= end and end - width_ms < high for low, high in spans)


def is_merged(own, known, late) -> bool:
    """Whether a window is a known one, of samples that are gone, with late samples added."""
    if own is None or known is None or late is None:
        return False
    for n, first, last in (
        (Column.COUNT, Column.FIRST_T, Column.LAST_T),
        (Column.H_COUNT, Column.H_FIRST_T, Column.H_LAST_T),
    ):
        n_own, n_known, n_late = (as_float(window[n]) for window in (own, known, late))
        if not max(n_known, n_late) <= n_own <= n_known + n_late:
            return False
        both = [window for window in (known, late) if as_float(window[n])]
        if both and own[first] != min(window[first] for window in both):
            return False
        if both and own[last] != max(window[last] for window in both):
            return False
    return True


def as_float(bits: int) -> float:
    return float(np.array(bits, np.uint64).view(np.float64))


def labels_of(name: str) -> dict[str, str]:
    return {"__name__": "m", "job": JOBS[name], "s": name}


def assert_same_answers(found, wanted, expr: str) -> None:
    assert found.warnings == wanted.warnings == []
    answers = [
        {tuple(sorted(labels.items())): row.tolist()
         for labels, row in zip(result.labels, result.to_numpy(), strict=True)}
        for result in (found, wanted)
    ]  # fmt: skip
    assert answers[0].keys() == answers[1].keys(), expr
    for key, row in answers[1].items():
        for got, want in zip(answers[0][key], row, strict=True):
            same = math.isclose(got, want, rel_tol=1e-9) or (math.isnan(got) and math.isnan(want))
            assert same, (expr, key, answers[0][key], row)


TestLifeOfData = LifeOfData.TestCase
TestLifeOfData.settings = settings(
    deadline=None,
    max_examples=int(os.environ.get("TSENGINE_LIFE_EXAMPLES", "25")),
    stateful_step_count=int(os.environ.get("TSENGINE_LIFE_STEPS", "20")),
    suppress_health_check=list(HealthCheck),
)
