"""From a directory to a running state: manifest, catalog segments, parts, then the log."""

from __future__ import annotations

import logging
import os
import time
from dataclasses import dataclass, field, replace

import numpy as np

from tsengine.errors import CorruptionError, StorageError
from tsengine.model.batch import SampleBatch
from tsengine.model.histograms import is_handle, without_handles
from tsengine.options import TYPE_AND_UNIT_LABELS, Options
from tsengine.storage import filenames, holes, manifest, wal_records
from tsengine.storage.aside import Aside, awaited_spans, finish_returns, unseen_of, waiting
from tsengine.storage.catalog import LOST_SERIES, Catalog
from tsengine.storage.catalog_file import read_catalog_segment
from tsengine.storage.exemplar_records import decode_exemplars
from tsengine.storage.exemplars import ExemplarStore
from tsengine.storage.filesystem import FileSystem, remove_tree, storage_error
from tsengine.storage.folder_lock import remove_unless_held
from tsengine.storage.head import Head
from tsengine.storage.manifest import Manifest, PartEntry, TierEntry
from tsengine.storage.metadata_store import MetadataStore, decode_entries
from tsengine.storage.sealed_opening import SealedFiles
from tsengine.storage.state import FrozenHead, State
from tsengine.storage.tombstones import Tombstone, decode_tombstone, read_tombstone
from tsengine.storage.wal_histograms import decode_histograms
from tsengine.storage.wal_reader import ReplayReport, keep_damaged, replay

_LOG = logging.getLogger(__name__)
_READ_PAUSES_S = (0.01, 0.02, 0.05, 0.1, 0.2, 0.4, 0.8, 1.0, 1.0)
"""Between tries to open what a writer replaces meanwhile."""
_sleep = time.sleep


@dataclass(slots=True)
class RecoveryReport:
    """What the start met.

    Parameters
    ----------
    damage
        ``(file, offset, reason)``: acknowledged data may be lost there.
    torn_tails
        ``(file, offset, n_bytes)``: unfinished writes that were dropped; nothing is lost.
    n_replayed_samples
        Floats and histograms taken from the log.
    n_orphan_samples
        Samples and exemplars in the log whose series were lost with a damaged piece.
    n_lost_series
        Series whose labels were lost so; samples that came later are kept under a stand-in's name.
    unreadable
        ``(file, offset or None, reason)``: sealed files that are left out until they can be read,
        are put aside (`check --quarantine`) or are restored.
    has_lost_parts
        Whether there are parts among them, of samples or of tiers.
    lost
        These parts, as the manifest has them.
    aside
        Parts in the quarantine that may come back: what hides them stays, and their series.
    returned
        Samples of parts that had come back before a crash, by the folders that it left.

    """

    n_replayed_samples: int = 0
    n_orphan_samples: int = 0
    n_lost_series: int = 0
    damage: list[tuple[str, int, str]] = field(default_factory=list)
    torn_tails: list[tuple[str, int, int]] = field(default_factory=list)
    unreadable: list[tuple[str, int | None, str]] = field(default_factory=list)
    has_lost_parts: bool = False
    lost: list[PartEntry | TierEntry] = field(default_factory=list)
    aside: list[Aside] = field(default_factory=list)
    returned: dict[str, int] = field(default_factory=dict)

    @property
    def n_damaged_files(self) -> int:
        """Damaged places of the log, and sealed files that are left out."""
        return len(self.damage) + len(self.unreadable)

    @property
    def is_lossy(self) -> bool:
        """Whether acknowledged data of the log may be lost."""
        return bool(self.damage or self.n_orphan_samples or self.n_lost_series)

    def lines(self) -> list[str]:
        """Everything that is damaged or lost, as readable lines."""
        lines = [f"{path}: damaged at byte {at}: {reason}" for path, at, reason in self.damage]
        for path, offset, reason in self.unreadable:
            at = "" if offset is None else f" at byte {offset}"
            lines.append(f"{path}: damaged{at}, left out: {reason}")
        if self.n_orphan_samples:
            lines.append(f"{self.n_orphan_samples} samples lost with their damaged series records")
        if self.n_lost_series:
            lines.append(
                f"the labels of {self.n_lost_series} series are lost with damaged records; their "
                f'later samples are kept as {LOST_SERIES}{{ref="..."}}'
            )
        return lines


@dataclass(frozen=True, slots=True)
class Recovered:
    """Everything a database needs to go on."""

    manifest: Manifest
    catalog: Catalog
    metadata: MetadataStore
    exemplars: ExemplarStore
    state: State
    replay: ReplayReport
    report: RecoveryReport
    next_seq: int


