"""Kill -9 again and again: a server under load is killed, started, and asked for everything.

    python -m tests.crash.soak --rounds 200

One directory for all rounds, so replays, merges, tiers and clean-ups of earlier rounds take part.
In each round four writers send samples in and out of order and new series, a fifth sends what is
going to be deleted, others delete, query, flush, merge, clean up and take snapshots, until SIGKILL
comes at a random moment. After the next start every acknowledged sample is there and every deleted
one is not; at the end all values are read from the directory, the windows of tiers are compared
with them, and `check` is clean.
"""

from __future__ import annotations

import argparse
import http.client
import json
import random
import shutil
import sys
import tempfile
import threading
import time
import urllib.parse
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import cramjam
import numpy as np

import tsengine
from tests.crash.serving import ServerProcess
from tests.http.wire import HEADERS_V1, message_v1

N_WRITERS = 4
SERIES_PER_WRITER = 5
STEP_MS = 15_000
START_LIMIT_S = 5.0
FLAGS = ("--enable-admin-api", "--tier-delay", "0", "--retention", "10y")
N_RECENT = 2000
"""Samples of a deleted series that are looked at after each start; at the end it is all."""


@dataclass
class Numbers:
    """What one writer sent: sample k has time ``k * STEP_MS`` after the begin, and value k.

    Parameters
    ----------
    next
        First number that was never sent.
    acknowledged
        Numbers below it were.
    holes
        Numbers below it that may be missing: of requests that got no answer.
    deleted, uncertain
        Half-open ranges that were deleted; one whose delete was under way when the kill came.

    """

    next: int = 0
    acknowledged: int = 0
    holes: list[tuple[int, int]] = field(default_factory=list)
    deleted: list[tuple[int, int]] = field(default_factory=list)
    uncertain: tuple[int, int] | None = None

    def required(self) -> np.ndarray:
        """Whether each number below ``acknowledged`` must be there: bool[K]."""
        wanted = np.ones(self.acknowledged, np.bool_)
        for lo, hi in (*self.holes, *self.deleted):
            wanted[lo:hi] = False
        return wanted

    def forbidden(self) -> np.ndarray:
        """Whether each number that was ever sent must not be there: bool[K]."""
        gone = np.zeros(self.next, np.bool_)
        for lo, hi in self.deleted:
            gone[lo:hi] = True
        return gone


class Client(threading.Thread):
    """Does one thing over and over until the connection breaks; refusals are remembered."""

    def __init__(self, url: str, pause_s: float = 0.0) -> None:
        super().__init__(daemon=True)
        self._address = urllib.parse.urlsplit(url)
        self._pause_s = pause_s
        self.refused: list[tuple[int, bytes]] = []
        self.n_answers = 0

    def turn(self, ask: Callable[..., tuple[int, bytes]]) -> None:
        """One turn; ``ask(method, path, body, headers)`` gives status and body."""
        raise NotImplementedError

    def run(self) -> None:
        """The thread."""
        connection = http.client.HTTPConnection(
            self._address.hostname, self._address.port, timeout=60
        )

        def ask(method, path, body=None, headers=None):
            connection.request(method, path, body, headers or {})
            answer = connection.getresponse()
            text = answer.read()
            self.n_answers += 1
            if answer.status >= 300:
                self.refused.append((answer.status, text))
            return answer.status, text

        try:
            while not self.refused:
                self.turn(ask)
                if self._pause_s:
                    time.sleep(self._pause_s)
        except (OSError, http.client.HTTPException):
            return  # the server was killed
        finally:
            connection.close()


