"""A database against a dict: appends, deletes, flushes, merges, clean-ups, restarts, crashes."""

from __future__ import annotations

import tempfile

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.faults.filesystem import FaultyFileSystem
from tests.reference import rich_samples as rich
from tsengine.errors import TsengineError
from tsengine.options import Options
from tsengine.storage import select
from tsengine.storage.database import StorageDatabase
from tsengine.storage.deleting import Erasing

EVER = (-(2**63), 2**63 - 1)
DAY = 86_400_000
N_SERIES = 5

times = st.integers(0, 40) | st.sampled_from([DAY - 1, DAY, DAY + 1, 3 * DAY + 7, -5])
counts = st.integers(1, 50).map(lambda n: rich.bits(float(n)))
histograms = st.builds(
    rich.Histogram,
    schema=st.sampled_from([0, 3]),
    hint=st.integers(0, 3),
    count=counts,
    sum=counts | st.just(rich.STALE),
    zero_threshold=st.just(rich.bits(0.001)),
    zero_count=counts,
    buckets=st.dictionaries(st.integers(2**20 - 3, 2**20 + 3), counts, max_size=4).map(
        lambda found: tuple(sorted(found.items()))
    ),
    bounds=st.none(),
)
floats = st.integers(0, 9).map(lambda n: rich.bits(float(n))) | st.just(rich.STALE)
values = st.tuples(floats | histograms, st.sampled_from([0, 0, 5, 1_700_000_000_000]))
rows = st.lists(
    st.tuples(st.integers(0, N_SERIES - 1), times, values), min_size=1, max_size=15,
    unique_by=lambda row: row[:2],
)  # fmt: skip
spans = st.one_of(
    st.just(EVER),
    st.tuples(times, times).map(lambda pair: tuple(sorted(pair))),
    st.tuples(st.just(EVER[0]), times),
    st.tuples(times, st.just(EVER[1])),
)
deletes = st.tuples(st.sets(st.integers(0, N_SERIES - 1), min_size=1, max_size=3), spans)
steps = st.one_of(
    st.tuples(st.just("append"), rows),
    st.tuples(st.just("append"), rows),
    st.tuples(st.just("delete"), deletes),
    st.tuples(
        st.sampled_from(
            ["flush", "flush", "compact", "clean_tombstones", "erase", "restart", "crash"]
        ),
        st.none(),
    ),
)


class Machine:
    """The database under test, and what must be in it: {ref: {t: (value, start)}}."""

    def __init__(self, path):
        self.path = path
        self.fs = FaultyFileSystem()
        self.model = {}
        self.db = self.open()
        self.refs = self.db.series_refs(
            [{"__name__": "m", "s": str(series)} for series in range(N_SERIES)]
        )
        assert self.refs.tolist() == list(range(N_SERIES))
        marker = np.array([1.0]).view(np.uint64)
        # Series become durable with their samples; so all of them have one.
        for series in range(N_SERIES):
            self.db.append_columns(self.refs[series:][:1], np.array([-100]), marker)
            self.model[series] = {-100: (int(marker[0]), 0)}

    def open(self):
        return StorageDatabase(self.path, Options(future_limit=None), fs=self.fs, clock=lambda: 0)

    def append(self, rows):
        batch = rich.batch_of(rows)
        self.db.append_columns(
            batch.refs, batch.t_ms, batch.bits,
            histograms=batch.histograms, start_ms=batch.start_ms,
        )  # fmt: skip
        for series, t, sample in rows:
            value, start = sample
            if isinstance(value, rich.Histogram) and value.sum == rich.STALE:
                value = rich.STALE
            self.model.setdefault(series, {})[t] = value, start

    def delete(self, what):
        series, (mint, maxt) = what
        self.db.delete(np.array(sorted(series), np.uint32), mint, maxt)
        for one in series:
            kept = {t: s for t, s in self.model.get(one, {}).items() if not mint <= t <= maxt}
            self.model[one] = kept

    def erase(self):
        self.db.maintenance.run(Erasing(self.db, at_once=True))

    def restart(self):
        self.db.close()
        self.db = self.open()

    def crash(self):
        """The process is gone; what it wrote is there."""
        self.fs.is_crashed = True
        try:
            self.db.close()
        except (TsengineError, OSError):
            pass
        self.fs.revive()
        self.db = self.open()

    def run(self, name, argument):
        method = getattr(self, name, None) or getattr(self.db, name)
        method() if argument is None else method(argument)

    def check(self):
        view = self.db.view()
        refs = np.arange(N_SERIES, dtype=np.uint32)
        columns = select.read_columns(
            view._parts, view._heads, refs, *EVER, with_start=True, mask=view._mask
        )
        expected = {ref: own for ref, own in self.model.items() if own}
        assert rich.model_of(columns) == expected
        frames = view.read(refs, *EVER, drop_stale=False)
        assert rich.values_of_frames(frames) == [
            {t: value for t, (value, _) in sorted(self.model.get(ref, {}).items())}
            for ref in range(N_SERIES)
        ]
        starts = view.read_start_times(refs, *EVER)
        found = {
            ref: dict(zip(
                starts.t_ms[slice(*starts.offsets[row : row + 2])].tolist(),
                starts.bits[slice(*starts.offsets[row : row + 2])].view(np.int64).tolist(),
                strict=True,
            ))
            for row, ref in enumerate(starts.refs.tolist())
        }  # fmt: skip
        assert found == rich.starts_of(self.model)
        assert set(expected) <= set(view.live(refs, *EVER).tolist())


@given(st.lists(steps, min_size=1, max_size=14))
@settings(
    deadline=None, max_examples=40,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)  # fmt: skip
def test_a_database_with_deletes_is_a_dict(script):
    with tempfile.TemporaryDirectory() as path:
        machine = Machine(path)
        try:
            for name, argument in script:
                machine.run(name, argument)
                machine.check()
            machine.db.flush()
            machine.db.clean_tombstones()
            machine.check()
            assert machine.db.state.tombstones == ()
            n_stored = sum(part.entry.n_samples for part in machine.db.state.parts)
            assert n_stored >= sum(map(len, machine.model.values()))
            machine.db.compact()
            n_stored = sum(part.entry.n_samples for part in machine.db.state.parts)
            assert n_stored == sum(map(len, machine.model.values()))
        finally:
            machine.db.close()
