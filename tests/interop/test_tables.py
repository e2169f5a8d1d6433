"""CSV and Arrow files in and out, against what was stored."""

import numpy as np
import pyarrow as pa
import pytest

import tsengine
from tsengine.interop import arrow_file, csv_file
from tsengine.kernels.bits import STALE_BITS

T0 = 1_700_000_000_000


@pytest.fixture
def target(tmp_path):
    with tsengine.open(tmp_path / "target") as database:
        yield database


@pytest.fixture
def source(tmp_path):
    with tsengine.open(tmp_path / "source") as database:
        values = np.array([1.0, float("inf"), float("-inf"), float("nan"), 1e300, -0.0, 0.1])
        times = T0 + 15_000 * np.arange(7) + 7
        database.append({"__name__": "a", "job": 'x,"y"'}, times, values)
        database.append({"__name__": "b", "path": "line\nbreak"}, [-1500], [2.0])
        stale = np.array([STALE_BITS], np.uint64).view(np.float64)
        database.append({"__name__": "b", "path": "line\nbreak"}, [T0], stale)
        yield database


def content(database):
    table = database.select('{__name__!=""}').read_all()
    return [
        (sorted(labels), t, np.float64(v).tobytes())
        for labels, t, v in zip(
            table["labels"].to_pylist(),
            table["timestamp"].cast(pa.int64()).to_pylist(),
            table["value"].to_pylist(),
            strict=True,
        )
    ]


def test_csv_keeps_all_but_stale_markers(source, target, tmp_path):
    calls = []
    n = csv_file.export_file(source, tmp_path / "x.csv", progress=lambda *done: calls.append(done))
    assert n == 8
    assert calls[-1] == (2, 2)
    text = (tmp_path / "x.csv").read_text()
    assert text.splitlines()[:2] == [
        "__name__,job,path,timestamp,value",
        'a,"x,""y""",,1700000000.007,1',
    ]
    assert "-1.500,2\n" in text
    report = csv_file.import_file(target, tmp_path / "x.csv")
    assert (report.n_samples, report.n_series, report.n_refused) == (8, 2, 0)
    assert content(target) == [row for row in content(source) if row[2] != STALE_BITS.tobytes()]


def test_arrow_files_and_streams_keep_every_bit(source, target, tmp_path):
    n = arrow_file.export_file(source, tmp_path / "x.arrow")
    assert n == 9
    report = arrow_file.import_file(target, tmp_path / "x.arrow")
    assert (report.n_samples, report.n_series) == (9, 2)
    assert content(target) == content(source)
    table = pa.ipc.open_file(tmp_path / "x.arrow").read_all()
    with pa.ipc.new_stream(tmp_path / "x.arrows", table.schema) as writer:
        writer.write_table(table)
    with tsengine.open(tmp_path / "other") as other:
        assert arrow_file.import_file(other, tmp_path / "x.arrows").n_samples == 9
        assert content(other) == content(source)


@pytest.mark.parametrize(
    ("column", "text", "t_ms"),
    [
        ("timestamp", "1700000000", T0),
        ("timestamp", "1700000000.0015", T0 + 2),
        ("timestamp", "-0.001", -1),
        ("timestamp", "2023-11-14T22:13:20Z", T0),
        ("timestamp", "2023-11-14 22:13:20.250+00:00", T0 + 250),
        ("timestamp_ms", "1700000000000", T0),
    ],
)
def test_times_of_csv(target, tmp_path, column, text, t_ms):
    (tmp_path / "x.csv").write_text(f"__name__,{column},value\nm,{text},+Inf\n")
    csv_file.import_file(target, tmp_path / "x.csv")
    (row,) = content(target)
    assert row == ([("__name__", "m")], t_ms, np.float64("inf").tobytes())


def test_empty_cells_of_csv(target, tmp_path):
    (tmp_path / "x.csv").write_text('__name__,a,timestamp,value\nm,,1,2\nm,"",2,3\nm,x,3,\n')
    report = csv_file.import_file(target, tmp_path / "x.csv")
    assert (report.n_samples, report.n_refused) == (2, 0)
    assert [(labels, t) for labels, t, _ in content(target)] == [
        ([("__name__", "m")], 1000),
        ([("__name__", "m")], 2000),
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("__name__,value\nm,1\n", "no column 'timestamp'; it has __name__, value"),
        ("__name__,timestamp\nm,1\n", "no column 'value'"),
        ("timestamp,value\n1,1\n", "no labels"),
        ("__name__,timestamp,value\nm,1,2\nm,1,two\n", "line 3: value 'two' is not a number"),
        ("__name__,timestamp,value\nm,soon,2\n", "line 2: timestamp 'soon' is not a time"),
        ("__name__,timestamp_ms,value\nm,1.5,2\n", "line 2: timestamp_ms '1.5' is not a whole"),
        ("a,a,timestamp,value\nm,m,1,2\n", "a column occurs twice"),
        ("__name__,timestamp,value\nm,,2\n", "timestamp' has empty rows"),
        ("__name__,timestamp,value\nm,1\n", "Expected 3 columns, got 2"),
        ("", "Empty CSV file"),
    ],
)
def test_bad_csv_says_what_and_where(target, tmp_path, text, message):
    (tmp_path / "x.csv").write_text(text)
    with pytest.raises(ValueError, match=message):
        csv_file.import_file(target, tmp_path / "x.csv")


def test_a_cut_arrow_file_is_refused(source, target, tmp_path):
    arrow_file.export_file(source, tmp_path / "x.arrow")
    data = (tmp_path / "x.arrow").read_bytes()
    (tmp_path / "cut.arrow").write_bytes(data[: len(data) // 2])
    with pytest.raises(pa.ArrowInvalid):
        arrow_file.import_file(target, tmp_path / "cut.arrow")
    assert content(target) == []
