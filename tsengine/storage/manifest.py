"""The manifest: which files are the database. An immutable value, replaced by one rename.

A file that the manifest does not name is not part of the database (`orphans`). The file is text,
so that a human can read it: docs/format/manifest.md. Swapping is for the writer (who holds the
directory's lock) and one thread at a time; loading is for anybody.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import secrets
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from tsengine.codecs.records import crc32c
from tsengine.errors import CorruptionError, StorageError, UnsupportedFormat
from tsengine.storage import filenames
from tsengine.storage.filesystem import FileSystem, storage_error
from tsengine.storage.folder_lock import is_held
from tsengine.storage.retention_taken import Taken

FORMAT_VERSION = 1
_FIRST_LINE = "tsengine manifest"
_OPTIONAL = ("exemplar_files", "erased", "aside", "holes", "taken")
"""Fields that are not there when they are empty."""


@dataclass(frozen=True, slots=True)
class PartEntry:
    """A live part. ``mint``, ``maxt`` (ms) and ``seq_min``, ``seq_max`` are closed."""

    name: str
    level: int
    mint: int
    maxt: int
    n_samples: int
    n_series: int
    seq_min: int
    seq_max: int
    size_bytes: int


@dataclass(frozen=True, slots=True)
class ExemplarEntry:
    """A live file of ``n`` exemplars; ``mint``, ``maxt`` (ms) are closed."""

    name: str
    mint: int
    maxt: int
    n: int
    size_bytes: int


@dataclass(frozen=True, slots=True)
class TierEntry:
    """A live part of a tier of `width_ms`; the fields in between are those of its index.

    It sums up all samples of the closed range ``cover_min``, ``cover_max`` (whole windows) with
    sequences up to ``seq_max``; where ranges overlap the one of the higher ``seq_max`` holds alone.
    ``mint``, ``maxt`` are ends of windows; there may be none (``mint > maxt``).
    """

    name: str
    width_ms: int
    cover_min: int
    cover_max: int
    level: int
    mint: int
    maxt: int
    n_samples: int
    n_series: int
    seq_min: int
    seq_max: int
    size_bytes: int

    @property
    def part(self) -> PartEntry:
        """What its index says, as of any part."""
        fields = PartEntry.__dataclass_fields__
        return PartEntry(**{name: getattr(self, name) for name in fields})


@dataclass(frozen=True, slots=True)
class TombstoneEntry:
    """A live tombstone: what one delete hides. ``mint``, ``maxt`` (ms) are closed."""

    name: str
    seq: int
    mint: int
    maxt: int
    n_series: int
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Manifest:
    """What is live.

    Parameters
    ----------
    format_version
        Of the whole directory; a larger one than FORMAT_VERSION is refused.
    database_id, secret
        Hex of 16 and 32 random bytes, made once. The secret keys the fingerprints of series.
    generation
        Grows by one with each swap.
    parts
        In the order of their sequences, as the writer keeps it.
    catalog_segments, metadata_file
        Names inside their folders.
    exemplar_files
        Oldest first. The field is not written when there are none.
    wal_floor
        First segment of the log that is not in parts yet.
    next_ref, next_seq, next_file_number
        First numbers that no sealed file uses.
    tombstones
        In the order of their sequences.
    tiers
        Parts of all tiers, by width, then time covered, then sequence. Versions before there were
        any refuse a manifest that has tombstones or tiers.
    erased
        By selectors of retention rules: samples of these series before it may be gone, see
        `retention_marks`. The field is not written when there is none, and refused by versions
        before there was any.
    aside
        Folders in the quarantine whose parts may come back (`bring_back`): tombstones that hide
        something of them stay, and all series. Not written when there is none, as `erased`.
    holes
        By folder in the quarantine: the closed range of time, ms, in which samples of any series
        may be missing since its part went there. Not written when there is none, as `erased`.
    taken
        What retention rules took of their series, by lists of rules (`retention_taken`); the list
        that did so last comes last. Not written when there is none, as `erased`.

    """

    database_id: str
    secret: str
    format_version: int = FORMAT_VERSION
    generation: int = 1
    parts: tuple[PartEntry, ...] = ()
    catalog_segments: tuple[str, ...] = ()
    metadata_file: str | None = None
    exemplar_files: tuple[ExemplarEntry, ...] = ()
    wal_floor: int = 1
    next_ref: int = 0
    next_seq: int = 0
    next_file_number: int = 1
    tombstones: tuple[TombstoneEntry, ...] = ()
    tiers: tuple[TierEntry, ...] = ()
    erased: Mapping[str, int] = field(default_factory=dict)
    aside: tuple[str, ...] = ()
    holes: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    taken: tuple[Taken, ...] = ()

    def with_changes(self, **changes: Any) -> Manifest:
        """The next generation, with fields replaced."""
        return dataclasses.replace(self, generation=self.generation + 1, **changes)

    def encode(self) -> bytes:
        """The file's bytes: a line with the version, JSON, a line with the checksum."""
        self._check()
        fields = {
            name: getattr(self, name)
            for name in self.__slots__
            if name not in ("format_version", "parts", *_OPTIONAL)
        }
        if self.exemplar_files:
            fields["exemplar_files"] = [dataclasses.asdict(file) for file in self.exemplar_files]
        if self.erased:
            fields["erased"] = dict(self.erased)
        if self.aside:
            fields["aside"] = list(self.aside)
        if self.holes:
            fields["holes"] = {name: list(span) for name, span in self.holes.items()}
        if self.taken:
            fields["taken"] = [dataclasses.asdict(one) for one in self.taken]
        fields["tombstones"] = [dataclasses.asdict(entry) for entry in self.tombstones]
        fields["tiers"] = [dataclasses.asdict(entry) for entry in self.tiers]
        parts = ",\n".join(f"    {json.dumps(dataclasses.asdict(part))}" for part in self.parts)
        head = json.dumps(fields, indent=2)[:-2]
        listed = f"[\n{parts}\n  ]" if parts else "[]"
        text = f'{_FIRST_LINE} {self.format_version}\n{head},\n  "parts": {listed}\n}}\n'
        body = text.encode()
        return body + f"crc32c {crc32c(body):08x}\n".encode()

    def _check(self) -> None:
        """Assert what every manifest fulfils: a bug must not reach the disk."""
        names = [part.name for part in self.parts]
        assert len(set(names)) == len(names), "a part is named once"
        assert all(filenames.parse_part_name(name) is not None for name in names), names
        assert all(part.mint <= part.maxt for part in self.parts), "closed time ranges"
        names = [tier.name for tier in self.tiers]
        assert len(set(names)) == len(names), "a tier's part is named once"
        for tier in self.tiers:
            assert tier.cover_min <= tier.cover_max, "closed time ranges"
            aligned = (tier.cover_min - 1) % tier.width_ms == tier.cover_max % tier.width_ms == 0
            assert aligned, "whole windows are covered"
        assert all(part.seq_min <= part.seq_max for part in self.parts), "closed sequence ranges"
        assert all(name == os.path.basename(name) for name in self.catalog_segments), "bare names"
        numbers = (self.wal_floor, self.next_ref, self.next_seq, self.next_file_number)
        assert min(numbers) >= 0, "numbers only grow, from 0"


