"""Histograms, exemplars and start timestamps through the whole way of a write, and restarts."""

from __future__ import annotations

import shutil
import tempfile
import time

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import tsengine
from tests.reference import histogramscan as reference
from tests.reference import remote_write as wire
from tests.reference.histogram_tables import (
    bits,
    plain_histograms,
    plain_of,
    table_of,
    valid_messages,
    values_of,
)
from tests.reference.histogramscan import STALE, Message, encode
from tsengine.errors import MalformedRequest, TooFarInFuture
from tsengine.model.batch import SampleBatch
from tsengine.model.exemplars import unpack_labels
from tsengine.model.histogram_values import NativeHistogram
from tsengine.model.histograms import handles
from tsengine.options import Options
from tsengine.storage.nested_messages import HISTOGRAM_BYTES_PER_REQUEST_MAX
from tsengine.storage.select import read_columns

T0 = 1_700_000_000_000
ALL = (-(2**63), 2**63 - 1)
UP = [(b"__name__", b"rpc")]


def open_db(path, **options) -> tsengine.Database:
    return tsengine.open(str(path), Options(future_limit=None, retention=None, **options))


def stored(db: tsengine.Database) -> dict[tuple[str, int], tuple]:
    """{(series, time): (value or plain histogram, start)} of the heads, the later one winning."""
    view = db._storage.view()
    found = {}
    for head in view._heads:
        columns = head.collect(None, *ALL, with_starts=True)
        values = values_of(columns.bits, columns.histograms)
        starts = [0] * len(values)
        if columns.start_ms is not None:
            starts = columns.start_ms.tolist()
        labels = view.labels(columns.refs)
        names = [d.get("series", "") for d in tsengine_labels(view, labels)]
        rows = np.repeat(np.arange(len(columns)), np.diff(columns.offsets)).tolist()
        for row, t, value, start in zip(rows, columns.t_ms.tolist(), values, starts, strict=True):
            found[names[row], t] = (value, start)
    return found


def tsengine_labels(view, labels) -> list[dict[str, str]]:
    from tsengine.model.labels import label_dicts

    return label_dicts(view.dictionary, labels)


def series_of(name: int) -> list[tuple[bytes, bytes]]:
    return [*UP, (b"series", b"%d" % name)]


times = st.integers(0, 4).map(lambda k: T0 + 15_000 * k)
floats = st.integers(0, 3).map(lambda n: bits(float(n))) | st.sampled_from([STALE, 0x7FFC << 48])
starts = st.sampled_from([0, 0, T0 - 60_000, T0 - 1])
names = st.integers(0, 2)
batches = st.lists(
    st.tuples(
        names,
        st.lists(st.tuples(times, floats, starts), max_size=3),
        st.lists(st.tuples(times, valid_messages, starts), max_size=3),
    ),
    max_size=4,
)


def expected_of(body, version: int) -> dict:
    """What one body stores: floats first, then histograms."""
    made = {}
    for name, samples, _ in body:
        for t, value, start in samples:
            value -= (1 << 50) if value >> 48 == 0x7FFC else 0
            made[str(name), t] = (value, start if version == 2 else 0)
    for name, _, histograms in body:
        for t, message, start in histograms:
            value = STALE if message.sum == STALE else plain_of(message)
            made[str(name), t] = (value, start if version == 2 else 0)
    return made


def sent(body, version: int) -> bytes:
    series = []
    for name, samples, histograms in body:
        messages = []
        for t, message, start in histograms:
            message.t_ms, message.start_ms = t, start
            messages.append(encode(message))
        series.append(
            wire.Series(
                series_of(name), [(t, value) for t, value, _ in samples], histograms=messages,
                starts=[start for _, _, start in samples],
            )
        )  # fmt: skip
    return wire.encode_v1(series) if version == 1 else wire.encode_v2(series)


@given(st.lists(st.tuples(st.sampled_from([1, 2]), batches), min_size=1, max_size=4))
@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.too_slow])
def test_bodies_come_back_bit_for_bit_also_after_a_restart(bodies):
    model = {}
    with tempfile.TemporaryDirectory() as path:
        db = open_db(path)
        try:
            for version, body in bodies:
                result = db.append_remote_write(sent(body, version), version=version)
                assert result.samples == sum(len(samples) for _, samples, _ in body)
                assert result.histograms == sum(len(histograms) for *_, histograms in body)
                is_empty = [not samples and not histograms for _, samples, histograms in body]
                assert len(result.rejected) == (sum(is_empty) if version == 2 else 0)
                model |= expected_of(body, version)
            assert stored(db) == model
            db.close()
            db = open_db(path)
            assert stored(db) == model
        finally:
            db.close()


