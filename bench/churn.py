"""Churn: a tenth of 100,000 series replaced every 10 minutes, for 24 h of data time.

    python -m bench.churn [--hosts 1000] [--hours 24] [--replace-minutes 10] [--share 10]
        [--json FILE] [--work DIR] [--tiers]

Scrapes of `bench.side_by_side` every 15 s, as remote-write bodies of 2,000 samples over four
threads into a database in a process of its own, whose clock moves in data time, with the server's
settings of the C library's memory (an embedding program has MALLOC_ARENA_MAX for that); heads are
flushed, parts merged, retention (15 days) looked after as in life. Every hour of data time the
process says what it holds: resident memory, by owner, and the peak of that hour. An hour takes some
seconds here, so the database is asked to do before what it does in life every 20 s, and when no
head was flushed for 5 s: let idle memory go, and have the C library return what is free. Resident
memory before that is printed too (`busy`). Then everything is flushed and merged, the bytes on disk
are counted, and the database is opened once more. Judged are memory after the last hour against
that after four hours (1.15), and bytes a sample (1.5). What no owner answers for (`other`) is the
interpreter, code, and what the C library keeps all the same.

With fewer hosts heads are flushed after as many fewer samples, so after as much data time. At full
size it takes a quarter of an hour on two free cores; `--hosts 100` is a try of two minutes.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import multiprocessing
import os
import shutil
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from bench.side_by_side.fleet import Fleet
from server.allocator import keep_small_memory

START_MS = 1_760_000_040_000 // 3_600_000 * 3_600_000
DAY_S = 86_400.0
FLAT_FROM_HOUR = 4
FLAT_SHARE = 1.15
BYTES_PER_SAMPLE_MAX = 1.5
KINDS = ("head", "series", "senders", "parts", "exemplars", "log")
_FULL_HOSTS = 1000
_HEAD_SAMPLES = 16 * 1024 * 1024
_SENDERS = 4
_IDLE_S_MAX = 600.0
_MIB = 1 << 20

Facts = dict[str, Any]


# --- the database's process ---------------------------------------------------------------------


class _Engine:
    """Executes one command at a time: a tuple of a method's name and its arguments."""

    def __init__(self, folder: str, now_ms: int, n_hosts: int, with_tiers: bool) -> None:
        from tsengine.options import DEFAULT_TIERS, Options

        self._folder = folder
        self._now_ms = now_ms
        self._flushed_ms = now_ms
        self._n_samples = 0
        self._options = Options(
            retention=15 * DAY_S,
            tiers=DEFAULT_TIERS if with_tiers else (),
            head_samples_max=max(1, _HEAD_SAMPLES * n_hosts // _FULL_HOSTS),
        )
        self._senders = ThreadPoolExecutor(_SENDERS)

    def open(self) -> Facts:
        """Open the database: seconds, memory."""
        from tsengine.engine import Database

        started_s = time.perf_counter()
        self._database = Database(self._folder, self._options, clock=lambda: self._now_ms)
        facts = {"open_s": time.perf_counter() - started_s}
        return facts | {"open_rss_mib": _status("VmRSS") / 1024}

    def scrape(self, now_ms: int, bodies: list[bytes]) -> int:
        """Store a round; returns the samples stored so far."""
        self._now_ms = now_ms
        self._n_samples += sum(self._senders.map(self._send, range(len(bodies)), bodies))
        # The engine's own timer of heads runs by the machine's clock.
        if now_ms - self._flushed_ms >= self._options.head_age_s_max * 1000:
            self._database.flush()
        if not self._database.stats()["head_samples"]:
            self._flushed_ms = now_ms
        return self._n_samples

    def _send(self, number: int, packed: bytes) -> int:
        import cramjam

        body = bytes(cramjam.snappy.decompress_raw(packed))
        stored = self._database.append_remote_write(body, sender=f"sender-{number}")
        assert not stored.rejected, stored.rejected[0]
        return stored.samples

    def look(self) -> Facts:
        """What it holds once background work is done; begins a new peak."""
        from tsengine.model.machine import give_back_memory

        peak = _status("VmHWM")
        self._wait_for_idle()
        busy = _status("VmRSS")
        self._database._storage.maintenance.save_memory()
        give_back_memory()
        stats = self._database.stats()
        facts = {
            "busy_rss_mib": busy / 1024,
            "rss_mib": _status("VmRSS") / 1024,
            "anonymous_mib": _status("RssAnon") / 1024,
            "peak_mib": peak / 1024,
            "series": stats["series"],
            "head_samples": stats["head_samples"],
            "parts": stats["parts"],
            "merges": stats["merges"],
            "spilled_mib": stats["spilled_bytes"] / _MIB,
            "samples": self._n_samples,
        }
        facts |= {f"{kind}_mib": stats[f"memory_bytes:{kind}"] / _MIB for kind in KINDS}
        # What newer catalogs tell of series that are in memory.
        facts |= {name: n for name, n in stats.items() if "series" in name and ":" not in name}
        Path("/proc/self/clear_refs").write_text("5")
        return facts

    def _wait_for_idle(self) -> None:
        """Data come a hundred times as fast as in life; background work must not lag behind."""
        database = self._database
        quiet_s, known, end_s = 0.0, None, time.monotonic() + _IDLE_S_MAX
        while quiet_s < 0.5 and time.monotonic() < end_s:
            stats = database.stats()
            jobs = sum(n for name, n in stats.items() if name.startswith("background_jobs:"))
            now = (stats["parts"], stats["part_bytes"], stats["flushes"], stats["merges"])
            is_quiet = not jobs and not database._storage.state.frozen and now == known
            quiet_s, known = quiet_s + 0.05 if is_quiet else 0.0, now
            time.sleep(0.05)

    def count(self) -> int:
        """Samples that a query finds, of those of one name."""
        text = "sum(count_over_time(node_load1[30d]))"
        rows = self._database.query(text, time=self._now_ms + 60_000).to_numpy()
        return int(rows[0, 0]) if rows.size else 0

    def end(self) -> Facts:
        """Flush and merge all, close: bytes on disk, seconds."""
        self._wait_for_idle()
        facts: Facts = {"disk_bytes_unmerged": _disk_bytes(self._folder)}
        started_s = time.perf_counter()
        self._database.flush()
        self._database.compact()
        facts["settle_s"] = time.perf_counter() - started_s
        # Replaced files stay for readers of other processes until the end.
        self._database.close()
        facts["disk_bytes"] = _disk_bytes(self._folder)
        facts["catalog_bytes"] = _disk_bytes(os.path.join(self._folder, "catalog"))
        return facts

    def close(self) -> None:
        """Close the database."""
        self._database.close()


def _serve(pipe: Connection, *arguments: Any) -> None:
    keep_small_memory()
    engine = _Engine(*arguments)
    # Without a parent there is no more to do either.
    with contextlib.suppress(EOFError):
        while (command := pipe.recv()) is not None:
            name, *given = command
            pipe.send(getattr(engine, name)(*given))


def _status(name: str) -> int:
    """A number of the process's status, KiB."""
    return int(Path("/proc/self/status").read_text().split(f"{name}:")[1].split()[0])


def _disk_bytes(folder: str) -> int:
    return sum(path.stat().st_size for path in Path(folder).rglob("*") if path.is_file())


class _Process:
    """The database's process seen from here."""

    def __init__(self, folder: str, now_ms: int, args: argparse.Namespace) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        arguments = (theirs, folder, now_ms, args.hosts, args.tiers)
        self._process = context.Process(target=_serve, args=arguments, daemon=True)
        self._process.start()
        theirs.close()

    def call(self, *command: Any) -> Any:
        """Execute a method there."""
        self.tell(*command)
        return self.answer()

    def tell(self, *command: Any) -> None:
        self._pipe.send(command)

    def answer(self) -> Any:
        return self._pipe.recv()

    def stop(self) -> None:
        """End it."""
        self._pipe.send(None)
        self._process.join(30)


# --- the run ------------------------------------------------------------------------------------


def _run(args: argparse.Namespace, folder: str) -> Facts:
    fleet = Fleet(args.hosts, START_MS, args.seed, n_groups=max(1, 100 // args.share))
    process = _Process(folder, START_MS, args)
    rounds_per_hour, hours = 240, []
    n_rounds = round(args.hours * rounds_per_hour)
    per_replacement = max(1, round(args.replace_minutes * 4))
    process.call("open")
    started_s = time.perf_counter()
    process.tell("scrape", *fleet.scrape())
    for number in range(1, n_rounds + 1):
        is_last = number == n_rounds
        if number % per_replacement == 0 and not is_last:
            fleet.replace()
        # The next round is made while the last one is stored.
        made = None if is_last else fleet.scrape()
        n_samples = process.answer()
        if number % rounds_per_hour == 0 or is_last:
            hours.append(process.call("look") | {"hour": number / rounds_per_hour})
            hours[-1] |= {"seconds": time.perf_counter() - started_s, "load": os.getloadavg()[0]}
            print(_line(hours[-1]), flush=True)
        if made is not None:
            process.tell("scrape", *made)
    facts: Facts = {
        "hosts": args.hosts,
        "active_series": args.hosts * 100,
        "catalog_series": fleet.n_series,
        "samples": n_samples,
        "expected_count": n_rounds * args.hosts,
        "seconds": time.perf_counter() - started_s,
        "hours": hours,
    }
    facts |= process.call("end")
    process.stop()
    again = _Process(folder, START_MS + int(args.hours * 3_600_000), args)
    facts |= again.call("open")
    facts["counted"] = again.call("count")
    again.call("close")
    again.stop()
    return facts | _verdict(facts)


def _verdict(facts: Facts) -> Facts:
    """Ratios of the last hour to the fourth, or to the first of a shorter run."""
    hours = facts["hours"]
    base = next((hour for hour in hours if hour["hour"] >= FLAT_FROM_HOUR), hours[0])
    last = hours[-1]

    def rest(hour: Facts) -> float:
        return float(hour["rss_mib"] - hour["head_mib"])

    return {
        "base_hour": base["hour"],
        "rss_share": rest(last) / rest(base),
        "busy_rss_share": last["busy_rss_mib"] / base["busy_rss_mib"],
        "peak_share": last["peak_mib"] / base["peak_mib"],
        "grown_mib": {kind: last[f"{kind}_mib"] - base[f"{kind}_mib"] for kind in KINDS}
        | {"other": _other(last) - _other(base)},
        "bytes_per_sample": facts["disk_bytes"] / facts["samples"],
        "catalog_bytes_per_series": facts["catalog_bytes"] / facts["catalog_series"],
    }


def _other(hour: Facts) -> float:
    """Resident memory that no owner answers for: interpreter, code, free lists."""
    return float(hour["rss_mib"] - sum(hour[f"{kind}_mib"] for kind in KINDS))


_HEAD = (
    " hour   series  samples M  parts   RSS MiB   busy   peak   head  series  senders  parts  other"
    "  in files  load"
)


def _line(hour: Facts) -> str:
    return (
        f"{hour['hour']:5.1f} {hour['series']:>8,} {hour['samples'] / 1e6:10.1f} "
        f"{hour['parts']:6d} {hour['rss_mib']:9.0f} {hour['busy_rss_mib']:6.0f} "
        f"{hour['peak_mib']:6.0f} "
        f"{hour['head_mib']:6.0f} {hour['series_mib']:7.0f} {hour['senders_mib']:8.0f} "
        f"{hour['parts_mib']:6.0f} {_other(hour):6.0f} {hour['spilled_mib']:9.0f} "
        f"{hour['load']:5.1f}"
    )


def summary(facts: Facts) -> str:
    """What is judged, in lines."""
    grown = ", ".join(f"{kind} {n:+.0f}" for kind, n in facts["grown_mib"].items())
    last = facts["hours"][-1]["hour"]
    return "\n".join((
        f"{facts['samples']:,} samples of {facts['catalog_series']:,} series "
        f"({facts['active_series']:,} at a time) in {facts['seconds']:.0f} s",
        f"RSS without the head after {last:g} h / {facts['base_hour']:g} h: "
        f"{facts['rss_share']:.3f} (at most {FLAT_SHARE}); busy, with the head: "
        f"{facts['busy_rss_share']:.3f}; peaks: {facts['peak_share']:.3f}",
        f"grown meanwhile, MiB: {grown}",
        f"on disk: {facts['bytes_per_sample']:.3f} bytes a sample (at most "
        f"{BYTES_PER_SAMPLE_MAX}), before the last merge "
        f"{facts['disk_bytes_unmerged'] / facts['samples']:.3f}; catalog "
        f"{facts['catalog_bytes_per_series']:.1f} bytes a series",
        f"opened again in {facts['open_s']:.2f} s, {facts['open_rss_mib']:.0f} MiB; counted "
        f"{facts['counted']:,} of {facts['expected_count']:,}",
    ))  # fmt: skip


def main(argv: list[str] | None = None) -> int:
    """Run it; 0 if no sample was lost, whatever the targets."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--hosts", type=int, default=_FULL_HOSTS)
    parser.add_argument("--hours", type=float, default=24.0)
    parser.add_argument("--replace-minutes", type=float, default=10.0)
    parser.add_argument("--share", type=int, default=10, help="percent of the hosts; divides 100")
    parser.add_argument("--seed", type=int, default=11)
    parser.add_argument("--tiers", action="store_true")
    parser.add_argument("--json", type=Path, default=None)
    parser.add_argument("--work", type=Path, default=None)
    args = parser.parse_args(argv)
    folder = str(args.work or tempfile.mkdtemp(prefix="churn-"))
    print(_HEAD)
    try:
        facts = _run(args, folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    print(summary(facts))
    if args.json is not None:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(json.dumps(facts, indent=1) + "\n")
    return int(facts["counted"] != facts["expected_count"])


if __name__ == "__main__":
    sys.exit(main())
