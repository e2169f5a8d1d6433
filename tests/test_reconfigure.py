"""Options that change while a database is open."""

import dataclasses

import pytest

import tsengine
from tsengine import Options, RetentionRule, Tier
from tsengine.errors import Closed, OptionsError, QueryLimitExceeded
from tsengine.options import RUNTIME_OPTIONS

T0 = 1_700_000_000_000


def test_everybody_sees_the_new_options(tmp_path):
    with tsengine.open(tmp_path) as db:
        db.append({"__name__": "m"}, [T0, T0 + 400_000], [1.0, 2.0])
        at = T0 + 1_000_000
        assert db.query("m", time=at).labels == []
        db.reconfigure(lookback=700.0, max_samples=1, exemplars_max=7, memory=32 << 20)
        assert db.query("m", time=at).to_numpy().tolist() == [[2.0]]
        with pytest.raises(QueryLimitExceeded):
            db.query("m[1h]", time=at)
        assert db.options is db._storage.options
        assert (db.options.lookback, db.options.retention) == (700.0, None)
        assert db._storage.exemplars.n_recent_max == 7
        assert db.stats()["memory_limit_bytes"] == 32 << 20
        assert db._engine.memory.size_max == 32 << 20


def test_retention_changes_at_once(tmp_path):
    with tsengine.open(tmp_path) as db:
        db.append({"__name__": "m"}, [T0], [1.0])
        assert db.query("count_over_time(m[1d])", time=T0).to_numpy().tolist() == [[1.0]]
        db.reconfigure(retention=86_400.0)
        assert db.query("count_over_time(m[1d])", time=T0).labels == []
        db.reconfigure(retention=None)
        assert db.query("count_over_time(m[1d])", time=T0).to_numpy().tolist() == [[1.0]]


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"fsync": "interval", "lookback": 1.0}, "opened anew: fsync"),
        ({"features": frozenset({"x"}), "max_series": 5}, "opened anew: features, max_series"),
        ({"lookback": 1.0, "query_timeout": -1}, "query_timeout must be greater than 0"),
        ({"lookback": 1.0, "nonsense": 1}, "there is no option nonsense"),
        ({"lookback": 1.0, "tiers": (Tier(300.0),)}, "the widths of tiers"),
        ({"memory": 5}, "memory must be 0 or at least"),
        ({"lookback": 1.0, "retention_rules": (RetentionRule("a{", 5.0),)}, "a{"),
    ],
)
def test_all_or_nothing(tmp_path, changes, told):
    with tsengine.open(tmp_path) as db:
        before = db.options
        with pytest.raises(OptionsError, match=told):
            db.reconfigure(**changes)
        assert db.options is before
        assert db._storage.options is before
        assert db._engine._options is before


def test_what_is_the_same_may_be_named(tmp_path):
    with tsengine.open(tmp_path) as db:
        db.reconfigure(fsync="always", lookback=5.0)
        assert db.options.lookback == 5.0
        tiers = tuple(dataclasses.replace(tier, retention=5e6) for tier in db.options.tiers)
        db.reconfigure(tiers=tiers)
        assert db.options.tiers == tiers
    with pytest.raises(Closed):
        db.reconfigure(lookback=6.0)


def test_runtime_options_are_options():
    assert {field.name for field in dataclasses.fields(Options)} > RUNTIME_OPTIONS