@given(
    st.lists(
        st.lists(
            st.tuples(names, times, plain_histograms | floats, starts), min_size=1, max_size=6
        ),
        min_size=1,
        max_size=4,
    )
)
@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.too_slow])
def test_columns_of_both_kinds_come_back_the_later_row_winning(rounds):
    model = {}
    with tempfile.TemporaryDirectory() as path:
        db = open_db(path)
        try:
            for rows in rounds:
                refs = db.series_refs(
                    [{"__name__": "rpc", "series": str(name)} for name, *_ in rows]
                )
                own = [value for _, _, value, _ in rows if isinstance(value, tuple)]
                column, number = [], 0
                for name, t, value, start in rows:
                    if isinstance(value, tuple):
                        column.append(int(handles(np.array([number]))[0]))
                        number += 1
                    elif own and value >> 48 == 0x7FFC:
                        # Beside histograms such bits are a handle; storage can't tell.
                        value = STALE
                        column.append(value)
                    else:
                        column.append(value)
                        value -= (1 << 50) if value >> 48 == 0x7FFC else 0
                    model[str(name), t] = (value, start)
                db._storage.append_columns(
                    refs,
                    np.array([t for _, t, _, _ in rows]),
                    np.array(column, np.uint64),
                    histograms=table_of(own) if own else None,
                    start_ms=np.array([start for *_, start in rows]),
                )
            assert stored(db) == model
            db.close()
            db = open_db(path)
            assert stored(db) == model
        finally:
            db.close()


def test_a_later_sample_wins_whatever_its_kind(tmp_path):
    native = NativeHistogram(count=1.0, sum=2.0, positive={0: 1.0})
    labels = {"__name__": "rpc", "series": "1"}
    with open_db(tmp_path) as db:
        db.append(labels, [T0], [1.0], start_timestamps=[T0 - 5])
        db.append_histograms(labels, [T0], [native])
        [(value, start)] = stored(db).values()
        assert (value[2], start) == (bits(1.0), 0)
        db.append(labels, [T0], [3.0])
        assert stored(db) == {("1", T0): (bits(3.0), 0)}
        db.append_columns(db.series_refs([labels]), [T0], [4.0], start_timestamps_ms=[T0 - 7])
    with open_db(tmp_path) as db:
        assert stored(db) == {("1", T0): (bits(4.0), T0 - 7)}


def test_invalid_histograms_are_refused_by_series_and_reason(tmp_path):
    good = encode(Message(count=3, positive_spans=[(0, 1)], positive=[3], t_ms=T0))
    bad = encode(Message(count=2, positive_spans=[(0, 1)], positive=[3], t_ms=T0))
    series = [
        wire.Series(series_of(1), [(T0, 0)], histograms=[bad, bad]),
        wire.Series(series_of(2), histograms=[good]),
        wire.Series(series_of(3), histograms=[bad]),
        wire.Series([(b"series", b"4")], [(T0, 0)], histograms=[good, bad]),
    ]
    reason = "a native histogram is refused: its count is not the sum of its buckets"
    for body, version in ((wire.encode_v1(series), 1), (wire.encode_v2(series), 2)):
        with open_db(tmp_path / str(version)) as db:
            for _ in range(2):
                result = db.append_remote_write(body, version=version)
                assert (result.samples, result.histograms) == (1, 1)
                assert [(r.series, r.reason, r.n_samples) for r in result.rejected] == [
                    ('rpc{series="1"}', reason, 2),
                    ('rpc{series="3"}', reason, 1),
                    ('{series="4"}', "there is no metric name", 3),
                ]
            assert {name for name, _ in stored(db)} == {"1", "2"}
            assert db.stats()["series"] == 2


def test_too_many_bytes_of_histograms_are_refused_as_a_whole(tmp_path):
    wide = encode(Message(count=1 << 19, positive_spans=[(0, 1 << 19)], positive=[1] * (1 << 19)))
    n = HISTOGRAM_BYTES_PER_REQUEST_MAX // len(wide) + 1
    body = wire.encode_v1([wire.Series(series_of(1), [(T0, 0)], histograms=[wide] * n)])
    with open_db(tmp_path) as db:
        with pytest.raises(MalformedRequest, match="bytes of native histograms are more"):
            db.append_remote_write(body, version=1)
        assert stored(db) == {}


