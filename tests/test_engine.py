"""The embedded API as docs/embedding.md describes it, on real directories."""

from __future__ import annotations

import math
import multiprocessing
import os
import struct
import subprocess
import sys
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest

import tsengine
from tsengine import errors

ROOT = Path(__file__).parents[1]
T0 = 1_700_000_000_000
STALE = struct.unpack("<d", struct.pack("<Q", 0x7FF0000000000002))[0]


@pytest.fixture
def db(tmp_path):
    with tsengine.open(tmp_path / "db") as opened:
        yield opened


def stored(db, selector, start=None, end=None):
    """{labels as a frozenset: [(t, bits), ...]} of what select returns."""
    found = {}
    for batch in db.select(selector, start, end):
        bits = batch.column("value").to_numpy().view(np.uint64).tolist()
        times = batch.column("timestamp").cast("int64").to_pylist()
        for labels, t, b in zip(batch.column("labels").to_pylist(), times, bits, strict=True):
            found.setdefault(frozenset(labels), []).append((t, b))
    return found


def bits_of(values):
    return np.asarray(values, np.float64).view(np.uint64).tolist()


def test_append_and_ask_before_and_after_a_flush_and_a_restart(tmp_path):
    path = tmp_path / "db"
    t = T0 + 15_000 * np.arange(100)
    values = np.arange(100) * 2.5
    with tsengine.open(path) as db:
        db.append({"__name__": "a", "job": "x"}, t, values)
        before = db.query_range("rate(a[5m])", int(t[30]), int(t[90]), 60_000).to_numpy()
        db.flush()
        after = db.query_range("rate(a[5m])", int(t[30]), int(t[90]), 60_000).to_numpy()
        np.testing.assert_array_equal(before, after)
        db.append({"__name__": "a", "job": "x"}, t[-1:] + 15_000, [1000.0])
    with tsengine.open(path) as db:
        assert db.query("a", time=int(t[-1]) + 15_000).to_numpy().tolist() == [[1000.0]]
        found = stored(db, "a")
        assert found[frozenset({("__name__", "a"), ("job", "x")})] == [
            *zip(t.tolist(), bits_of(values), strict=True),
            (int(t[-1]) + 15_000, bits_of([1000.0])[0]),
        ]


def test_values_come_back_to_the_bit(db):
    payload = struct.unpack("<d", struct.pack("<Q", 0x7FF80000DEADBEEF))[0]
    values = [
        0.0,
        -0.0,
        math.inf,
        -math.inf,
        math.nan,
        payload,
        STALE,
        5e-324,
        1.7976931348623157e308,
    ]
    t = [T0 + 1000 * i for i in range(len(values))]
    db.append({"__name__": "odd"}, t, values)
    for _ in range(2):
        (samples,) = stored(db, "odd").values()
        assert samples == list(zip(t, bits_of(values), strict=True))
        db.flush()


def test_times_of_all_kinds(db):
    at = datetime(2026, 1, 2, 3, 4, 5, 678000, tzinfo=UTC)
    ms = int(at.timestamp() * 1000)
    for name, times in {
        "ints": [ms],
        "floats": [ms / 1000],
        "datetimes": [at],
        "naive": [at.replace(tzinfo=None)],
        "numpy": np.array([ms], "datetime64[ms]"),
    }.items():
        db.append({"__name__": name}, times, [1.0])
        for asked in (ms, ms / 1000, at, np.datetime64(ms, "ms")):
            assert db.query(name, time=asked).to_numpy().tolist() == [[1.0]], (name, asked)
    r = db.query_range("ints", at, at + timedelta(seconds=2), timedelta(seconds=1))
    assert r.timestamps.tolist() == [ms, ms + 1000, ms + 2000]


@pytest.mark.parametrize("times", [[math.nan], ["x"], [True], [[1, 2]], [2**63]])
def test_bad_times_are_refused(db, times):
    with pytest.raises((TypeError, ValueError, OverflowError)):
        db.append({"__name__": "x"}, times, [1.0])
    assert db.series(["x"]) == ([], False)


def test_lengths_and_refs_are_checked(db):
    (ref,) = db.series_refs([{"__name__": "x"}])
    with pytest.raises(ValueError, match="one length"):
        db.append_columns([ref], [1, 2], [1.0])
    with pytest.raises(ValueError, match="not given out"):
        db.append_columns([ref + 1], [1], [1.0])
    with pytest.raises(ValueError, match="series_refs"):
        db.append_columns([-1], [1], [1.0])


