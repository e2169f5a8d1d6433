"""A real Prometheus writes real metrics for a minute; both sides answer 25 queries alike."""

import pytest

from tests.real.peers import MissingPeerError
from tests.real.session import run_session


@pytest.mark.timeout(600)
def test_a_minute_of_real_input(tmp_path):
    try:
        outcome = run_session(tmp_path, collect_s=58, interval_s=1, window_s=8, step_s=1)
    except MissingPeerError as error:
        if error.is_failure:
            raise
        pytest.skip(str(error))
    assert not outcome.problems, "\n".join(outcome.problems)
    assert outcome.n_answers == 25 * 2 * 2
    assert outcome.n_points > 1_000
    for version in ("1.0", "2.0"):
        assert outcome.n_samples[version] > 10_000
        entry = outcome.metadata[version]["node_cpu_seconds_total"][0]
        assert entry["type"] == "counter"
        assert entry["help"].startswith("Seconds the CPUs spent in each mode")