def recover(fs: FileSystem, directory: str, options: Options, *, read_only: bool) -> Recovered:
    """Load a database, or make a new one where there is none (writers only).

    Raises
    ------
    StorageError
        Read-only and nothing there, or the directory can't be read, or its writer replaces files
        faster than they can be opened, for some seconds.
    CorruptionError
        The manifest, a catalog segment or a tombstone is damaged.
    UnsupportedFormat
        Something was written by a newer version.

    """
    try:
        if read_only:
            return _recover_beside_a_writer(fs, directory, options)
        current = _load_or_create(fs, directory)
        _remove_orphans(fs, directory, current)
        returned = finish_returns(fs, directory, current)
        current = _forget_what_is_gone(fs, directory, current)
        found = _recover(fs, directory, options, current, read_only=False, missing_is_damage=True)
        found.report.returned = returned
        return found
    except OSError as error:
        raise storage_error(error, f"opening {error.filename or directory}") from error


def _recover_beside_a_writer(fs: FileSystem, directory: str, options: Options) -> Recovered:
    """Load what a manifest names while it is in place; a file that it still lacks then is damage.

    A file may be replaced between the looks at the manifest and at the file, and the log trimmed;
    a newer manifest tells of it. Raises FileNotFoundError for a file that nothing goes without.
    """
    missed = -1
    for pause_s in (*_READ_PAUSES_S, None):
        current = manifest.load(fs, directory)
        is_damage = current.generation == missed
        try:
            found = _recover(
                fs, directory, options, current, read_only=True, missing_is_damage=is_damage
            )
            newest = manifest.load(fs, directory)
            may_lack_files = is_damage and bool(found.report.unreadable)
            if newest.generation == current.generation or not (
                may_lack_files or newest.wal_floor != current.wal_floor
            ):
                return found
        except FileNotFoundError:
            if is_damage and manifest.load(fs, directory).generation == current.generation:
                raise
        missed = current.generation
        if pause_s is not None:
            _sleep(pause_s)
    raise StorageError(
        f"{directory}: its writer replaces files faster than they can be opened, "
        f"{len(_READ_PAUSES_S) + 1} times in a row; try again"
    )


def _recover(
    fs: FileSystem,
    directory: str,
    options: Options,
    current: Manifest,
    *,
    read_only: bool,
    missing_is_damage: bool,
) -> Recovered:
    catalog = Catalog(
        secret=bytes.fromhex(current.secret),
        limits=options.labels,
        max_series=options.max_series,
        type_and_unit_labels=TYPE_AND_UNIT_LABELS in options.features,
    )
    for name in current.catalog_segments:
        catalog.decode_series(read_catalog_segment(fs, filenames.catalog_path(directory, name)))
    sealed = SealedFiles(fs, directory, missing_is_damage=missing_is_damage)
    metadata = sealed.metadata(current)
    metadata.size_max = options.metadata_kept
    parts = sealed.parts(current)
    tiers = sealed.tiers(current)
    tombstones = [read_tombstone(fs, directory, entry) for entry in current.tombstones]
    heads = ReplayedHeads(Head(), [], tombstones)
    exemplars = ExemplarStore(
        fs, directory, current.exemplar_files, n_recent_max=options.exemplars_kept,
        deletes=tombstones,
    )  # fmt: skip
    log = replay_log(
        fs, directory, current, catalog, metadata=metadata, heads=heads, exemplars=exemplars,
        read_only=read_only,
    )  # fmt: skip
    metadata.n_dropped = 0  # Dropped and counted when they came.
    for path, offset, reason in log.report.damage:
        _LOG.error("%s: damaged at byte %d: %s", path, offset, reason)
        if not read_only:
            keep_damaged(fs, path)
    log.report.unreadable = sealed.unreadable
    opened = {part.entry.name for part in parts} | {tier.entry.name for tier in tiers}
    named: list[PartEntry | TierEntry] = [*current.parts, *current.tiers]
    log.report.lost = [entry for entry in named if entry.name not in opened]
    log.report.has_lost_parts = bool(log.report.lost)
    log.report.aside = waiting(fs, directory, current)
    for path, at, reason in sealed.unreadable:
        _LOG.error("%s: damaged at byte %s, left out: %s", path, at, reason)
    catalog.publish()
    state = State(
        catalog.view(), parts, tuple(heads.frozen), heads.head, tuple(heads.tombstones), tiers,
        current.erased, holes.joined(current.holes.values()), awaited_spans(log.report.aside),
        unseen_of(log.report.aside), current.taken,
    )  # fmt: skip
    next_seq = max(current.next_seq, log.replay.seq_max + 1)
    return Recovered(current, catalog, metadata, exemplars, state, log.replay, log.report, next_seq)


def _load_or_create(fs: FileSystem, directory: str) -> Manifest:
    if fs.exists(filenames.manifest_path(directory)):
        return manifest.load(fs, directory)
    return manifest.create(fs, directory)


