"""Twenty rounds of the soak; all 200 are `python -m tests.crash.soak --rounds 200`."""

from __future__ import annotations

import numpy as np
import pytest

from tests.crash.soak import START_LIMIT_S, Numbers, check_deletes, run_rounds

BUSY = 5
"""The machines that run tests are small and busy; the script holds the limit itself."""


@pytest.mark.timeout(600)
def test_nothing_acknowledged_is_lost_and_nothing_deleted_comes_back(tmp_path):
    directory = tmp_path / "db"
    directory.mkdir()
    summary = run_rounds(directory, 20, seed=1, log=tmp_path / "log")
    print(summary)
    assert summary.n_samples > 1000
    assert summary.n_deleted > 0
    assert max(summary.starts_s) < BUSY * START_LIMIT_S


def numbers():
    return Numbers(next=10, acknowledged=8, holes=[(8, 10)], deleted=[(2, 4)])


def test_the_soak_sees_what_is_lost_and_what_comes_back():
    check_deletes(numbers(), np.array([0, 1, 4, 5, 6, 7]))
    check_deletes(numbers(), np.array([0, 1, 4, 5, 6, 7, 8, 9]))
    with pytest.raises(AssertionError, match=r"samples are lost: \[6\]"):
        check_deletes(numbers(), np.array([0, 1, 4, 5, 7]))
    with pytest.raises(AssertionError, match=r"came back: \[3\]"):
        check_deletes(numbers(), np.array([0, 1, 3, 4, 5, 6, 7]))


def test_a_delete_under_way_happened_or_not():
    for found, deleted in (([0, 1, 4, 5, 6, 7], False), ([0, 1, 4, 7], True)):
        one = numbers()
        one.uncertain = (5, 7)
        check_deletes(one, np.array(found))
        assert one.uncertain is None
        assert ((5, 7) in one.deleted) is deleted
    one = numbers()
    one.uncertain = (5, 7)
    with pytest.raises(AssertionError, match="half a delete: 5 to 7"):
        check_deletes(one, np.array([0, 1, 4, 6, 7]))
