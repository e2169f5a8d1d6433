"""Whole directories written by earlier versions open, answer, and live on; later ones are refused.

tests/golden/make_database.py made them and says what they hold.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import google_crc32c
import numpy as np
import pytest

import tsengine
from tests.golden import make_database as made
from tests.golden.make_database import DAY_MS, HOUR_MS, T0
from tests.reference import tiers
from tsengine.errors import UnsupportedFormat
from tsengine.model.labels import label_dicts
from tsengine.storage import catalog_file, filenames
from tsengine.storage.filesystem import LocalFileSystem
from tsengine.storage.sealed_file import write_sealed

GOLDEN = Path(__file__).parent.parent / "golden"
KINDS = ("floats", "histograms", "life")
OPTIONS = tsengine.Options(tiers=(tsengine.Tier(3600.0), tsengine.Tier(6 * 3600.0)))
END = T0 + 4 * DAY_MS


@pytest.fixture(params=KINDS)
def golden(request, tmp_path):
    """A copy, and what it holds."""
    shutil.copytree(GOLDEN / f"database-{request.param}", tmp_path / "db")
    return tmp_path / "db", made.content(request.param)


def opened(path, **kwargs):
    return tsengine.open(path, OPTIONS, **kwargs)


def content(db):
    """As `make_database.content`."""
    table = db.select('{__name__="golden"}').read_all()
    names = [dict(labels)["s"] for labels in table["labels"].to_pylist()]
    times = table["timestamp"].cast("int64").to_pylist()
    values = table["value"].to_numpy().view(np.uint64).tolist()
    natives = [None] * len(names)
    if "histogram" in table.column_names:
        natives = table["histogram"].to_pylist()
    found = {}
    for name, t, bits, native in zip(names, times, values, natives, strict=True):
        value = bits
        if native is not None:
            assert (native["schema"], native["negative"]) == (0, [])
            buckets = {bucket["index"]: bucket["count"] for bucket in native["positive"]}
            value = native["count"], native["sum"], buckets
        found.setdefault(name, {})[t] = value
    return found


def verify_windows(db, data):
    """All windows of both tiers are those of the samples, whoever answers."""
    view = db._storage.view()
    refs = view.find([], T0, END)
    names = [labels["s"] for labels in label_dicts(view.catalog, view.labels(refs))]
    model = {name: own for name, own in data.items() if name != "native"}
    for width_ms in (HOUR_MS, 6 * HOUR_MS):
        batch = view.read_windows(refs, width_ms, T0 + 1, END, tiers.FLOATS)
        found = {
            names[refs.tolist().index(ref)]: own
            for ref, own in tiers.windows_in(batch, refs.tolist()).items()
        }
        found.pop("native", None)
        assert found == tiers.windows_of(model, width_ms)


def test_it_holds_what_it_held(golden):
    path, data = golden
    before = sorted((p, p.read_bytes()) for p in path.rglob("*") if p.is_file())
    report = tsengine.check(path)
    assert report.problems == report.notes == []
    with opened(path, read_only=True) as db:
        assert db.recovery_problems == []
        assert content(db) == data
        verify_windows(db, data)
        assert db.stats()["series"] == len(data)
    assert sorted((p, p.read_bytes()) for p in path.rglob("*") if p.is_file()) == before


def test_it_lives_on(golden):
    path, data = golden
    late = {T0 + 2 * DAY_MS + 3: made._bits(5.0), T0 + 3 * DAY_MS + 11: made._bits(6.0)}
    for _ in range(2):
        with opened(path) as db:
            assert db.recovery_problems == []
            assert content(db) == data
            made._append(db, "m0", late)
            data["m0"] |= late
            data["new"] = {T0 + DAY_MS: made._bits(1.0)}
            made._append(db, "new", data["new"])
            db.delete_series('{s="m1"}', T0 + DAY_MS, T0 + DAY_MS + 7 * HOUR_MS)
            data["m1"] = {
                t: v for t, v in data["m1"].items()
                if not T0 + DAY_MS <= t <= T0 + DAY_MS + 7 * HOUR_MS
            }  # fmt: skip
            db.flush()
            db.compact()
            db.build_tiers()
            db.clean_tombstones()
            assert content(db) == data
            verify_windows(db, data)
            view = db._storage.view()
            assert "raw" not in view.tiers_read(6 * HOUR_MS, T0 + 1, T0 + 3 * DAY_MS)
    assert tsengine.check(path).problems == []


def test_metadata_and_labels(golden):
    path, data = golden
    with opened(path, read_only=True) as db:
        assert db.metadata()["golden"] == [{"type": "gauge", "help": "What lasts.", "unit": "days"}]
        assert sorted(db.label_values("s")[0]) == sorted(data)


def test_the_newest_has_everything_that_formats_can():
    path = GOLDEN / "database-life"
    with opened(path, read_only=True) as db:
        state = db._storage.state
        assert {tier.entry.width_ms for tier in state.tiers} == {HOUR_MS, 6 * HOUR_MS}
        assert {t.entry is None for t in state.tombstones} == {True, False}
        # The refs of the series that left stay free.
        assert db._storage.view().all_refs().tolist()[0] == 6
        assert "6h" in db._storage.view().tiers_read(6 * HOUR_MS, T0 + 1, T0 + 3 * DAY_MS)


def test_a_newer_directory_is_refused(golden):
    path, _ = golden
    file = path / "manifest"
    lines = file.read_bytes().split(b"\n")
    text = file.read_bytes().replace(b"tsengine manifest 1\n", b"tsengine manifest 2\n", 1)
    assert lines[0] == b"tsengine manifest 1"
    body, _, _ = text.rpartition(b"crc32c ")
    file.write_bytes(body + b"crc32c %08x\n" % google_crc32c.value(body))
    for ask in (opened, tsengine.check):
        with pytest.raises(
            UnsupportedFormat, match="format 2, written by a newer version; this one knows 1"
        ):
            ask(path)


def test_newer_files_are_refused_and_named(golden):
    path, _ = golden
    file = next((path / "catalog").iterdir())
    write_sealed(
        LocalFileSystem(), str(file), b"whatever", magic=catalog_file.MAGIC,
        version=catalog_file.VERSION + 1,
    )  # fmt: skip
    with pytest.raises(UnsupportedFormat, match=f"{file}.*version {catalog_file.VERSION + 1}"):
        opened(path)
    assert filenames.parse_catalog_name(file.name) is not None
