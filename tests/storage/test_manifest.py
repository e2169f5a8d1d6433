"""The manifest: text, checksum, atomic swap, what it does not name."""

import os
import random
import shutil

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.faults.filesystem import FaultyFileSystem
from tsengine.codecs.records import crc32c
from tsengine.errors import CorruptionError, Full, StorageError, UnsupportedFormat
from tsengine.storage import filenames, manifest
from tsengine.storage.filesystem import LocalFileSystem
from tsengine.storage.manifest import Manifest, PartEntry
from tsengine.storage.retention_taken import EVERY, Taken

FS = LocalFileSystem()

numbers = st.integers(0, 2**53)
parts = st.lists(
    st.builds(
        PartEntry,
        name=st.integers(1, 10**10).map(filenames.part_name),
        level=st.integers(0, 5),
        mint=st.integers(-(2**63), 0),
        maxt=st.integers(0, 2**63 - 1),
        n_samples=numbers,
        n_series=numbers,
        seq_min=st.integers(0, 5),
        seq_max=st.integers(5, 2**63),
        size_bytes=numbers,
    ),
    max_size=4,
    unique_by=lambda part: part.name,
).map(tuple)
manifests = st.builds(
    Manifest,
    database_id=st.binary(min_size=16, max_size=16).map(bytes.hex),
    secret=st.binary(min_size=32, max_size=32).map(bytes.hex),
    generation=numbers,
    parts=parts,
    catalog_segments=st.lists(st.integers(0, 99).map(filenames.catalog_name)).map(tuple),
    metadata_file=st.none() | st.integers(0, 99).map(filenames.metadata_name),
    wal_floor=numbers,
    next_ref=numbers,
    next_seq=numbers,
    next_file_number=numbers,
    erased=st.dictionaries(st.text(max_size=9), st.integers(-(2**63), 2**63 - 1), max_size=3),
)


def part(number: int, **changes) -> PartEntry:
    fields = {
        "level": 0,
        "mint": 10,
        "maxt": 20,
        "n_samples": 3,
        "n_series": 2,
        "seq_min": 1,
        "seq_max": 4,
        "size_bytes": 99,
    }
    return PartEntry(name=filenames.part_name(number), **(fields | changes))


@given(manifests)
@settings(max_examples=100, deadline=None)
def test_round_trip(wanted):
    assert manifest.decode(wanted.encode()) == wanted


@given(manifests)
@settings(max_examples=10, deadline=None)
def test_cut_anywhere_is_corrupt(wanted):
    data = wanted.encode()
    for size in range(len(data)):
        with pytest.raises(CorruptionError):
            manifest.decode(data[:size])


@given(manifests, st.randoms(use_true_random=False))
@settings(max_examples=20, deadline=None)
def test_a_flipped_bit_anywhere_is_seen(wanted, rng):
    data = wanted.encode()
    for position in range(len(data)):
        bad = bytearray(data)
        bad[position] ^= 1 << rng.randrange(8)
        with pytest.raises((CorruptionError, UnsupportedFormat)) as caught:
            manifest.decode(bytes(bad), "dir/manifest")
        assert "dir/manifest" in str(caught.value)


def resealed(text: str) -> bytes:
    body = text.encode()
    return body + b"crc32c %08x\n" % manifest.crc32c(body)


def test_newer_versions_and_unknown_fields_are_refused():
    text = Manifest("ab" * 16, "cd" * 32, parts=(part(1),)).encode().decode()
    text = text[: text.index("crc32c")]
    assert manifest.decode(resealed(text)).parts == (part(1),)
    for old, new, said in [
        ("manifest 1\n", "manifest 2\nanything", "format 2, written by a newer"),
        ('"wal_floor"', '"wal_roof": 1, "wal_floor"', "wal_roof"),
        ('"level"', '"storey": 1, "level"', "storey"),
        ('"tombstones": []', '"tombstones": [{"stone": 1}]', "stone"),
        ('"tiers": []', '"tiers": [{"storey": 1}]', "storey"),
    ]:
        assert old in text
        with pytest.raises(UnsupportedFormat, match=said):
            manifest.decode(resealed(text.replace(old, new)))
    for old, new in [
        ('"wal_floor": 1', '"wal_floor": "1"'),
        ('"wal_floor": 1', '"wal_floor": -1'),
        ('"generation": 1', '"generation": 1.5'),
        ('"level": 0', '"level": null'),
        ('"name": "0000000001"', '"name": "../../etc"'),
        ('"metadata_file": null', '"metadata_file": "a/b"'),
        ("abababab", "abab"),
        ('"next_ref": 0,', ""),
        ('"parts": [', '"parts": [3, '),
    ]:
        assert old in text
        with pytest.raises(CorruptionError):
            manifest.decode(resealed(text.replace(old, new)))


