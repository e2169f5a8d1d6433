"""The record of a backup: which files it has, and under which keys their contents are kept.

A backup exists when its record does; the record is written last, by one conditional create.
docs/format/backup.md has the layout of a place for backups.
"""

from __future__ import annotations

import dataclasses
import json
import re
import secrets
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from tsengine.codecs.records import crc32c
from tsengine.errors import CorruptionError, UnsupportedFormat

VERSION = 1
_FIRST_LINE = "tsengine backup"
_NAME = re.compile(r"(\d{8}T\d{6}\.\d{3})Z-[0-9a-f]{8}")
_SHA256 = re.compile(r"[0-9a-f]{64}")

MARKER = "tsengine-backups"
RECORDS = "backups"
CONTENTS = "contents"
LEASES = "running"


@dataclass(frozen=True, slots=True)
class BackupFile:
    """A file: its path below the database, bytes, the SHA-256 of its content as hex.

    ``modified_ns`` is the time that the file system had for it: where that, path and size are the
    same at the next backup, the content is not read again.
    """

    path: str
    size: int
    sha256: str
    modified_ns: int

    @property
    def key(self) -> str:
        """Where the content is kept."""
        return content_key(self.sha256)


@dataclass(frozen=True, slots=True)
class BackupRecord:
    """One backup.

    Parameters
    ----------
    name
        From its time, and random digits; see `new_name`.
    database_id
        Of the database.
    mint, maxt
        Closed range (ms) of the samples in its parts; None without parts.
    n_samples
        Samples in its parts.
    new_bytes
        What it added to the store.
    files
        By path, the manifest among them.

    """

    name: str
    database_id: str
    mint: int | None
    maxt: int | None
    n_samples: int
    new_bytes: int
    files: tuple[BackupFile, ...]

    @property
    def time_ms(self) -> int:
        """When it was taken: everything acknowledged before its start is in it."""
        return time_of_name(self.name)

    @property
    def size_bytes(self) -> int:
        """Bytes of all its files."""
        return sum(file.size for file in self.files)

    @property
    def key(self) -> str:
        """Where the record is kept."""
        return record_key(self.name)

    def encode(self) -> bytes:
        """The record's bytes: a line with the version, JSON, a line with the checksum."""
        fields = {name: getattr(self, name) for name in self.__slots__ if name != "files"}
        head = json.dumps(fields, indent=2)[:-2]
        files = ",\n".join(f"    {json.dumps(dataclasses.asdict(file))}" for file in self.files)
        body = f'{_FIRST_LINE} {VERSION}\n{head},\n  "files": [\n{files}\n  ]\n}}\n'.encode()
        return body + f"crc32c {crc32c(body):08x}\n".encode()


def decode(data: bytes, where: str) -> BackupRecord:
    """A record from its bytes; ``where`` names it in errors.

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
        raise CorruptionError("not the record of a backup", path=where, offset=0)
    if int(words[2]) > VERSION:
        raise UnsupportedFormat(f"{where}: version {words[2]} was written by a newer tsengine")
    end = data.rfind(b"crc32c ")
    body, last = data[:end], data[end:]
    if end < 0 or last != f"crc32c {crc32c(body):08x}\n".encode():
        raise CorruptionError("wrong checksum", path=where, offset=max(end, 0))
    try:
        fields = json.loads(body[len(first) :])
        files = tuple(BackupFile(**file) for file in fields.pop("files"))
        record = BackupRecord(files=files, **fields)
        _check(record)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise CorruptionError(f"malformed: {error}", path=where) from error
    return record


def _check(record: BackupRecord) -> None:
    time_of_name(record.name)
    for file in record.files:
        steps = file.path.split("/")
        if not all(steps) or {".", ".."} & set(steps) or "\\" in file.path:
            raise ValueError(f"{file.path!r} is not a path inside of a database")
        if _SHA256.fullmatch(file.sha256) is None or type(file.size) is not int or file.size < 0:
            raise ValueError(f"{file.path} has no valid size and checksum")


def new_name(now_ms: int) -> str:
    """A name that no backup has: ``20261121T161300.000Z-0123abcd``."""
    at = datetime.fromtimestamp(now_ms // 1000, UTC)
    return f"{at:%Y%m%dT%H%M%S}.{now_ms % 1000:03d}Z-{secrets.token_hex(4)}"


def time_of_name(name: str) -> int:
    """The time (ms) in a name made by `new_name`; raises ValueError for others."""
    found = _NAME.fullmatch(name)
    if found is None:
        raise ValueError(f"{name!r} is not the name of a backup")
    at = datetime.strptime(found[1], "%Y%m%dT%H%M%S.%f").replace(tzinfo=UTC)
    return round(at.timestamp() * 1000)


def record_key(name: str) -> str:
    """Where the record of the backup ``name`` is kept."""
    return f"{RECORDS}/{name}.json"


def name_of_key(key: str) -> str | None:
    """The backup whose record has this key, None if it is another object's."""
    name = key.removeprefix(f"{RECORDS}/").removesuffix(".json")
    return name if record_key(name) == key and _NAME.fullmatch(name) else None


def content_key(sha256: str) -> str:
    """Where a content is kept."""
    return f"{CONTENTS}/{sha256[:2]}/{sha256}"


def marker(database_id: str) -> bytes:
    """What stands at the top of a place: whose backups these are."""
    return json.dumps({"format": VERSION, "database_id": database_id}).encode() + b"\n"


def database_of_marker(data: bytes, where: str) -> str:
    """The database whose backups are there; raises CorruptionError or UnsupportedFormat."""
    try:
        fields: dict[str, Any] = json.loads(data)
        version, database_id = fields["format"], fields["database_id"]
    except (ValueError, TypeError, KeyError) as error:
        raise CorruptionError(f"malformed: {error}", path=where) from error
    if version != VERSION:
        raise UnsupportedFormat(f"{where}: version {version} was written by a newer tsengine")
    return str(database_id)