@pytest.mark.parametrize("version", [1, 2])
def test_exemplars_are_kept_and_bad_ones_refused_by_reason(tmp_path, version):
    nan = 0x7FF8000000000000
    exemplars = [
        wire.Exemplar([(b"trace_id", b"ab"), (b"empty", b""), (b"a", b"x")], T0, bits(0.5)),
        wire.Exemplar([(b"a", "ü".encode() * 127)], T0 + 1, nan),
        wire.Exemplar([(b"a", "ü".encode() * 128)], T0 + 2),
        wire.Exemplar([(b"a", b"x"), (b"a", b"y")], T0 + 3),
        wire.Exemplar([(b"a", b"\xff")], T0 + 4),
        wire.Exemplar([], T0 + 5),
    ]
    series = [
        wire.Series(series_of(1), exemplars=exemplars),
        wire.Series([(b"series", b"2")], exemplars=exemplars[:1]),
    ]
    body = wire.encode_v1(series) if version == 1 else wire.encode_v2(series)
    with open_db(tmp_path) as db:
        result = db.append_remote_write(body, version=version)
        assert (result.samples, result.histograms, result.exemplars) == (0, 0, 3)
        assert [(r.series, r.reason, r.n_samples) for r in result.rejected] == [
            ('rpc{series="1"}', f"an exemplar is refused: {reason}", 0)
            for reason in (
                "its labels have more than 128 characters",
                "a label name occurs twice",
                "a label is not UTF-8",
            )
        ] + [('{series="2"}', "there is no metric name", 0)]
    with open_db(tmp_path) as db:
        refs = db.series_refs([{"__name__": "rpc", "series": "1"}])
        found = db._storage.exemplars.view().find(refs, *ALL)
        assert found.t_ms.tolist() == [T0, T0 + 1, T0 + 5]
        assert found.values.view(np.uint64).tolist() == [bits(0.5), nan, 0]
        assert [unpack_labels(packed) for packed in found.labels] == [
            {"a": "x", "trace_id": "ab"}, {"a": "ü" * 127}, {}
        ]  # fmt: skip


def test_symbols_of_exemplars_that_do_not_exist_are_refused(tmp_path):
    labels = wire.length_field(1, bytes([1, 2]))
    sample = wire.length_field(2, wire.sample(T0, 0))
    exemplars = [wire.length_field(4, wire.length_field(1, bytes(refs))) for refs in ([1], [1, 9])]
    symbols = b"".join(wire.length_field(4, text) for text in (b"", b"__name__", b"rpc"))
    body = symbols + wire.length_field(5, labels + sample + b"".join(exemplars))
    with open_db(tmp_path) as db:
        result = db.append_remote_write(body, version=2)
        assert (result.samples, result.exemplars) == (1, 0)
        assert [r.reason for r in result.rejected] == [
            "an exemplar is refused: a symbol reference is out of range",
            "an exemplar is refused: the number of label references is odd",
        ]


def test_times_limit_both_kinds(tmp_path):
    good = Message(count=3, positive_spans=[(0, 1)], positive=[3])
    now = int(time.time() * 1000)
    messages = []
    for t_ms in (now, now + 10**7, now - 10**10):
        good.t_ms = t_ms
        messages.append(encode(good))
    series = wire.Series(
        series_of(1), [(now - 1, 0), (now + 10**7, 0)], histograms=messages,
        exemplars=[wire.Exemplar([], t_ms) for t_ms in (now, now + 10**7, 0)],
    )  # fmt: skip
    with tsengine.open(str(tmp_path), Options(retention=10**6, future_limit=600)) as db:
        result = db.append_remote_write(wire.encode_v1([series]))
        assert (result.samples, result.histograms) == (1, 1)
        assert result.exemplars == 1
        assert [r.n_samples for r in result.rejected] == [1, 2, 0]
        assert result.rejected[2].reason.startswith("an exemplar is refused: its time ")
        assert sorted(t for _, t in stored(db)) == [now - 1, now]
        native = NativeHistogram(count=1.0, positive={0: 1.0})
        with pytest.raises(TooFarInFuture):
            db.append_histograms({"__name__": "m"}, [now, now + 10**7], [native, native])
        assert ("", now) in stored(db)