def test_what_rules_took_is_there_only_when_something_was():
    plain = Manifest(database_id="00" * 16, secret="00" * 32)
    assert b"taken" not in plain.encode()
    taken = Taken(("a", "b"), (5, -(2**63)), (7, 8)), Taken(EVERY, (1,), (2,))
    text = plain.with_changes(taken=taken).encode()
    assert manifest.decode(text).taken == taken
    for old, new in (
        (b'"a"', b"3"),
        (b'"windows_ms": [', b'"windows_ms": [1,'),
        (b'"rules": [', b'"rules": ["c",'),
        (b'"rules"', b'"others"'),
        (b"7", b'"7"'),
        (b'"samples_ms": [', b'"samples_ms": 7, "more": ['),
    ):
        body = text.rpartition(b"crc32c ")[0].replace(old, new, 1)
        assert body not in text
        with pytest.raises((CorruptionError, UnsupportedFormat)):
            manifest.decode(body + f"crc32c {crc32c(body):08x}\n".encode())


def test_what_is_erased_is_there_only_when_something_was():
    plain = Manifest(database_id="00" * 16, secret="00" * 32)
    assert b"erased" not in plain.encode()
    marked = plain.with_changes(erased={"": 5, '{job="slo"}': -(2**63)})
    text = marked.encode()
    assert manifest.decode(text).erased == {"": 5, '{job="slo"}': -(2**63)}
    for bad in (b'"5"', b"null", b"5.5", b"true"):
        body = text.rpartition(b"crc32c ")[0].replace(b'"": 5', b'"": ' + bad)
        with pytest.raises(CorruptionError):
            manifest.decode(body + b"crc32c %08x\n" % crc32c(body))
    body = text.rpartition(b"crc32c ")[0].replace(b'"erased": {', b'"erased": [{')
    body = body.replace(b"-9223372036854775808\n  }", b"-9223372036854775808\n  }]")
    with pytest.raises(CorruptionError):
        manifest.decode(body + b"crc32c %08x\n" % crc32c(body))


def test_create_load_swap(tmp_path):
    directory = str(tmp_path / "deep" / "db")
    with pytest.raises(StorageError, match="no manifest"):
        manifest.load(FS, directory)
    first = manifest.create(FS, directory)
    assert manifest.load(FS, directory) == first
    assert len(bytes.fromhex(first.database_id)) == 16
    assert len(bytes.fromhex(first.secret)) == 32
    assert first != manifest.create(FS, str(tmp_path / "other"))
    assert sorted(os.listdir(directory)) == sorted(["manifest", *filenames.DIRS])
    second = first.with_changes(parts=(part(7),), next_ref=5)
    assert (second.generation, second.parts, second.secret) == (2, (part(7),), first.secret)
    manifest.swap(FS, directory, second)
    assert manifest.load(FS, directory) == second
    with pytest.raises(StorageError, match="already"):
        manifest.create(FS, directory)


def test_create_refuses_data_without_a_manifest(tmp_path):
    directory = str(tmp_path)
    manifest.create(FS, directory)
    (tmp_path / "parts" / filenames.part_name(1)).mkdir()
    os.unlink(filenames.manifest_path(directory))
    with pytest.raises(StorageError, match="data in parts/ but no manifest"):
        manifest.create(FS, directory)


def test_create_takes_over_after_a_crash_inside_create(tmp_path):
    # Whatever create had done when it died, the next one succeeds.
    rng = random.Random(5)
    for kind in ("mkdir", "sync_dir", "write_file", "rename"):
        for nth in range(1, 6):
            directory = str(tmp_path / kind / str(nth))
            fs = FaultyFileSystem()
            fs.mkdir(os.path.dirname(directory))
            fs.sync_dir(os.path.dirname(os.path.dirname(directory)))
            fs.fail(kind, nth=nth, crash=True)
            try:
                manifest.create(fs, directory)
            except StorageError:
                fs.lose_unsynced(rng)
                if not FS.exists(filenames.manifest_path(directory)):
                    manifest.create(FS, directory)
            assert manifest.load(FS, directory).generation == 1
            shutil.rmtree(tmp_path / kind, ignore_errors=True)