class Writer(Client):
    """Rising numbers, some of them late, and a new series each time."""

    def __init__(self, url: str, number: int, base_ms: int, numbers: Numbers, round_: int) -> None:
        super().__init__(url)
        self._number, self._base_ms, self._round = number, base_ms, round_
        self._rng = random.Random(f"{number} {round_}")
        self.numbers = numbers

    def turn(self, ask) -> None:
        """Two pieces of numbers, the later one first."""
        first = self.numbers.next
        middle = first + self._rng.randrange(1, 20)
        end = middle + self._rng.randrange(0, 9)
        self.numbers.next = end
        pieces = [(middle, end), (first, middle)] if end > middle else [(first, middle)]
        for lo, hi in pieces:
            status, _ = ask("POST", "/api/v1/write", self._body(lo, hi), HEADERS_V1)
            if status >= 300:
                return
        self.numbers.acknowledged = end

    def _body(self, first: int, end: int) -> bytes:
        rows = []
        for s in range(SERIES_PER_WRITER):
            labels = {"__name__": "crash", "s": str(s), "w": str(self._number)}
            rows.append((labels, samples(self._base_ms, first, end)))
        # Its record must be as durable as its sample.
        fresh = {"__name__": "fresh", "k": f"{self._number}-{first}", "round": str(self._round)}
        rows.append((fresh, [(self._base_ms + first, 1.0)]))
        return bytes(cramjam.snappy.compress_raw(message_v1(rows)))


class DoomedWriter(Client):
    """Numbers of a series of which pieces are deleted."""

    def __init__(self, url: str, base_ms: int, numbers: Numbers, pause_s: float = 0.005) -> None:
        super().__init__(url, pause_s)
        self._base_ms = base_ms
        self.numbers = numbers

    def turn(self, ask) -> None:
        """A few at a time."""
        first = self.numbers.next
        self.numbers.next = end = first + random.randrange(1, 12)
        rows = [({"__name__": "doomed"}, samples(self._base_ms, first, end))]
        body = bytes(cramjam.snappy.compress_raw(message_v1(rows)))
        if ask("POST", "/api/v1/write", body, HEADERS_V1)[0] < 300:
            self.numbers.acknowledged = end


class Deleter(Client):
    """Deletes some of what was acknowledged."""

    def __init__(self, url: str, base_ms: int, numbers: Numbers) -> None:
        super().__init__(url, 0.05)
        self._base_ms = base_ms
        self.numbers = numbers

    def turn(self, ask) -> None:
        """A range that may reach into old rounds."""
        known = self.numbers.acknowledged
        if known == 0:
            return
        lo = random.randrange(max(0, known - random.choice([50, 500, 5000])), known)
        hi = min(known, lo + random.randrange(1, 30))
        form = urllib.parse.urlencode({
            "match[]": "doomed",
            "start": f"{(self._base_ms + lo * STEP_MS) / 1000:.3f}",
            "end": f"{(self._base_ms + (hi - 1) * STEP_MS) / 1000:.3f}",
        })  # fmt: skip
        self.numbers.uncertain = lo, hi
        if ask("POST", f"/api/v1/admin/tsdb/delete_series?{form}")[0] < 300:
            self.numbers.deleted.append((lo, hi))
            self.numbers.uncertain = None


class Keeper(Client):
    """Flushes, merges, cleans up and takes snapshots, so that the kill meets those half done."""

    def turn(self, ask) -> None:
        """One of them."""
        what = random.choice(["flush", "flush", "flush?merge=1", "clean_tombstones", "snapshot"])
        ask("POST", f"/api/v1/admin/tsdb/{what}")


class Reader(Client):
    """Asks questions that read everything."""

    def turn(self, ask) -> None:
        """A range query over all days."""
        form = {
            "query": random.choice(["sum(rate(crash[1h]))", "count by (w) (crash)", "doomed"]),
            "start": f"{time.time() - 60 * 86_400:.0f}", "end": f"{time.time():.0f}", "step": "1h",
        }  # fmt: skip
        ask("GET", f"/api/v1/query_range?{urllib.parse.urlencode(form)}")


@dataclass
class Summary:
    """What became of a soak."""

    starts_s: list[float]
    n_samples: int
    n_series: int
    n_deleted: int
    n_tier_parts: int
    size_bytes: int

    def __str__(self) -> str:
        return (
            f"{len(self.starts_s)} rounds: {self.n_samples} samples and {self.n_series} new series "
            f"acknowledged, none lost; {self.n_deleted} samples deleted, none came back; "
            f"{self.n_tier_parts} parts of tiers, {self.size_bytes / 1e6:.1f} MB; starts: median "
            f"{np.median(self.starts_s):.2f} s, longest {max(self.starts_s):.2f} s"
        )


