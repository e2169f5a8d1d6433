"""The memory of queries: the pool, estimates before reading, refusals, what is given back."""

import threading
import time

import numpy as np
import pytest

from tests.query.test_engine import make_engine
from tests.reference.memory_source import MemorySource
from tsengine.errors import OptionsError, QueryCanceled, QueryLimitExceeded, QueryTimeout
from tsengine.model.histogram_values import NativeHistogram, from_list
from tsengine.options import Options
from tsengine.query.context import Limits
from tsengine.query.memory import MemoryPool, machine_memory, memory_shares, size_text
from tsengine.query.watch import QueryWatch

MIB = 1024 * 1024


class ReadingSource(MemorySource):
    """Counts how often samples are read; `gate` holds readers up."""

    def __init__(self):
        super().__init__()
        self.n_reads = 0
        self.gate = threading.Event()
        self.gate.set()

    def read(self, *args, **kwargs):
        self.n_reads += 1
        assert self.gate.wait(120)
        return super().read(*args, **kwargs)


@pytest.fixture
def source():
    made = ReadingSource()
    for k in range(200):
        labels = {"__name__": "m_total", "job": f"j{k % 10}", "instance": str(k)}
        made.append(labels, range(0, 600_000, 10_000), range(60))
    return made


def test_a_pool_gives_what_it_has():
    pool = MemoryPool(100)
    assert pool.try_take(60)
    assert not pool.try_take(41)
    assert pool.used == 60
    pool.give_back(60)
    assert pool.try_take(100)


def test_a_pool_makes_wait():
    pool = MemoryPool(100)
    pool.take(60, lambda: None)
    taken = threading.Event()
    waiter = threading.Thread(target=lambda: (pool.take(50, lambda: None), taken.set()))
    waiter.start()
    assert not taken.wait(0.2)
    pool.give_back(60)
    assert taken.wait(60)
    waiter.join()
    assert pool.used == 50


@pytest.mark.parametrize(
    ("n_bytes", "text"),
    [
        (0, "0 bytes"), (1023, "1023 bytes"), (1024, "1 KiB"), (512 * MIB, "512 MiB"),
        (5583457485, "5.2 GiB"), (1 << 70, "1024 EiB"), (150_000_000, "143 MiB"),
    ],
)  # fmt: skip
def test_sizes_as_text(n_bytes, text):
    assert size_text(n_bytes) == text


