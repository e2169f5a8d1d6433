"""Where samples begin to be there inside a window that ends with a staleness marker."""

from __future__ import annotations

import numpy as np

from tests.storage.test_retention import DAY_S, HOUR_MS
from tests.storage.test_retention_taken import DAY0, DAY_MS
from tests.storage.test_retention_taken import make as make
from tsengine.kernels.bits import STALE_BITS

LAST = DAY0 - DAY_MS + HOUR_MS // 4


def test_the_last_sample_that_is_gone_is_no_marker(make):
    case = make(jobs=("api",), builds=False, retention=10 * DAY_S)
    stale = np.array([STALE_BITS], np.uint64).view(np.float64)[0]
    case.db.append({"__name__": "m", "job": "s"}, [LAST, LAST + 60_000], [5.0, stale])
    case.db.flush()
    case.clock.now_ms = DAY0 + DAY_MS
    case.storage.build_tiers()
    for floor_ms, values in ((LAST, [5.0]), (LAST + 1, [5.0]), (LAST + 2, [5.0])):
        case.clock.now_ms = floor_ms + 10 * DAY_MS
        result = case.db.query('m{job="s"}', LAST)
        assert [row[0] for row in result.to_numpy().tolist()] == values, floor_ms - LAST
        behind = case.db.query('m{job="s"}', LAST + 60_000)
        assert behind.to_numpy().tolist() == [], floor_ms - LAST
