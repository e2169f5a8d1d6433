"""Every name a database has on disk, and how to read one back. Nothing else spells them.

    manifest            what is live (docs/format/manifest.md)
    manifest.tmp        the next manifest while it is written
    lock                held by the one writer
    ballast             given up when the disk is full, so that a flush has room
    probe.tmp           written and removed to see if the disk takes writes again
    wal/0000000001.wal  segments of the log (docs/format/wal.md)
    parts/0000000002/   one part: immutable, a folder
    catalog/0000000003.cat
    metadata/0000000004.meta
    exemplars/0000000005.ex
    tiers/0000000006/   windows of samples: a part as those above
    tombstones/0000000007.tomb
    snapshots/NAME/     databases made of hard links; NAME.0123abcd.tmp while they are built
    quarantine/         damaged files that `check` has put aside
    cold-cache/         blocks of files in an object store, whose stubs end in `.cold`
    scratch-*           memory of this process, where files must have a name; only for a moment

Numbers have ten digits, are never reused, and come from the manifest's next_file_number; those of
log segments are counted by the log. A name may end in `.damaged`: kept for a human, never read.
"""

from __future__ import annotations

import os
import re

MANIFEST = "manifest"
MANIFEST_TMP = "manifest.tmp"
LOCK = "lock"
BALLAST = "ballast"
PROBE = "probe.tmp"
WAL_DIR = "wal"
PARTS_DIR = "parts"
CATALOG_DIR = "catalog"
METADATA_DIR = "metadata"
EXEMPLARS_DIR = "exemplars"
TIERS_DIR = "tiers"
TOMBSTONES_DIR = "tombstones"
SNAPSHOTS_DIR = "snapshots"
QUARANTINE_DIR = "quarantine"
COLD_CACHE_DIR = "cold-cache"
SCRATCH_PREFIX = "scratch-"
RESTORING = "restoring"
"""Stands in a directory that a restore has not finished; it can't be opened."""
DIRS = (WAL_DIR, PARTS_DIR, CATALOG_DIR, METADATA_DIR)
"""Folders that every database has; the others are made when there is something for them."""

WAL_SUFFIX = ".wal"
CATALOG_SUFFIX = ".cat"
METADATA_SUFFIX = ".meta"
EXEMPLARS_SUFFIX = ".ex"
TOMBSTONES_SUFFIX = ".tomb"
TMP_SUFFIX = ".tmp"
DAMAGED_SUFFIX = ".damaged"
STUB_SUFFIX = ".cold"

_NUMBER = re.compile(r"[0-9]{10,20}")
_UNFINISHED = re.compile(r".+\.[0-9a-f]{8}\.tmp")


def manifest_path(directory: str) -> str:
    """The manifest of a database."""
    return os.path.join(directory, MANIFEST)


def manifest_tmp_path(directory: str) -> str:
    """The next manifest while it is written."""
    return os.path.join(directory, MANIFEST_TMP)


def lock_path(directory: str) -> str:
    """The file whose lock makes a process the writer."""
    return os.path.join(directory, LOCK)


def ballast_path(directory: str) -> str:
    """What is given up when the disk is full."""
    return os.path.join(directory, BALLAST)


def probe_path(directory: str) -> str:
    """What is written to see if the disk takes writes again."""
    return os.path.join(directory, PROBE)


def wal_dir(directory: str) -> str:
    """Folder of the log's segments."""
    return os.path.join(directory, WAL_DIR)


def wal_path(directory: str, segment: int) -> str:
    """One segment of the log."""
    return os.path.join(directory, WAL_DIR, wal_name(segment))


def wal_name(segment: int) -> str:
    """Name of a segment inside the log's folder."""
    return f"{segment:010d}{WAL_SUFFIX}"


def part_name(number: int) -> str:
    """Name of a part inside the parts' folder."""
    return f"{number:010d}"


def part_dir(directory: str, name: str) -> str:
    """Folder of the part ``name``."""
    return os.path.join(directory, PARTS_DIR, name)


def catalog_name(number: int) -> str:
    """Name of a catalog segment inside the catalog's folder."""
    return f"{number:010d}{CATALOG_SUFFIX}"


def catalog_path(directory: str, name: str) -> str:
    """The catalog segment ``name``."""
    return os.path.join(directory, CATALOG_DIR, name)