def test_shares_of_the_machine():
    total = machine_memory() // 2
    assert machine_memory() > 100 * MIB
    assert memory_shares(0, 0) == (max(total // 4, 64 * MIB), total)
    assert memory_shares(10, 0) == (10, total)
    assert memory_shares(0, 40 * MIB) == (40 * MIB, 40 * MIB)
    assert memory_shares(0, 4000 * MIB) == (1000 * MIB, 4000 * MIB)
    assert memory_shares(50, 20) == (20, 20)


def test_a_query_far_over_the_limit_reads_nothing(source):
    engine = make_engine(source, query_memory=MIB)
    # 200 series at 10001 steps are 18 MB, and once more in the order of the answer.
    with pytest.raises(QueryLimitExceeded) as refused:
        engine.query_range("rate(m_total[1m])", 0, 10_000_000, 1000)
    assert str(refused.value) == (
        "query would need about 34.4 MiB of memory (200 series at 10001 steps), over the limit of "
        "1 MiB; take a larger step, a shorter range or fewer series"
    )
    assert source.n_reads == 0
    assert engine.memory.used == 0
    assert len(engine.query_range("sum(rate(m_total[1m]))", 0, 600_000, 60_000).labels) == 1


QUERIES = [
    "m_total",
    "rate(m_total[2m])",
    "sum(rate(m_total[2m]))",
    "sum by (job) (m_total)",
    "topk(5, m_total)",
    "m_total / on(instance) m_total",
    "m_total or m_total * 2",
    "max_over_time(rate(m_total[1m])[5m:10s])",
    "sum(m_total) by (instance) - 1",
    "absent(m_total)",
    "m_total @ 300",
    "time()",
    "vector(1)",
    "label_replace(m_total, 'a', '$1', 'job', '(.*)')",
]


@pytest.mark.parametrize("expr", QUERIES)
@pytest.mark.parametrize("step_ms", [0, 5000])
def test_estimates_are_bounds_and_not_wild(source, expr, step_ms):
    engine = make_engine(source)
    if step_ms:
        stats = engine.query_range(expr, 0, 600_000, step_ms).stats
    else:
        stats = engine.query(expr, 500_000).stats
    assert 0 <= stats.memory_peak_bytes <= stats.memory_estimated_bytes
    assert stats.memory_estimated_bytes < 6 * stats.memory_peak_bytes + 64 * 1024
    assert engine.memory.used == 0


def test_raw_samples_are_estimated(source):
    engine = make_engine(source, query_memory=100_000)
    with pytest.raises(QueryLimitExceeded, match=r"11800 samples of 200 series"):
        engine.query("m_total[10m]", 600_000)
    assert source.n_reads == 0


def test_a_query_may_need_more_than_estimated():
    pool = MemoryPool(10_000)
    limits = Limits(max_samples=10**6, max_bytes=6000, pool=pool)
    limits.reserve(1000, "x")
    limits.account(200)
    assert pool.used == 3200
    limits.account(-100)
    assert (pool.used, limits.bytes_held, limits.bytes_peak) == (3200, 1600, 3200)
    with pytest.raises(QueryLimitExceeded, match=r"at least 6.2 KiB of memory, over the limit"):
        limits.account(300)
    limits.keep(500)
    assert (pool.used, limits.bytes_held) == (500, 500)
    limits.keep(0)
    assert pool.used == 0


def test_a_query_that_grows_does_not_wait_for_others():
    pool = MemoryPool(10_000)
    pool.take(8000, lambda: None)
    limits = Limits(max_samples=10**6, max_bytes=6000, pool=pool)
    limits.reserve(1000, "x")
    with pytest.raises(QueryLimitExceeded, match=r"all queries together hold 8.8 KiB of 9.8 KiB"):
        limits.account_bytes(3000)


def test_large_queries_wait_for_each_other(source):
    engine = make_engine(source, query_memory=8 * MIB, query_memory_total=8 * MIB)
    source.gate.clear()
    answers = []

    def ask():
        answers.append(engine.query_range("m_total", 0, 600_000, 300).stats)

    threads = [threading.Thread(target=ask) for _ in range(2)]
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + 60
    while source.n_reads == 0 and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.2)
    assert source.n_reads == 1, "the second waits before it reads"
    assert 4 * MIB < engine.memory.used <= 8 * MIB
    with pytest.raises(QueryTimeout, match=r"waiting for 6.9 MiB of memory: other queries hold"):
        engine.query_range("m_total", 0, 600_000, 300, timeout_s=0.1)
    with pytest.raises(QueryCanceled):
        engine.query_range("m_total", 0, 600_000, 300, cancel=lambda: True)
    source.gate.set()
    for thread in threads:
        thread.join()
    assert len(answers) == 2
    assert engine.memory.used == 0


def test_a_watch_keeps_the_answer_on_the_account(source):
    engine = make_engine(source)
    watch = QueryWatch()
    with watch:
        result = engine.query_range("m_total", 0, 600_000, 10_000, watch=watch)
        assert watch.samples_read == 12_000
        assert engine.memory.used >= watch.memory_bytes == result.size_bytes > 200 * 61 * 8
        watch.hold(1000)
        assert watch.memory_bytes == result.size_bytes + 1000
        watch.keep(10)
        assert engine.memory.used == 10
    assert engine.memory.used == 0


def test_histograms_of_an_answer_count():
    native = NativeHistogram(count=1000.0, positive=dict.fromkeys(range(1000), 1.0))
    made = MemorySource()
    made.append({"__name__": "m"}, [0], [from_list([native])])
    result = make_engine(made).query("m", 0)
    assert result.size_bytes > 1000 * (8 + 4)


@pytest.mark.parametrize("when", ["before", "after"])
def test_an_abandoned_watch_keeps_nothing(source, when):
    engine = make_engine(source)
    watch = QueryWatch()
    engine.query("m_total", 0, watch=watch)
    if when == "before":
        watch.abandon()
        assert engine.memory.used > 0, "its thread still has the answer"
    watch.keep(100)
    if when == "after":
        watch.abandon()
    assert engine.memory.used == 0


def test_a_watched_query_that_fails_gives_everything_back(source):
    engine = make_engine(source)
    with pytest.raises(Exception, match=r"duplicate|many"):
        engine.query("m_total / on(job) m_total", 0, watch=QueryWatch())
    assert engine.memory.used == 0


def test_options_are_checked():
    for name in ("query_memory", "query_memory_total"):
        with pytest.raises(OptionsError, match=name):
            Options(**{name: -1}).validate()


def test_concurrent_accounts_are_exact():
    pool = MemoryPool(1 << 40)
    limits = Limits(max_samples=10**9, pool=pool)

    def work():
        for n in np.random.default_rng(1).integers(1, 50, 300).tolist():
            limits.account(n)
            limits.account_bytes(n)
            limits.account(-n)
            limits.account_bytes(-n)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert limits.bytes_held == 0
    assert pool.used == limits.bytes_peak
    limits.keep(0)
    assert pool.used == 0


def test_raw_reads_take_their_share(source):
    engine = make_engine(source, query_memory=MIB, query_memory_total=MIB)
    with engine.holding(20_000):
        assert engine.memory.used == 20_000 * 48
        with pytest.raises(QueryLimitExceeded, match=r"about 1.4 MiB of memory .30000 samples."):
            engine.holding(30_000).__enter__()
    assert engine.memory.used == 0
