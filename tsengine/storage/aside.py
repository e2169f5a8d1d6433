"""Parts in the quarantine, as their notes describe them; see `quarantine` and `bring_back`.

A folder has the part's files, `note.json`, which says what it was, and while the part comes back
`return.json`, which says what it becomes. A start of a writer settles what a crash left of either.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, astuple, dataclass
from typing import Any

from tsengine.errors import CorruptionError
from tsengine.storage import filenames, part_format
from tsengine.storage.cold import logical_sizes
from tsengine.storage.filesystem import FileSystem, remove_tree
from tsengine.storage.holes import joined
from tsengine.storage.manifest import Manifest, PartEntry, TierEntry
from tsengine.storage.part_format import Section
from tsengine.storage.snapshot import files_below
from tsengine.storage.tier_map import Span
from tsengine.storage.tier_stretches import Unseen

NOTE = "note.json"
RETURN = "return.json"
"""Beside the note while a part comes back: what it becomes."""
OURS = frozenset({NOTE, RETURN})
"""Files of a folder in the quarantine that are none of the part."""
_MALFORMED = (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError)
"""What is raised while something is read that is no note."""
_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Aside:
    """A part that was put aside.

    Parameters
    ----------
    name
        Of its folder in the quarantine.
    entry
        What the manifest said of it; None if the note is of a version that did not write it, or
        can't be read.
    next_file_number
        All files that were made later have such a number or a higher one; 0 if it is not known.
    erased
        The manifest's marks then; None if they are not known.

    """

    name: str
    database_id: str
    put_aside_ms: int
    entry: PartEntry | TierEntry | None
    next_file_number: int = 0
    erased: Mapping[str, int] | None = None

    @property
    def kind(self) -> str:
        """The folder that it was in: of parts or of tiers."""
        return self.name.partition("-")[0]

    @property
    def part_name(self) -> str:
        """Its name there."""
        return self.name.partition("-")[2]

    def went_after(self, name: str) -> bool:
        """Whether a part of this name is known to have been there before."""
        number = filenames.parse_part_name(name)
        return number is not None and number < self.next_file_number


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
        erased = note.get("erased")
        return Aside(
            name=name,
            database_id=str(note["database_id"]),
            put_aside_ms=int(note["put_aside_ms"]),
            entry=_entry_of(name, note["entry"]) if note.get("entry") else None,
            next_file_number=int(note.get("next_file_number", 0)),
            erased=None if erased is None else {text: int(t) for text, t in erased.items()},
        )
    except _MALFORMED as error:
        raise CorruptionError(f"malformed: {error}", path=path) from error


def _entry_of(name: str, fields: dict[str, Any]) -> PartEntry | TierEntry:
    kind = TierEntry if name.startswith(filenames.TIERS_DIR) else PartEntry
    entry = kind(**fields)
    if type(entry.name) is not str or any(type(n) is not int for n in astuple(entry)[1:]):
        raise ValueError("the entry has fields of the wrong type")
    return entry


def waiting(fs: FileSystem, directory: str, current: Manifest) -> list[Aside]:
    """The parts aside that a manifest knows and whose folders are there.

    What is known of one whose note this process may not or can't read now is only that it waits.
    """
    found = []
    for name in current.aside:
        try:
            aside = read_note(fs, directory, name)
        except (FileNotFoundError, NotADirectoryError):
            _LOG.info("%s is no longer in the quarantine", name)
        except CorruptionError as error:
            _LOG.warning("what is in the quarantine is not known: %s", error)
        except OSError as error:
            _LOG.warning("what is in the quarantine can't be read: %s", error)
            found.append(Aside(name, current.database_id, 0, None))
        else:
            if aside.entry is not None:
                found.append(aside)
    return found


def awaited_spans(asides: Iterable[Aside]) -> tuple[Span, ...]:
    """What parts of tiers cover that may come back: closed ranges, ascending and disjoint."""
    tiers = (aside.entry for aside in asides if isinstance(aside.entry, TierEntry))
    return joined((tier.cover_min, tier.cover_max) for tier in tiers)


def unseen_of(asides: Iterable[Aside]) -> tuple[Unseen, ...]:
    """What tiers may lack of it."""
    entries = [aside.entry for aside in asides if aside.entry is not None]
    return tuple(
        Unseen(entry.cover_min, entry.cover_max, entry.seq_max, entry.width_ms)
        if isinstance(entry, TierEntry)
        else Unseen(entry.mint, entry.maxt, entry.seq_max)
        for entry in entries
    )


def entry_of_files(fs: FileSystem, folder: str, aside: Aside) -> PartEntry | TierEntry:
    """What its index says of a part whose note does not; raises CorruptionError, OSError."""
    path = os.path.join(folder, part_format.INDEX_FILE)
    data = fs.read_file(path)
    header, sections = part_format.decode_index_table(data, path)
    parent, name = os.path.split(folder)
    paths = [
        path for path in files_below(fs, parent, name) if os.path.relpath(path, name) not in OURS
    ]
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


# --- what a start settles -------------------------------------------------------------------------


def announce_return(
    fs: FileSystem,
    folder: str,
    became: Sequence[PartEntry | TierEntry],
    *,
    n_samples: int,
    is_known: bool,
) -> None:
    """Say durably what a part becomes with the commit that comes next; raises OSError.

    ``is_known``: the manifest knows until then that it waits.
    """
    told = {
        "n_samples": n_samples,
        "is_known": is_known,
        "became": [asdict(entry) for entry in became],
    }
    fs.write_file(os.path.join(folder, RETURN), json.dumps(told).encode() + b"\n")
    fs.sync_dir(folder)


def remove_returned(fs: FileSystem, folder: str) -> None:
    """Remove the folder of a part that is back, what says so last; raises OSError.

    Durably: once the part was merged nothing tells that it is back.
    """
    for name in fs.listdir(folder):
        if name != RETURN:
            remove_tree(fs, os.path.join(folder, name))
    remove_tree(fs, folder)
    fs.sync_dir(os.path.dirname(folder))


def finish_returns(fs: FileSystem, directory: str, current: Manifest) -> dict[str, int]:
    """Remove what a crash left of parts that had come back: their samples, by folder.

    For the start of a writer: nothing was merged since, so the manifest has what such a part became
    if that was committed. If it was not, the part waits as before.
    """
    entries: list[PartEntry | TierEntry] = [*current.parts, *current.tiers]
    live = [asdict(entry) for entry in entries]
    finished = {}
    for name in _names_or_none(fs, directory):
        folder = os.path.join(filenames.quarantine_dir(directory), name)
        path = os.path.join(folder, RETURN)
        try:
            if not fs.exists(path):
                if not fs.listdir(folder):
                    fs.rmdir(folder)
                continue
            told = _decode_return(fs.read_file(path))
            if told is None or name in current.aside or not told.is_in(live):
                fs.unlink(path)
                continue
            _LOG.info("%s was back before a crash; what is left of it is removed", name)
            finished[name] = told.n_samples
            remove_returned(fs, folder)
        except OSError as error:
            _LOG.warning("%s may be of a part that is back: %s", folder, error)
    return finished


def settle_marks(
    fs: FileSystem, directory: str, erased: Mapping[str, int], guessed: Mapping[str, int]
) -> None:
    """Let notes tell what was erased before their parts went from what is erased after it.

    For the start of a writer that has looked at what a version without marks may have erased
    (``guessed``, by selectors): that was before, whenever it is found. ``erased`` are the
    manifest's marks.
    """
    for name in _names_or_none(fs, directory):
        path = os.path.join(filenames.quarantine_dir(directory), name, NOTE)
        try:
            note = json.loads(fs.read_file(path))
            if guessed or note.get("erased") is None:
                text = json.dumps({**note, "erased": {**erased, **guessed}}, indent=2)
                _replace_note(fs, path, text.encode() + b"\n")
        except (OSError, *_MALFORMED) as error:
            _LOG.warning("the note of %s stays as it is: %s", name, error)


def _names_or_none(fs: FileSystem, directory: str) -> list[str]:
    """Folders in the quarantine, none if that can't be read."""
    try:
        return aside_names(fs, directory)
    except OSError as error:
        _LOG.warning("the quarantine can't be read: %s", error)
        return []


@dataclass(frozen=True, slots=True)
class _Told:
    """What `announce_return` said."""

    n_samples: int
    is_known: bool
    became: tuple[Any, ...]

    def is_in(self, live: Sequence[Mapping[str, Any]]) -> bool:
        """Whether the parts of a manifest show that it came so far."""
        if not self.became:
            return self.is_known  # Nothing was left of it, and it no longer waits.
        return all(entry in live for entry in self.became)


def _decode_return(data: bytes) -> _Told | None:
    """None for what was not finished: the commit did not come either."""
    try:
        told = json.loads(data)
        return _Told(int(told["n_samples"]), bool(told["is_known"]), tuple(told["became"]))
    except _MALFORMED:
        return None


def _replace_note(fs: FileSystem, path: str, data: bytes) -> None:
    """Whole or not at all, durable."""
    folder = os.path.dirname(path)
    # Beside the folders: what is in them counts.
    temporary = os.path.join(os.path.dirname(folder), NOTE + filenames.TMP_SUFFIX)
    fs.write_file(temporary, data)
    fs.rename(temporary, path)
    fs.sync_dir(folder)