def metadata_name(number: int) -> str:
    """Name of a metadata file inside its folder."""
    return f"{number:010d}{METADATA_SUFFIX}"


def metadata_path(directory: str, name: str) -> str:
    """The metadata file ``name``."""
    return os.path.join(directory, METADATA_DIR, name)


def exemplars_dir(directory: str) -> str:
    """Folder of the exemplar files."""
    return os.path.join(directory, EXEMPLARS_DIR)


def exemplar_name(number: int) -> str:
    """Name of an exemplar file inside its folder."""
    return f"{number:010d}{EXEMPLARS_SUFFIX}"


def exemplar_path(directory: str, name: str) -> str:
    """The exemplar file ``name``."""
    return os.path.join(directory, EXEMPLARS_DIR, name)


def tiers_dir(directory: str) -> str:
    """Folder of the parts of tiers."""
    return os.path.join(directory, TIERS_DIR)


def tier_dir(directory: str, name: str) -> str:
    """Folder of the tier's part ``name``; names are those of `part_name`."""
    return os.path.join(directory, TIERS_DIR, name)


def tombstones_dir(directory: str) -> str:
    """Folder of the tombstones."""
    return os.path.join(directory, TOMBSTONES_DIR)


def tombstone_name(number: int) -> str:
    """Name of a tombstone inside its folder."""
    return f"{number:010d}{TOMBSTONES_SUFFIX}"


def tombstone_path(directory: str, name: str) -> str:
    """The tombstone ``name``."""
    return os.path.join(directory, TOMBSTONES_DIR, name)


def snapshots_dir(directory: str) -> str:
    """Folder of the snapshots that are kept inside a database's own directory."""
    return os.path.join(directory, SNAPSHOTS_DIR)


def unfinished_snapshot(path: str, unique: str) -> str:
    """Where the snapshot ``path`` is built; ``unique`` has 8 hexadecimal digits."""
    return f"{path}.{unique}{TMP_SUFFIX}"


def is_unfinished_snapshot(name: str) -> bool:
    """Whether a name in the snapshots' folder was made by `unfinished_snapshot`."""
    return _UNFINISHED.fullmatch(name) is not None


def quarantine_dir(directory: str) -> str:
    """Folder of damaged files that were put aside."""
    return os.path.join(directory, QUARANTINE_DIR)


def cold_cache_dir(directory: str) -> str:
    """Folder of blocks that were read from an object store."""
    return os.path.join(directory, COLD_CACHE_DIR)


def stub_path(path: str) -> str:
    """Says where the file ``path`` is, when it is in an object store."""
    return path + STUB_SUFFIX


def is_stub(path: str) -> bool:
    """Whether a path was made by `stub_path`."""
    return path.endswith(STUB_SUFFIX)


def restoring_path(directory: str) -> str:
    """Says that a restore into the directory is not finished."""
    return os.path.join(directory, RESTORING)


def damaged_path(path: str) -> str:
    """Where a damaged file is kept for a human."""
    return path + DAMAGED_SUFFIX


def parse_wal_name(name: str) -> int | None:
    """Segment number of a name made by `wal_name`, else None."""
    return _parse(name, WAL_SUFFIX)


def parse_part_name(name: str) -> int | None:
    """Number of a name made by `part_name`, else None."""
    return _parse(name, "")


def parse_catalog_name(name: str) -> int | None:
    """Number of a name made by `catalog_name`, else None."""
    return _parse(name, CATALOG_SUFFIX)


def parse_metadata_name(name: str) -> int | None:
    """Number of a name made by `metadata_name`, else None."""
    return _parse(name, METADATA_SUFFIX)


def parse_exemplar_name(name: str) -> int | None:
    """Number of a name made by `exemplar_name`, else None."""
    return _parse(name, EXEMPLARS_SUFFIX)


def parse_tombstone_name(name: str) -> int | None:
    """Number of a name made by `tombstone_name`, else None."""
    return _parse(name, TOMBSTONES_SUFFIX)


def _parse(name: str, suffix: str) -> int | None:
    stem = name.removesuffix(suffix)
    if not name.endswith(suffix) or _NUMBER.fullmatch(stem) is None:
        return None
    number = int(stem)
    return number if f"{number:010d}" == stem else None
