"""A short run of the churn bench: its counts, not its times."""

from __future__ import annotations

import json

from bench import churn


def test_half_an_hour_of_churn(tmp_path, capsys):
    path = tmp_path / "churn.json"
    arguments = ["--hosts", "20", "--hours", "0.5", "--replace-minutes", "2", "--seed", "3"]
    assert churn.main([*arguments, "--json", str(path)]) == 0
    facts = json.loads(path.read_text())
    replacements = 14
    assert facts["catalog_series"] == 100 * (20 + 2 * replacements)
    assert facts["samples"] == 120 * 20 * 100
    assert facts["counted"] == facts["expected_count"] == 120 * 20
    (hour,) = facts["hours"]
    assert hour["hour"] == 0.5
    assert hour["series"] == facts["catalog_series"]
    assert hour["samples"] == facts["samples"]
    # Ten labels each; tables grow by doubling.
    assert hour["series_mib"] * 2**20 < 400 * facts["catalog_series"]
    assert hour["senders_mib"] < 2
    assert facts["bytes_per_sample"] < 2.5
    assert "RSS without the head" in capsys.readouterr().out
