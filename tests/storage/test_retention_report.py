"""What the dry run says is what retention then does, and it changes nothing."""

from __future__ import annotations

import hashlib
import json
import time

import numpy as np
import pytest

import tsengine
from server import cli
from tests.storage.test_catalog_shrink import DAY_MS, T0, Time
from tests.storage.test_retention import DAY_S, append, hours, on_disk, opened, run
from tsengine.errors import OptionsError
from tsengine.options import Options, RetentionRule, Tier
from tsengine.promql.parser import parse_selector
from tsengine.storage.database import StorageDatabase


def digest(directory):
    files = sorted(p for p in directory.rglob("*") if p.is_file() and p.name != "lock")
    return {str(p): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def by_reason(plan):
    return {removal.reason: removal for removal in plan.removals}


def filled(directory, *, tiers=()):
    clock = Time()
    database = opened(directory, clock, rules=(), tiers=tiers)
    for job, n_series in (("api", 4), ("ci", 2), ("slo", 1)):
        for n in range(n_series):
            append(database, job, hours(4, 0), n)
    database.flush()
    database.compact()
    return database, clock


def test_nothing_goes_by_default_and_no_file_changes(tmp_path):
    database, _clock = filled(tmp_path)
    before = digest(tmp_path)
    plan = database.retention_plan({})
    assert plan.removals == ()
    assert plan.freed_bytes == 0
    assert plan.size_bytes == database.size_bytes(database.state)
    database.retention_plan({"retention": 60.0, "retention_size": 1})
    assert digest(tmp_path) == before
    with pytest.raises(OptionsError, match="retention must be"):
        database.retention_plan({"retention": 0.0})
    with pytest.raises(OptionsError, match="the retention rule"):
        database.retention_plan({"retention_rules": (RetentionRule("{", 1.0),)})
    database.close()


def test_a_plan_by_rules_is_what_happens(tmp_path):
    database, _clock = filled(tmp_path)
    entries = [part.entry for part in database.state.parts]
    rules = (RetentionRule('{job="slo"}', None), RetentionRule('{job="ci"}', 2.5 * DAY_S))
    changes = {"retention": 3 * DAY_S, "retention_rules": rules}
    plan = by_reason(database.retention_plan(changes))
    assert sorted(plan) == ["retention", '{job="ci"}']
    ci, common = plan['{job="ci"}'], plan["retention"]
    assert (ci.keep_s, ci.series, ci.series_lost, ci.samples) == (2.5 * DAY_S, 2, 0, 2 * 36)
    assert (common.keep_s, common.series, common.series_lost) == (3 * DAY_S, 4, 0)
    assert common.samples == 4 * 24
    # Of the oldest day all but slo has gone. Of the next ci has, which is over a quarter of it. Of
    # the third half of ci has gone, and all of it will have before a day has passed.
    assert [file.action for file in common.files] == ["rewrite", "rewrite"]
    assert [file.action for file in ci.files] == ["rewrite", "rewrite", "hide"]
    assert [file.name for file in ci.files] == [entry.name for entry in entries[:3]]
    share = (ci.files[0].bytes + common.files[0].bytes) / entries[0].size_bytes
    assert 0.7 < share < 0.98
    database.reconfigure(changes)
    run(database)
    left = 7 * 96 - sum(file.samples for file in (*common.files, *ci.files[:2]))
    assert sum(on_disk(database).values()) == left
    database.close()


def test_whole_parts_tiers_and_bytes(tmp_path):
    tiers = (Tier(300.0, 40 * DAY_S), Tier(3600.0))
    database, clock = filled(tmp_path, tiers=tiers)
    clock.now_ms = T0 + 20 * DAY_MS
    plan = by_reason(database.retention_plan({}))
    assert {file.action for file in plan["retention"].files} == {"wait"}
    assert plan["retention"].series_lost == 7
    database.build_tiers()
    plan = by_reason(database.retention_plan({}))
    assert {file.action for file in plan["retention"].files} == {"remove"}
    assert plan["retention"].bytes == sum(p.entry.size_bytes for p in database.state.parts)
    assert plan["retention"].samples == 7 * 96
    clock.now_ms = T0 + 60 * DAY_MS
    plan = by_reason(database.retention_plan({}))
    fine = [t.entry for t in database.state.tiers if t.entry.width_ms == 300_000]
    assert plan["tier 5m"].bytes == sum(entry.size_bytes for entry in fine) > 0
    assert (plan["tier 5m"].series, plan["tier 5m"].series_lost) == (7, 7)
    assert plan["tier 5m"].keep_s == 40 * DAY_S
    assert "tier 1h" not in plan
    total = database.size_bytes(database.state)
    oldest = min((p.entry for p in database.state.parts), key=lambda entry: entry.maxt)
    plan = by_reason(
        database.retention_plan({"retention": None, "tiers": (), "retention_size": total - 1})
    )
    assert [file.name for file in plan["retention_size"].files] == [oldest.name]
    assert plan["retention_size"].bytes == oldest.size_bytes
    assert plan["retention_size"].series == 7
    run(database)
    assert {t.entry.width_ms for t in database.state.tiers} == {3_600_000}
    assert on_disk(database) == {}
    database.close()


def test_samples_in_the_head_count(tmp_path):
    clock = Time()
    database = opened(tmp_path, clock, rules=())
    append(database, "api", hours(2, 0))
    append(database, "ci", hours(2, 0))
    (removal,) = database.retention_plan(
        {"retention_rules": (RetentionRule('{job="ci"}', DAY_S),)}
    ).removals
    assert (removal.reason, removal.samples, removal.series) == ('{job="ci"}', 24, 1)
    assert removal.files == ()
    assert removal.bytes == 0
    database.close()


def test_bytes_of_all_samples_are_those_of_the_part(tmp_path):
    database, _clock = filled(tmp_path)
    plan = database.retention_plan({"retention": 1e-3})
    (removal,) = plan.removals
    assert removal.series_lost == 7
    parts = [part.entry for part in database.state.parts]
    assert {f.name: f.bytes for f in removal.files} == {p.name: p.size_bytes for p in parts}
    database.close()


def test_the_command_beside_a_writer(tmp_path, capsys):
    now = int(time.time() * 1000)
    database = StorageDatabase(str(tmp_path), Options(tiers=()), parse_selector=parse_selector)
    for job in ("api", "ci"):
        append(database, job, range(now - 5 * DAY_MS + 1_800_000, now, 3_600_000))
    database.flush()

    def command(*arguments):
        code = cli.main(["retention", "--data-dir", str(tmp_path), "--tiers", "off", *arguments])
        captured = capsys.readouterr()
        assert (code, captured.err) == (0, "")
        return captured.out

    out = command()
    assert out.splitlines()[0] == "nothing is past its retention"
    out = command("--retention", "4d", "--retention-rule", '{job="ci"}:36h', "--files")
    lines = out.splitlines()
    assert lines[0].startswith("retention (4d): 24 samples of 1 series, 0 of them lose all; ")
    assert lines[1].endswith(" bytes")
    assert "is rewritten: 24 samples" in lines[1]
    assert lines[2].startswith('{job="ci"} (1d12h): 84 samples of 1 series, 0 of them lose all; ')
    assert lines[4].endswith(" bytes would be freed")
    found = json.loads(command("--retention", "4d", "--json"))
    assert found["removals"][0]["samples"] == 48
    assert found["freed_bytes"] == found["removals"][0]["bytes"] > 0
    file = tmp_path / "settings.yml"
    file.write_text(
        "storage:\n  retention: 30d\n  retention_rules:\n    - {match: '{job=\"ci\"}', keep: 36h}\n"
    )
    found = json.loads(command("--config", str(file), "--json"))
    assert [(r["reason"], r["samples"]) for r in found["removals"]] == [('{job="ci"}', 84)]
    assert on_disk(database) == {"api": 120, "ci": 120}
    database.close()
    with tsengine.open(tmp_path, Options(tiers=()), read_only=True) as db:
        plan = db.retention_plan(retention=DAY_S)
    assert plan.removals[0].samples == 2 * 96
    assert np.isclose(plan.freed_bytes / plan.removals[0].files[0].bytes, 1.0)