def samples(base_ms: int, first: int, end: int) -> list[tuple[int, float]]:
    return [(base_ms + k * STEP_MS, float(k)) for k in range(first, end)]


def run_rounds(directory: Path, n_rounds: int, seed: int, log=None, say=print) -> Summary:
    """Kill and restart `n_rounds` times; AssertionError if anything is lost or comes back."""
    rng = random.Random(seed)
    tsengine.warmup()
    base_ms = int(time.time() * 1000) - 59 * 86_400_000
    numbers = [Numbers() for _ in range(N_WRITERS)]
    doomed = Numbers()
    starts: list[float] = []
    n_fresh = 0
    for round_ in range(n_rounds):
        server = ServerProcess(directory, *FLAGS, log=log)
        starts.append(server.start_s)
        try:
            verify(server, numbers, doomed, n_fresh, base_ms)
            writers = [Writer(server.url, k, base_ms, numbers[k], round_) for k in range(N_WRITERS)]
            threads = [
                *writers, DoomedWriter(server.url, base_ms, doomed),
                Deleter(server.url, base_ms, doomed), Keeper(server.url, 0.05),
                Reader(server.url, 0.1),
            ]  # fmt: skip
            for thread in threads:
                thread.start()
            time.sleep(rng.uniform(0.05, 1.0))
        finally:
            server.kill()
        for thread in threads:
            thread.join(timeout=60)
            assert thread.refused == [], thread.refused
        for one in (*numbers, doomed):
            if one.next > one.acknowledged:
                one.holes.append((one.acknowledged, one.next))
                one.acknowledged = one.next
        n_fresh += sum(writer.n_answers for writer in writers)
        shutil.rmtree(directory / "snapshots", ignore_errors=True)
        say(
            f"round {round_}: start {server.start_s:.2f} s, "
            f"{sum(int(one.required().sum()) for one in numbers) * SERIES_PER_WRITER} samples, "
            f"{int(doomed.forbidden().sum())} deleted",
        )
    server = ServerProcess(directory, *FLAGS, log=log)
    try:
        verify(server, numbers, doomed, n_fresh, base_ms)
    finally:
        server.kill()
    return _verify_everything(directory, numbers, doomed, base_ms, starts, n_fresh)


def verify(
    server: ServerProcess, numbers: list[Numbers], doomed: Numbers, n_fresh: int, base_ms: int
) -> None:
    """Each series holds at least what was acknowledged, of the doomed one exactly that."""
    at = base_ms + 60 * 86_400_000
    fresh = server.query("count(last_over_time(fresh[90d]))", at)
    assert fresh.get(frozenset(), 0) >= n_fresh, "an acknowledged series is lost"
    counts = server.query("count_over_time(crash[90d])", at)
    for w, one in enumerate(numbers):
        for s in range(SERIES_PER_WRITER):
            found = counts.get(frozenset({("s", str(s)), ("w", str(w))}), 0)
            wanted = int(one.required().sum())
            assert wanted <= found <= one.next, f"writer {w}, series {s}: {found} of {wanted}"
    first = max(0, doomed.next - N_RECENT)
    span_ms = (doomed.next - first) * STEP_MS
    if span_ms:
        answer = server.get(
            "query",
            query=f"doomed[{span_ms}ms]",
            time=(base_ms + (doomed.next - 1) * STEP_MS) / 1000,
        )
        rows = answer["result"][0]["values"] if answer["result"] else []
        found = [round((float(t) * 1000 - base_ms) / STEP_MS) for t, _ in rows]
        assert found == [int(float(value)) for _, value in rows]
        check_deletes(doomed, np.array(found, np.int64), first)


