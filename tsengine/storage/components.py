"""The components of an open part: histograms and start timestamps, stored as columns of floats.

Immutable and thread-safe. Blocks are found and decoded by `PartBlocks`; two kernels make histograms
of them, so no Python runs per sample or bucket. Docs/format/components.md has the format.
"""

from __future__ import annotations

import os

import google_crc32c
import numpy as np
import numpy.typing as npt

from tsengine.errors import CorruptionError
from tsengine.kernels.histogramcolumns import (
    N_NUMBERS,
    gather_components,
    match_times,
    place_components,
)
from tsengine.kernels.jit import ERR_CORRUPT
from tsengine.model.batch import SeriesColumns
from tsengine.model.histograms import CUSTOM_SCHEMA, HINT_GAUGE, Histograms
from tsengine.storage import part_format
from tsengine.storage.component_format import (
    COUNT_KEY,
    START_KEY,
    START_MS_MAX,
    ComponentTable,
    decode_table,
)
from tsengine.storage.filesystem import FileSystem
from tsengine.storage.head_read import is_among, meet, sorted_unique
from tsengine.storage.part_blocks import PartBlocks
from tsengine.storage.part_select import PartPieces
from tsengine.storage.pieces import I64Array, U32Array, U64Array, expand_ranges, offsets_of
from tsengine.storage.scratch import Scratch, with_spilled


