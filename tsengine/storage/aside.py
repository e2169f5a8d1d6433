"""Parts in the quarantine, as their notes describe them; see `quarantine` and `bring_back`."""

from __future__ import annotations

import json
import logging
import os
from dataclasses import dataclass

from tsengine.errors import CorruptionError
from tsengine.storage import filenames, part_format
from tsengine.storage.cold import logical_sizes
from tsengine.storage.filesystem import FileSystem
from tsengine.storage.manifest import Manifest, PartEntry, TierEntry
from tsengine.storage.part_format import Section
from tsengine.storage.snapshot import files_below

NOTE = "note.json"
_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Aside:
    """A part that was put aside.

    Parameters
    ----------
    name
        Of its folder in the quarantine.
    entry
        What the manifest said of it; None if the note is of a version that did not write it.

    """

    name: str
    database_id: str
    put_aside_ms: int
    entry: PartEntry | TierEntry | None

    @property
    def kind(self) -> str:
        """The folder that it was in: of parts or of tiers."""
        return self.name.partition("-")[0]

    @property
    def part_name(self) -> str:
        """Its name there."""
        return self.name.partition("-")[2]


def aside_names(fs: FileSystem, directory: str) -> list[str]:
    """Folders of parts in the quarantine, ascending."""
    try:
        names = fs.listdir(filenames.quarantine_dir(directory))
    except FileNotFoundError:
        return []
    folders = (filenames.PARTS_DIR, filenames.TIERS_DIR)
    return sorted(name for name in names if name.partition("-")[0] in folders)


def read_note(fs: FileSystem, directory: str, name: str) -> Aside:
    """What a folder's note says; raises CorruptionError if it says nothing usable, OSError."""
    path = os.path.join(filenames.quarantine_dir(directory), name, NOTE)
    try:
        note = json.loads(fs.read_file(path))
        kind = TierEntry if name.startswith(filenames.TIERS_DIR) else PartEntry
        return Aside(
            name=name,
            database_id=str(note["database_id"]),
            put_aside_ms=int(note["put_aside_ms"]),
            entry=kind(**note["entry"]) if note.get("entry") else None,
        )
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise CorruptionError(f"malformed: {error}", path=path) from error


def waiting(fs: FileSystem, directory: str, current: Manifest) -> list[Aside]:
    """The parts aside that a manifest knows and whose folders are there."""
    found = []
    for name in current.aside:
        try:
            aside = read_note(fs, directory, name)
        except (FileNotFoundError, NotADirectoryError):
            _LOG.info("%s is no longer in the quarantine", name)
        except CorruptionError as error:
            _LOG.warning("what is in the quarantine is not known: %s", error)
        else:
            if aside.entry is not None:
                found.append(aside)
    return found


def entry_of_files(fs: FileSystem, folder: str, aside: Aside) -> PartEntry | TierEntry:
    """What its index says of a part whose note does not; raises CorruptionError, OSError."""
    path = os.path.join(folder, part_format.INDEX_FILE)
    data = fs.read_file(path)
    header, sections = part_format.decode_index_table(data, path)
    parent, name = os.path.split(folder)
    paths = [path for path in files_below(fs, parent, name) if os.path.basename(path) != NOTE]
    part = PartEntry(
        name=aside.part_name,
        level=header.level,
        mint=header.mint,
        maxt=header.maxt,
        n_samples=header.n_samples,
        n_series=header.n_series,
        seq_min=header.seq_min,
        seq_max=header.seq_max,
        size_bytes=sum(logical_sizes(fs, parent, paths).values()),
    )
    if aside.kind == filenames.PARTS_DIR:
        return part
    if Section.TIER not in sections:
        raise CorruptionError("the index is not of a tier", path=path)
    tier = part_format.decode_section(data, sections[Section.TIER], path).tolist()
    if len(tier) != 4:
        raise CorruptionError("the index does not say what tier", path=path)
    return TierEntry(
        width_ms=tier[1], cover_min=tier[2], cover_max=tier[3],
        **{field: getattr(part, field) for field in PartEntry.__dataclass_fields__},
    )  # fmt: skip