def decode(data: bytes, path: str = filenames.MANIFEST) -> Manifest:
    """A manifest from its file's bytes.

    Raises
    ------
    CorruptionError
        The checksum or the structure is wrong.
    UnsupportedFormat
        A newer version wrote it.

    """
    first, _, _ = data.partition(b"\n")
    words = first.decode("ascii", "replace").rpartition(" ")
    if words[0] != _FIRST_LINE or not words[2].isdecimal():
        raise CorruptionError("not a manifest", path=path, offset=0)
    # Newer versions keep the first line, whatever the rest becomes.
    if int(words[2]) > FORMAT_VERSION:
        raise UnsupportedFormat(
            f"{path}: format {words[2]}, written by a newer version; this one knows "
            f"{FORMAT_VERSION}"
        )
    end = data.rfind(b"crc32c ")
    body, last = data[:end], data[end:]
    if end < 0 or last != f"crc32c {crc32c(body):08x}\n".encode():
        raise CorruptionError("wrong checksum", path=path, offset=max(end, 0))
    try:
        fields = json.loads(body[len(first) :])
        return _from_fields(fields, int(words[2]), path)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise CorruptionError(f"malformed: {error}", path=path) from error


def load(fs: FileSystem, directory: str) -> Manifest:
    """The manifest of a directory; `manifest.tmp`, left by a crash, is ignored.

    Raises
    ------
    StorageError
        There is none, or it can't be read; CorruptionError and UnsupportedFormat as in `decode`.

    """
    path = filenames.manifest_path(directory)
    try:
        data = fs.read_file(path)
    except FileNotFoundError:
        raise StorageError(f"{directory} is not a tsengine database: it has no manifest") from None
    except OSError as error:
        raise storage_error(error, f"reading {path}") from error
    return decode(data, path)


