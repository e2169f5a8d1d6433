"""The harness of the comparison: its data, its merging of pieces, its tables."""

from __future__ import annotations

import asyncio
import json
import re
from types import SimpleNamespace

import cramjam
import numpy as np
import pytest

from bench.side_by_side import __main__ as harness
from bench.side_by_side import (
    answers,
    bodies,
    dataset,
    fleet,
    merging,
    phases,
    queries,
    quiet,
    replay,
    report,
    systems,
    targets,
)
from tests.reference import remote_write as wire
from tsengine.engine import Database
from tsengine.options import Options

START_MS = 1_760_000_400_000


def piece(system, **facts):
    quietness = {phase: {"is_quiet": True, "busy_share": 0.02} for phase in facts}
    return merging.empty() | {
        "date": "2026-01-01", "machine": "x, 2 cores", "hosts": 10, "minutes": 5,
        "systems": {system: {"version": "1", **facts}}, "quiet": {system: quietness},
    }  # fmt: skip


def load_facts(speed, **queries_ms):
    leg = {"samples_per_s": speed, "p99_ms": 7.0}
    return {
        "series": 1000, "samples": 20_000, "legs": {"first": leg, "1": leg},
        "samples_per_s": speed, "cpu_s_per_million": 0.3, "peak_rss_mib": 200.0,
        "disk_bytes_per_sample": 1.0, "restart_s": 0.5, "queries": queries_ms,
    }  # fmt: skip


def test_a_fleet_replaces_a_tenth_and_keeps_the_clocks(tmp_path):
    load = bodies.build(tmp_path / "x.bodies", 20, 4, start_ms=START_MS, seed=1, replaced_every=2)
    assert (load.n_series, load.n_samples) == (2200, 8000)
    assert load.rounds.tolist() == [0, 1, 2, 3]
    with Database(str(tmp_path / "db"), Options(tiers=())) as db:
        for body in bodies.read(load, 0, 4):
            stored = db.append_remote_write(bytes(cramjam.snappy.decompress_raw(body)))
            assert (stored.samples, stored.rejected) == (2000, [])
        times = db.query("count_over_time(node_load1[1h])", time=load.end_ms)
        numbers = times.to_numpy()[:, 0]
        hosts = [row["instance"][:10] for row in times.labels]
        counts = dict(zip(hosts, numbers, strict=True))
        starts = db.query("timestamp(node_load1)", time=START_MS + 15_000 * 2)
    gone = [name for name, n in counts.items() if n == 2]
    assert sorted(gone) == ["host-00000", "host-00010", "host-00020", "host-00021"]
    assert len(counts) == 22
    assert starts.to_numpy().shape == (20, 1)


def test_bodies_that_were_built_are_found_again(tmp_path):
    made = bodies.build(tmp_path / "x.bodies", 2, 2, start_ms=START_MS, seed=1)
    found = bodies.build(tmp_path / "x.bodies", 2, 2, start_ms=START_MS, seed=1)
    np.testing.assert_array_equal(made.offsets, found.offsets)
    with pytest.raises(AssertionError, match="another load"):
        bodies.build(tmp_path / "x.bodies", 2, 2, start_ms=START_MS, seed=2)


def test_bodies_say_what_the_hosts_do():
    hosts = dataset.Hosts(3, START_MS, 5)
    same = fleet.Fleet(3, START_MS, 5)
    scrape = hosts.scrape()
    newest, (body,) = same.scrape()
    assert newest == scrape.t_ms.max()
    message = bytes(cramjam.snappy.decompress_raw(body))
    series = [
        wire.Series(
            [(name.encode(), value.encode()) for name, value in dataset.labels_of(host, metric)],
            [(int(scrape.t_ms[host]), wire.bits_of(float(scrape.values[host, k])))],
        )
        for host in range(3)
        for k, metric in enumerate(dataset.HOST_METRICS)
    ]
    assert message == wire.encode_v1(series)