@pytest.mark.parametrize("kind", ["write_file", "rename", "sync_dir"])
@pytest.mark.parametrize("after", [False, True])
def test_a_power_cut_in_a_swap_leaves_the_old_or_the_new(tmp_path, kind, after):
    for seed in range(10):
        directory = str(tmp_path / str(seed))
        old = manifest.create(FS, directory)
        new = old.with_changes(parts=tuple(part(i) for i in range(1, 20)))
        fs = FaultyFileSystem()
        fs.fail(kind, crash=True, after=after, torn=0 if after else seed * 100)
        with pytest.raises(StorageError):
            manifest.swap(fs, directory, new)
        fs.lose_unsynced(random.Random(seed))
        found = manifest.load(FS, directory)
        assert found in (old, new)
        manifest.swap(FS, directory, found.with_changes(next_ref=9))
        assert manifest.load(FS, directory).next_ref == 9
        assert manifest.orphans(FS, directory, found) == []


def test_a_swap_that_returned_survives_a_power_cut(tmp_path):
    fs = FaultyFileSystem()
    current = manifest.create(fs, str(tmp_path))
    for seed in range(10):
        current = current.with_changes(next_seq=seed)
        manifest.swap(fs, str(tmp_path), current)
        fs.lose_unsynced(random.Random(seed))
        assert manifest.load(fs, str(tmp_path)) == current


def test_a_full_disk_leaves_the_old_one(tmp_path):
    fs = FaultyFileSystem()
    old = manifest.create(fs, str(tmp_path))
    fs.fail("write_file", error=28, torn=50)
    with pytest.raises(Full, match="committing the manifest"):
        manifest.swap(fs, str(tmp_path), old.with_changes(next_seq=1))
    assert manifest.load(fs, str(tmp_path)) == old
    manifest.swap(fs, str(tmp_path), old.with_changes(next_seq=2))
    assert manifest.load(fs, str(tmp_path)).next_seq == 2


def test_a_manifest_that_breaks_its_own_rules_is_not_written(tmp_path):
    base = Manifest("ab" * 16, "cd" * 32)
    for bad in [
        {"parts": (part(1), part(1))},
        {"parts": (part(1, mint=5, maxt=4),)},
        {"parts": (part(1, seq_min=5, seq_max=4),)},
        {"catalog_segments": ("a/b",)},
        {"wal_floor": -1},
    ]:
        with pytest.raises(AssertionError):
            base.with_changes(**bad).encode()


def test_orphans_are_own_files_that_are_not_named(tmp_path):
    directory = str(tmp_path)
    live = manifest.create(FS, directory).with_changes(
        parts=(part(1),),
        catalog_segments=(filenames.catalog_name(2),),
        metadata_file=filenames.metadata_name(3),
        wal_floor=5,
    )
    assert manifest.orphans(FS, directory, live) == []
    (tmp_path / "parts" / filenames.part_name(1)).mkdir()
    (tmp_path / "parts" / filenames.part_name(9)).mkdir()
    for name in [
        "catalog/0000000002.cat", "catalog/0000000009.cat", "catalog/0000000010.cat.tmp",
        "catalog/mine.cat", "metadata/0000000003.meta", "metadata/0000000009.meta",
        "wal/0000000004.wal", "wal/0000000004.wal.damaged", "wal/0000000005.wal", "wal/notes",
        "parts/notes", "notes", "lock", "manifest.tmp",
    ]:  # fmt: skip
        (tmp_path / name).write_bytes(b"")
    found = manifest.orphans(FS, directory, live)
    assert [os.path.relpath(path, directory) for path in found] == [
        "parts/0000000009",
        "catalog/0000000009.cat",
        "catalog/0000000010.cat.tmp",
        "metadata/0000000009.meta",
        "wal/0000000004.wal",
        "manifest.tmp",
    ]
    shutil.rmtree(tmp_path / "catalog")
    assert manifest.orphans(FS, directory, live)[1] == str(tmp_path / "metadata/0000000009.meta")
