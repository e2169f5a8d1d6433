"""An open part: samples, components and statistics, as one source of reads.

Everything that the index says is checked once, when the part is opened. Payloads carry checksums of
their own and are checked whenever they are decoded. Thread-safe; nothing changes after opening but
the statistics, which are loaded when first asked for.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from tsengine.codecs.block import BlockStats
from tsengine.errors import CorruptionError
from tsengine.model.batch import SeriesColumns
from tsengine.model.histograms import handles, is_handle
from tsengine.storage import part_format
from tsengine.storage.axis_cache import AxisCache
from tsengine.storage.components import Components
from tsengine.storage.filesystem import FileSystem
from tsengine.storage.manifest import PartEntry
from tsengine.storage.part_blocks import PartBlocks
from tsengine.storage.part_format import PartHeader, Section
from tsengine.storage.part_index import PartIndex
from tsengine.storage.part_select import PartPieces, blocks_of
from tsengine.storage.part_stats import STATISTICS, stats_of_columns
from tsengine.storage.pieces import I64Array, U32Array
from tsengine.storage.scratch import Scratch, with_spilled
from tsengine.storage.spans import Span

_N_COMPONENT_NUMBERS = 4


class PartReader:
    """A part that can be read until it is closed; made by `PartReader.open`."""

    def __init__(
        self,
        fs: FileSystem,
        directory: str,
        entry: PartEntry,
        blocks: PartBlocks,
        components: Components | None,
    ) -> None:
        self._fs = fs
        self._directory = directory
        self._blocks = blocks
        self._stats: BlockStats | None = None
        self.entry = entry
        self.components = components

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
        blocks = PartBlocks.open(fs, directory, data, header, sections)
        try:
            components = None
            if Section.COMPONENT_FILES in sections:
                files = part_format.decode_section(data, sections[Section.COMPONENT_FILES], path)
                if len(files) != _N_COMPONENT_NUMBERS:
                    raise CorruptionError("the index describes no components", path=path)
                folder = os.path.join(directory, part_format.COMPONENTS_DIR)
                components = Components.open(fs, folder, files, blocks.index.refs)
        except BaseException:
            blocks.close()
            raise
        return cls(fs, directory, entry, blocks, components)

    def close(self) -> None:
        """Close the files; reads that are under way may fail."""
        self._blocks.close()
        if self.components is not None:
            self.components.close()

    def spill(self, scratch: Scratch) -> None:
        """Let the index lie in scratch files, if it is large; raises OSError."""
        self._blocks.spill(scratch)
        if self.components is not None:
            self.components.spill(scratch)
        if self._stats is not None:
            self._stats = with_spilled(scratch, self._stats)

    def keep_axes(self, cache: AxisCache) -> None:
        """Keep decoded axes of samples in a cache from now on."""
        self._blocks.axis_cache = cache

    @property
    def remote_bytes(self) -> int:
        """Bytes of the part that are in an object store."""
        own = self._blocks.remote_bytes
        return own if self.components is None else own + self.components.remote_bytes

    @property
    def header(self) -> PartHeader:
        """What the index says about the whole part."""
        return self._blocks.header

    @property
    def index(self) -> PartIndex:
        """What stands where."""
        return self._blocks.index

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

    def pieces(
        self,
        refs: U32Array | None,
        mint: int,
        maxt: int,
        windows: Sequence[Span] | None = None,
    ) -> PartPieces:
        """Pieces of the series ``refs`` (ascending; None takes all) in a closed time range.

        ``windows`` are what a mask leaves of it.
        """
        components = self.components
        return self._blocks.pieces(
            refs, mint, maxt, None if components is None else components.histograms_of, windows
        )

    def rows_near(self, refs: U32Array, mint: int, maxt: int) -> I64Array:
        """Which of the series ``refs`` (ascending) have blocks on axes that touch the range."""
        return np.unique(blocks_of(self.index, refs, mint, maxt)[0])

    def count_samples(self, refs: U32Array, mint: int, maxt: int) -> int:
        """Samples of the series in a closed time range, a close guess if many axes are cut by it.

        A histogram counts as many samples as it has numbers. Reads no values. Raises
        CorruptionError.
        """
        n_samples = self._blocks.count_samples(refs, mint, maxt)
        if self.has_histograms(refs, mint, maxt):
            assert self.components is not None
            n_samples += self.components.count_samples(refs, mint, maxt)
        return n_samples

    def series_samples(self, mint: int, maxt: int) -> tuple[U32Array, I64Array]:
        """``(refs, samples of each in blocks that touch the range)``, from the index alone.

        Series without such blocks are left out. Numbers of histograms and start timestamps count
        as samples.
        """
        counts = self.index.series_samples(mint, maxt)
        is_in = counts > 0
        if self.components is not None:
            refs, more = self.components.series_samples(mint, maxt)
            counts[np.searchsorted(self.refs, refs)] += more
        return self.refs[is_in], counts[is_in]

    def has_histograms(self, refs: U32Array, mint: int, maxt: int) -> bool:
        """Whether the series may have histograms in a closed range; never falsely False."""
        return self.components is not None and self.components.has_histograms(refs, mint, maxt)

    @property
    def has_starts(self) -> bool:
        """Whether a start timestamp of any sample is known."""
        return self.components is not None and self.components.has_starts

    def start_times(self, refs: U32Array | None, mint: int, maxt: int) -> SeriesColumns | None:
        """Start timestamps of samples that have one; see `Components.start_times`."""
        if self.components is None:
            return None
        return self.components.start_times(refs, mint, maxt)

    def collect(self, refs: U32Array | None, mint: int, maxt: int) -> SeriesColumns:
        """Samples with mint <= t <= maxt of the series ``refs`` (ascending; None takes all).

        Series without samples in the range are left out. Start timestamps are not among them. The
        arrays are the caller's. Raises CorruptionError.
        """
        columns = self._blocks.collect(refs, mint, maxt)
        if self.components is None:
            return columns
        at = np.flatnonzero(is_handle(columns.bits))
        if len(at) == 0:
            return columns
        row = np.searchsorted(columns.offsets, at, side="right") - 1
        columns.bits[at] = handles(np.arange(len(at)))
        histograms = self.components.histograms_of(columns.refs[row], columns.t_ms[at])
        return replace(columns, histograms=histograms)

    def verify(self) -> None:
        """Read every byte of the files and compare checksums; raises CorruptionError.

        Sections of the index that no read needs are looked at too.
        """
        path = os.path.join(self._directory, part_format.INDEX_FILE)
        data = self._fs.read_file(path)
        _, sections = part_format.decode_index_table(data, path)
        for section in sections.values():
            part_format.decode_section(data, section, path)
        self._blocks.verify()
        if self.components is not None:
            self.components.verify()


def component_bytes(fs: FileSystem, directory: str) -> int:
    """Bytes of the components of the part in the folder ``directory``; 0 if it has none."""
    folder = os.path.join(directory, part_format.COMPONENTS_DIR)
    if not fs.exists(folder):
        return 0
    return sum(fs.size(os.path.join(folder, name)) for name in fs.listdir(folder))
