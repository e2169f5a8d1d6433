"""What the crash matrix does to a database: for each scenario what is there, is done, must be true.

``prepare`` fills a database on a good disk, once. ``work`` runs on a copy of it and may break off
at any call. ``finish`` comes after the fault, on a good disk, maybe after a restart: it brings to
an end what the work was about, whatever is left of it, and says what must be so then.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace

import tsengine
from tests.faults.matrix_run import Run, float_rows, histogram_rows
from tests.reference import rich_samples as rich
from tests.reference.life import DAY_MS, EVER, T0
from tests.reference.unsynced import UnsyncedFileSystem
from tsengine.backup.making import make_backup
from tsengine.options import Options, RetentionRule, Tier
from tsengine.storage import filenames
from tsengine.storage.cold_moves import MOVED_FILES, ColdMoves
from tsengine.storage.retention_chores import Expiry, RetentionRewriting

HOUR_S, DAY_S = 3600.0, 86_400.0
TIERS = (Tier(HOUR_S), Tier(6 * HOUR_S))
PLAIN = Options(tiers=TIERS, future_limit=None)
ONE_TIER = replace(PLAIN, tiers=(Tier(6 * HOUR_S),))


@dataclass(frozen=True)
class Scenario:
    """See the module. ``starts`` is when even the opening is part of the work."""

    name: str
    prepare: Callable[[Run], None]
    work: Callable[[Run], None]
    finish: Callable[[Run], None]
    options: Options = PLAIN
    enter: Callable[[Run], None] = lambda run: None
    """What is changed without the disk before the work, and after each restart."""
    starts: bool = False


def _day(run: Run, day: int, names: str = "a b") -> None:
    for name in names.split():
        rows = histogram_rows(name, day) if name == "h" else float_rows(name, day)
        run.append(rows)


def _some_parts(run: Run) -> None:
    """Two days as parts, and late samples that replace some."""
    run.describe("m", "first")
    _day(run, 0, "a b h")
    run.db.flush()
    run.append_exemplar(T0 + DAY_MS + 5000, 1.0)
    _day(run, 1, "a b h")
    run.db.flush()
    run.append(float_rows("a", 0, step_ms=DAY_MS // 4, start=50.0))
    run.append(float_rows("a", 1, step_ms=DAY_MS // 4, late_ms=1000, start=70.0))
    run.db.flush()


# --- flush ------------------------------------------------------------------------------------


def _prepare_flush(run: Run) -> None:
    _some_parts(run)
    _day(run, 2, "a h")
    run.delete(["b"], T0 + DAY_MS, T0 + DAY_MS + DAY_MS // 2)
    run.append_exemplar(T0 + 2 * DAY_MS + 9000, 2.0)
    run.describe("m", "second")


def _flush(run: Run) -> None:
    run.db.flush()
    run.append(float_rows("new", 2, step_ms=DAY_MS // 6))
    run.db.flush()


def _finish_flush(run: Run) -> None:
    run.append(float_rows("b", 3, step_ms=DAY_MS // 6))
    run.db.flush()
    assert run.db.state.head.n_samples == 0
    assert run.db.state.frozen == ()


# --- appends ----------------------------------------------------------------------------------


def _append(run: Run) -> None:
    run.append(float_rows("new", 2, step_ms=DAY_MS // 6))
    run.append_exemplar(T0 + 2 * DAY_MS + 7000, 3.0)
    run.delete(["new"], T0 + 2 * DAY_MS, T0 + 2 * DAY_MS + DAY_MS // 3)
    run.append(histogram_rows("h", 2))
    run.describe("m", "third")
    run.append(float_rows("newer", 2, step_ms=DAY_MS // 6))


# --- compaction -------------------------------------------------------------------------------


def _prepare_compaction(run: Run) -> None:
    _some_parts(run)
    _day(run, 2, "b h")
    run.db.flush()
    run.delete(["b"], T0 + DAY_MS // 2, T0 + 2 * DAY_MS + DAY_MS // 2)
    run.db.flush()


def _compact(run: Run) -> None:
    run.db.compact()


def _finish_compaction(run: Run) -> None:
    run.append(float_rows("b", 1, step_ms=DAY_MS // 3))
    run.db.flush()
    run.db.compact()
    days = [(part.entry.mint - 1) // DAY_MS for part in run.db.state.parts]
    assert len(set(days)) == len(days) == 3, "one part a day"


# --- tiers ------------------------------------------------------------------------------------


def _prepare_tiers(run: Run) -> None:
    """Day 2 has no windows yet; those of day 0 and 1 are dirty by late samples and a delete."""
    _day(run, 0, "a b h")
    _day(run, 1, "a b h")
    run.db.build_tiers()
    run.append(float_rows("a", 0, step_ms=DAY_MS // 4, late_ms=1000))
    run.delete(["b"], T0 + DAY_MS, T0 + DAY_MS + DAY_MS // 3)
    _day(run, 2, "a b h")
    run.db.flush()


def _prepare_merging(run: Run) -> None:
    """Seven days were built one by one; the eighth is the reason to merge them."""
    for day in range(8):
        run.append(float_rows("a", day, step_ms=DAY_MS // 4))
        run.append(histogram_rows("h", day, DAY_MS // 2))
        if day < 7:
            run.db.build_tiers()
        else:
            run.db.flush()


def _build(run: Run) -> None:
    run.db.build_tiers()


def _finish_tiers(run: Run) -> None:
    run.db.build_tiers()
    for width_ms in run.widths_ms:
        days = {(part.entry.mint - 1) // DAY_MS for part in run.db.state.parts}
        for day in sorted(days):
            span = (day * DAY_MS + 1, (day + 1) * DAY_MS)
            assert "raw" not in run.db.view().tiers_read(width_ms, *span), (width_ms, day)
    folder = os.path.join(run.path, "tiers")
    run.close()
    run.open()
    names = sorted(tier.entry.name for tier in run.db.state.tiers)
    assert sorted(name for name in os.listdir(folder) if name.isdigit()) == names


# --- deletes ----------------------------------------------------------------------------------


def _prepare_delete(run: Run) -> None:
    _some_parts(run)
    run.db.build_tiers()
    _day(run, 2, "a b h")
    run.append_exemplar(T0 + 2 * DAY_MS + 9000, 2.0)


def _delete(run: Run) -> None:
    run.delete(["a", "h"], T0 + DAY_MS // 2, T0 + DAY_MS + DAY_MS // 2)
    run.append([("a", T0 + DAY_MS, (rich.bits(7.0), 0))])
    run.delete(["b", "e"], *EVER)
    run.append([("b", T0 + 77_000, (rich.bits(8.0), 0))])
    run.db.flush()
    run.db.clean_tombstones()


def _finish_delete(run: Run) -> None:
    run.db.flush()
    run.db.compact()
    run.db.build_tiers()
    run.db.clean_tombstones()
    assert run.db.state.tombstones == ()
    n_stored = sum(part.entry.n_samples for part in run.db.state.parts)
    assert n_stored == sum(map(len, run.life.kept().values())), "deleted samples are erased"


# --- retention --------------------------------------------------------------------------------


def _prepare_expiry(run: Run) -> None:
    for day in range(4):
        _day(run, day, "a b h")
        run.db.flush()
    run.db.build_tiers()


def _past_two_days(run: Run) -> None:
    """Ten days are kept, so two of the four are gone; their windows are not."""
    run.now_ms = T0 + 12 * DAY_MS + 1
    run.life.floor_ms = T0 + 2 * DAY_MS + 1


def _expire(run: Run) -> None:
    run.db.maintenance.run(Expiry(run.db))
    run.db.maintenance.run(RetentionRewriting(run.db))


def _finish_expiry(run: Run) -> None:
    _expire(run)
    assert all(part.entry.mint >= T0 + 2 * DAY_MS for part in run.db.state.parts)
    run.append(float_rows("a", 4))
    run.db.flush()


RULES = replace(
    ONE_TIER,
    retention_rules=(
        RetentionRule('{job="ci"}', 20 * DAY_S), RetentionRule('{job="tmp"}', 20 * DAY_S),
    ),
)  # fmt: skip


def _prepare_rules(run: Run) -> None:
    """A part that goes as a whole, and parts that are written anew."""
    _day(run, 0, "tmp")
    run.db.flush()
    for day in range(4):
        _day(run, day, "a ci ci2 h")
        run.db.flush()
    run.db.build_tiers()
    _day(run, 4, "a ci")


def _past_two_days_of_rules(run: Run) -> None:
    run.now_ms = T0 + 22 * DAY_MS + 1
    for name in ("ci", "ci2", "tmp"):
        run.life.floors_ms[name] = T0 + 2 * DAY_MS + 1


def _finish_rules(run: Run) -> None:
    _expire(run)
    run.db.flush()
    run.db.compact()
    kept = sum(part.entry.n_samples for part in run.db.state.parts)
    wanted = sum(map(len, run.life.kept().values()))
    assert kept == wanted, f"{kept - wanted} samples of rules are not erased"


SIZE = replace(PLAIN, tiers=(), retention_size=1 << 40)


def _prepare_size(run: Run) -> None:
    for day in range(4):
        _day(run, day, "a b h")
        run.db.flush()


def _limit_size(run: Run) -> None:
    """The oldest day, at least, is over the limit. The limit counts the log, which grows."""
    first = min(run.db.state.parts, key=lambda part: part.entry.mint)
    if first.entry.mint < T0 + DAY_MS:
        limit = run.db.size_bytes(run.db.state) - first.entry.size_bytes // 2
        run.db.options = replace(run.db.options, retention_size=limit)
    _allow_days_to_go(run)


def _allow_days_to_go(run: Run) -> None:
    lives = []
    for day in (1, 2, 3):
        life = run.life.copy()
        life.delete(life.samples, T0, T0 + day * DAY_MS)
        life.samples = {name: own for name, own in life.samples.items() if own}
        lives.append(life)
    run.may_be = lives


def _expire_by_size(run: Run) -> None:
    run.db.maintenance.run(Expiry(run.db))


def _prepare_split(run: Run) -> None:
    """The newest part is of the first day too, and overwrites some of it."""
    for day in range(4):
        _day(run, day, "a b h")
        run.db.flush()
    run.append(float_rows("a", 0, step_ms=DAY_MS // 6, start=50.0))
    run.append(float_rows("a", 4, step_ms=DAY_MS // 6))
    run.db.flush()


def _finish_split(run: Run) -> None:
    _finish_size(run)
    days = [{(part.entry.mint - 1) // DAY_MS, (part.entry.maxt - 1) // DAY_MS}
            for part in run.db.state.parts]  # fmt: skip
    assert all(len(own) == 1 for own in days), "the part of two days was split"
    assert {T0 // DAY_MS + 4} in days


def _finish_size(run: Run) -> None:
    _allow_days_to_go(run)
    run.db.maintenance.run(Expiry(run.db))
    assert all(part.entry.mint >= T0 + DAY_MS for part in run.db.state.parts)


# --- catalog ----------------------------------------------------------------------------------


def _prepare_shrink(run: Run) -> None:
    for day in range(2):
        run.append(
            [(f"dead{day}-{k}", T0 + day * DAY_MS + 1 + k, (rich.bits(1.0), 0)) for k in range(5)]
        )
        run.db.flush()
    _day(run, 3, "a b h")
    run.append_exemplar(T0 + 3 * DAY_MS + 5000, 1.0)
    run.db.flush()
    run.delete(["a"], T0 + 3 * DAY_MS, T0 + 3 * DAY_MS + DAY_MS // 2)


def _shrink(run: Run) -> None:
    run.db.maintenance.run(Expiry(run.db))
    run.db.shrink_catalog()
    # Series that come back are new ones.
    run.append([("dead0-3", T0 + 4 * DAY_MS, (rich.bits(9.0), 0))])
    run.append([("fresh", T0 + 4 * DAY_MS, (rich.bits(9.5), 0))])
    run.db.flush()
    run.db.shrink_catalog()


def _finish_shrink(run: Run) -> None:
    # After a commit of which nobody knows whether it holds, dead series wait for the next one.
    run.append([(f"other-{len(run.life.samples)}", T0 + 4 * DAY_MS + 5, (rich.bits(2.0), 0))])
    run.db.flush()
    run.append([("dead1-2", T0 + 4 * DAY_MS + 5, (rich.bits(3.0), 0))])
    run.db.maintenance.run(Expiry(run.db))
    run.db.flush()
    run.db.compact()
    run.db.clean_tombstones()
    run.db.shrink_catalog()
    names = set(run.life.kept())
    view = run.db.view()
    assert {run._name_of(view, ref) for ref in view.all_refs()} == names


# --- cold parts -------------------------------------------------------------------------------

COLD = replace(PLAIN, tiers=(), cold_url="s3://bucket/cold", cold_after=6.5 * DAY_S, cold_cache=0)


def _move(run: Run) -> None:
    """What is older than two and a half days."""
    run.db.maintenance.run(ColdMoves(run.db))


def _prepare_cold(run: Run) -> None:
    """Day 0 has moved, day 1 is due; some of both is deleted, day 3 is younger."""
    _day(run, 0, "a b h")
    run.db.flush()
    run.db.compact()
    _move(run)
    for day in (1, 3):
        _day(run, day, "a b h")
        run.db.flush()
    run.db.compact()
    run.delete(["a"], T0 + DAY_MS // 2, T0 + DAY_MS + DAY_MS // 2)


def _work_on_cold(run: Run) -> None:
    """Day 1 moves, and what is deleted is erased; late samples of day 0 bring its part back."""
    _move(run)
    run.db.flush()
    run.db.clean_tombstones()
    run.append(float_rows("b", 0, step_ms=DAY_MS // 4, late_ms=1000))
    run.db.flush()
    run.db.compact()
    _move(run)


def _finish_cold(run: Run) -> None:
    """Old days are in the store alone, and nothing that is needed is missing there."""
    run.db.flush()
    run.db.clean_tombstones()
    run.db.compact()
    _move(run)
    run.close()
    run.open()
    for part in run.db.state.parts:
        is_old = part.entry.maxt <= T0 + 2 * DAY_MS
        folder = filenames.part_dir(run.path, part.entry.name)
        here = [name for name in MOVED_FILES if os.path.exists(os.path.join(folder, name))]
        assert (part.remote_bytes > 0) == is_old, part.entry
        assert not (is_old and here), here
    assert sum(part.remote_bytes > 0 for part in run.db.state.parts) == 2


# --- copies -----------------------------------------------------------------------------------


def _prepare_copies(run: Run) -> None:
    _day(run, 0, "a b")
    run.db.flush()
    _day(run, 1, "h")
    run.append_exemplar(T0 + DAY_MS + 5000, 1.0)
    run.db.build_tiers()
    _day(run, 2, "a")
    run.delete(["b"], T0, T0 + DAY_MS // 2)


def _snapshot_to(run: Run, name: str) -> str:
    path = os.path.join(filenames.snapshots_dir(run.path), name)
    run.copies[path] = run.life.copy()
    run.db.snapshot(path)
    return path


def _snapshot(run: Run) -> None:
    run.append(float_rows("a", 3, step_ms=DAY_MS // 6))
    _snapshot_to(run, "one")


def _finish_snapshot(run: Run) -> None:
    """Every snapshot that has its name is whole, and another can be made."""
    _snapshot_to(run, f"again-{len(run.copies)}")
    folder = filenames.snapshots_dir(run.path)
    for name in os.listdir(folder):
        path = os.path.join(folder, name)
        if path in run.copies:
            run.verify_copy(path, run.copies[path])
    run.close()
    run.open()
    unknown = [n for n in os.listdir(folder) if os.path.join(folder, n) not in run.copies]
    assert unknown == [], "what broke off is removed by the start"


def _backup_of(run: Run) -> str:
    run.db.flush()
    at_ms = T0 + 20 * DAY_MS + 1000 * len(run.copies)
    run.copies[str(at_ms)] = run.life.copy()
    report = make_backup(
        run.path, os.path.join(run.root, "backups"), fs=run.fs, with_log=False, clock=lambda: at_ms
    )
    return report.record.name


def _prepare_backup(run: Run) -> None:
    _prepare_copies(run)
    _backup_of(run)
    run.append(float_rows("a", 3))
    run.append_exemplar(T0 + 3 * DAY_MS + 5000, 1.0)


def _backup(run: Run) -> None:
    _backup_of(run)


def _finish_backup(run: Run) -> None:
    """What the place says it has can be restored; one more can be made."""
    _backup_of(run)
    place = os.path.join(run.root, "backups")
    assert tsengine.check_backups(place).problems == []
    names = [record.name for record in tsengine.list_backups(place)]
    assert len(names) >= 2
    lives = list(run.copies.values())
    for name, life in ((names[0], lives[0]), (names[-1], lives[-1])):
        target = os.path.join(run.root, f"restored-{name}")
        tsengine.restore_backup(place, target, name=name, fs=UnsyncedFileSystem())
        run.verify_copy(target, life)
        shutil.rmtree(target)


# --- start ------------------------------------------------------------------------------------


def _prepare_start(run: Run) -> None:
    """Files that a crash left behind, a log to replay."""
    _prepare_flush(run)
    for folder, name in (("parts", "0000009999"), ("tiers", "0000009998")):
        os.makedirs(os.path.join(run.path, folder, name))
        with open(os.path.join(run.path, folder, name, "values"), "wb") as file:
            file.write(b"half a part")
    for path in ("catalog/0000009997.cat", "tombstones/0000009996.tomb", "manifest.tmp"):
        os.makedirs(os.path.dirname(os.path.join(run.path, path)), exist_ok=True)
        with open(os.path.join(run.path, path), "wb") as file:
            file.write(b"half a file")


def _start(run: Run) -> None:
    run.open()
    run.append(float_rows("new", 3, step_ms=DAY_MS // 6))


SCENARIOS = (
    Scenario("append", _some_parts, _append, _finish_flush),
    Scenario("flush", _prepare_flush, _flush, _finish_flush),
    Scenario("compaction", _prepare_compaction, _compact, _finish_compaction),
    Scenario("tier build", _prepare_tiers, _build, _finish_tiers),
    Scenario(
        "tier merge", _prepare_merging, _build, _finish_tiers,
        options=ONE_TIER,
    ),
    Scenario("delete", _prepare_delete, _delete, _finish_delete, options=ONE_TIER),
    Scenario(
        "expiry by time", _prepare_expiry, _expire, _finish_expiry, enter=_past_two_days,
        options=replace(PLAIN, retention=10 * DAY_S),
    ),
    Scenario(
        "expiry by rules", _prepare_rules, _expire, _finish_rules, enter=_past_two_days_of_rules,
        options=RULES,
    ),
    Scenario(
        "expiry by size", _prepare_size, _expire_by_size, _finish_size, enter=_limit_size,
        options=SIZE,
    ),
    Scenario(
        "split by size", _prepare_split, _expire_by_size, _finish_split, enter=_limit_size,
        options=SIZE,
    ),
    Scenario(
        "catalog shrink", _prepare_shrink, _shrink, _finish_shrink, enter=_past_two_days,
        options=replace(PLAIN, retention=10 * DAY_S, tiers=()),
    ),
    Scenario("cold", _prepare_cold, _work_on_cold, _finish_cold, options=COLD),
    Scenario("snapshot", _prepare_copies, _snapshot, _finish_snapshot, options=ONE_TIER),
    Scenario("backup", _prepare_backup, _backup, _finish_backup, options=ONE_TIER),
    Scenario("start", _prepare_start, _start, _finish_flush, starts=True),
)  # fmt: skip
