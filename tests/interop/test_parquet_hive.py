"""Parquet in folders by date and metric: what DuckDB finds in it is what was stored."""

import duckdb
import numpy as np
import pyarrow.parquet as pq
import pytest

import tsengine
from server import cli
from tests.faults import rich_database as rich
from tsengine.interop import parquet_hive

DAY_MS = 86_400_000
T0 = 1_700_006_400_000 // DAY_MS * DAY_MS
ODD = 'a/b=c%20"é'


@pytest.fixture
def db(tmp_path):
    with tsengine.open(tmp_path / "db") as db:
        for k in range(3):
            labels = {"__name__": "up", "job": f"j{k}"}
            times = T0 + DAY_MS - 30_000 + np.arange(4) * 15_000
            db.append(labels, times, [0.1 * k, -0.0, np.nan, np.inf])
        db.append({"__name__": ODD, "x": "'"}, [T0 + 5], [2.0])
        yield db


def read(folder, sql):
    return duckdb.sql(
        f"SELECT {sql} FROM read_parquet('{folder}/**/*.parquet', hive_partitioning = true)"
    )


def test_duckdb_reads_it_as_it_is(db, tmp_path):
    folder = tmp_path / "lake"
    assert parquet_hive.export_file(db, folder) == 13
    paths = sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())
    assert paths == [
        "date=2023-11-15/metric=a%2Fb%3Dc%2520%22%C3%A9/part-0.parquet",
        "date=2023-11-15/metric=up/part-0.parquet",
        "date=2023-11-16/metric=up/part-0.parquet",
    ]
    rows = read(
        folder, "date::VARCHAR, metric, labels['job'], epoch_ms(timestamp), value"
    ).fetchall()
    found = {(date, metric, job, t): value for date, metric, job, t, value in rows}
    assert len(found) == 13
    for k in range(3):
        for i, value in enumerate([0.1 * k, -0.0, np.nan, np.inf]):
            t = T0 + DAY_MS - 30_000 + i * 15_000
            date = "2023-11-15" if i < 2 else "2023-11-16"
            np.testing.assert_equal(found[date, "up", f"j{k}", t], value)
    assert found["2023-11-15", ODD, None, T0 + 5] == 2.0
    (total,) = read(folder, "count(*)").fetchall()[0]
    assert total == 13
    pruned = duckdb.sql(
        f"SELECT count(*) FROM read_parquet('{folder}/**/*.parquet', hive_partitioning = true) "
        "WHERE date = '2023-11-16' AND metric = 'up'"
    )
    assert pruned.fetchall()[0] == (6,)


def test_selector_and_range(db, tmp_path):
    n = parquet_hive.export_file(db, tmp_path / "lake", 'up{job="j1"}', T0, T0 + DAY_MS - 15_000)
    assert n == 2
    table = pq.read_table(tmp_path / "lake")
    assert table["value"].to_pylist() == [0.1, -0.0]
    assert table["labels"].to_pylist() == [[("job", "j1")]] * 2
    assert parquet_hive.export_file(db, tmp_path / "none", "nothing") == 0


def test_histograms_have_their_column_in_all_files(tmp_path):
    rich.make(tmp_path / "db")
    with tsengine.open(tmp_path / "db", read_only=True) as db:
        n = parquet_hive.export_file(db, tmp_path / "lake")
        truth = db.select('{__name__=~".+"}').read_all()
    assert n == truth.num_rows
    wanted = sum(item is not None for item in truth["histogram"].to_pylist())
    found = read(tmp_path / "lake", "count(*), count(histogram)").fetchall()[0]
    assert found == (n, wanted)
    (counted,) = read(tmp_path / "lake", "sum(histogram.count)").fetchall()[0]
    assert counted == sum(h["count"] for h in truth["histogram"].to_pylist() if h is not None)


def test_command_line(db, tmp_path, capsys):
    folder = tmp_path / "lake"
    arguments = ["export", str(folder), "--format", "parquet-hive", "--data-dir", db.path]
    assert cli.main(arguments) == 0
    assert "13 samples written" in capsys.readouterr().out
    assert cli.main(arguments) == 2
    assert "is not empty" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        cli.main(["import", str(folder), "--format", "parquet-hive", "--data-dir", db.path])


def test_years_have_four_digits(tmp_path):
    first = -62_135_596_800_000
    with tsengine.open(tmp_path / "db") as db:
        db.append({"__name__": "up"}, [first, first + DAY_MS], [1.0, 2.0])
        assert parquet_hive.export_file(db, tmp_path / "lake") == 2
    folders = sorted(path.name for path in (tmp_path / "lake").iterdir())
    assert folders == ["date=0001-01-01", "date=0001-01-02"]
