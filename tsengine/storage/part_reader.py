"""An open part: its index in memory, its payloads by pread.

The index is checked once, when the part is opened: checksums, then that every number in it points
inside what it points into. Payloads carry checksums of their own and are checked whenever they are
decoded. Thread-safe; nothing changes after opening but the statistics, which are loaded when first
asked for.
"""

from __future__ import annotations

import os

import google_crc32c
import numpy as np

from tsengine.codecs.block import BlockStats
from tsengine.errors import CorruptionError
from tsengine.model.batch import SeriesColumns
from tsengine.storage import part_format
from tsengine.storage.filesystem import FileSystem, ReadFile
from tsengine.storage.manifest import PartEntry
from tsengine.storage.part_format import PartHeader
from tsengine.storage.part_index import REQUIRED_SECTIONS, PartIndex, build_index
from tsengine.storage.part_select import PartPieces, count_samples
from tsengine.storage.part_stats import STATISTICS, stats_of_columns
from tsengine.storage.pieces import I64Array, U32Array, offsets_of

_VERIFY_BYTES = 4 * 1024 * 1024


class PartReader:
    """A part that can be read until it is closed; made by `PartReader.open`."""

    def __init__(
        self,
        fs: FileSystem,
        directory: str,
        entry: PartEntry,
        header: PartHeader,
        index: PartIndex,
        axes: ReadFile,
        values: ReadFile,
    ) -> None:
        self._fs = fs
        self._directory = directory
        self._axes = axes
        self._values = values
        self._stats: BlockStats | None = None
        self.entry = entry
        self.header = header
        self.index = index

    @classmethod
    def open(cls, fs: FileSystem, directory: str, entry: PartEntry) -> PartReader:
        """Open the part whose files are in the folder ``directory``.

        Raises
        ------
        CorruptionError
            A checksum, a length or a number of the index is wrong, or does not fit ``entry``.
        UnsupportedFormat
            A newer version wrote the part.
        OSError
            As the file system does.

        """
        path = os.path.join(directory, part_format.INDEX_FILE)
        data = fs.read_file(path)
        header, sections = part_format.decode_index_table(data, path)
        if (
            (header.mint, header.maxt, header.n_samples, header.n_series)
            != (entry.mint, entry.maxt, entry.n_samples, entry.n_series)
            or (header.seq_min, header.seq_max) != (entry.seq_min, entry.seq_max)
            or header.level != entry.level
        ):  # fmt: skip
            raise CorruptionError("the index is not that of the part in the manifest", path=path)
        columns = {
            number: part_format.decode_section(data, sections[number], path)
            for number in sections.keys() & REQUIRED_SECTIONS
        }
        index = build_index(columns, header, path)
        axes = _open_payloads(
            fs, os.path.join(directory, part_format.AXES_FILE), part_format.AXES_MAGIC,
            header.axes_size_bytes,
        )  # fmt: skip
        try:
            values = _open_payloads(
                fs, os.path.join(directory, part_format.VALUES_FILE), part_format.VALUES_MAGIC,
                header.values_size_bytes,
            )  # fmt: skip
        except BaseException:
            axes.close()
            raise
        return cls(fs, directory, entry, header, index, axes, values)

    def close(self) -> None:
        """Close the files; reads that are under way may fail."""
        self._axes.close()
        self._values.close()

    @property
    def refs(self) -> U32Array:
        """Series of the part: ``u32[S]`` ascending, shared, not to be written."""
        return self.index.refs

    @property
    def stats(self) -> BlockStats:
        """Statistics of the payloads (index them by ``index.block_payload``); loaded once."""
        if self._stats is None:
            path = os.path.join(self._directory, part_format.INDEX_FILE)
            data = self._fs.read_file(path)
            _, sections = part_format.decode_index_table(data, path)
            if not sections.keys() >= set(STATISTICS):
                raise CorruptionError("the index lacks statistics", path=path)
            columns: dict[int, I64Array] = {
                number: part_format.decode_section(data, sections[number], path)
                for number in STATISTICS
            }
            index = self.index
            sizes = np.zeros(len(index.payload_offsets) - 1, np.int64)
            sizes[index.block_payload] = index.block_size
            if any(len(column) != len(sizes) for column in columns.values()):
                raise CorruptionError("statistics do not fit the payloads", path=path)
            self._stats = stats_of_columns(columns, sizes)
        return self._stats

    def pieces(self, refs: U32Array | None, mint: int, maxt: int) -> PartPieces:
        """Pieces of the series ``refs`` (ascending; None takes all) in a closed time range."""
        return PartPieces(self.index, self._axes, self._values, self._directory, refs, mint, maxt)

    def count_samples(self, refs: U32Array, mint: int, maxt: int) -> int:
        """Samples of the series in a closed time range, a close guess if many axes are cut by it.

        Reads no values. Raises CorruptionError.
        """
        return count_samples(self.index, self._axes, self._directory, refs, mint, maxt)

    def collect(self, refs: U32Array | None, mint: int, maxt: int) -> SeriesColumns:
        """Samples with mint <= t <= maxt of the series ``refs`` (ascending; None takes all).

        Series without samples in the range are left out. Raises CorruptionError.
        """
        wanted = self.refs if refs is None else refs
        pieces = self.pieces(refs, mint, maxt)
        counts = np.zeros(len(wanted), np.int64)
        np.add.at(counts, pieces.rows, pieces.sizes)
        found = np.flatnonzero(counts)
        offsets = offsets_of(counts[found])
        t_ms = np.empty(offsets[-1], np.int64)
        bits = np.empty(offsets[-1], np.uint64)
        # Pieces are ordered by series and time, so they follow each other in the output.
        positions = offsets_of(pieces.sizes)[:-1]
        every = np.arange(len(positions))
        pieces.copy_times(every, t_ms, positions)
        pieces.copy_values(every, bits, positions)
        return SeriesColumns(wanted[found], offsets, t_ms, bits)

    def verify(self) -> None:
        """Read all payload bytes and compare the files' checksums; raises CorruptionError."""
        for file, name, expected in (
            (self._axes, part_format.AXES_FILE, self.header.axes_crc),
            (self._values, part_format.VALUES_FILE, self.header.values_crc),
        ):
            crc = 0
            for offset in range(0, file.size, _VERIFY_BYTES):
                crc = google_crc32c.extend(crc, file.pread(offset, _VERIFY_BYTES))
            if crc != expected:
                raise CorruptionError(
                    "wrong checksum of the file", path=os.path.join(self._directory, name)
                )


def _open_payloads(fs: FileSystem, path: str, magic: bytes, size: int) -> ReadFile:
    """Open a payload file after checking its header and length."""
    file = fs.open_read(path)
    try:
        part_format.check_file_header(file.pread(0, part_format.FILE_HEADER_SIZE), magic, path)
        if file.size != size:
            raise CorruptionError(
                f"the file has {file.size} bytes, the index says {size}", path=path
            )
    except BaseException:
        file.close()
        raise
    return file
