"""Query answers as Arrow and CSV."""

import csv
import io

import pyarrow as pa
import pytest

from server.api.queries import ARROW, CSV, JSON, choose_media


@pytest.mark.parametrize(
    ("accept", "expected"),
    [
        ("", JSON),
        ("*/*", JSON),
        ("text/html", JSON),
        ("application/json, text/plain, */*", JSON),
        ("text/csv", CSV),
        ("TEXT/CSV; charset=utf-8; q=0.5, */*", CSV),
        ("text/csv;q=0.5, application/json;q=0.9", JSON),
        (f"text/csv;q=0.5, {ARROW}", ARROW),
        (f"{ARROW};q=0", JSON),
    ],
)
def test_choice(accept, expected):
    assert choose_media(accept) == expected


@pytest.fixture
def filled(real, now_ms):
    t = now_ms // 1000 * 1000 - 60_000
    real.database.append({"__name__": "x", "a": 'q",\n'}, [t, t + 1500], [0.5, float("inf")])
    real.database.append({"__name__": "x", "b": "é"}, [t], [float("nan")])
    return real, t


async def ask(running, accept, path):
    status, headers, body = await running.call("GET", path, headers={"Accept": accept})
    assert (status, headers["Content-Type"].split(";")[0]) == (200, accept)
    assert headers["Vary"] == "Accept, Accept-Encoding, Origin"
    return body


def arrow_rows(body):
    reader = pa.ipc.open_stream(body)
    table = reader.read_all()
    rows = [
        (dict(row["labels"]), round(row["timestamp"].timestamp() * 1000), str(row["value"]))
        for row in table.to_pylist()
    ]
    return rows, reader.schema.metadata


async def test_both_forms(filled):
    running, t = filled
    path = f"/api/v1/query?query=x&time={t / 1000}"
    rows, metadata = arrow_rows(await ask(running, ARROW, path))
    assert sorted(rows, key=str) == [
        ({"__name__": "x", "a": 'q",\n'}, t, "0.5"), ({"__name__": "x", "b": "é"}, t, "nan"),
    ]  # fmt: skip
    assert metadata == {b"resultType": b"vector"}
    lines = list(csv.reader(io.StringIO((await ask(running, CSV, path)).decode())))
    assert lines[0] == ["__name__", "a", "b", "timestamp", "value"]
    assert sorted(lines[1:]) == [
        ["x", "", "é", f"{t // 1000}.000", "NaN"], ["x", 'q",\n', "", f"{t // 1000}.000", "0.5"],
    ]  # fmt: skip


async def test_ranges_and_limits(filled):
    running, t = filled
    span = f"start={t / 1000}&end={t / 1000 + 1.5}&step=0.5"
    path = f"/api/v1/query_range?query=x{{a!=%22%22}}&{span}"
    rows, metadata = arrow_rows(await ask(running, ARROW, path))
    assert [row[1:] for row in rows] == [
        (t + 500 * k, "inf" if k == 3 else "0.5") for k in range(4)
    ]
    assert metadata == {b"resultType": b"matrix"}
    body = await ask(running, CSV, f"/api/v1/query?query=x&limit=1&time={t / 1000}")
    assert len(list(csv.reader(io.StringIO(body.decode())))) == 2
    rows, _ = arrow_rows(await ask(running, ARROW, f"/api/v1/query?query=x[1m]&time={t / 1000}"))
    assert len(rows) == 2


async def test_scalars_strings_and_nothing(filled):
    running, _ = filled
    assert await ask(running, CSV, "/api/v1/query?query=1.5&time=2") == (
        b"timestamp,value\n2.000,1.5\n"
    )
    assert await ask(running, CSV, "/api/v1/query?query=%22a,%22&time=2.5") == (
        b'timestamp,value\n2.500,"a,"\n'
    )
    assert await ask(running, CSV, "/api/v1/query?query=nope") == b"timestamp,value\n"
    rows, metadata = arrow_rows(await ask(running, ARROW, "/api/v1/query?query=1.5&time=2"))
    assert (rows, metadata) == ([({}, 2000, "1.5")], {b"resultType": b"scalar"})
    rows, _ = arrow_rows(await ask(running, ARROW, "/api/v1/query?query=nope"))
    assert rows == []


async def test_errors_stay_json(filled):
    running, _ = filled
    for query, status, kind in (("sum(", 400, "bad_data"), ('"text"', 406, "not_acceptable")):
        got, answer = await running.json(
            "POST", "/api/v1/query", data={"query": query}, headers={"Accept": ARROW}
        )
        assert (got, answer["status"], answer["errorType"]) == (status, "error", kind)