def test_wrong_arguments_are_refused(tmp_path):
    native = NativeHistogram(count=1.0, positive={0: 1.0})
    table = table_of([plain_of(Message(count=3, positive_spans=[(0, 1)], positive=[3]))])
    broken = type(table)(
        **{**{n: getattr(table, n) for n in table.__slots__}, "counts": -table.counts}
    )
    with open_db(tmp_path) as db:
        with pytest.raises(ValueError, match="one length"):
            db.append_histograms({"__name__": "m"}, [1, 2], [native])
        with pytest.raises(ValueError, match="start timestamps for 1 samples"):
            db.append({"__name__": "m"}, [1], [1.0], start_timestamps=[1, 2])
        with pytest.raises(ValueError, match="schema is 9"):
            db.append_histograms({"__name__": "m"}, [1], [NativeHistogram(schema=9)])
        with pytest.raises(ValueError, match="count of a bucket is negative"):
            db.append_histograms({"__name__": "m"}, [1], broken)
        assert db.stats()["series"] == 0
        refs = db.series_refs([{"__name__": "m"}])
        with pytest.raises(ValueError, match="there is no histogram 1"):
            db._storage.append_columns(
                refs, np.array([1]), handles(np.array([1])), histograms=table
            )


def test_a_table_may_be_changed_by_its_maker_afterwards(tmp_path):
    table = table_of(
        [
            plain_of(
                Message(
                    schema=-53, custom=[bits(1.0)], count=3, positive_spans=[(0, 1)], positive=[3]
                )
            )
        ]
    )
    with open_db(tmp_path) as db:
        db.append_histograms({"__name__": "m"}, [T0], table)
        before = stored(db)
        for name in ("count", "counts", "keys", "bounds"):
            getattr(table, name)[:] = 7
        assert stored(db) == before


def test_many_histograms_in_one_call(tmp_path):
    n = 20_000
    native = NativeHistogram(count=2.0, positive={0: 1.0, 3: 1.0})
    table = table_of([plain_of(Message(count=3, positive_spans=[(0, 1)], positive=[3]))])
    table = table.take(np.zeros(n, np.int64))
    table.sum[:] = np.arange(n)
    with open_db(tmp_path) as db:
        db.append_histograms({"__name__": "m"}, T0 + np.arange(n), table)
        db.append_histograms({"__name__": "m"}, [T0 + n], [native])
    with open_db(tmp_path) as db:
        view = db._storage.view()
        columns = read_columns(view._parts, view._heads, view.all_refs(), *ALL)
        assert columns.t_ms.tolist() == (T0 + np.arange(n + 1)).tolist()
        assert columns.histograms.sum.tolist() == [*range(n), 0]


def test_floats_that_look_like_handles_lose_a_bit_in_every_way_in(tmp_path):
    odd = np.array([0x7FFC << 48, 0x7FFC_0000_0000_0007, 0x7FFD << 48], np.uint64)
    plain = [0x7FF8 << 48, 0x7FF8_0000_0000_0007, 0x7FFD << 48]
    with open_db(tmp_path) as db:
        db.append({"__name__": "m", "series": "a"}, [1, 2, 3], odd.view(np.float64))
        refs = np.repeat(db.series_refs([{"__name__": "m", "series": "b"}]), 3)
        db.append_columns(refs, [1, 2, 3], odd.view(np.float64))
        series = wire.Series(series_of(1), [(t, int(v)) for t, v in enumerate(odd, 1)])
        db.append_remote_write(wire.encode_v1([series]))
        found = stored(db)
        for name in ("a", "b", "1"):
            assert [found[name, t][0] for t in (1, 2, 3)] == plain
        assert not db._storage.view()._heads[-1].has_histograms


def test_floats_of_old_logs_that_look_like_handles_are_read_as_other_nans(tmp_path):
    with open_db(tmp_path) as db:
        refs = db.series_refs([{"__name__": "m"}])
        old = SampleBatch(refs, np.array([T0]), np.array([0x7FFC << 48], np.uint64))
        db._storage._log_batch(old, (), n_bytes=1).wait()
    with open_db(tmp_path) as db:
        assert stored(db) == {("", T0): (0x7FF8 << 48, 0)}


