"""An open folder of `axes`, `values` and `index`: its index in memory, its payloads by pread.

Thread-safe; nothing changes after opening.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

import google_crc32c
import numpy as np
import numpy.typing as npt

from tsengine.errors import CorruptionError
from tsengine.model.batch import SeriesColumns
from tsengine.storage import part_format
from tsengine.storage.axis_cache import AxisCache, decode_used
from tsengine.storage.cold import ColdFile
from tsengine.storage.filesystem import FileSystem, ReadFile
from tsengine.storage.part_format import PartHeader, SectionEntry
from tsengine.storage.part_index import REQUIRED_SECTIONS, PartIndex, build_index
from tsengine.storage.part_select import (
    HistogramsOf,
    KnownAxes,
    PartPieces,
    count_samples,
    decode_times,
)
from tsengine.storage.pieces import I64Array, U32Array, offsets_of
from tsengine.storage.scratch import Scratch, with_spilled
from tsengine.storage.spans import Span

_VERIFY_BYTES = 4 * 1024 * 1024


class PartBlocks:
    """Blocks that can be read until they are closed; made by `PartBlocks.open`.

    `axis_cache` may be set by who keeps decoded axes.
    """

    def __init__(
        self,
        directory: str,
        header: PartHeader,
        index: PartIndex,
        axes: ReadFile,
        values: ReadFile,
    ) -> None:
        self._directory = directory
        self._axes = axes
        self._values = values
        self.header = header
        self.index = index
        self.axis_cache: AxisCache | None = None

    @classmethod
    def open(
        cls,
        fs: FileSystem,
        directory: str,
        data: bytes,
        header: PartHeader,
        sections: Mapping[int, SectionEntry],
    ) -> PartBlocks:
        """Open the folder ``directory`` whose index is ``data``, its table decoded already.

        Raises CorruptionError, UnsupportedFormat, and OSError as the file system does.
        """
        path = os.path.join(directory, part_format.INDEX_FILE)
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
        return cls(directory, header, index, axes, values)

    @property
    def remote_bytes(self) -> int:
        """Bytes that are in an object store."""
        return sum(f.size for f in (self._axes, self._values) if isinstance(f, ColdFile))

    def close(self) -> None:
        """Close the files; reads that are under way may fail."""
        self._axes.close()
        self._values.close()

    def spill(self, scratch: Scratch) -> None:
        """Let the index lie in a scratch file, if it is large; raises OSError."""
        self.index = with_spilled(scratch, self.index)

    def pieces(
        self,
        refs: U32Array | None,
        mint: int,
        maxt: int,
        histograms: HistogramsOf | None = None,
        windows: Sequence[Span] | None = None,
    ) -> PartPieces:
        """Pieces of the series ``refs`` (ascending; None takes all) in a closed time range."""
        path = os.path.join(self._directory, part_format.VALUES_FILE)
        return PartPieces(
            self.index, self, self._values, path, refs, mint, maxt, histograms, windows
        )

    def count_samples(self, refs: U32Array, mint: int, maxt: int) -> int:
        """Samples of the series in a closed time range, a close guess if many axes are cut by it.

        Reads no values. Raises CorruptionError.
        """
        return count_samples(self.index, self, refs, mint, maxt)

    def known(self) -> KnownAxes | None:
        """See `part_select.PartAxes.known`."""
        return None if self.axis_cache is None else self.axis_cache.known(self)

    def times(self, axis: npt.NDArray[np.uint32]) -> tuple[I64Array, I64Array]:
        """See `part_select.PartAxes.times`."""
        if self.axis_cache is None:
            return decode_used(self.index, axis, self._decode_times)
        return self.axis_cache.times(self, axis, self._decode_times)

    def _decode_times(self, axes: I64Array, t_ms: I64Array, positions: I64Array) -> None:
        path = os.path.join(self._directory, part_format.AXES_FILE)
        decode_times(self.index, self._axes, path, axes, t_ms, positions)

    def collect(self, refs: U32Array | None, mint: int, maxt: int) -> SeriesColumns:
        """Samples with mint <= t <= maxt of the series ``refs`` (ascending; None takes all).

        Series without samples in the range are left out. Bits are those of the file. Raises
        CorruptionError.
        """
        wanted = self.index.refs if refs is None else refs
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