def test_later_pieces_count_and_phases_add_up():
    first = piece("tsengine", load=load_facts(1.0), kill={})
    again = piece("tsengine", load=load_facts(2.0))
    peer = piece("victoria", load=load_facts(3.0))
    churn = {"hours": [], "rss_share": 1.1, "bytes_per_sample": 1.2}
    merged = merging.merge([first, again, peer, churn])
    assert merged["systems"]["tsengine"]["load"]["samples_per_s"] == 2.0
    assert set(merged["systems"]["tsengine"]) == {"version", "load", "kill"}
    assert merged["systems"]["victoria"]["load"]["samples_per_s"] == 3.0
    assert merged["churn_embedded"] == churn
    assert merging.merge([merged]) == merged


def test_pieces_of_other_sizes_are_refused():
    with pytest.raises(merging.MergeError, match="hosts: 10 and 11"):
        merging.merge([piece("tsengine"), piece("victoria") | {"hosts": 11}])


def test_the_table_says_what_is_met():
    merged = merging.merge([
        piece("tsengine", load=load_facts(4e6, **{"and, 1 h": 8.0, "label names": 2.0})),
        piece("victoria", load=load_facts(1e6, **{"and, 1 h": 4.0, "label names": 1.0})),
        piece("prometheus", load=load_facts(2e6, **{"and, 1 h": 16.0})),
    ])  # fmt: skip
    merged["compared"] = {"victoria": {"and, 1 h": "", "increase, 1 h": "values differ"}}
    merged["systems"]["tsengine"]["users"] = {"users": 3, "p95_ms": 120.0, "ingest_share": 0.8}
    notes = {"why": {"users: p95, ms": "too many"}, "differences": {"victoria": {"rate": "so"}}}
    rows = report.target_table(merged, notes).splitlines()
    assert (
        "| load: known series, best of 1-8 connections, M samples/s | >= 3 | 4 | 1 | 2 | 2.00 "
        "| met |  |" in rows
    )
    assert "| users: p95, ms | <= 100 | 120 | - | - |  | **missed** | too many |" in rows
    assert (
        "| users: ingest meanwhile, share of that alone | >= 0.7 | 0.8 | - | - |  | met |  |"
        in rows
    )
    assert targets.query_ratios(merged["systems"]) == {"and, 1 h": 2.0, "label names": 2.0}
    assert targets.slower_queries(merged["systems"]) == ["and, 1 h"]
    assert "| and, 1 h | 8 | 4 | 16 | **2.00** |" in report.query_table(merged)
    text = report.tables(merged)
    assert "2, of which 1 are equal" in text
    assert "| increase, 1 h | values differ | VictoriaMetrics takes rate" in text
    assert "quiet before each of the 3 phases" in text


def test_a_slower_machine_is_told_by_the_peer():
    def verdict(ours, victoria):
        merged = merging.merge(
            [piece("tsengine", load=load_facts(ours)), piece("victoria", load=load_facts(victoria))]
        )
        row = report.target_table(merged, {}).splitlines()[2]
        return row.split(" | ")[5]

    assert verdict(3.0e6, 2.0e6) == "met"
    assert verdict(2.4e6, 1.0e6) == "**missed**; met beside VM: 2.40 of its, 2.40 wanted"
    assert verdict(2.39e6, 1.0e6) == "**missed**"


def test_the_table_goes_between_its_marks(tmp_path, monkeypatch):
    doc = tmp_path / "performance.md"
    doc.write_text(f"before\n{report._BEGIN}\nold\n{report._END}\nafter\n")
    monkeypatch.setattr(report, "_DOC", doc)
    report.write_doc(piece("tsengine", load=load_facts(1e6)))
    text = doc.read_text()
    assert text.startswith(f"before\n{report._BEGIN}\n\n2026-01-01")
    assert text.endswith(f"{report._END}\nafter\n")
    assert "old" not in text


def test_notes_name_rows_and_queries_that_are_there():
    notes = report.tomllib.loads(report._NOTES.read_text())
    names = {target.name for target in targets.TARGETS}
    assert {name for name in notes["why"] if "queries" not in name} <= names
    known = {query.name for query in queries.QUERIES} | {"rate"}
    for differences in notes["differences"].values():
        assert differences.keys() <= known