def create(fs: FileSystem, directory: str) -> Manifest:
    """Make folders and first manifest of an empty directory, and return that.

    Raises
    ------
    StorageError
        There is a manifest, or there are data without one: a new manifest would declare them
        orphans.

    """
    try:
        fs.mkdir(directory)
        if fs.exists(filenames.manifest_path(directory)):
            raise StorageError(f"{directory} has a manifest already")
        if fs.exists(filenames.restoring_path(directory)):
            raise StorageError(f"a restore into {directory} was not finished; run it again")
        for folder in filenames.DIRS:
            path = os.path.join(directory, folder)
            fs.mkdir(path)
            if fs.listdir(path):
                raise StorageError(f"{directory} has data in {folder}/ but no manifest")
        fs.sync_dir(os.path.dirname(os.path.abspath(directory)))
    except OSError as error:
        raise storage_error(error, f"creating {directory}") from error
    manifest = Manifest(database_id=secrets.token_hex(16), secret=secrets.token_hex(32))
    swap(fs, directory, manifest)
    return manifest


def swap(fs: FileSystem, directory: str, manifest: Manifest) -> None:
    """Commit ``manifest``: after the return it is what every load sees.

    Files it names must be durable, names included, before. After an error either the old or the
    new manifest holds (the rename may have happened, its fsync not): the caller keeps the files of
    both and may swap again.

    Raises
    ------
    Full, StorageError

    """
    path = filenames.manifest_path(directory)
    temporary = filenames.manifest_tmp_path(directory)
    data = manifest.encode()
    try:
        fs.write_file(temporary, data)
        fs.rename(temporary, path)
        fs.sync_dir(directory)
    except OSError as error:
        raise storage_error(error, "committing the manifest") from error


def orphans(fs: FileSystem, directory: str, manifest: Manifest) -> list[str]:
    """Paths of the database's own files and part folders that ``manifest`` does not name.

    Left by a crash between writing and committing, or between committing and deleting. Names that
    tsengine does not give (a user's notes, `*.damaged`) are never listed, nor is what a process
    that lives is building in `snapshots/`.
    """
    known: dict[str, tuple[Callable[[str], int | None], set[str | None]]] = {
        filenames.PARTS_DIR: (filenames.parse_part_name, {p.name for p in manifest.parts}),
        filenames.CATALOG_DIR: (filenames.parse_catalog_name, set(manifest.catalog_segments)),
        filenames.METADATA_DIR: (filenames.parse_metadata_name, {manifest.metadata_file}),
        filenames.EXEMPLARS_DIR: (
            filenames.parse_exemplar_name,
            {file.name for file in manifest.exemplar_files},
        ),
        filenames.TIERS_DIR: (filenames.parse_part_name, {t.name for t in manifest.tiers}),
        filenames.TOMBSTONES_DIR: (
            filenames.parse_tombstone_name,
            {t.name for t in manifest.tombstones},
        ),
    }
    found: list[str] = []
    try:
        for folder, (parse, live) in known.items():
            for name in _names(fs, os.path.join(directory, folder)):
                stem = name.removesuffix(filenames.TMP_SUFFIX)
                if name not in live and parse(stem) is not None:
                    found.append(os.path.join(directory, folder, name))
        for name in _names(fs, filenames.wal_dir(directory)):
            segment = filenames.parse_wal_name(name)
            if segment is not None and segment < manifest.wal_floor:
                found.append(filenames.wal_path(directory, segment))
        for name in _names(fs, filenames.snapshots_dir(directory)):
            path = os.path.join(filenames.snapshots_dir(directory), name)
            with contextlib.suppress(FileNotFoundError):  # finished just then
                if filenames.is_unfinished_snapshot(name) and not is_held(path):
                    found.append(path)
        if fs.exists(filenames.manifest_tmp_path(directory)):
            found.append(filenames.manifest_tmp_path(directory))
    except OSError as error:
        raise storage_error(error, f"listing {directory}") from error
    return found


def _names(fs: FileSystem, path: str) -> list[str]:
    try:
        return fs.listdir(path)
    except FileNotFoundError:
        return []


