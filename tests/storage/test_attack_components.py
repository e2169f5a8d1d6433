"""Flipped bits in files of components: open, check and queries tell, nothing is made up."""

from __future__ import annotations

import random
import shutil

import pytest

import tsengine
from tests.reference import remote_write as wire
from tests.storage.test_attack_histograms import LABELS, T0, Message, bits, encode, open_db
from tsengine.errors import TsengineError

ASKED = (
    "histogram_count(rpc)", "histogram_quantile(0.9, rpc)", "sum_over_time(rpc[1h])",
    "count_over_time(rpc[1h])", "increase(rpc[1h])",
)  # fmt: skip


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    path = tmp_path_factory.mktemp("db")
    messages = [
        encode(
            Message(
                count=3 + k, sum=bits(0.1 * k), schema=k % 2, t_ms=T0 + 1000 * k,
                threshold=bits(0.001), positive_spans=[(k % 4, 2)], positive=[1, k + 1],
                start_ms=T0 - 5,
            )
        )
        for k in range(300)
    ]  # fmt: skip
    custom = [
        encode(
            Message(
                count=2, schema=-53, t_ms=T0 + 1000 * k, positive_spans=[(0, 2)], positive=[1, 0],
                custom=[bits(0.5), bits(1.5)],
            )
        )
        for k in range(300, 400)
    ]  # fmt: skip
    with open_db(path) as db:
        series = wire.Series(LABELS, histograms=messages + custom)
        result = db.append_remote_write(wire.encode_v2([series]), version=2)
        assert result.histograms == 400
        db.flush()
    return path


def answers(path) -> list:
    found = []
    with open_db(path) as db:
        for expr in ASKED:
            result = db.query(expr, time=T0 / 1000 + 350)
            found.append((result.to_json(), list(result.warnings)))
    return found


LEFT_OUT = (
    "damaged parts of the database are left out; the answer may lack their samples "
    "(`tsengine check` names them)"
)


def test_flipped_bits_are_told_and_make_nothing_up(made, tmp_path):
    expected = answers(made)
    assert expected[0] != expected[1]
    folder = next((made / "parts").iterdir())
    files = [p.relative_to(made) for p in folder.rglob("*") if p.is_file()]
    assert any("components" in str(file) for file in files)
    rng = random.Random(3)
    told = 0
    for file in files:
        size = (made / file).stat().st_size
        places = {0, 8, 12, 16, size // 2, size - 1, *(rng.randrange(size) for _ in range(6))}
        if file.name == "index":
            places |= set(range(size - 200, size, 7))  # statistics, which only some readers need
        for at in sorted(place for place in places if place < size):
            copy = tmp_path / "copy"
            shutil.copytree(made, copy)
            damaged = bytearray((copy / file).read_bytes())
            damaged[at] ^= 1 << rng.randrange(8)
            (copy / file).write_bytes(damaged)
            is_told = bool(tsengine.check(str(copy)).problems)
            told += is_told
            try:
                found = answers(copy)
            except TsengineError:
                assert is_told, f"{file} byte {at}: not told"
            else:
                assert is_told, f"{file} byte {at}: not told"
                if found != expected:
                    # A part that can't be opened is left out, and every answer says so.
                    assert all(LEFT_OUT in notes for _, notes in found), f"{file} byte {at}"
                    assert all(b'"result":[]' in data for data, _ in found), f"{file} byte {at}"
            shutil.rmtree(copy)
    assert told > 40


def test_files_of_components_that_are_missing_or_cut_are_told(made, tmp_path):
    folder = next((made / "parts").iterdir())
    files = [p.relative_to(made) for p in folder.rglob("*") if p.is_file()]
    for file in files:
        for how in ("gone", "empty", "half", "longer"):
            copy = tmp_path / "copy"
            shutil.copytree(made, copy)
            content = (copy / file).read_bytes()
            (copy / file).unlink()
            if how != "gone":
                size = {"empty": 0, "half": len(content) // 2, "longer": len(content)}[how]
                (copy / file).write_bytes(content[:size] + (b"\1" if how == "longer" else b""))
            try:
                problems = tsengine.check(str(copy)).problems
                assert problems or how == "longer", f"{file} {how}: not told"
                answers(copy)
            except TsengineError:
                pass
            shutil.rmtree(copy)
