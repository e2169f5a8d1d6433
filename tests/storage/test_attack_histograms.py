"""Histograms of a hostile sender: what is acknowledged has to survive a restart and a flush."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import tsengine
from tests.reference import remote_write as wire
from tests.reference.histogramscan import Message, encode
from tsengine.options import Options

T0 = 1_700_000_000_000
ALL = (-(2**63), 2**63 - 1)
LABELS = [(b"__name__", b"rpc")]


def open_db(path):
    return tsengine.open(str(path), Options(future_limit=None, retention=None))


def bits(value: float) -> int:
    return int(np.float64(value).view(np.uint64))


def body(*messages: Message, version: int = 1, **others) -> bytes:
    series = wire.Series(LABELS, histograms=[encode(one) for one in messages], **others)
    return wire.encode_v1([series]) if version == 1 else wire.encode_v2([series])


def count_of(db, n=1):
    result = db.query("count_over_time(rpc[1h])", time=(T0 + n + 1000) / 1000)
    return float(result.data[0].value) if len(result.data) else 0.0


@pytest.mark.parametrize("n", [2, 4])
def test_buckets_that_overflow_when_they_are_merged_survive_a_restart(tmp_path, n):
    # Schema 52 comes down to 8: all these buckets become one, whose count is beyond int64.
    message = Message(
        count=(n << 62) % (1 << 64), schema=52, t_ms=T0, positive_spans=[(1, n)],
        positive=[1 << 62] + [0] * (n - 1),
    )  # fmt: skip
    fine = Message(count=3, t_ms=T0 + 1, positive_spans=[(0, 1)], positive=[3])
    with open_db(tmp_path) as db:
        db.append_remote_write(body(message, fine), version=1)
    with open_db(tmp_path) as db:
        assert db._storage.recovery.damage == []


def wide(t_ms: int, n: int) -> Message:
    return Message(
        count=n, schema=8, t_ms=t_ms, positive_spans=[(-n // 2, n)], positive=[1] + [0] * (n - 1)
    )


def test_few_wide_histograms_among_narrow_ones_stay_small_in_parts(tmp_path):
    # As one column per bucket from the first to the last histogram these would be 120 million.
    n_buckets, n = 20_000, 3000
    narrow = [
        Message(count=k, schema=8, t_ms=T0 + k, positive_spans=[(0, 1)], positive=[k])
        for k in range(1, n)
    ]
    with open_db(tmp_path) as db:
        for half in (0, n):
            some = [replace(one, t_ms=one.t_ms + half) for one in narrow]
            messages = [wide(T0 + half, n_buckets), *some, wide(T0 + half + n, n_buckets)]
            db.append_remote_write(body(*messages), version=1)
            db.flush()
        asked = "sum_over_time(histogram_count(rpc)[10s:1ms])"
        before = db.query(asked, time=(T0 + 2 * n) / 1000).to_numpy()
        db.compact()
        (part,) = db._storage.state.parts
        components = part.components
        assert int(components._blocks.index.series_samples(*ALL).sum()) < 1_500_000
        assert db.query(asked, time=(T0 + 2 * n) / 1000).to_numpy() == before
        assert before == 3 * n_buckets + n * (n - 1)
