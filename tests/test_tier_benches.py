"""Short runs of the benches of tiers and backfills: their answers, not their times."""

from __future__ import annotations

import json

import pytest

from bench import backfill, two_years


def test_two_years_in_short(tmp_path, capsys):
    path = tmp_path / "results.json"
    assert two_years.main(["--series", "40", "--days", "3", "--json", str(path)]) == 0
    results = json.loads(path.read_text())
    assert results["samples"] == 40 * 3 * 5760
    assert results["missed"] == []
    assert set(results["sizes"]) == {"raw", "5m", "1h"}
    assert results["sizes"]["raw"]["parts"] == 3
    shares = [results["sizes"][name]["share"] for name in ("5m", "1h")]
    assert shares[0] < 0.4
    assert shares[1] < 0.06
    assert [facts["tiers"] for facts in results["queries"].values()] == [["1h"]] * 3
    assert [facts["series"] for facts in results["queries"].values()] == [20, 20, 2]
    assert all(facts["largest_difference"] <= 1e-9 for facts in results["queries"].values())
    assert "1h" in capsys.readouterr().out


def test_a_difference_is_found():
    rows = {(("a", "1"),): two_years.np.array([1.0, 2.0, float("nan")])}
    other = {(("a", "1"),): two_years.np.array([1.0, 2.0 + 4e-9, float("nan")])}
    assert two_years.distance(rows, rows) == 0.0
    assert two_years.distance(rows, other) == pytest.approx(2e-9, rel=1e-3)
    absent = {(("a", "1"),): two_years.np.array([1.0, 2.0, 3.0])}
    assert two_years.distance(rows, absent) == float("inf")
    assert two_years.distance(rows, {}) == float("inf")


def test_a_backfill_and_a_live_writer_lose_nothing(tmp_path):
    path = tmp_path / "results.json"
    arguments = ["--series", "40", "--days", "30", "--seconds", "0.5", "--json", str(path)]
    assert backfill.main(arguments) == 0
    results = json.loads(path.read_text())
    assert results["complete"]
    assert results["samples"] == 40 * 30 * 5760
    assert results["live_refused"] == 0
    assert {"before", "after"} <= results["live_ms"].keys()