def _forget_what_is_gone(fs: FileSystem, directory: str, current: Manifest) -> Manifest:
    """Commit a manifest without parts aside whose folders are no longer in the quarantine.

    Nothing stays for their sake from now on, not even if the folders are there again later.
    """
    there = tuple(aside.name for aside in waiting(fs, directory, current))
    if there == current.aside:
        return current
    current = current.with_changes(aside=there)
    manifest.swap(fs, directory, current)
    return current


def _remove_orphans(fs: FileSystem, directory: str, current: Manifest) -> None:
    for path in manifest.orphans(fs, directory, current):
        _LOG.info("removing %s: the manifest does not name it", path)
        try:
            if not filenames.is_unfinished_snapshot(os.path.basename(path)):
                remove_tree(fs, path)
            elif not remove_unless_held(fs, path, if_unknown=True):
                _LOG.info("%s stays: somebody began to work with it", path)
        except OSError as error:
            _LOG.warning("could not remove %s: %s", path, error)


@dataclass(frozen=True, slots=True)
class ReplayedLog:
    """A replay's own report, and ours."""

    replay: ReplayReport
    report: RecoveryReport


def replay_log(
    fs: FileSystem,
    directory: str,
    current: Manifest,
    catalog: Catalog,
    *,
    metadata: MetadataStore | None = None,
    heads: ReplayedHeads | None = None,
    exemplars: ExemplarStore | None = None,
    read_only: bool = True,
) -> ReplayedLog:
    """Apply the log from the manifest's floor on to catalog, metadata, heads and exemplars.

    Damage is put into the report and passed over: what stands before and behind it is taken.
    """
    report = RecoveryReport()
    records = replay(
        fs,
        directory,
        first_segment=current.wal_floor,
        database_id=current.database_id,
        read_only=read_only,
    )
    for record in records:
        path = filenames.wal_path(directory, record.segment)
        try:
            if record.type == wal_records.SERIES:
                report.n_lost_series += len(catalog.bridge_gap(record.payload))
                catalog.decode_series(record.payload)
            elif record.type == wal_records.METADATA:
                entries = decode_entries(record.payload)
                if metadata is not None:
                    metadata.update(entries)
            elif record.type == wal_records.EXEMPLARS:
                found = decode_exemplars(record.payload)
                rows = np.flatnonzero(catalog.has(found.refs))
                report.n_orphan_samples += len(found) - len(rows)
                if exemplars is not None and len(rows):
                    exemplars.add(found.take(rows))
            elif record.type in (wal_records.FLOATS, wal_records.HISTOGRAMS):
                batch = _decode_samples(record.type, record.payload)
                known = _known_samples(batch, catalog)
                report.n_orphan_samples += len(batch) - len(known)
                report.n_replayed_samples += len(known)
                if heads is not None and len(known):
                    heads.head.append(known, record.seq)
            elif record.type == wal_records.TOMBSTONE:
                tombstone = decode_tombstone(record.payload, record.seq)
                if heads is not None and exemplars is not None:
                    heads.delete(tombstone, record.segment, catalog.next_ref, exemplars)
        except CorruptionError as error:
            report.damage.append((path, record.offset, error.reason))
    report.damage += records.report.damage
    report.torn_tails += records.report.torn_tails
    return ReplayedLog(records.report, report)


@dataclass(slots=True)
class ReplayedHeads:
    """What a replay makes: heads as they were before, frozen by deletes, and tombstones."""

    head: Head
    frozen: list[FrozenHead]
    tombstones: list[Tombstone]

    def delete(
        self, tombstone: Tombstone, segment: int, next_ref: int, exemplars: ExemplarStore
    ) -> None:
        """Freeze the head, as the log was cut before each tombstone, and take that in."""
        if self.head.n_samples:
            self.head.freeze()
            seq = max((known.seq for known in self.tombstones), default=-1)
            frozen = FrozenHead(self.head, segment, next_ref, tombstone.seq, exemplars.mark(), seq)
            self.frozen.append(frozen)
            self.head = self.head.successor()
        exemplars.delete(tombstone)
        self.tombstones.append(tombstone)


def _decode_samples(record_type: int, payload: bytes) -> SampleBatch:
    if record_type == wal_records.HISTOGRAMS:
        return decode_histograms(payload)
    batch = wal_records.decode_floats(payload)
    # Logs from before there were histograms may hold such floats.
    if is_handle(batch.bits).any():
        return replace(batch, bits=without_handles(batch.bits))
    return batch


def _known_samples(batch: SampleBatch, catalog: Catalog) -> SampleBatch:
    """Samples whose series survived; others would be given to a series of the wrong name."""
    known = catalog.has(batch.refs)
    return batch if known.all() else batch.take(np.flatnonzero(known))
