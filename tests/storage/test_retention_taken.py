"""What rules took is remembered when they are made longer, go, or come behind others."""

from __future__ import annotations

import dataclasses
import tempfile
from unittest import mock

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import tsengine
from tests.faults.matrix import quick_folder
from tests.faults.matrix_run import start_paused
from tests.storage.test_catalog_shrink import DAY_MS, T0, Time
from tests.storage.test_retention import DAY_S, HOUR_MS, run
from tsengine.engine import Database
from tsengine.options import Options, RetentionRule, Tier
from tsengine.storage import manifest
from tsengine.storage.filesystem import LocalFileSystem
from tsengine.storage.retention_marks import NEVER_MS, NOTHING_MS
from tsengine.storage.retention_taken import EVERY, TAKEN_MAX, Taken, still_needed, with_more
from tsengine.storage.worker import Worker

WIDE_MS = 6 * HOUR_MS
TIERS = (Tier(3600.0), Tier(6 * 3600.0))
DAY0 = T0 // DAY_MS * DAY_MS
TIMES = list(range(DAY0 - 3 * DAY_MS + HOUR_MS // 2, DAY0 + 1, HOUR_MS // 2))
"""Two samples of each hour."""
CI = RetentionRule('{job="ci"}', 3 * DAY_S)
SPAN = (DAY0 - 2 * DAY_MS, DAY0, WIDE_MS)
COUNT = 'count_over_time(m{job="%s"}[6h])'


class Case:
    """A database whose samples of three days ended thirteen days ago, and what rules left."""

    def __init__(self, path, rules, *, jobs=("api", "ci"), builds=True, **options):
        self.path = str(path)
        self.clock = Time(DAY0 + 1)
        self.options = Options(
            **{"retention": 90 * DAY_S, "tiers": TIERS, "retention_rules": rules, **options}
        )
        self.db = self.open()
        for job in jobs:
            self.append(job, TIMES)
        self.clock.now_ms = DAY0 + DAY_MS
        if builds:
            self.storage.build_tiers()

    def open(self):
        with mock.patch.object(Worker, "start", start_paused):
            return Database(self.path, self.options, clock=self.clock)

    @property
    def storage(self):
        return self.db._storage

    def append(self, job, times):
        self.db.append({"__name__": "m", "job": job}, times, [float(t % 7) for t in times])
        self.db.flush()

    def expire(self, days):
        self.clock.now_ms = DAY0 + days * DAY_MS
        run(self.storage)

    def change(self, rules, restart=False):
        if restart:
            self.db.close()
            self.options = dataclasses.replace(self.options, retention_rules=tuple(rules))
            self.db = self.open()
        else:
            self.db.reconfigure(retention_rules=tuple(rules))

    def ask(self, expr, *span):
        result = self.db.query_range(expr, *(span or SPAN))
        return result.to_numpy().tolist(), result.infos


@pytest.fixture
def make(tmp_path):
    made = []

    def create(*rules, **options):
        case = Case(tmp_path / "db", rules, **options)
        made.append(case)
        return case

    yield create
    for case in made:
        case.db.close()


ALL = [[12.0] * 9]
CHANGES = {
    "gone": (),
    "longer": (RetentionRule('{job="ci"}', 80 * DAY_S),),
    "for ever": (RetentionRule('{job="ci"}', None),),
    "behind": (RetentionRule('{job=~"ci|cd"}', None), CI),
    "written anew": (RetentionRule("{job='ci'}", 60 * DAY_S),),
}


@pytest.mark.parametrize("restart", [False, True])
@pytest.mark.parametrize("change", CHANGES)
def test_answers_say_what_a_rule_took(make, change, restart):
    case = make(CI)
    case.expire(13)
    assert case.ask(COUNT % "ci") == ([], []), "it is the rule that says so"
    case.change(CHANGES[change], restart)
    found, infos = case.ask(COUNT % "ci")
    assert found == []
    assert len(infos) == 1
    assert "not exact: samples before" in infos[0]
    assert case.ask(COUNT % "api") == (ALL, [])
    assert "not exact" in case.ask("sum(count_over_time(m[6h]))")[1][0]
    # What comes late is there, and what was lost is said still, whoever answers.
    late = [DAY0 - DAY_MS + 5 * k for k in range(1, 4)]
    case.append("ci", late)
    for build in (False, True):
        if build:
            case.storage.build_tiers()
        found, infos = case.ask(COUNT % "ci")
        assert np.nansum(found) == 3
        assert "not exact" in infos[0]
        assert case.ask(COUNT % "api") == (ALL, [])
    # From then on all is there.
    new = (DAY0 + 12 * DAY_MS, DAY0 + 13 * DAY_MS, WIDE_MS)
    case.append("ci", list(range(new[0] - WIDE_MS + 1, new[1] + 1, HOUR_MS)))
    assert case.ask(COUNT % "ci", *new) == ([[6.0] * 5], [])


def test_a_rule_that_stays_says_nothing(make):
    rules = (RetentionRule('{job="ci", keep="yes"}', None), CI)
    case = make(*rules)
    for days in (4, 9, 13):
        case.expire(days)
        assert case.ask(COUNT % "api") == (ALL, [])
        assert case.ask("sum(count_over_time(m[6h]))")[1] == []
    (taken,) = case.storage.state.taken
    assert taken.rules == tuple(rule.match for rule in rules)
    assert taken.samples_ms == taken.windows_ms == (NOTHING_MS, DAY0 + 1)
    floors = case.storage.retention.floors_of(case.storage.state)
    assert floors.past is None
    assert manifest.load(LocalFileSystem(), case.path).taken == (taken,)
    # A longer rule for something else: who was the first rule's then lost nothing.
    case.change((RetentionRule('{job="slo"}', None), *rules))
    case.db.append({"__name__": "m", "job": "ci", "keep": "yes"}, TIMES, [1.0] * len(TIMES))
    found, infos = case.ask('count_over_time(m{keep="yes"}[6h])')
    assert (found, infos) == (ALL, [])
    case.change(())
    assert case.ask('count_over_time(m{keep="yes"}[6h])') == (ALL, [])
    assert "not exact" in case.ask(COUNT % "ci")[1][0]


def test_samples_that_are_left_are_read_where_windows_went(make):
    # Too few for their part to be written anew; the windows are, since late ones come.
    case = make(jobs=("api", "b", "c", "d", "ci"), retention=None)
    case.change((CI,))
    late = DAY0 - DAY_MS + 7
    case.clock.now_ms = DAY0 + 13 * DAY_MS
    case.append("api", [late])
    case.storage.build_tiers()
    (taken,) = case.storage.state.taken
    assert taken.samples_ms == (NOTHING_MS,)
    assert taken.windows_ms[0] > DAY0 - DAY_MS
    case.change(())
    assert case.ask(COUNT % "ci") == (ALL, [])


def test_windows_that_are_left_are_read_where_samples_went(make):
    case = make(jobs=("api", "b", "c", "d", "ci"), retention=None)
    case.change((CI,))
    case.clock.now_ms = DAY0 + 13 * DAY_MS
    case.storage.compact()
    (taken,) = case.storage.state.taken
    assert (taken.samples_ms, taken.windows_ms) == ((DAY0 + 1,), (NOTHING_MS,))
    case.change(())
    assert case.ask(COUNT % "ci") == (ALL, [])
    assert "not exact" in case.ask('count_over_time(m{job="ci"}[30m])')[1][0]
    case.append("ci", [DAY0 - DAY_MS + 7])
    case.storage.build_tiers()
    found, _ = case.ask(COUNT % "ci")
    assert found == [[12.0] * 5 + [13.0] + [12.0] * 3], "no window was made anew from nothing"


def test_what_is_gone_of_all_series_is_forgotten(make):
    case = make(CI, tiers=(), retention=10 * DAY_S)
    case.expire(4)
    assert case.storage.state.taken == (Taken((CI.match,), (DAY0 + 1,), (NOTHING_MS,)),)
    case.change(())
    case.expire(13)
    assert case.storage.state.taken == ()
    assert manifest.load(LocalFileSystem(), case.path).taken == ()


def test_without_any_tier(make):
    case = make(CI, tiers=())
    case.expire(13)
    case.change(())
    found, infos = case.ask(COUNT % "ci")
    assert found == []
    assert "not exact: samples before" in infos[0]
    assert case.ask(COUNT % "api") == (ALL, [])


def test_what_the_retention_hides_is_missed_only_where_tiers_are_to_have_it(tmp_path):
    edge = "count_over_time(m[6h])", DAY0, DAY0, WIDE_MS
    keeps = RetentionRule('{job="slo"}', None)
    for k, (tiers, rules) in enumerate([(TIERS, ()), ((), ()), ((), (keeps,))]):
        case = Case(tmp_path / str(k), rules, builds=False, tiers=tiers, retention=10 * DAY_S)
        case.clock.now_ms = DAY0 + 10 * DAY_MS - 2 * HOUR_MS
        assert case.storage.state.tiers == ()
        assert bool(case.ask(*edge)[1]) == bool(tiers)
        case.clock.now_ms += DAY_MS
        found, infos = case.ask(*edge)
        assert (found, bool(infos)) == ([], bool(tiers)), "hidden, not erased"
        # A retention that is raised brings back what is there; what is not is missed by all.
        case.db.reconfigure(retention=90 * DAY_S)
        assert case.ask(*edge) == ([[12.0], [12.0]], [])
        case.db.close()


def test_erased_samples_are_missed_where_no_tier_is(make):
    case = make(tiers=(), retention=10 * DAY_S)
    case.clock.now_ms = DAY0 + 9 * DAY_MS
    case.storage.compact()
    case.db.reconfigure(retention=90 * DAY_S)
    found, infos = case.ask("count_over_time(m[6h])")
    assert "not exact: samples before" in infos[0]
    assert np.nansum(found) < 2 * sum(ALL[0])


def test_series_of_which_nothing_is_left_are_missed_where_no_tier_is(make):
    case = make(tiers=(), retention=90 * DAY_S)
    case.db.reconfigure(retention=10 * DAY_S)
    case.expire(13)
    assert case.storage.state.parts == ()
    assert case.ask(COUNT % "api") == ([], [])
    case.db.reconfigure(retention=90 * DAY_S)
    found, infos = case.ask(COUNT % "api")
    assert (found, len(infos)) == ([], 1)


def test_windows_that_a_rule_took_are_missed_when_their_samples_are_hidden(make):
    case = make(CI)
    first = DAY0 - 3 * DAY_MS + WIDE_MS, DAY0 - 2 * DAY_MS - WIDE_MS, WIDE_MS
    assert case.storage.state.taken[0].samples_ms == (NOTHING_MS,)
    case.change(())
    case.db.reconfigure(retention=DAY_S / 2)
    found, infos = case.ask(COUNT % "ci", *first)
    assert (found, len(infos)) == ([], 1)


def test_late_samples_of_another_series_that_are_hidden_are_missed(make):
    case = make(retention=30 * DAY_S)
    case.append("late", TIMES)
    case.db.reconfigure(retention=DAY_S / 2)
    found, infos = case.ask(COUNT % "late")
    assert (found, len(infos)) == ([], 1)
    assert case.ask(COUNT % "api") == (ALL, [])
    case.storage.build_tiers()
    assert case.ask(COUNT % "late") == (ALL, [])


def test_lists_are_remembered():
    one = Taken(("a", "b"), (NOTHING_MS, 5), (NOTHING_MS, NOTHING_MS))
    assert with_more((), None) == ()
    assert with_more((), one) == (one,)
    more = Taken(("a", "b"), (3, 4), (NOTHING_MS, 2))
    other = Taken(("a",), (1,), (1,))
    assert with_more((one, other), more) == (other, Taken(("a", "b"), (3, 5), (NOTHING_MS, 2)))
    many: tuple[Taken, ...] = ()
    for k in range(3 * TAKEN_MAX):
        many = with_more(many, Taken((f"{k}", "x"), (k, NOTHING_MS), (2 * k, NOTHING_MS)))
    assert len(many) == TAKEN_MAX
    assert many[0] == Taken(EVERY, (2 * TAKEN_MAX,), (4 * TAKEN_MAX,))
    assert many[-1].rules == (f"{3 * TAKEN_MAX - 1}", "x")


def test_what_is_still_needed():
    one = Taken(("a", "b"), (3, 5), (10, 20))
    assert still_needed((one,), {}, NOTHING_MS) == (one,)
    assert still_needed((one,), {"b": 4}, 15) == (Taken(("a", "b"), (3, 5), (NOTHING_MS, 20)),)
    assert still_needed((one,), {"": 9, "b": 4}, 15) == (
        Taken(("a", "b"), (NOTHING_MS, 5), (NOTHING_MS, 20)),
    )
    assert still_needed((one,), {"": 9, "b": 5}, NEVER_MS) == ()


def test_lists_beyond_the_limit_count_for_all_series(make):
    case = make(CI)
    case.expire(13)
    every = case.storage.state.taken[0].of_every()
    case.storage._checkpointer.commit(lambda current: current.with_changes(taken=(every,)))
    case.change((), restart=True)
    assert "not exact" in case.ask(COUNT % "ci")[1][0]
    assert "not exact" in case.ask(COUNT % "api")[1][0]


# --- all orders of things, against a dict ---------------------------------------------------------

SERIES = {
    "a": {"job": "api"}, "c": {"job": "ci"}, "k": {"job": "ci", "keep": "yes"},
    "s": {"job": "slo"},
}  # fmt: skip
POOL = (
    ('{job="ci"}', 2), ('{job="ci"}', 5), ('{job="ci"}', None), ('{keep="yes"}', None),
    ('{keep="yes"}', 4), ('{job=~"slo|ci"}', 8), ('{job="slo"}', 1), ('{job=~"ci|slo", s!="k"}', 3),
)  # fmt: skip
steps = st.lists(
    st.one_of(
        st.tuples(st.just("append"), st.sampled_from("acks"), st.integers(0, 9), st.integers(1, 9)),
        st.tuples(st.just("append"), st.sampled_from("acks"), st.integers(0, 9), st.integers(1, 9)),
        st.tuples(st.just("days"), st.integers(1, 12)),
        st.tuples(st.just("rules"), st.lists(st.sampled_from(POOL), max_size=3)),
        st.tuples(st.just("retention"), st.sampled_from([3, 6, 30, None])),
        st.sampled_from([("flush",), ("compact",), ("build",), ("expire",), ("restart",)]),
        st.sampled_from([("build",), ("expire",)]),
    ),
    min_size=4,
    max_size=24,
)


@given(st.sampled_from([TIERS, TIERS, TIERS[1:], ()]), steps)
@settings(deadline=None, max_examples=40, suppress_health_check=list(HealthCheck))
def test_no_answer_lacks_anything_without_saying_so(tiers, steps):
    with tempfile.TemporaryDirectory(dir=quick_folder()) as folder:
        Model(folder, tiers).run(steps)


class Model:
    """What was stored, and who must say that something of it is gone."""

    def __init__(self, path, tiers):
        self.path = path
        self.clock = Time(DAY0)
        self.options = Options(
            retention=30 * DAY_S, tiers=tiers, query_threads=1,
            retention_rules=(RetentionRule('{job="ci"}', 2 * DAY_S),),
        )  # fmt: skip
        self.samples = {name: set() for name in SERIES}
        self.db = self.open()

    def open(self):
        with mock.patch.object(Worker, "start", start_paused):
            return Database(self.path, self.options, clock=self.clock)

    def run(self, steps):
        try:
            for step in steps:
                getattr(self, step[0])(*step[1:])
                if step[0] != "append":
                    self.compare(step)
            self.compare("the end")
        finally:
            self.db.close()
        assert tsengine.check(self.path).problems == []

    def append(self, name, days, n):
        last = self.clock.now_ms - days * DAY_MS
        times = [last - k * (HOUR_MS // 2) for k in reversed(range(2 * n))]
        floor = self.floor(name)
        retention = self.options.retention
        if floor is None and retention is not None and self.rule(name) is None:
            floor = self.clock.now_ms - retention * 1000
        times = [t for t in times if floor is None or t >= floor]
        if times:
            self.db.append({"__name__": "m", "s": name, **SERIES[name]}, times, [1.0] * len(times))
            self.samples[name] |= set(times)

    def days(self, n):
        self.clock.now_ms += n * DAY_MS

    def rules(self, rules):
        self.reconfigure(
            retention_rules=tuple(
                RetentionRule(text, None if days is None else days * DAY_S) for text, days in rules
            )
        )

    def retention(self, days):
        self.reconfigure(retention=None if days is None else days * DAY_S)

    def reconfigure(self, **changes):
        self.options = dataclasses.replace(self.options, **changes)
        self.db.reconfigure(**changes)

    def flush(self):
        self.db.flush()

    def compact(self):
        self.db.flush()
        self.db.compact()

    def build(self):
        self.db.build_tiers()

    def expire(self):
        run(self.db._storage)

    def restart(self):
        self.db.close()
        self.db = self.open()

    def rule(self, name):
        """The rule of a series now."""
        matches = {
            '{job="ci"}': "ck", '{keep="yes"}': "k", '{job=~"slo|ci"}': "sck", '{job="slo"}': "s",
            '{job=~"ci|slo", s!="k"}': "sc",
        }  # fmt: skip
        for rule in self.options.retention_rules:
            if name in matches[rule.match]:
                return rule
        return None

    def floor(self, name):
        """What the rule of a series hides; None for nothing."""
        rule = self.rule(name)
        if rule is None or rule.keep is None:
            return None
        return self.clock.now_ms - rule.keep * 1000

    def compare(self, step):
        """Each window of 6 h of each series, by itself."""
        for name, own in self.samples.items():
            floor = self.floor(name)
            counts = {}
            for t in own:
                end = -(-t // WIDE_MS) * WIDE_MS
                counts[end] = counts.get(end, 0) + 1
            hidden = self.hidden(name)
            ends = sorted(counts)
            if step != "the end":
                ends = ends[:: max(1, len(ends) // 3)]
            for end in ends:
                wanted = counts[end]
                if floor is not None and end - WIDE_MS < floor:
                    continue
                if hidden is not None and end - WIDE_MS < hidden:
                    continue
                result = self.db.query(f'count_over_time(m{{s="{name}"}}[6h])', end)
                found = sum(v for row in result.to_numpy().tolist() for v in np.atleast_1d(row))
                assert found == wanted or result.infos, (step, name, end - self.clock.now_ms, found)

    def hidden(self, name):
        """Without tiers what the retention hides is nobody's to tell."""
        if self.options.tiers or self.options.retention is None or self.rule(name) is not None:
            return None
        return self.clock.now_ms - self.options.retention * 1000