class Components:
    """Components that can be read until they are closed; made by `Components.open`."""

    def __init__(self, directory: str, blocks: PartBlocks, table: ComponentTable) -> None:
        self._directory = directory
        self._blocks = blocks
        self._table = table
        self._starts = np.flatnonzero(table.keys == START_KEY)
        self._start_refs = table.refs[self._starts]
        self._histogram_refs = sorted_unique(table.refs[table.keys == COUNT_KEY])

    @classmethod
    def open(cls, fs: FileSystem, directory: str, files: I64Array, refs: U32Array) -> Components:
        """Open the folder ``directory`` inside a part with the series ``refs``.

        ``files`` is the section COMPONENT_FILES of the part's index. Raises CorruptionError,
        UnsupportedFormat, and OSError as the file system does.
        """
        path = os.path.join(directory, part_format.INDEX_FILE)
        index_size, index_crc, table_size, table_crc = files.tolist()
        data = _read_whole(fs, path, index_size, index_crc)
        header, sections = part_format.decode_index_table(data, path)
        table_path = os.path.join(directory, part_format.TABLE_FILE)
        table = decode_table(_read_whole(fs, table_path, table_size, table_crc), table_path)
        if not is_among(table.refs, refs).all():
            raise CorruptionError("components of a series that is not in the part", path=table_path)
        blocks = PartBlocks.open(fs, directory, data, header, sections)
        if not np.array_equal(blocks.index.refs, np.arange(len(table))):
            blocks.close()
            raise CorruptionError("the components are not those of the table", path=path)
        return cls(directory, blocks, table)

    @property
    def remote_bytes(self) -> int:
        """Bytes that are in an object store."""
        return self._blocks.remote_bytes

    def close(self) -> None:
        """Close the files; reads that are under way may fail."""
        self._blocks.close()

    def spill(self, scratch: Scratch) -> None:
        """Let index and table lie in scratch files, if they are large; raises OSError."""
        self._blocks.spill(scratch)
        self._table = with_spilled(scratch, self._table)

    def verify(self) -> None:
        """Read all payload bytes and compare the files' checksums; raises CorruptionError."""
        self._blocks.verify()

    @property
    def has_starts(self) -> bool:
        """Whether there are start timestamps."""
        return len(self._starts) > 0

    def has_histograms(self, refs: U32Array, mint: int, maxt: int) -> bool:
        """Whether a series of ``refs`` has histograms and the closed range is touched at all."""
        header = self._blocks.header
        if header.mint > maxt or header.maxt < mint:
            return False
        return meet(refs, self._histogram_refs)

    def count_samples(self, refs: U32Array, mint: int, maxt: int) -> int:
        """Numbers that the histograms of the series ``refs`` (ascending) have in a closed range."""
        virtual, _ = self._of_histograms(refs)
        return self._blocks.count_samples(virtual, mint, maxt)

    def series_samples(self, mint: int, maxt: int) -> tuple[U32Array, I64Array]:
        """``(refs, numbers of each in blocks that touch the range)``, from the index alone."""
        refs = sorted_unique(self._table.refs)
        counts = np.zeros(len(refs), np.int64)
        row = np.searchsorted(refs, self._table.refs)
        np.add.at(counts, row, self._blocks.index.series_samples(mint, maxt))
        return refs, counts

    def start_times(self, refs: U32Array | None, mint: int, maxt: int) -> SeriesColumns | None:
        """Start timestamps of samples that have one, bits being those of the i64 ms.

        Of the series ``refs`` (ascending; None takes all) with mint <= t <= maxt; None if there
        are none. Raises CorruptionError.
        """
        chosen = self._starts
        if refs is not None:
            chosen = chosen[is_among(self._start_refs, refs)]
        if len(chosen) == 0:
            return None
        columns = self._blocks.collect(chosen.astype(np.uint32), mint, maxt)
        start_ms = columns.bits.view(np.float64)
        if not (np.abs(start_ms) < START_MS_MAX).all():
            raise self._damage("a start timestamp out of range")
        is_known = start_ms != 0
        kept = np.add.reduceat(is_known.astype(np.int64), columns.offsets[:-1])
        if not kept.any():
            return None
        return SeriesColumns(
            self._table.refs[columns.refs[kept > 0]],
            offsets_of(kept[kept > 0]),
            columns.t_ms[is_known],
            start_ms[is_known].astype(np.int64).view(np.uint64),
        )

    def histograms_of(self, refs: U32Array, t_ms: I64Array) -> Histograms:
        """The histograms of samples of the part, in their order.

        ``refs: u32[R]`` and ``t_ms: i64[R]`` ascend by (ref, time), strictly; R is at least 1.
        Raises CorruptionError if one is not there.
        """
        runs = np.flatnonzero(np.append(True, refs[1:] != refs[:-1]))
        virtual, run_of = self._of_histograms(refs[runs])
        pieces = self._blocks.pieces(virtual, int(t_ms.min()), int(t_ms.max()))
        # Every group starts with its counts.
        keys = self._table.keys[virtual]
        heads = np.flatnonzero(keys == COUNT_KEY)
        group = (np.cumsum(keys == COUNT_KEY) - 1)[pieces.rows]
        piece_keys = keys[pieces.rows].astype(np.int64)
        group_offsets, group_t = _times_of_groups(pieces, group, piece_keys, len(heads))

        slots = np.empty(len(group_t), np.int64)
        run_offsets = np.append(runs, len(refs))
        of_group = run_of[heads]
        n_found = match_times(
            group_offsets[:-1], np.diff(group_offsets), group_t, run_offsets[of_group],
            run_offsets[of_group + 1], t_ms, slots,
        )  # fmt: skip
        wanted = np.flatnonzero(slots >= 0)
        layout = np.full(len(refs), -1, np.int64)
        layouts = self._table.layouts[virtual[heads]] - 1
        layout[slots[wanted]] = np.repeat(layouts, np.diff(group_offsets))[wanted]
        if n_found != len(refs) or (len(layout) and int(layout.min()) < 0):
            raise self._damage("histograms are missing, or there twice")
        numbers, offsets, out_keys, counts = self._gather(
            pieces, group, piece_keys, group_offsets, group_t, slots, len(refs)
        )
        return self._assemble(layout, numbers, offsets, out_keys, counts)

    def _gather(
        self,
        pieces: PartPieces,
        group: I64Array,
        keys: I64Array,
        group_offsets: I64Array,
        group_t: I64Array,
        slots: I64Array,
        n_histograms: int,
    ) -> tuple[U64Array, I64Array, npt.NDArray[np.int32], U64Array]:
        """``(numbers: u64[4, R], offsets: i64[R + 1], keys, counts)`` of the wanted histograms."""
        positions = offsets_of(pieces.sizes)
        bits = np.empty(positions[-1], np.uint64)
        pieces.copy_values(np.arange(len(keys)), bits, positions[:-1])
        rows, sizes = np.empty(len(keys), np.int64), np.zeros(n_histograms, np.int64)
        status = place_components(
            group_offsets, group_t, slots, group, keys, pieces.first_t, pieces.last_t,
            pieces.sizes, positions[:-1], bits, rows, sizes,
        )  # fmt: skip
        if status == ERR_CORRUPT:
            raise self._damage("a component has other times than its histograms")
        offsets = offsets_of(sizes)
        numbers = np.zeros(N_NUMBERS * n_histograms, np.uint64)
        out_keys = np.empty(offsets[-1], np.int32)
        counts = np.empty(offsets[-1], np.uint64)
        gather_components(
            slots, rows, keys, pieces.sizes, positions[:-1], bits, n_histograms,
            offsets[:-1].copy(), numbers, out_keys, counts,
        )  # fmt: skip
        return numbers.reshape(N_NUMBERS, n_histograms), offsets, out_keys, counts

    def _assemble(
        self,
        layout: I64Array,
        numbers: U64Array,
        offsets: I64Array,
        keys: npt.NDArray[np.int32],
        counts: U64Array,
    ) -> Histograms:
        """The columns as a table; only the bounds that are in use come with it."""
        layouts = self._table.layout_table
        used = np.zeros(len(layouts.schema), np.bool_)
        used[layout] = True
        custom = np.flatnonzero(used & (layouts.schema == CUSTOM_SCHEMA))
        bounds_of = np.full(len(used), -1, np.int32)
        bounds_of[custom] = np.arange(len(custom))
        starts = layouts.bounds_offsets[custom]
        sizes = layouts.bounds_offsets[custom + 1] - starts
        hint = numbers[3].view(np.float64)
        if not ((hint >= 0) & (hint <= HINT_GAUGE) & (hint == np.floor(hint))).all():
            raise self._damage("a counter reset hint that is not known")
        return Histograms(
            schema=layouts.schema[layout],
            hint=hint.astype(np.uint8),
            count=numbers[0].view(np.float64),
            sum=numbers[1].view(np.float64),
            zero_threshold=layouts.zero_threshold[layout],
            zero_count=numbers[2].view(np.float64),
            offsets=offsets,
            keys=keys,
            counts=counts.view(np.float64),
            bounds_id=bounds_of[layout],
            bounds_offsets=offsets_of(sizes),
            bounds=layouts.bounds[expand_ranges(starts, sizes)],
        )

    def _of_histograms(self, refs: U32Array) -> tuple[U32Array, I64Array]:
        """``(virtual series of the histograms of ascending refs, index of their ref)``."""
        low = np.searchsorted(self._table.refs, refs, side="left")
        sizes = np.searchsorted(self._table.refs, refs, side="right") - low
        virtual = expand_ranges(low, sizes)
        row = np.repeat(np.arange(len(refs)), sizes)
        is_wanted = self._table.keys[virtual] != START_KEY
        return virtual[is_wanted].astype(np.uint32), row[is_wanted]

    def _damage(self, what: str) -> CorruptionError:
        return CorruptionError(what, path=os.path.join(self._directory, part_format.TABLE_FILE))


def _times_of_groups(
    pieces: PartPieces, group: I64Array, keys: I64Array, n_groups: int
) -> tuple[I64Array, I64Array]:
    """Times of the groups' histograms, those of their counts: ``(offsets: i64[G + 1], t_ms)``."""
    which = np.flatnonzero(keys == COUNT_KEY)
    sizes = np.zeros(n_groups, np.int64)
    np.add.at(sizes, group[which], pieces.sizes[which])
    positions = offsets_of(pieces.sizes[which])
    t_ms = np.empty(positions[-1], np.int64)
    pieces.copy_times(which, t_ms, positions[:-1])
    return offsets_of(sizes), t_ms


def _read_whole(fs: FileSystem, path: str, size: int, crc: int) -> bytes:
    """A file that the part's index vouches for."""
    data = fs.read_file(path)
    if len(data) != size:
        raise CorruptionError(
            f"the file has {len(data)} bytes, the part's index says {size}", path=path
        )
    if google_crc32c.value(data) != crc:
        raise CorruptionError("wrong checksum of the file", path=path)
    return data
