"""A bit flipped in a file of a database with tiers, deletes and a shrunk catalog, or of a backup.

`check` finds it and names the file; samples, windows of tiers and answers are right, or the damage
is reported. `test_check.py` does the same for histograms, exemplars and start timestamps.
`TSENGINE_FLIPS=200 pytest tests/storage/test_bit_flips.py` flips that many bits of each file.
"""

from __future__ import annotations

import os
import random
import shutil
from pathlib import Path

import numpy as np
import pytest

import tsengine
from tests.faults import rich_database
from tests.golden import make_database as made
from tests.golden.make_database import DAY_MS, HOUR_MS, T0
from tests.storage.test_golden_databases import GOLDEN, content, opened
from tsengine import errors
from tsengine.backup import record

N_FLIPS = int(os.environ.get("TSENGINE_FLIPS", "2"))
DATABASE = GOLDEN / "database-life"
FILES = rich_database.files(DATABASE)
QUERIES = ('sum_over_time({s=~"m."}[1h])', 'rate({s=~"m."}[6h])', 'max_over_time({s=~"m."}[6h])')


def flipped(path: Path, rng: random.Random) -> str:
    """Flip one bit; returns which."""
    data = bytearray(path.read_bytes())
    at, bit = rng.randrange(len(data)), rng.randrange(8)
    data[at] ^= 1 << bit
    path.write_bytes(data)
    return f"bit {bit} of byte {at}"


def answers(db):
    """{(query, series): values} over all days, at the ends of windows of both tiers."""
    found = {}
    for expr in QUERIES:
        result = db.query_range(expr, T0 + 6 * HOUR_MS, T0 + 3 * DAY_MS, 6 * 3600)
        for labels, row, valid in zip(
            result.labels, result.to_numpy(), result.validity(), strict=True
        ):
            found[expr, labels["s"]] = np.where(valid, row, -1.0).tolist()
    return found


@pytest.fixture(scope="module")
def truth():
    with opened(DATABASE, read_only=True) as db:
        assert content(db) == made.content("life")
        assert "6h" in db._storage.view().tiers_read(6 * HOUR_MS, T0 + 1, T0 + 3 * DAY_MS)
        return made.content("life"), answers(db)


def test_there_is_every_kind_of_file():
    kinds = {rich_database.kind_of(name) for name in FILES}
    assert {kind.partition("/")[0] for kind in kinds} == {
        "manifest", "catalog", "metadata", "parts", "tiers", "tombstones", "wal",
    }  # fmt: skip
    assert {"tiers/values", "tiers/components/table", "parts/components/values"} < kinds
    versions = {(DATABASE / name).read_bytes()[8] for name in FILES if name.startswith("catalog")}
    assert len(versions) >= 1


@pytest.mark.parametrize("name", FILES)
def test_a_flipped_bit_is_found_and_never_believed(truth, tmp_path, name):
    samples, queries = truth
    rng = random.Random(name)
    path = tmp_path / "db"
    shutil.copytree(DATABASE, path)
    whole = (path / name).read_bytes()
    for _ in range(N_FLIPS):
        where = flipped(path / name, rng)
        if name == "manifest":
            for ask in (tsengine.check, opened):
                with pytest.raises(errors.StorageError, match="manifest"):
                    ask(path)
            (path / name).write_bytes(whole)
            continue
        named = [problem.file for problem in tsengine.check(path).problems]
        assert any(str(path / name).startswith(one) for one in named), f"{name}: {where}: {named}"
        try:
            believe(path, samples, queries, name)
        except errors.StorageError as error:
            is_named = name.partition("/")[2] in str(error)
            if not is_named:
                raise AssertionError(f"{name}: {where}") from error
        (path / name).write_bytes(whole)


def believe(path, samples, queries, name) -> None:
    """Open and read all; raises StorageError where that is refused."""
    with opened(path, read_only=True) as db:
        # Deletes of a damaged piece of the log are lost with it, and that is said.
        may_return = name.startswith("wal/") and db.recovery_problems
        for series, own in content(db).items():
            for t, value in own.items():
                if not may_return or t in samples.get(series, {}):
                    assert samples[series][t] == value
        found = answers(db)
        if not db.recovery_problems:
            assert found == queries
        elif name.startswith(("tiers/", "metadata/")):
            # The samples are all there.
            assert found == queries
        elif name.startswith("parts/"):
            warnings = db.query("golden", T0 + DAY_MS).warnings
            assert any("damaged parts" in text for text in warnings)


def test_of_a_backup_too(tmp_path):
    shutil.copytree(DATABASE, tmp_path / "db")
    place = tmp_path / "backups"
    tsengine.make_backup(tmp_path / "db", place)
    rng = random.Random(3)
    objects = sorted(file for file in place.rglob("*") if file.is_file())
    assert len(objects) > 30
    for file in objects:
        whole = file.read_bytes()
        where = flipped(file, rng)
        key = str(file.relative_to(place))
        found = [one for one, _ in tsengine.check_backups(place).problems]
        assert found == [key], f"{key}: {where}: {found}"
        target = tmp_path / f"restored-{file.name}"
        if key == record.MARKER:  # A restore asks for nothing but the record and its contents.
            file.write_bytes(whole)
            continue
        with pytest.raises(errors.StorageError):
            tsengine.restore_backup(place, target)
        assert not (target / "manifest").exists()
        file.write_bytes(whole)
    tsengine.restore_backup(place, tmp_path / "back")
    with opened(tmp_path / "back", read_only=True) as db:
        assert content(db) == made.content("life")
