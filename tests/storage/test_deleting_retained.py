"""Deletes reach what retention hides, wherever it is: a longer retention brings nothing back."""

from __future__ import annotations

import pytest

import tsengine
from tests.reference import remote_write as wire
from tests.storage.test_catalog_shrink import DAY_MS, T0, Time
from tsengine.engine import Database
from tsengine.options import Options, RetentionRule, Tier
from tsengine.storage.retention_chores import Expiry, RetentionRewriting

DAY_S = 86_400.0
HOUR_MS = 3_600_000
HOURLY = Tier(3600.0)


class Hidden:
    """A database of two series with a sample an hour for five days, six weeks before its clock."""

    def __init__(self, path, **options):
        self.clock = Time(T0)
        self.db = Database(str(path), Options(future_limit=None, **options), clock=self.clock)
        self.storage = self.db._storage
        self.storage.maintenance.pause()
        self.times = [T0 - day * DAY_MS + HOUR_MS * k for day in range(7, 2, -1) for k in range(24)]
        for job in ("ci", "api"):
            self.db.append({"__name__": "m", "job": job}, self.times, [1.0] * len(self.times))
        self.db.flush()
        self.storage.build_tiers()
        self.clock.now_ms = T0 + 40 * DAY_MS

    def expire(self):
        """Samples past their retention leave the disk."""
        for chore in (Expiry(self.storage), RetentionRewriting(self.storage)):
            self.storage.maintenance.run(chore)

    def jobs(self):
        """Jobs of which a query finds anything, from samples or windows."""
        found = self.db.query("count_over_time(m[60d])", self.clock.now_ms)
        return sorted(labels["job"] for labels in found.labels)


@pytest.fixture
def make(tmp_path):
    made = []

    def create(**options):
        made.append(Hidden(tmp_path / "db", **options))
        return made[-1]

    yield create
    for one in made:
        one.db.close()


def test_series_that_only_a_tier_holds_below_a_retention_that_was_raised(make):
    case = make(retention=10 * DAY_S, tiers=(HOURLY,))
    case.expire()
    assert case.storage.state.parts == ()
    case.db.reconfigure(retention=60 * DAY_S)
    assert case.db.delete_series('m{job="ci"}') == 1
    assert case.db.delete_series('m{job="ci"}') == 0
    case.db.reconfigure(retention=10 * DAY_S)
    assert case.jobs() == ["api"]


def test_windows_that_a_rule_hides(make):
    case = make(
        retention=10 * DAY_S, tiers=(HOURLY,),
        retention_rules=(RetentionRule('{job="ci"}', 8 * DAY_S),),
    )  # fmt: skip
    case.storage.compact()
    case.storage.maintenance.run(Expiry(case.storage))
    assert case.storage.state.parts == ()
    assert case.jobs() == ["api"]
    assert case.db.delete_series('m{job="ci"}') == 1
    case.db.reconfigure(retention_rules=())
    assert case.jobs() == ["api"]


def test_windows_past_the_retention_of_their_tier(make):
    case = make(retention=10 * DAY_S, tiers=(Tier(3600.0, 20 * DAY_S),))
    case.storage.maintenance.run(RetentionRewriting(case.storage))
    for part in case.storage.state.parts:
        assert part.entry.maxt < case.clock.now_ms - 10 * DAY_MS
    assert case.jobs() == []
    assert case.db.delete_series('m{job="ci"}') == 1
    case.db.reconfigure(tiers=(HOURLY,))
    assert case.jobs() == ["api"]


def test_samples_that_a_rule_hides(make):
    case = make(retention=None, retention_rules=(RetentionRule('{job="ci"}', 8 * DAY_S),))
    assert case.jobs() == ["api"]
    assert case.db.delete_series('m{job="ci"}', T0 - 5 * DAY_MS, T0) == 1
    assert case.db.delete_series('m{job="ci"}', T0, T0) == 0
    case.db.reconfigure(retention_rules=())
    assert case.jobs() == ["api", "ci"]
    assert case.db.delete_series('m{job="ci"}') == 1
    assert case.jobs() == ["api"]


def test_a_range_beside_the_windows_deletes_none(make):
    case = make(retention=10 * DAY_S, tiers=(HOURLY,))
    case.expire()
    case.db.reconfigure(retention=60 * DAY_S)
    first = min(case.times) - DAY_MS
    assert case.db.delete_series('m{job="ci"}', None, first) == 0
    assert case.db.delete_series('m{job="ci"}', T0 + DAY_MS, None) == 0
    assert case.storage.state.tombstones == ()
    assert case.db.delete_series("m", None, T0 - 4 * DAY_MS) == 2
    assert case.db.delete_series("m", None, T0 - 4 * DAY_MS) == 0


@pytest.mark.parametrize("flushed", [False, True])
def test_exemplars_of_series_without_samples_in_the_range(tmp_path, flushed):
    series = wire.Series(
        [(b"__name__", b"m")], [(T0, wire.bits_of(1.0))],
        exemplars=[wire.Exemplar([(b"id", b"x")], T0 - DAY_MS, wire.bits_of(1.0))],
    )  # fmt: skip
    other = wire.Series([(b"__name__", b"m"), (b"s", b"1")], [(T0, wire.bits_of(1.0))])
    with tsengine.open(tmp_path, Options(future_limit=None)) as db:
        db._storage.append_remote_write(wire.encode_v2([series, other]), version=2)
        if flushed:
            db.flush()
        assert len(db.query_exemplars("m")) == 1
        assert db.delete_series("m", T0 - 2 * DAY_MS, T0 - 1) == 1
        assert db.query_exemplars("m") == []
        assert db.query("count(m)", T0).to_numpy().tolist() == [[2.0]]
        assert db.delete_series("m", T0 - 2 * DAY_MS, T0 - 1) == 0


def test_a_damaged_file_of_exemplars_holds_up_no_delete(tmp_path):
    series = wire.Series(
        [(b"__name__", b"m")], [(T0, wire.bits_of(1.0))],
        exemplars=[wire.Exemplar([(b"id", b"x")], T0 - DAY_MS, wire.bits_of(1.0))],
    )  # fmt: skip
    with tsengine.open(tmp_path, Options(future_limit=None)) as db:
        db._storage.append_remote_write(wire.encode_v2([series]), version=2)
        db.flush()
        (file,) = (tmp_path / "exemplars").iterdir()
        data = file.read_bytes()
        file.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
        assert db.delete_series("m", T0 - 2 * DAY_MS, T0 - 1) == 1
        file.write_bytes(data)
        assert db.query_exemplars("m") == []
