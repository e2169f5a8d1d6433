"""A part that is put aside leaves a hole: samples are missing there, and nowhere else."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.storage.test_catalog_shrink import DAY_MS, Time
from tests.storage.test_retention import append, opened
from tests.storage.test_retention_marks import DAY0, HOUR_MS, TIERS, TIMES, both, both_of
from tsengine.engine import Database
from tsengine.errors import CorruptionError, UnsupportedFormat
from tsengine.options import Options
from tsengine.storage import filenames, manifest
from tsengine.storage.filesystem import LocalFileSystem
from tsengine.storage.holes import inside, joined, outside, widened
from tsengine.storage.quarantine import Damaged, put_aside
from tsengine.storage.tier_map import TierMap
from tsengine.storage.tiering_plan import available_spans

SPANS = st.lists(st.tuples(st.integers(-30, 30), st.integers(-30, 30)), max_size=6)


def times(spans):
    return {t for low, high in spans for t in range(low, high + 1)}


@given(SPANS, st.integers(-35, 35), st.integers(-35, 35), st.integers(1, 7))
def test_holes_are_sets_of_times(spans, mint, maxt, width):
    holes = joined(spans)
    assert times(holes) == times(spans)
    assert all(one[1] + 1 < other[0] for one, other in zip(holes, holes[1:], strict=False))
    asked = set(range(mint, maxt + 1))
    assert times(inside(mint, maxt, holes)) == asked & times(spans)
    assert times(outside(mint, maxt, holes)) == asked - times(spans)
    windows = {-(-t // width) for t in times(spans)}
    assert times(widened(holes, width)) == {
        t for end in windows for t in range((end - 1) * width + 1, end * width + 1)
    }


def test_windows_with_missing_samples_can_not_be_built():
    def spans(**options):
        return available_spans(10, TierMap((), ()), **{"floors_ms": {}, **options})

    # Where no tier has anything, what is left is all there is.
    first, last = spans(raw_floor_ms=None)[0][0], spans(raw_floor_ms=None)[-1][1]
    assert spans(raw_floor_ms=None, holes=((12, 25),)) == [(first, last)]


def test_the_field_is_there_when_it_is_needed(tmp_path):
    plain = manifest.Manifest(database_id="00" * 16, secret="00" * 32)
    assert b"holes" not in plain.encode()
    holes = {"parts-0000000003": (-5, 7)}
    assert manifest.decode(plain.with_changes(holes=holes).encode()).holes == holes
    for wrong in ((7, -5), (1,), (1, 2.0), (1, 2, 3)):
        with pytest.raises(CorruptionError):
            manifest.decode(plain.with_changes(holes={"a": wrong}).encode())
    text = plain.with_changes(holes=holes).encode().replace(b'"holes"', b'"holez"')
    body = text[: text.rfind(b"crc32c ")]
    with pytest.raises(UnsupportedFormat, match="holez"):
        manifest.decode(body + f"crc32c {manifest.crc32c(body):08x}\n".encode())


def put_aside_day(database, tmp_path, day):
    """Of the parts of one day each; closes the database."""
    fs, directory = LocalFileSystem(), str(tmp_path / "db")
    part = database.state.parts[day].entry
    database.close()
    current = manifest.load(fs, directory)
    damaged = [Damaged(filenames.PARTS_DIR, part.name, ("it broke",))]
    put_aside(fs, directory, current, damaged, DAY0)
    return part


@pytest.mark.parametrize("day", [0, 1, 2])
def test_only_the_times_of_the_part_are_in_doubt(tmp_path, day):
    clock = Time(DAY0 + DAY_MS)

    def reopened():
        return opened(tmp_path / "db", clock, (), tiers=TIERS, retention=90 * DAY_MS / 1000)

    database = reopened()
    append(database, "api", TIMES)
    database.flush()
    database.compact()
    database.build_tiers()
    assert len(database.state.parts) == 3
    part = put_aside_day(database, tmp_path, day)
    database = reopened()
    assert dict(database.state.erased) == {}
    assert database.state.holes == ((part.mint, part.maxt),)
    assert both(database) == both_of(TIMES)
    # Other days answer from samples, as if nothing had gone.
    view = database.view()
    refs = view.all_refs()
    first, last = DAY0 - 3 * DAY_MS + 1, DAY0
    assert view.missing_spans(0, refs, first, last) == [(part.mint, part.maxt)]
    found = view.read(refs, first, last, drop_stale=True)
    there = [t for t in TIMES if not part.mint <= t <= part.maxt]
    assert np.isin(there, found.t_ms).all()
    others = [t for t in found.t_ms.tolist() if t not in there]
    assert others == [t for t in TIMES if part.mint <= t <= part.maxt and t % HOUR_MS == 0]
    # Late samples of any day change windows, and take none away.
    late = [DAY0 - k * DAY_MS + 7 for k in (3, 2, 1)]
    append(database, "api", late)
    assert both(database) == both_of([*TIMES, *late])
    database.build_tiers()
    assert both(database) == both_of([*TIMES, *late])
    database.close()


@pytest.mark.parametrize("tiers", [(), TIERS])
def test_answers_over_a_hole_say_so_with_and_without_tiers(tmp_path, tiers):
    """Also where nothing is left to answer from, and of series that only the part had."""
    path, clock = tmp_path / "db", Time(DAY0 + DAY_MS)
    database = opened(path, clock, (), tiers=tiers, retention=None)
    for day in (3, 2, 1):
        times = [t for t in TIMES if DAY0 - day * DAY_MS < t <= DAY0 - (day - 1) * DAY_MS]
        append(database, "api", times)
        append(database, f"only{day}", times)
        database.flush()
    part = put_aside_day(database, tmp_path, 1)
    with Database(str(path), Options(tiers=tiers), read_only=True, clock=clock) as db:
        middle = (part.mint + part.maxt) // 2
        for expr in ("m", 'm{job="only2"}', "count_over_time(m[30m])", "m[30m]", "absent(m)"):
            found = db.query(expr, middle)
            assert found.infos, expr
            assert all("not exact" in text for text in found.infos)
            for outside in (part.mint - HOUR_MS, part.maxt + 2 * HOUR_MS):
                assert db.query(expr, outside).infos == [], expr
        step = HOUR_MS
        assert db.query_range("sum(m)", part.mint - step, part.maxt + step, step).infos
        assert db.query_range("sum(m)", part.maxt + step, DAY0, step).infos == []
