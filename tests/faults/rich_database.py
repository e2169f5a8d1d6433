"""A small database that has every kind of file, and what it holds as plain values."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

import tsengine
from tests.reference import remote_write as wire
from tests.reference.histogramscan import Message, encode
from tsengine.storage import manifest
from tsengine.storage.filesystem import LocalFileSystem, remove_tree

DAY_MS = 86_400_000
T0 = 1_700_006_400_000 // DAY_MS * DAY_MS
STEP_MS = 600_000


def make(path: str | os.PathLike[str]) -> None:
    """Floats, histograms, starts, exemplars, metadata; parts, tiers, a tombstone, and a log."""
    with tsengine.open(path) as db:
        for day in range(2):
            db.append_remote_write(_body(T0 + day * DAY_MS), version=2)
            db.append_remote_write(_metadata(b"help of day %d" % day), version=1)
            db.flush()
        db.build_tiers()
        db.delete_series('{__name__="gone_total",w="0"}', T0 + STEP_MS, T0 + 5 * STEP_MS)
        db.flush()
        # The rest stays in the log: a delete asks for a flush.
        db._storage.maintenance.request_flush = lambda: None
        db.append_remote_write(_body(T0 + 2 * DAY_MS, n=5, w=b"new"), version=2)
        db.append_remote_write(_metadata(b"help in the log"), version=1)
        db.delete_series('{__name__="gone_total",w="1"}', T0, T0)
        db.append_remote_write(_body(T0 + 3 * DAY_MS, n=2, w=b"last"), version=2)
    fs = LocalFileSystem()
    for orphan in manifest.orphans(fs, os.fspath(path), manifest.load(fs, os.fspath(path))):
        remove_tree(fs, orphan)


def files(path: str | os.PathLike[str]) -> list[str]:
    """All its files but the lock, relative, sorted."""
    root = Path(path)
    found = (file.relative_to(root) for file in root.rglob("*") if file.is_file())
    return sorted(str(file) for file in found if file.name != "lock")


def kind_of(file: str) -> str:
    """What kind of file a relative path is: its folder, and its name without numbers."""
    steps = [step for step in file.split(os.sep) if not step.isdigit()]
    name = steps[-1]
    return "/".join([*steps[:-1], name.lstrip("0123456789")])


def content(path_or_db) -> dict[tuple[str, int], object]:
    """Every sample, bit-exact, and every exemplar: {(series, time): value}."""
    if not isinstance(path_or_db, tsengine.Database):
        with tsengine.open(path_or_db, read_only=True) as db:
            return content(db)
    db = path_or_db
    table = db.select('{__name__=~".+"}').read_all()
    names = [_text(dict(labels)) for labels in table["labels"].to_pylist()]
    times = table["timestamp"].cast("int64").to_pylist()
    bits = table["value"].to_numpy().view(np.uint64).tolist()
    natives = [None] * len(names)
    if "histogram" in table.column_names:
        natives = [str(native) for native in table["histogram"].to_pylist()]
    found: dict[tuple[str, int], object] = {
        (name, t): (value, native)
        for name, t, value, native in zip(names, times, bits, natives, strict=True)
    }
    for series in db.query_exemplars('{__name__=~".+"}', T0 - DAY_MS, T0 + 9 * DAY_MS):
        name = "exemplar of " + _text(series["seriesLabels"])
        for exemplar in series["exemplars"]:
            found[name, round(exemplar["timestamp"] * 1000)] = str(exemplar)
    return found


def _text(labels: dict[str, str]) -> str:
    return ",".join(f"{name}={value}" for name, value in sorted(labels.items()))


def _body(start_ms: int, n: int = 60, w: bytes = b"") -> bytes:
    series = []
    for k in range(3):
        times = [start_ms + i * STEP_MS for i in range(n)]
        own = w or b"%d" % k
        series.append(
            wire.Series(
                [(b"__name__", b"gone_total"), (b"k", b"%d" % k), (b"w", own)],
                [(t, wire.bits_of(0.1 * i + k)) for i, t in enumerate(times)],
                starts=[t - 700 for t in times],
                exemplars=[
                    wire.Exemplar([(b"trace_id", b"%d" % t)], t, wire.bits_of(float(k)))
                    for t in times[::7]
                ],
            )
        )
        series.append(
            wire.Series(
                [(b"__name__", b"native"), (b"k", b"%d" % k), (b"w", own)],
                histograms=[_histogram(i + k, t) for i, t in enumerate(times)],
            )
        )
    return wire.encode_v2(series)


def _histogram(k: int, t_ms: int) -> bytes:
    counts = [1 + (k * j) % 7 for j in range(1 + k % 5)]
    return encode(
        Message(
            count=sum(counts), sum=wire.bits_of(float(k)), schema=k // 40 % 3, t_ms=t_ms,
            threshold=wire.bits_of(0.001), positive_spans=[(k % 9, len(counts))],
            positive=[int(d) for d in np.diff([0, *counts])], start_ms=t_ms - 500,
        )
    )  # fmt: skip


def _metadata(text: bytes) -> bytes:
    return wire.encode_v1([], [(1, b"gone_total", text, b"seconds")])
