"""Random queries after deletes are answered as by Prometheus after the same deletes."""

from __future__ import annotations

import random

import pytest

from tests.differential.clocks import BASE_MS, END_MS
from tests.differential.fuzz import fuzzing
from tests.real.peers import MissingPeerError

SELECTORS = (
    'requests_total{code="500"}', 'requests_total{instance="a:9100"}', 'temperature{device="sda"}',
    "level", 'up{job="api"}', '{__name__=~"special|build_info"}', '{instance=~"c.*"}',
    '{__name__=~".+_bucket",le="1"}', '{__name__!="",path="/api"}',
)  # fmt: skip
PANIC = "unexpected error: runtime error: index out of range"
"""Prometheus 3.5 does not read histograms of a series in which a hole was made."""
EVERYTHING = '{__name__!=""}'


def deletes(seed, n):
    """``[(selector, start or None, end or None)]``: whole series, ends, holes."""
    rng = random.Random(f"deletes {seed}")
    for _ in range(n):
        start, end = sorted(rng.randint(BASE_MS, END_MS) for _ in range(2))
        kind = rng.choice(("whole", "start", "end", "hole", "hole", "hole"))
        yield (
            rng.choice(SELECTORS),
            None if kind in ("whole", "start") else start,
            None if kind in ("whole", "end") else end,
        )


def names(answer):
    return sorted(tuple(sorted(labels.items())) for labels in answer["data"])


@pytest.mark.parametrize(
    ("mode", "seed", "n_queries"),
    [("embedded", 11, 500), ("flushed", 12, 500), ("server", 13, 300)],
)
def test_queries_after_deletes_are_answered_alike(tmp_path, mode, seed, n_queries):
    try:
        with fuzzing(tmp_path, seed=seed, mode=mode) as fuzzer:
            for delete in deletes(seed, 8):
                fuzzer.prometheus.delete(*delete)
                fuzzer.tsengine.delete(*delete)
            expected = names(fuzzer.prometheus.series(EVERYTHING))
            found = names(fuzzer.tsengine.series(EVERYTHING))
            summary = fuzzer.run(range(n_queries))
    except MissingPeerError as error:
        if error.is_failure:
            raise
        pytest.skip(str(error))
    differences = [found for found in summary.differences if PANIC not in found.text]
    assert not differences, "\n".join(map(str, differences))
    assert len(summary.differences) < n_queries / 10
    assert summary.n_with_rows > n_queries / 4
    assert sum(summary.explained.values()) < n_queries / 10
    # Prometheus still lists series of its head of which nothing is left.
    assert set(found) <= set(expected)
