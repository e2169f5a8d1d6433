"""Postings: key to ascending numbers, as immutable segments over ranges of rows.

Used twice: label pair -> series refs, and label name -> pairs. The rows themselves are the log of
entries (they are append-only), so a segment can be built, or several be merged, from them at any
time. So the writer builds none: whoever asks first builds what is missing, for all, in segments of
at least 64 Ki entries, eight of a kind merged; what is newer, it sorts for itself alone.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tsengine.kernels import postings as kernels
from tsengine.storage.interning import InternedState
from tsengine.storage.scratch import Scratch, with_spilled

_ENTRIES_MIN = 64 * 1024
_ENTRIES_MAX = 64 * _ENTRIES_MIN
_MERGED_AT_ONCE = 8
_KEYS_PER_ENTRY_MAX = 4
"""With more keys than so many times the entries, these are sorted digit by digit."""


@dataclass(slots=True, eq=False)
class Segment:
    """Entries of rows ``first <= row < last``: ``rows[offsets[k]:offsets[k + 1]]`` have keys[k].

    Shapes: ``keys: u32[K]`` ascending, ``offsets: u32[K + 1]``, ``rows: u32[E]``. What they hold
    never changes, only where it lies.
    """

    first: int
    last: int
    keys: npt.NDArray[np.uint32]
    offsets: npt.NDArray[np.uint32]
    rows: npt.NDArray[np.uint32]

    def spill(self, scratch: Scratch) -> None:
        """Let the arrays lie in a scratch file, if they are large; raises OSError."""
        copy = with_spilled(scratch, self)
        if copy is not self:
            copy.rows.flags.writeable = False
            self.keys, self.offsets, self.rows = copy.keys, copy.offsets, copy.rows


class _SharedSegments:
    """Segments that all postings of one catalog share: they grow when one is asked. Any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._segments: tuple[Segment, ...] = ()

    def covering(
        self,
        row_offsets: npt.NDArray[np.int64] | None,
        row_keys: npt.NDArray[np.uint32],
        n_rows: int,
    ) -> tuple[Segment, ...]:
        """Segments of rows below ``n_rows``, of all of them but for a small tail.

        Who asks after others who have more rows may find fewer: a segment may hold later rows too.
        """
        with self._lock:
            if not self._segments or self._segments[-1].last < n_rows:
                self._segments = _advanced(self._segments, row_offsets, row_keys, n_rows)
            segments = self._segments
        return tuple(segment for segment in segments if segment.last <= n_rows)

    def spill(self, scratch: Scratch, is_over: Callable[[], bool]) -> bool:
        """Let large segments lie in scratch files; False if it was over before. Raises OSError."""
        for segment in self._segments:
            if is_over():
                return False
            segment.spill(scratch)
        return True


class Postings:
    """All entries of the first n_rows rows. Immutable to its users; any thread."""

    def __init__(
        self,
        shared: _SharedSegments,
        row_offsets: npt.NDArray[np.int64] | None,
        row_keys: npt.NDArray[np.uint32],
        n_rows: int,
    ) -> None:
        self._shared = shared
        self._row_offsets = row_offsets
        self._row_keys = row_keys
        self._n_rows = n_rows
        self._complete: tuple[Segment, ...] | None = None

    def prepare(self) -> None:
        """Build what others will ask for."""
        self._shared.covering(self._row_offsets, self._row_keys, self._n_rows)

    def rows(self, key: int) -> npt.NDArray[np.uint32]:
        """Rows u32[n] that have a key, ascending; a copy or a view that must not be written."""
        parts = [rows[starts[0] : ends[0]] for rows, starts, ends in self._runs(_one(key))]
        if len(parts) == 1:
            return parts[0]
        return np.concatenate(parts) if parts else np.empty(0, np.uint32)

    def count(self, keys: npt.NDArray[np.uint32]) -> int:
        """Entries with any of the keys (u32[K], distinct)."""
        return sum(int((ends - starts).sum()) for _, starts, ends in self._runs(keys))

    def mark(self, keys: npt.NDArray[np.uint32], marks: npt.NDArray[np.bool_], value: bool) -> None:
        """Set the marks bool[n_rows] of all rows that have any of the keys (u32[K], distinct)."""
        for rows, starts, ends in self._runs(keys):
            kernels.mark_runs(rows, starts, ends, value, marks)

    def counts(self, n_keys: int) -> npt.NDArray[np.int64]:
        """Entries per key: i64[n_keys]."""
        counts = np.zeros(n_keys, np.int64)
        for segment in self._all():
            counts[segment.keys] += np.diff(segment.offsets)
        return counts

    def _runs(
        self, keys: npt.NDArray[np.uint32]
    ) -> Iterator[tuple[npt.NDArray[np.uint32], npt.NDArray[np.int64], npt.NDArray[np.int64]]]:
        for segment in self._all():
            places = np.searchsorted(segment.keys, keys)
            places = places[segment.keys[np.minimum(places, len(segment.keys) - 1)] == keys]
            if len(places):
                starts, ends = segment.offsets[places], segment.offsets[places + 1]
                yield segment.rows, starts.astype(np.int64), ends.astype(np.int64)

    def _all(self) -> tuple[Segment, ...]:
        """Segments of all rows. Two threads may both build the tail; either result will do."""
        complete = self._complete
        if complete is None:
            complete = self._shared.covering(self._row_offsets, self._row_keys, self._n_rows)
            first = complete[-1].last if complete else 0
            if first < self._n_rows:
                tail = _build(self._row_offsets, self._row_keys, first, self._n_rows)
                complete = (*complete, tail)
            self._complete = complete
        return complete


