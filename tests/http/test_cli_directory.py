"""The verbs that work on a directory, with the real engine."""

import csv
import io
import json

import numpy as np
import pytest

import tsengine
from server import cli


@pytest.fixture
def data_dir(tmp_path):
    path = tmp_path / "data"
    with tsengine.open(path) as db:
        t_ms = np.arange(1_700_000_000_000, 1_700_000_600_000, 15_000)
        for i in range(3):
            labels = {"__name__": "temperature", "room": f'r{i}"'}
            db.append(labels, t_ms, np.arange(len(t_ms)) + i * 0.5)
        db.flush()
        db.append({"__name__": "late"}, [1_700_000_600_000], [1.0])
    return path


def run(capsys, *arguments):
    code = cli.main([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def query(capsys, data_dir, *arguments):
    code, out, err = run(capsys, "query", *arguments, "--data-dir", data_dir, "--format", "csv")
    assert (code, err) == (0, "")
    return list(csv.DictReader(io.StringIO(out)))


def test_query_at_one_time_and_at_many(capsys, data_dir):
    rows = query(capsys, data_dir, "temperature", "--time", "1700000015")
    assert [(row["room"], row["value"]) for row in rows] == [
        ('r0"', "1"), ('r1"', "1.5"), ('r2"', "2"),
    ]  # fmt: skip
    rows = query(
        capsys, data_dir, "sum(temperature)",
        "--start", "1700000000", "--end", "1700000030", "--step", "15s",
    )  # fmt: skip
    assert [float(row["value"]) for row in rows] == [1.5, 4.5, 7.5]


def test_query_explains(capsys, data_dir):
    code, out, err = run(
        capsys, "query", "max(temperature) - 1", "--explain", "--data-dir", data_dir
    )
    assert (code, err) == (0, "")
    assert out.splitlines() == [
        "binary -",
        "  aggregate in slices max",
        "    latest samples of temperature{}",
        "  number 1.0",
    ]
    arguments = ("--start", "1700000000", "--end", "1700000600", "--explain")
    code, out, _ = run(capsys, "query", "late @ 0", *arguments, "--data-dir", data_dir)
    assert (code, out) == (0, "once for all steps\n  latest samples of late{} at 0\n")
    code, _, err = run(capsys, "query", "late", "--explain", "--url", "http://127.0.0.1:1")
    assert code == 2
    assert "give --data-dir instead of --url" in err


def test_query_formats(capsys, data_dir):
    code, out, _ = run(
        capsys, "query", "late", "--time", "1700000600", "--data-dir", data_dir, "--format", "json"
    )
    assert code == 0
    assert json.loads(out) == {
        "resultType": "vector",
        "result": [{"metric": {"__name__": "late"}, "value": [1700000600, "1"]}],
    }
    code, out, _ = run(capsys, "query", "late", "--time", "1700000600", "--data-dir", data_dir)
    assert out.splitlines()[1] == "late    2023-11-14T22:23:20.000Z  1"


def test_query_arrow_is_the_same_from_a_directory_and_rebuilt(capsysbinary, data_dir):
    import pyarrow as pa

    code = cli.main(
        ["query", "temperature", "--time", "1700000015", "--data-dir", str(data_dir),
         "--format", "arrow"]
    )  # fmt: skip
    assert code == 0
    table = pa.ipc.open_stream(capsysbinary.readouterr().out).read_all()
    assert table.column_names == ["labels", "timestamp", "value"]
    assert table["value"].to_pylist() == [1, 1.5, 2]
    assert table["timestamp"].cast(pa.int64()).to_pylist() == [1_700_000_015_000] * 3
    assert dict(table["labels"].to_pylist()[0])["room"] == 'r0"'


@pytest.mark.parametrize("name", ["out.om", "out.parquet", "out.csv", "out.arrow"])
def test_export_and_import_keep_everything(capsys, data_dir, tmp_path, name):
    code, out, err = run(capsys, "export", tmp_path / name, "--data-dir", data_dir)
    assert (code, err) == (0, "")
    assert out == f"{tmp_path / name}: 121 samples written\n"
    other = tmp_path / "other"
    code, out, err = run(capsys, "import", tmp_path / name, "--data-dir", other)
    assert (code, err) == (0, "")
    assert "121 samples of 4 series stored" in out
    at = ("--start", "1700000000", "--end", "1700000600", "--step", "15s")
    assert query(capsys, other, '{__name__=~".+"}', *at) == query(
        capsys, data_dir, '{__name__=~".+"}', *at
    )


def test_export_of_a_part(capsys, data_dir, tmp_path):
    code, out, _ = run(
        capsys, "export", tmp_path / "x.om", "--data-dir", data_dir, "--match",
        "temperature{room!='r0\"'}", "--start", "1700000000", "--end", "2023-11-14T22:13:50Z",
    )  # fmt: skip
    assert code == 0
    assert "6 samples written" in out
    text = (tmp_path / "x.om").read_text()
    assert text.count("\ntemperature{") == 6
    assert text.endswith("# EOF\n")
    code, _, err = run(
        capsys, "export", tmp_path / "y.om", "--data-dir", data_dir, "--match", "temperature{"
    )
    assert code == 2
    assert "parse error" in err


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a 1 2\nb\n# EOF\n", "line 2"),
        ("a 1 2\n", "EOF"),
        ("a{x=1} 1 2\n# EOF\n", "line 1"),
        ("\x00\xff", "line 1"),
    ],
)
def test_import_of_a_broken_file(capsys, tmp_path, text, message):
    path = tmp_path / "broken.om"
    path.write_bytes(text.encode("latin-1"))
    code, _, err = run(capsys, "import", path, "--data-dir", tmp_path / "data")
    assert code == 1
    assert str(path) in err
    assert message in err
    path = tmp_path / "broken.parquet"
    path.write_bytes(b"PAR1 no")
    code, _, err = run(capsys, "import", path, "--data-dir", tmp_path / "data")
    assert code == 1
    assert str(path) in err