def _from_fields(fields: dict[str, Any], version: int, path: str) -> Manifest:
    fields = dict(fields)
    parts = fields.pop("parts")
    files = fields.pop("exemplar_files", [])
    erased = dict(fields.pop("erased", {}))
    aside = tuple(fields.pop("aside", ()))
    holes = {name: tuple(span) for name, span in fields.pop("holes", {}).items()}
    taken = _taken(fields.pop("taken", []), path)
    names = set(Manifest.__slots__) - {"format_version", "parts", *_OPTIONAL}
    _refuse_unknown(fields.keys() - names, path)
    if names - fields.keys():
        raise ValueError(f"fields {sorted(names - fields.keys())} are missing")
    fields["catalog_segments"] = tuple(fields["catalog_segments"])
    fields["tombstones"] = _entries(TombstoneEntry, fields["tombstones"], path)
    fields["tiers"] = _entries(TierEntry, fields["tiers"], path)
    manifest = Manifest(
        format_version=version,
        parts=_entries(PartEntry, parts, path),
        exemplar_files=_entries(ExemplarEntry, files, path),
        erased=erased,
        aside=aside,
        holes=holes,
        taken=taken,
        **fields,
    )
    _check_types(manifest)
    return manifest


_Entry = TypeVar("_Entry", PartEntry, ExemplarEntry, TierEntry, TombstoneEntry)


def _entries(kind: type[_Entry], listed: list[dict[str, Any]], path: str) -> tuple[_Entry, ...]:
    for entry in listed:
        _refuse_unknown(entry.keys() - kind.__dataclass_fields__.keys(), path)
    return tuple(kind(**entry) for entry in listed)


def _taken(listed: list[dict[str, list[Any]]], path: str) -> tuple[Taken, ...]:
    for one in listed:
        _refuse_unknown(one.keys() - Taken.__dataclass_fields__.keys(), path)
        if any(type(values) is not list for values in one.values()):
            raise ValueError("what rules took is not listed")
    return tuple(Taken(**{name: tuple(values) for name, values in one.items()}) for one in listed)


def _refuse_unknown(names: Collection[str], path: str) -> None:
    # Ignoring a field would lose it with the next swap.
    if names:
        raise UnsupportedFormat(f"{path}: unknown fields {sorted(names)}, from a newer version")


def _check_types(manifest: Manifest) -> None:
    for name, size in (("database_id", 16), ("secret", 32)):
        if len(bytes.fromhex(getattr(manifest, name))) != size:
            raise ValueError(f"{name} is not {size} bytes")
    for name in ("generation", "wal_floor", "next_ref", "next_seq", "next_file_number"):
        if type(getattr(manifest, name)) is not int or getattr(manifest, name) < 0:
            raise ValueError(f"{name} is not a number")
    for selector, t_ms in manifest.erased.items():
        if type(t_ms) is not int:
            raise ValueError(f"what is erased of {selector!r} is not a time")
    for one in manifest.taken:
        numbers = (*one.samples_ms, *one.windows_ms)
        if any(type(text) is not str for text in one.rules) or not one.rules:
            raise ValueError("what took something is no list of rules")
        if any(type(t_ms) is not int for t_ms in numbers) or len(numbers) != 2 * len(one.rules):
            raise ValueError(f"what the rules {one.rules} took is not a time for each")
    for name, span in manifest.holes.items():
        if [type(t_ms) for t_ms in span] != [int, int] or span[0] > span[1]:
            raise ValueError(f"what is missing since {name!r} went is not a range of time")
    texts = [*manifest.catalog_segments, *(part.name for part in manifest.parts)]
    texts += [file.name for file in manifest.exemplar_files]
    texts += [tombstone.name for tombstone in manifest.tombstones]
    texts += [tier.name for tier in manifest.tiers]
    texts += manifest.aside
    if manifest.metadata_file is not None:
        texts.append(manifest.metadata_file)
    for text in texts:
        if type(text) is not str or text != os.path.basename(text) or not text:
            raise ValueError(f"{text!r} is not a file name")
    entries: list[PartEntry | ExemplarEntry | TierEntry | TombstoneEntry] = [
        *manifest.parts, *manifest.exemplar_files, *manifest.tiers, *manifest.tombstones,
    ]  # fmt: skip
    for entry in entries:
        numbers = dataclasses.astuple(entry)[1:]
        if any(type(number) is not int for number in numbers):
            raise ValueError(f"{entry.name} has a field that is not a number")