class PostingsBuilder:
    """What the postings of all states of one catalog share. Any thread."""

    def __init__(self) -> None:
        self._of_pairs = _SharedSegments()
        self._of_names = _SharedSegments()

    def series_of_pairs(self, state: InternedState) -> Postings:
        """Label pair -> series refs."""
        return Postings(self._of_pairs, state.row_offsets, state.row_pairs, state.n_series)

    def pairs_of_names(self, state: InternedState) -> Postings:
        """Label name (symbol) -> pairs."""
        return Postings(self._of_names, None, state.pair_names, state.n_pairs)

    def spill(self, scratch: Scratch, is_over: Callable[[], bool]) -> bool:
        """Let what is built and large lie in scratch files; False if it was over before.

        Raises OSError.
        """
        return self._of_pairs.spill(scratch, is_over) and self._of_names.spill(scratch, is_over)


def _advanced(
    segments: tuple[Segment, ...],
    row_offsets: npt.NDArray[np.int64] | None,
    row_keys: npt.NDArray[np.uint32],
    n_rows: int,
) -> tuple[Segment, ...]:
    """Segments that leave fewer than 64 Ki entries uncovered. Without offsets rows have one key."""
    made = list(segments)
    first = made[-1].last if made else 0
    while first < n_rows:
        if row_offsets is None:
            last, n_entries = min(n_rows, first + _ENTRIES_MAX), n_rows - first
        else:
            base = int(row_offsets[first])
            n_entries = int(row_offsets[n_rows]) - base
            last = int(np.searchsorted(row_offsets[: n_rows + 1], base + _ENTRIES_MAX))
            last = max(first + 1, min(n_rows, last))
        if n_entries < _ENTRIES_MIN:
            break
        made.append(_build(row_offsets, row_keys, first, last))
        first = last
        while (level := _mergeable_level(made)) is not None:
            merged = _build(row_offsets, row_keys, made[-_MERGED_AT_ONCE].first, last)
            assert level < _level(merged), "eight of a level make one of the next"
            made[-_MERGED_AT_ONCE:] = [merged]
    return tuple(made)


def _mergeable_level(segments: list[Segment]) -> int | None:
    """Level of the last eight segments if it is the same and not the highest."""
    levels = {_level(segment) for segment in segments[-_MERGED_AT_ONCE:]}
    if len(segments) < _MERGED_AT_ONCE or len(levels) > 1:
        return None
    level = levels.pop()
    return level if level < 2 else None


def _level(segment: Segment) -> int:
    size = len(segment.rows)
    return int(size >= _MERGED_AT_ONCE * _ENTRIES_MIN) + int(size >= _ENTRIES_MAX)


def _build(
    row_offsets: npt.NDArray[np.int64] | None,
    row_keys: npt.NDArray[np.uint32],
    first: int,
    last: int,
) -> Segment:
    if row_offsets is None:
        row_keys = row_keys[first:last]
        offsets = np.arange(last - first + 1)
        n = last - first
        begin, end, shift = 0, n, np.uint32(first)
    else:
        n = int(row_offsets[last] - row_offsets[first])
        offsets, begin, end, shift = row_offsets, first, last, np.uint32(0)
    n_keys = int(row_keys[offsets[begin] : offsets[end]].max(initial=0)) + 1
    if n_keys <= _KEYS_PER_ENTRY_MAX * n:
        rows = np.empty(n, np.uint32)
        ends = np.zeros(n_keys, np.int64)
        kernels.bucket_postings(offsets, row_keys, begin, end, ends, rows)
        found = np.flatnonzero(np.diff(ends, prepend=0))
        keys, ends = found.astype(np.uint32), ends[found]
    else:
        arrays = np.empty((4, n), np.uint32)
        counts = np.empty(kernels.DIGIT_BUCKETS, np.int64)
        where = kernels.sort_postings(offsets, row_keys, begin, end, *arrays, counts)
        entries, rows = arrays[2 * where], arrays[2 * where + 1]
        ends = np.append(np.flatnonzero(entries[1:] != entries[:-1]) + 1, [n] * (n > 0))
        # A copy: the other arrays would live as long as a view of theirs.
        keys, rows = entries[ends - 1], rows.copy()
    rows += shift
    # Readers hand parts of it out.
    rows.flags.writeable = False
    starts = np.concatenate((np.zeros(1, np.int64), ends)).astype(np.uint32)
    return Segment(first, last, keys, starts, rows)


def _one(key: int) -> npt.NDArray[np.uint32]:
    return np.array([key], np.uint32)