def check_deletes(doomed: Numbers, found: np.ndarray, first: int = 0) -> None:
    """``found``: numbers from ``first`` on that are there. A delete under way is all or none."""
    is_there = np.zeros(doomed.next, np.bool_)
    is_there[found] = True
    if doomed.uncertain is not None:
        lo, hi = doomed.uncertain
        doubtful = doomed.required()[max(lo, first) : hi]
        left = is_there[max(lo, first) : hi][doubtful]
        assert left.all() or not left.any(), f"half a delete: {lo} to {hi}"
        if len(left) and not left.any():
            doomed.deleted.append((lo, hi))
        if len(left) or lo >= first:
            doomed.uncertain = None
        else:
            doomed.holes.append((lo, hi))
            doomed.uncertain = None
    back = is_there & doomed.forbidden()
    assert not back.any(), f"deleted samples came back: {np.flatnonzero(back)[:9]}"
    lost = doomed.required()[first:] & ~is_there[first : doomed.acknowledged]
    assert not lost.any(), f"acknowledged samples are lost: {first + np.flatnonzero(lost)[:9]}"


def _verify_everything(
    directory: Path, numbers: list[Numbers], doomed: Numbers, base_ms: int, starts: list[float],
    n_fresh: int,
) -> Summary:  # fmt: skip
    """Every value, read from the directory itself; windows of tiers; `check`."""
    with tsengine.open(directory, tsengine.Options(tier_delay=0.0)) as db:
        for w, one in enumerate(numbers):
            for s in range(SERIES_PER_WRITER):
                found = _numbers_in(db, f'crash{{s="{s}",w="{w}"}}', base_ms)
                is_there = np.zeros(one.next, np.bool_)
                is_there[found] = True
                lost = one.required() & ~is_there[: one.acknowledged]
                assert not lost.any(), f"writer {w}, series {s}: {np.flatnonzero(lost)[:9]}"
        check_deletes(doomed, _numbers_in(db, "doomed", base_ms))
        db.build_tiers()
        _verify_tiers(db, base_ms)
        stats = db.stats()
    report = tsengine.check(directory)
    assert report.problems == []
    return Summary(
        starts,
        sum(int(one.required().sum()) for one in numbers) * SERIES_PER_WRITER,
        n_fresh,
        int(doomed.forbidden().sum()),
        int(stats["tier_parts"]),
        int(stats["part_bytes"] + stats["tier_bytes"]),
    )


def _numbers_in(db: tsengine.Database, selector: str, base_ms: int) -> np.ndarray:
    """The numbers of the samples of one series; their values are the same."""
    table = db.select(selector).read_all()
    times = table["timestamp"].cast("int64").to_numpy()
    assert ((times - base_ms) % STEP_MS == 0).all()
    numbers = (times - base_ms) // STEP_MS
    np.testing.assert_array_equal(table["value"].to_numpy(), numbers.astype(float))
    return numbers


def _verify_tiers(db: tsengine.Database, base_ms: int) -> None:
    """Sums of hours, which tiers answer, are those of the samples."""
    hour_ms = 3_600_000
    for selector in ('crash{s="0",w="0"}', "doomed"):
        numbers = _numbers_in(db, selector, base_ms)
        if len(numbers) == 0:
            continue
        ends = ((base_ms + numbers * STEP_MS - 1) // hour_ms + 1) * hour_ms
        result = db.query_range(
            f"sum_over_time({selector}[1h])", int(ends[0]), int(ends[-1]), hour_ms / 1000
        )
        grid = np.arange(ends[0], ends[-1] + 1, hour_ms)
        wanted = np.zeros(len(grid))
        np.add.at(wanted, (ends - ends[0]) // hour_ms, numbers.astype(float))
        valid = result.validity()[0]
        np.testing.assert_array_equal(np.where(valid, result.to_numpy()[0], 0.0), wanted)


def main() -> int:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--rounds", type=int, default=200)
    arguments.add_argument("--seed", type=int, default=1)
    given = arguments.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "db"
        path.mkdir()
        summary = run_rounds(
            path, given.rounds, given.seed, log=Path(folder) / "log",
            say=lambda text: print(text, flush=True),
        )  # fmt: skip
    print(json.dumps({"starts_s": [round(s, 2) for s in summary.starts_s]}))
    print(summary)
    return 0 if max(summary.starts_s) < START_LIMIT_S else 1


if __name__ == "__main__":
    sys.exit(main())