def test_answers_of_other_runs_are_compared(tmp_path):
    ours = {"label names": ["a", "b"], "series of a service": [{"a": "1"}]}
    answers.keep(tmp_path, "tsengine", "load", "1-1", ours)
    answers.keep(tmp_path, "victoria", "load", "1-1", ours | {"label names": ["a"]})
    found = answers.compare(tmp_path, "load", "1-1", ["victoria", "prometheus"])
    assert found == {"victoria": {"label names": "2 and 1 texts", "series of a service": ""}}
    assert answers.compare(tmp_path, "load", "2-1", ["victoria"]) == {}


def test_a_connection_that_the_server_ends_is_made_anew(tmp_path):
    """After two minutes VictoriaMetrics does: half a load was lost by that."""
    load = bodies.build(tmp_path / "x.bodies", 20, 6, start_ms=START_MS, seed=1)
    answered, connected = [], []

    async def answer(reader, writer):
        # The first connection ends unanswered, others after two answers.
        connected.append(writer)
        for _ in range(0 if len(connected) == 1 else 2):
            head = await reader.readuntil(b"\r\n\r\n")
            size = int(re.search(rb"Content-Length: (\d+)", head)[1])
            answered.append(await reader.readexactly(size))
            writer.write(b"HTTP/1.1 204 No Content\r\n\r\n")
        writer.close()
        await writer.wait_closed()

    async def serve():
        server = await asyncio.start_server(answer, "127.0.0.1", 0)
        command = {
            "port": server.sockets[0].getsockname()[1], "path": "/", "first": 0, "last": 6,
            "connections": 1,
        }  # fmt: skip
        async with server:
            return await asyncio.to_thread(replay.run, command, load)

    found = asyncio.run(serve())
    assert answered == list(bodies.read(load, 0, 6))
    assert (found["failures"], len(found["waits_ms"]), found["retries"]) == ([], 6, 3)


def test_what_was_measured_before_a_failure_is_kept(tmp_path, monkeypatch):
    plan = phases.Plan({"small": None})
    stopped = []
    system = SimpleNamespace(version=lambda: "1", stop=lambda: stopped.append("stopped"))
    monkeypatch.setitem(harness.SYSTEMS, "tsengine", lambda folder: system)
    monkeypatch.setattr(
        phases,
        "ingest",
        lambda make, *_, load: {"facts": {"x": make(load) is system}, "answers": {}},
    )
    args = SimpleNamespace(phases=["small", "load"], wait_quiet=0.0)
    result = merging.empty()
    with pytest.raises(AttributeError, match="load"):
        harness._measure("tsengine", plan, args, tmp_path, result)
    assert json.loads((tmp_path / "so-far.json").read_text())["systems"]["tsengine"]["small"] == {
        "x": True
    }
    assert stopped


def test_an_empty_answer_ends_the_run():
    class Empty:
        name = "empty"

        def call(self, path, parameters, timeout_s=300):
            return json.dumps({"data": {"result": []}}).encode()

    plan = phases.Plan({"load": SimpleNamespace(end_ms=START_MS)}, repeats=1)
    with pytest.raises(RuntimeError, match="one series, raw, 1 h: the answer is empty"):
        phases._query(Empty(), "load", plan, lambda text: None)


def test_machines_are_looked_at():
    look = quiet.look()
    assert 0 <= look["busy_share"] <= 1
    assert look["is_quiet"] == (look["busy_share"] <= quiet.BUSY_SHARE_MAX)


def test_a_peer_may_be_named(tmp_path, monkeypatch, capsys):
    program = tmp_path / "vm"
    program.write_text("#!/bin/sh\n")
    monkeypatch.setattr(systems.VictoriaMetrics, "program", "victoria-metrics")
    args = harness._parse(["--victoria", str(program), "--phases", "load,kill"])
    assert args.phases == ["load", "kill"]
    assert systems.VictoriaMetrics.find() == program
    with pytest.raises(SystemExit):
        harness._parse(["--victoria", str(tmp_path / "nothing")])
    with pytest.raises(SystemExit):
        harness._parse(["--phases", "loud"])
    assert "loud: one of load, day" in capsys.readouterr().err