def test_import_of_refused_series(capsys, tmp_path):
    path = tmp_path / "long.om"
    path.write_text(f'good 1 2\nbad{{a="{"x" * 100_000}"}} 1 2\n# EOF\n')
    code, out, err = run(capsys, "import", path, "--data-dir", tmp_path / "data")
    assert code == 1
    assert "1 samples of 1 series stored" in out
    assert "refused: " in err


def test_inspect(capsys, data_dir):
    code, out, _ = run(capsys, "inspect", "--data-dir", data_dir, "--json")
    assert code == 0
    found = json.loads(out)
    assert found["samples_in_parts"] == 120
    assert found["series_in_catalog"] >= 3
    code, out, _ = run(capsys, "inspect", "--data-dir", data_dir)
    assert code == 0
    assert "samples_in_parts: 120" in out
    assert "level=0" in out


def test_check(capsys, data_dir):
    code, out, _ = run(capsys, "check", "--data-dir", data_dir)
    assert (code, out) == (0, "no problems found\n")
    (part_file,) = [p for p in (data_dir / "parts").rglob("*") if p.name == "values"] or [
        max((p for p in (data_dir / "parts").rglob("*") if p.is_file()),
            key=lambda p: p.stat().st_size)
    ]  # fmt: skip
    data = bytearray(part_file.read_bytes())
    data[len(data) // 2] ^= 1
    part_file.write_bytes(data)
    code, out, _ = run(capsys, "check", "--data-dir", data_dir)
    assert code == 1
    assert "damage: " in out
    assert "1 problem found" in out
    code, out, _ = run(capsys, "check", "--data-dir", data_dir, "--json")
    assert code == 1
    assert len(json.loads(out)["problems"]) == 1


def test_check_notes_a_torn_tail(capsys, data_dir):
    (segment,) = [p for p in (data_dir / "wal").iterdir() if p.stat().st_size]
    segment.write_bytes(segment.read_bytes()[:-3])
    code, out, _ = run(capsys, "check", "--data-dir", data_dir)
    assert code == 0
    assert out.startswith("note: ")
    assert out.endswith("no problems found\n")


def test_no_database_in_a_directory(capsys, tmp_path):
    for verb in ("check", "inspect"):
        code, _, err = run(capsys, verb, "--data-dir", tmp_path)
        assert code in (1, 2)
        assert err.startswith("tsengine: ")
    assert list(tmp_path.iterdir()) == []


def test_a_directory_in_use_is_not_imported_to(capsys, data_dir, tmp_path):
    path = tmp_path / "x.om"
    path.write_text("a 1 2\n# EOF\n")
    with tsengine.open(data_dir):
        code, _, err = run(capsys, "import", path, "--data-dir", data_dir)
    assert code == 2
    assert "lock" in err.lower() or "use" in err.lower()


@pytest.mark.timeout(900)
def test_warmup_when_all_is_warm(capsys):
    tsengine.warmup()
    code, out, _ = run(capsys, "warmup")
    assert (code, out) == (0, "0 kernels compiled; all are ready\n")