def test_reference_reads_what_it_writes():
    message = Message(count=3, positive_spans=[(-2, 1), (3, 1)], positive=[1, 1], t_ms=-5)
    data = encode(message)
    assert reference.parse_histograms(data, [(0, len(data))], 2)[0][1] == message


def test_exemplars_survive_flushes_and_restarts(tmp_path):
    def body(t_ms: int) -> bytes:
        exemplar = wire.Exemplar([(b"trace_id", b"%d" % t_ms)], t_ms, bits(0.5))
        return wire.encode_v1([wire.Series(series_of(1), [(t_ms, 0)], exemplars=[exemplar])])

    def times_of(db) -> list[int]:
        refs = db.series_refs([{"__name__": "rpc", "series": "1"}])
        return db._storage.exemplars.view().find(refs, *ALL).t_ms.tolist()

    expected = []
    for _ in range(4):
        with open_db(tmp_path) as db:
            for _ in range(3):
                expected += [T0 + len(expected), T0 + len(expected) + 1]
                db.append_remote_write(body(expected[-2]))
                db.flush()
                db.append_remote_write(body(expected[-1]))
                assert times_of(db) == expected
            assert db.stats()["exemplars"] == len(expected)
    with open_db(tmp_path) as db:
        assert times_of(db) == expected
    # Twelve flushes joined their files at least once; what was replaced goes with a later flush.
    assert len(list((tmp_path / "exemplars").iterdir())) < 12
    assert tsengine.check(str(tmp_path)).problems == []


def test_exemplars_are_dropped_with_their_retention(tmp_path):
    now = int(time.time() * 1000)
    exemplars = [
        wire.Exemplar([(b"trace_id", b"%d" % t_ms)], t_ms, 0) for t_ms in (now, now - 10_000_000)
    ]
    series = wire.Series(series_of(1), [(now, 0)], exemplars=exemplars)
    with open_db(tmp_path, exemplar_retention=5000) as db:
        assert db.append_remote_write(wire.encode_v1([series])).exemplars == 2
        db.flush()
        assert db.stats()["exemplars"] == 1


def test_histograms_fill_the_head_by_their_size(tmp_path):
    buckets = tuple((2**20 + k, bits(1.0)) for k in range(100))
    table = table_of([(0, 0, bits(100.0), 0, 0, 0, buckets, None)])
    n = 200
    with open_db(tmp_path, head_samples_max=10_000) as db:
        head = db._storage.state.head
        db.append_histograms({"__name__": "m"}, T0 + np.arange(n), table.take(np.zeros(n, int)))
        assert n + 60 * n < head.load_samples < n + 80 * n
        for _ in range(6000):
            if db.stats()["parts"] == 1:
                break
            time.sleep(0.01)
        assert db.stats()["parts"] == 1


def test_what_was_acknowledged_before_a_kill_is_there_and_a_torn_write_is_not(tmp_path):
    """A copy of the directory of a running database is what a kill leaves behind."""
    message = Message(count=3, positive_spans=[(0, 1)], positive=[3], start_ms=T0 - 9)

    def body(t_ms: int) -> bytes:
        message.t_ms = t_ms
        exemplar = wire.Exemplar([(b"trace_id", b"x")], t_ms, bits(0.5))
        return wire.encode_v2(
            [
                wire.Series(
                    series_of(1), [(t_ms - 1, bits(1.0))], histograms=[encode(message)],
                    exemplars=[exemplar], starts=[T0 - 8],
                )
            ]
        )  # fmt: skip

    with open_db(tmp_path / "live") as db:
        for k in range(3):
            db.append_remote_write(body(T0 + 10 * k), version=2)
        shutil.copytree(tmp_path / "live", tmp_path / "killed")
        whole = stored(db)
    log = max((tmp_path / "killed" / "wal").iterdir())
    data = log.read_bytes()
    for lost in (0, 1, 60):
        log.write_bytes(data[: len(data) - lost])
        shutil.copytree(tmp_path / "killed", tmp_path / f"killed-{lost}")
        with open_db(tmp_path / f"killed-{lost}") as db:
            # The last record is that of the last exemplar.
            assert stored(db) == whole
            n = len(db._storage.exemplars.view().find(np.arange(9, dtype=np.uint32), *ALL))
            assert n == (3 if lost == 0 else 2)
    assert {start for _, start in whole.values()} == {T0 - 8, T0 - 9}
