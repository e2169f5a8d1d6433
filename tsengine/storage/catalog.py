"""The series catalog: labels to series refs and back.

This file is the writer's side: scan bodies, find or insert series, hand series to the log. Reading
is `CatalogView`, an immutable state. Identity is exact: a series is a row of pair ids in bytewise
order of label names, a pair two symbol ids, a symbol its bytes; each is compared when looked up.
Only the senders' memo trusts a fingerprint (see `tsengine.kernels.hashing` for its bound).

Writer methods: one thread at a time (the caller holds the lane's lock). `view`: any thread.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from tsengine.errors import (
    AppendLimitExceeded,
    CorruptionError,
    InvalidLabels,
    MalformedRequest,
)
from tsengine.kernels import catalog as kernels
from tsengine.kernels import protowire
from tsengine.model.batch import SampleBatch
from tsengine.model.exemplars import ExemplarBatch
from tsengine.model.metadata import METRIC_TYPES, MetadataEntry, family_name
from tsengine.options import LabelLimits
from tsengine.storage import catalog_payload, rejects
from tsengine.storage.array_bytes import array_bytes
from tsengine.storage.catalog_view import CatalogView
from tsengine.storage.columns import ColumnPart
from tsengine.storage.index import PostingsBuilder
from tsengine.storage.interning import NONE, HashKeys, Interner, metric_symbols
from tsengine.storage.label_sets import LabelSets, label_sets_of_mappings, with_type_and_unit
from tsengine.storage.matching import RegexCache
from tsengine.storage.memo import MemoEntries, SenderMemo
from tsengine.storage.recent_refs import RecentRefs
from tsengine.storage.ref_map import NO_HOLES
from tsengine.storage.refused_refs import RefusedRefs
from tsengine.storage.rejects import Reject
from tsengine.storage.remote_write import RemoteWriteScanner, Rows
from tsengine.storage.scratch import Scratch

__all__ = ["Catalog", "CatalogView", "Reject", "ScanResult"]

MEMO_SIZE_BYTES_MAX = 256 * 1024 * 1024
LOST_SERIES = "tsengine_lost_series"
"""Metric name of series whose labels were lost with a damaged piece of the log."""
METADATA_SEEN_MAX = 200_000
_METADATA_SEEN_BYTES = 170
_LIMIT_ROUNDS_MAX = 8
_ENTRY_BYTES = 4
"""What a label of a series takes in postings."""


@dataclass(frozen=True, slots=True)
class ScanResult:
    """What one body brought.

    ``batch`` holds the samples of all series that were not refused: first ``n_floats`` float
    samples, then histograms, both in the body's order; so a histogram wins over a float of the
    same series and time. New series have refs ``first_new_ref <= ref < first_new_ref + n_new``.
    ``n_shed`` counts the refused ones that are new and over a limit of series or memory.
    ``metadata`` holds only what differs from what was last said about a metric.
    """

    batch: SampleBatch
    n_floats: int
    exemplars: ExemplarBatch | None
    first_new_ref: int
    n_new: int
    rejected: tuple[Reject, ...]
    metadata: tuple[MetadataEntry, ...]
    n_shed: int


def scan_of_known(batch: SampleBatch, next_ref: int) -> ScanResult:
    """What a body of known series brought."""
    return ScanResult(batch, len(batch), None, next_ref, 0, (), (), 0)


class Catalog:
    """All series of one database.

    Parameters
    ----------
    secret
        32 random bytes, made once per database; keys all hashes.
    limits
        What a label set may be.
    max_series
        Series that may exist.
    type_and_unit_labels
        New series of remote write 2.0 get the labels ``__type__`` and ``__unit__`` of their
        metadata (Prometheus's feature of that name).

    """

    def __init__(
        self,
        *,
        secret: bytes,
        limits: LabelLimits,
        max_series: int,
        type_and_unit_labels: bool = False,
    ) -> None:
        assert len(secret) == 32, "the manifest keeps 32 bytes"
        self._secret = secret
        self._limits = limits
        self._max_series = min(max_series, NONE - 1)
        self.memory_max_series = NONE
        """Series that there is memory for; set by whoever counts it. Lane only."""
        self._type_and_unit_labels = type_and_unit_labels
        self._keys = HashKeys.derive(secret)
        self._interner = Interner(self._keys)
        self._ref_map = NO_HOLES
        self._used: npt.NDArray[np.bool_] | None = None
        self._refused: RefusedRefs | None = None
        self._memo = SenderMemo(MEMO_SIZE_BYTES_MAX)
        self._scanner = RemoteWriteScanner(self._keys.spans)
        self._postings = PostingsBuilder()
        # Hashes of metrics and of what was said last: small whatever the texts are.
        self._metadata: dict[int, int] = {}
        self._view = self._new_view({})

    @property
    def n_series(self) -> int:
        """Number of series, published or not."""
        return self._interner.n_series

    @property
    def next_ref(self) -> int:
        """The ref of the next new series."""
        return self._ref_map.next_ref(self.n_series)

    def has(self, refs: npt.NDArray[np.integer]) -> npt.NDArray[np.bool_]:
        """Which refs, of any numbers, are there, published or not: bool[N]."""
        return self._ref_map.has(refs, self.n_series)

    def view(self) -> CatalogView:
        """The published series. Any thread."""
        return self._view

    def publish(self) -> None:
        """Make all series so far visible to `view`; called when they are durable."""
        if self.next_ref != self._view.next_ref:
            self._view = self._new_view(self._view.regex_cache)

    def _new_view(self, regex_cache: RegexCache) -> CatalogView:
        state = self._interner.state()
        return CatalogView.of(state, self._ref_map, self._keys, self._postings, regex_cache)

    def scan_remote_write(
        self,
        body: bytes | memoryview,
        *,
        version: int,
        sender: str = "",
        on_unknown: Callable[[], None] | None = None,
    ) -> ScanResult:
        """Take a decompressed body of remote write 1.0 or 2.0 apart, inserting new series.

        Parameters
        ----------
        body
            Protobuf bytes; not kept.
        version
            1 or 2.
        sender
            Named in the error's text.
        on_unknown
            Called before series may be made: the time to set `memory_max_series`.

        Raises
        ------
        MalformedRequest
            The body as a whole is refused; nothing was inserted.

        """
        first_new_ref = self.next_ref
        known = self.scan_known(body) if version == 1 else None
        if known is not None:
            return scan_of_known(known, first_new_ref)
        if on_unknown is not None:
            on_unknown()
        try:
            rows = self._scanner.scan(body, version)
            listed = rows.listed_metadata()
            refs, refused, metadata, n_shed = self._resolve(rows)
        except MalformedRequest as error:
            if not sender:
                raise
            raise MalformedRequest(f"{sender}: {error}") from None
        floats = _float_batch(rows, refs)
        return ScanResult(
            _with_histograms(floats, rows, refs),
            len(floats),
            _exemplar_batch(rows, refs),
            first_new_ref,
            self.next_ref - first_new_ref,
            refused,
            (*self._news(listed), *metadata),
            n_shed,
        )

    def scan_known(self, body: bytes | memoryview) -> SampleBatch | None:
        """Samples of a 1.0 body of nothing but known series and floats; None for any other.

        The batch is the caller's. Raises Overloaded if some are refused for the moment.
        """
        known = self._scanner.scan_known(body, self._memo, self.next_ref)
        if known is not None:
            self.note_used(known.refs)
        return known

    def series_refs(
        self, label_sets: Sequence[Mapping[str, str]]
    ) -> tuple[npt.NDArray[np.uint32], int, int]:
        """Refs u32[S] of label sets, inserting new ones; the first new ref and how many are new.

        Raises
        ------
        InvalidLabels, AppendLimitExceeded
            Nothing was inserted.

        """
        first_new_ref = self.next_ref
        given = label_sets_of_mappings(label_sets)
        canonical, statuses = given.checked(self._limits)
        if statuses.any():
            row = int(np.flatnonzero(statuses)[0])
            reason = rejects.label_reason(int(statuses[row]), self._limits)
            raise InvalidLabels(f"{given.text(row)}: {reason}")
        room = self._room
        if len(canonical) > room:
            known = canonical.intern(self._interner, insert=False)
            rows = np.flatnonzero(known == NONE).tolist()
            unknown = {frozenset(label_sets[row].items()) for row in rows}
            if len(unknown) > room:
                if self.memory_max_series < self._max_series:
                    raise AppendLimitExceeded(f"there is no memory for {len(unknown)} new series")
                raise AppendLimitExceeded(
                    f"{len(unknown)} new series would exceed the limit of {self._max_series}"
                )
        refs = self._ref_map.refs_of(canonical.intern(self._interner, insert=True))
        self.note_used(refs)
        return refs, first_new_ref, self.next_ref - first_new_ref

    def encode_series(self, first_ref: int, n: int) -> bytes:
        """Series ``first_ref <= ref < first_ref + n``, self-contained (docs/format/catalog.md)."""
        return catalog_payload.encode(self._interner.state(), self._ref_map, first_ref, n)

    def decode_series(self, payload: bytes | memoryview) -> None:
        """Take a payload's series over; those already there must be the same.

        Raises
        ------
        CorruptionError
            The payload breaks the format, leaves a gap, or contradicts a known series.

        """
        self._ref_map = catalog_payload.decode(self._interner, self._ref_map, payload)

    def series_bytes(self) -> int:
        """Memory of all series, with the postings that the next query may build. Any thread."""
        view = self._view
        n_entries = int(view.state.row_offsets[view.n_series]) + view.n_pairs
        postings = max(array_bytes(self._postings), _ENTRY_BYTES * n_entries)
        return array_bytes(self._interner, view.refs, view.regex_cache, view.found) + postings

    def sender_bytes(self) -> int:
        """Memory of what is known of senders' bytes, and of the scan. Any thread."""
        return array_bytes(self._memo, self._scanner)

    def metadata_seen_bytes(self) -> int:
        """Memory of what is known of metadata that were sent before. Any thread."""
        return len(self._metadata) * _METADATA_SEEN_BYTES

    def note_recent(self, recent: RecentRefs) -> None:
        """What is known of bytes of senders may be forgotten for idle series."""
        self._memo.note_recent(recent)

    def parts_to_spill(self) -> list[ColumnPart]:
        """See `Interner.parts_to_spill`."""
        return self._interner.parts_to_spill()

    def spill_postings(self, scratch: Scratch, is_over: Callable[[], bool]) -> bool:
        """Let large postings lie in scratch files; False if it was over before.

        Any thread; raises OSError.
        """
        return self._postings.spill(scratch, is_over)

    def watch_use(self) -> None:
        """From now on remember which of the refs there are now were found or used."""
        self._used = np.zeros(self.next_ref, np.bool_)

    def end_watch(self, guard: RefusedRefs | None) -> None:
        """Remember no longer what is used; what ``guard`` refused is taken again."""
        self._used = None
        if self._refused is guard:
            self._refused = None

    @property
    def used(self) -> npt.NDArray[np.bool_]:
        """By ref: what was found or used since `watch_use`. Not to be written."""
        assert self._used is not None, "after watch_use"
        return self._used

    def note_used(self, refs: npt.NDArray[np.uint32]) -> None:
        """Samples of these series come in; raises Overloaded if they are refused for the moment."""
        if self._refused is not None:
            self._refused.check(refs)
        if self._used is not None:
            self._used[refs[refs < len(self._used)]] = True

    def refuse(self, refused: RefusedRefs | None) -> None:
        """Take no samples of some series until it is known whether they were dropped."""
        self._refused = refused

    def memo_entries(self) -> MemoEntries:
        """A copy of what is known of the senders' bytes."""
        return self._memo.entries()

    def empty_copy(self) -> Catalog:
        """A catalog of the same keys and limits without series."""
        return Catalog(
            secret=self._secret,
            limits=self._limits,
            max_series=self._max_series,
            type_and_unit_labels=self._type_and_unit_labels,
        )

    def catch_up(self, view: CatalogView) -> None:
        """Take over the published series of another catalog that this one does not reach."""
        n = view.next_ref - self.next_ref
        if n:
            self.decode_series(catalog_payload.encode(view.state, view.refs, self.next_ref, n))

    def recall(self, entries: MemoEntries) -> None:
        """Know the senders' bytes of those series of a copy that are there."""
        found = entries.take(self.has(entries.refs))
        self._memo.insert(found.hashes, found.refs)

    def replace_by(self, other: Catalog) -> None:
        """Have the published series of another catalog and no more; `other` is used up.

        Refs that both have must be of the same series.
        """
        assert other.next_ref == self.next_ref, "refs are not given out twice"
        self._interner, self._ref_map = other._interner, other._ref_map
        self._postings, self._memo = other._postings, other._memo
        self._used = self._refused = None
        self._view = other.view()

    def bridge_gap(self, payload: bytes | memoryview) -> range:
        """Make stand-ins for series that are missing before those of `payload`; returns their refs.

        Their records were lost with damage. Stand-ins keep later series at their refs, and give
        samples of the lost ones a name: ``tsengine_lost_series{ref="..."}``.

        Raises
        ------
        CorruptionError, AppendLimitExceeded
        """
        lost = range(self.next_ref, catalog_payload.first_ref_of(payload))
        if lost:
            refs = self.series_refs([{"__name__": LOST_SERIES, "ref": str(ref)} for ref in lost])[0]
            if refs.tolist() != list(lost):
                raise CorruptionError(f"{LOST_SERIES} names other series already")
        return lost

    def _resolve(
        self, rows: Rows
    ) -> tuple[npt.NDArray[np.uint32], tuple[Reject, ...], tuple[MetadataEntry, ...], int]:
        """Refs u32[n] of all rows, NONE where nothing is stored; refusals; news; how many are shed.

        Labels of everything not found in the memo are parsed before the first insert, so that a
        malformed body leaves nothing behind.
        """
        refs, misses = self._memo.find(rows.hashes, rows.n)
        self.note_used(refs)
        if rows.is_plain and not len(misses):
            return refs, (), (), 0
        n_stored = rows.sample_counts()
        refused_rows = _NO_ROWS
        if rows.nested is not None:
            n_stored += rows.nested.counts_by_row(rows.n)
            refused_rows = rows.nested.refused_rows()
        fine = (rows.statuses == protowire.ROW_OK) & (n_stored > 0)
        refs[~fine] = NONE
        is_asked = refs == NONE
        is_asked[refused_rows] = True
        asked = np.flatnonzero(is_asked)
        if not len(asked):
            return refs, (), (), 0
        given = rows.label_sets(asked)
        columns = rows.metadata_columns(asked) if self._type_and_unit_labels else None
        if columns is not None:
            given = with_type_and_unit(given, columns[0], columns[2])
        new = np.flatnonzero((refs[asked] == NONE) & fine[asked])
        missed = asked[new]
        canonical, broken = (given if len(new) == len(asked) else given.take(new)).checked(
            self._limits
        )
        found = self._insert_within_limit(canonical)
        self.note_used(found)
        refs[missed] = found
        self._memo.insert(rows.hashes.reshape(-1, 2)[missed].ravel(), found)
        reasons = rejects.of_row_statuses(rows.statuses)
        is_shed = (broken == kernels.LABELS_OK) & (found == NONE)
        has_memory = self._max_series <= self.memory_max_series
        broken[is_shed] = rejects.SERIES_LIMIT if has_memory else rejects.MEMORY_LIMIT
        reasons[missed] = broken
        refused = rejects.describe(
            rows, asked, given, reasons, limits=self._limits, max_series=self._max_series
        )
        stored = found != NONE
        news = self._series_metadata(rows, missed[stored], found[stored])
        return refs, refused, news, int(is_shed.sum())

    def _insert_within_limit(self, label_sets: LabelSets) -> npt.NDArray[np.uint32]:
        """Refs u32[R] of checked rows; NONE for empty rows and what the limit keeps out.

        Near the limit series are looked up before any of their symbols is kept.
        """
        if len(label_sets) <= self._room:
            return self._ref_map.refs_of(label_sets.intern(self._interner, insert=True))
        refs = label_sets.intern(self._interner, insert=False)
        sizes = np.diff(label_sets.row_ends, prepend=0)
        for _ in range(_LIMIT_ROUNDS_MAX):
            unknown = np.flatnonzero((refs == NONE) & (sizes > 0))[: max(self._room, 0)]
            if not len(unknown):
                break
            label_sets.take(unknown).intern(self._interner, insert=True)
            refs = label_sets.intern(self._interner, insert=False)
        return self._ref_map.refs_of(refs)

    @property
    def _room(self) -> int:
        """New series that may come in."""
        most = min(self._max_series, self.memory_max_series)
        return min(most - self.n_series, NONE - 1 - self.next_ref)

    def _series_metadata(
        self, rows: Rows, which: npt.NDArray[np.int64], refs: npt.NDArray[np.uint32]
    ) -> tuple[MetadataEntry, ...]:
        """News in the series' own metadata (2.0) of rows that were not in the memo.

        A row's metadata is part of its fingerprint there, so a change is always a miss.
        """
        columns = rows.metadata_columns(which)
        if columns is None:
            return ()
        types, helps, units = columns
        # Senders attach an empty message where they know nothing.
        given = (types > 1) | (helps > 0) | (units > 0)
        if not given.any():
            return ()
        state = self._interner.state()
        series = self._ref_map.rows_of(refs[given], state.n_series).astype(np.uint32)
        metrics = metric_symbols(state, series, self._keys)
        combined = np.stack((metrics, types[given] - 1, helps[given], units[given]))
        combined = combined[:, np.lexsort(combined)]
        first = np.ones(combined.shape[1], np.bool_)
        first[1:] = (combined[:, 1:] != combined[:, :-1]).any(axis=0)
        entries = []
        for metric, kind, help_symbol, unit in combined[:, first].T.tolist():
            start, end = state.text_offsets[metric : metric + 2]
            name = state.text[start:end].tobytes().decode()
            entries.append(
                MetadataEntry(
                    family_name(name, METRIC_TYPES[kind]),
                    METRIC_TYPES[kind],
                    rows.symbol_text(help_symbol),
                    rows.symbol_text(unit),
                )
            )
        return self._news(entries)

    def _news(self, entries: Sequence[MetadataEntry]) -> tuple[MetadataEntry, ...]:
        """Entries that differ from what was last said about their metric."""
        if len(self._metadata) > METADATA_SEEN_MAX:
            self._metadata.clear()
        news = []
        for entry in entries:
            metric, said = hash(entry.metric), hash(entry)
            if self._metadata.get(metric) != said:
                self._metadata[metric] = said
                news.append(entry)
        return tuple(news)


_NO_ROWS = np.empty(0, np.int64)


def _float_batch(rows: Rows, refs: npt.NDArray[np.uint32]) -> SampleBatch:
    """Float samples of rows that have a ref, in the body's order; owned by the receiver."""
    if rows.is_plain and rows.n_samples == rows.n:
        # One sample a row.
        sample_refs = refs
    else:
        sample_refs = np.repeat(refs, rows.sample_counts())
    start_ms = None if rows.nested is None else rows.nested.start_ms
    stored = sample_refs != NONE
    if stored.all():
        return SampleBatch(sample_refs, rows.t_ms.copy(), rows.bits.copy(), start_ms=start_ms)
    batch = SampleBatch(sample_refs, rows.t_ms, rows.bits, start_ms=start_ms)
    return batch.take(np.flatnonzero(stored))


def _with_histograms(floats: SampleBatch, rows: Rows, refs: npt.NDArray[np.uint32]) -> SampleBatch:
    """The batch with the histograms of rows that have a ref behind its floats."""
    if rows.nested is None or not len(rows.nested.histograms.rows):
        return floats
    found = rows.nested.histograms
    every = SampleBatch(refs[found.rows], found.t_ms, found.bits, found.table, found.start_ms)
    stored = every.take(np.flatnonzero((found.statuses == 0) & (every.refs != NONE)))
    starts = [
        np.zeros(len(batch), np.int64) if batch.start_ms is None else batch.start_ms
        for batch in (floats, stored)
    ]
    start_ms = np.concatenate(starts)
    return SampleBatch(
        np.concatenate([floats.refs, stored.refs]),
        np.concatenate([floats.t_ms, stored.t_ms]),
        np.concatenate([floats.bits, stored.bits]),
        stored.histograms,
        start_ms if start_ms.any() else None,
    )


def _exemplar_batch(rows: Rows, refs: npt.NDArray[np.uint32]) -> ExemplarBatch | None:
    """Exemplars of rows that have a ref; None if there are none."""
    if rows.nested is None:
        return None
    found = rows.nested.exemplars
    exemplar_refs = refs[found.rows]
    stored = np.flatnonzero((found.statuses == 0) & (exemplar_refs != NONE))
    if not len(stored):
        return None
    return replace(found.batch, refs=exemplar_refs).take(stored)