def test_columns_of_many_series_in_any_order(db):
    rng = np.random.default_rng(1)
    refs = db.series_refs([{"__name__": "m", "i": str(i)} for i in range(50)])
    rows = rng.permutation(50 * 40)
    db.append_columns(refs[rows % 50], T0 + rows // 50 * 1000, rows.astype(float))
    result = db.query_range("m", T0, T0 + 39_000, 1000)
    order = [int(labels["i"]) for labels in result.labels]
    expected = np.add.outer(np.array(order), 50.0 * np.arange(40))
    np.testing.assert_array_equal(result.to_numpy(), expected)


def test_the_later_write_wins(db):
    labels = {"__name__": "twice"}
    db.append(labels, [T0, T0 + 1, T0], [1.0, 2.0, 3.0])
    assert [bits for _, bits in next(iter(stored(db, "twice").values()))] == bits_of([3.0, 2.0])
    db.flush()
    db.append(labels, [T0 + 1], [4.0])
    assert [bits for _, bits in next(iter(stored(db, "twice").values()))] == bits_of([3.0, 4.0])
    db.flush()
    db.compact()
    assert [bits for _, bits in next(iter(stored(db, "twice").values()))] == bits_of([3.0, 4.0])


def test_select_ends_are_closed(db):
    db.append({"__name__": "x"}, [T0, T0 + 1, T0 + 2], [0.0, 1.0, 2.0])
    (samples,) = stored(db, "x", T0 + 1, T0 + 2).values()
    assert [t for t, _ in samples] == [T0 + 1, T0 + 2]


def test_labels_api(db):
    for job in ("a", "b"):
        db.append({"__name__": "up", "job": job, "empty": ""}, [T0], [1.0])
    db.append({"__name__": "late"}, [T0 + 10_000_000], [1.0])
    db.flush()
    assert db.label_names() == (["__name__", "job"], False)
    assert db.label_values("__name__") == (["late", "up"], False)
    assert db.label_values("job", ['up{job!="a"}']) == (["b"], False)
    assert db.label_values("job", limit=1) == (["a"], True)
    assert db.label_values("nothing") == ([], False)
    labels, cut = db.series(['{job="a"}', "up"])
    assert sorted(found["job"] for found in labels) == ["a", "b"]
    assert not cut


def test_metadata_survives_a_restart(tmp_path):
    with tsengine.open(tmp_path) as db:
        db.append_metadata("requests_total", "counter", "Requests.", "")
    with tsengine.open(tmp_path) as db:
        expected = {"requests_total": [{"type": "counter", "help": "Requests.", "unit": ""}]}
        assert db.metadata() == expected
        db.flush()
    with tsengine.open(tmp_path) as db:
        assert db.metadata("requests_total") == expected
        assert db.metadata("other") == {}


def test_results_in_all_forms(db):
    db.append({"__name__": "x", "a": "1"}, [T0, T0 + 60_000], [1.0, math.nan])
    db.append({"__name__": "x", "a": "2"}, [T0 + 60_000], [5.0])
    r = db.query_range("x", T0, T0 + 60_000, 60_000)
    assert r.type == "matrix"
    assert r.labels == [{"__name__": "x", "a": "1"}, {"__name__": "x", "a": "2"}]
    np.testing.assert_array_equal(r.to_numpy(), [[1.0, math.nan], [math.nan, 5.0]])
    assert r.validity().tolist() == [[True, True], [False, True]]
    assert r.to_arrow().num_rows == 3
    assert r.to_pandas().shape == (2, 2)
    assert r.to_prometheus() == {
        "resultType": "matrix",
        "result": [
            {"metric": r.labels[0], "values": [[T0 // 1000, "1"], [T0 // 1000 + 60, "NaN"]]},
            {"metric": r.labels[1], "values": [[T0 // 1000 + 60, "5"]]},
        ],
    }
    assert r.truncate(1).to_prometheus()["result"] == r.to_prometheus()["result"][:1]
    window = db.query("x[1h]", time=T0 + 60_000)
    assert window.type == "matrix"
    assert [len(times) for _, times, _ in window.series()] == [2, 1]
    assert window.truncate(1).to_prometheus()["result"] == window.to_prometheus()["result"][:1]
    assert window.to_arrow().num_rows == 3
    assert window.to_pandas().shape == (2, 2)
    assert db.query("1 + 1", time=4000).to_prometheus() == {
        "resultType": "scalar",
        "result": [4, "2"],
    }
    assert db.query('"text"', time=T0).string == "text"


def test_errors_are_typed_and_name_the_place(db):
    with pytest.raises(errors.ParseError, match=r"^1:5: parse error: "):
        db.query("sum(")
    with pytest.raises(errors.InvalidLabels):
        db.append({"job": "no name"}, [T0], [1.0])
    with pytest.raises(ValueError, match="step"):
        db.query_range("x", 0, 1, 0)
    with pytest.raises(ValueError, match="before start"):
        db.query_range("x", 1, 0, 1)
    with pytest.raises(errors.QueryLimitExceeded, match="steps"):
        db.query_range("1", 0, 10**15, 1)
    cancel = threading.Event()
    cancel.set()
    db.append({"__name__": "x"}, [T0], [1.0])
    with pytest.raises(errors.QueryCanceled):
        db.query("x", time=T0, cancel=cancel)


def test_options_are_checked(tmp_path):
    with pytest.raises(errors.OptionsError, match="lookback"):
        tsengine.open(tmp_path, tsengine.Options(lookback=0))


def test_retention_refuses_and_hides_old_samples(tmp_path):
    now = int(datetime.now(UTC).timestamp() * 1000)
    with tsengine.open(tmp_path) as db:
        db.append({"__name__": "x"}, [now - 7_200_000, now - 1000], [1.0, 2.0])
        db.flush()
    with tsengine.open(tmp_path, tsengine.Options(retention=3600)) as db:
        assert [len(samples) for samples in stored(db, "x").values()] == [1]
        with pytest.raises(errors.TooOldSample, match=r"x: sample .* is older than the retention"):
            db.append({"__name__": "x"}, [now - 7_200_000, now], [1.0, 3.0])
        assert [len(samples) for samples in stored(db, "x").values()] == [2]


def test_future_limit(tmp_path):
    now = int(datetime.now(UTC).timestamp() * 1000)
    with tsengine.open(tmp_path, tsengine.Options(future_limit=600)) as db:
        db.append({"__name__": "x"}, [now + 500_000], [1.0])
        with pytest.raises(errors.TooFarInFuture):
            db.append({"__name__": "x"}, [now + 700_000], [1.0])


def test_one_writer_many_readers(tmp_path):
    with tsengine.open(tmp_path) as db:
        db.append({"__name__": "x"}, [T0], [1.0])
        with pytest.raises(errors.Locked, match=str(os.getpid())):
            tsengine.open(tmp_path)
        with tsengine.open(tmp_path, read_only=True) as reader:
            assert reader.query("x", time=T0).to_numpy().tolist() == [[1.0]]
            with pytest.raises(errors.ReadOnly):
                reader.append({"__name__": "x"}, [T0], [1.0])
    with pytest.raises(errors.Closed):
        db.query("x")
    db.close()


def test_read_only_needs_a_database(tmp_path):
    with pytest.raises(errors.StorageError):
        tsengine.open(tmp_path / "nothing", read_only=True)
    assert not (tmp_path / "nothing").exists()


def _use_in_child(db, answers):
    try:
        db.query("1")
        answers.put("answered")
    except errors.Closed:
        answers.put("Closed")


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_is_told(db):
    context = multiprocessing.get_context("fork")
    answers = context.Queue()
    child = context.Process(target=_use_in_child, args=(db, answers))
    child.start()
    assert answers.get(timeout=60) == "Closed"
    child.join()


def test_concurrent_appends_are_all_there(db):
    def write(worker):
        for i in range(20):
            db.append({"__name__": "c", "w": str(worker)}, [T0 + i], [float(i)])

    threads = [threading.Thread(target=write, args=(worker,)) for worker in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(len(samples) for samples in stored(db, "c").values()) == [20] * 8


def test_check_finds_a_flipped_bit(tmp_path):
    path = tmp_path / "db"
    with tsengine.open(path) as db:
        rng = np.random.default_rng(2)
        db.append({"__name__": "x"}, T0 + 1000 * np.arange(2000), rng.normal(size=2000))
        db.flush()
    assert tsengine.check(path).problems == []
    assert tsengine.check(path).n_samples == 2000
    for file in [p for p in path.rglob("*") if p.is_file() and "parts" in p.parts]:
        data = bytearray(file.read_bytes())
        data[len(data) // 2] ^= 4
        original = file.read_bytes()
        file.write_bytes(data)
        report = tsengine.check(path)
        assert report.problems, file
        assert str(file.parent) in report.problems[0].file
        file.write_bytes(original)
    assert tsengine.inspect(path)["samples_in_parts"] == 2000


def test_import_is_light():
    heavy = ("numba", "pyarrow", "numpy")
    code = f"import sys, tsengine; print([m for m in {heavy} if m in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


def test_the_example_of_the_readme_runs_as_printed(tmp_path):
    text = (ROOT / "README.md").read_text()
    example = text.split("```python\n", 1)[1].split("```", 1)[0]
    out = subprocess.run(
        [sys.executable, "-c", example], capture_output=True, text=True, cwd=tmp_path
    )
    assert out.returncode == 0, out.stderr
    assert "'resultType': 'vector'" in out.stdout
    assert "'job': 'api'" in out.stdout


def test_explain_tells_the_plan_without_reading(db):
    text = db.explain("sum by (job) (rate(a_total[5m] offset 1m)) / 2", T0, T0 + 3_600_000, 60)
    assert text.splitlines() == [
        "binary /",
        "  aggregate in slices sum by (job)",
        "    rollup rate",
        "      samples of a_total{} over 300000 ms offset 60000 ms",
        "  number 2.0",
    ]
    assert db.explain("a @ start()", T0) == f"latest samples of a{{}} at {T0}"
    assert db.explain("a @ 7", T0, T0 + 1000, 1).splitlines()[0] == "once for all steps"
    with pytest.raises(ValueError, match="a start, an end and a step"):
        db.explain("a", T0, T0 + 1000)
    with pytest.raises(ValueError, match="end is before start"):
        db.explain("a", T0, T0 - 1, 60)
    with pytest.raises(errors.ParseError):
        db.explain("sum(", T0)
