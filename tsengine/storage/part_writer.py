"""Writing a part: series in, fsynced files and their description out.

Memory is bounded by the chunks that the caller hands in, plus the index's columns. Nothing here
makes the part live: the manifest does. A failed write leaves a folder that no manifest names.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace

import numpy as np

from tsengine.model.batch import SeriesColumns
from tsengine.model.histograms import HANDLE_BITS, is_handle, without_handles
from tsengine.storage import part_format
from tsengine.storage.component_format import START_MS_MAX
from tsengine.storage.component_writer import ComponentWriter
from tsengine.storage.filesystem import FileSystem
from tsengine.storage.manifest import PartEntry
from tsengine.storage.part_encoder import PartEncoder, WrittenIndex
from tsengine.storage.part_format import LADDER_MS, Section
from tsengine.storage.pieces import I64Array, U32Array, U64Array

Targets = Callable[[U32Array], I64Array]
Progress = Callable[[int], None]
Sections = Callable[[], Mapping[int, I64Array]]


def write_part(
    fs: FileSystem,
    directory: str,
    name: str,
    chunks: Iterable[SeriesColumns],
    *,
    targets: Targets,
    seq_min: int,
    seq_max: int,
    level: int,
    progress: Progress | None = None,
    ladder_ms: tuple[int, ...] = LADDER_MS,
    sections: Sections | None = None,
    is_quick: bool = False,
) -> PartEntry | None:
    """Write the part ``name`` into the folder of parts and fsync it.

    ``directory`` exists; the part is a folder in it. Refs ascend over all ``chunks``, and every
    series has samples. ``targets`` maps refs to a number that series of one scrape target share,
    -1 where there is none. ``progress`` is called after each chunk with the number of samples
    written so far. ``ladder_ms`` are the rungs at which axes are cut. ``sections`` gives further
    sections of the index when all is written; such a part is no part of samples and has no
    statistics.

    Histograms and start timestamps of the chunks go to the part's components; without any the
    part has none. With ``is_quick`` values take a third of the time and some more bytes: for parts
    that are soon merged.

    Returns None, and makes no folder, if the chunks hold no samples and there are no ``sections``.
    Raises OSError as the file system does; the folder then holds rubbish that nobody reads.
    """
    path = os.path.join(directory, name)
    writer = None if sections is None else _PartWriter(fs, path, ladder_ms, sections, is_quick)
    try:
        for chunk in chunks:
            if len(chunk.t_ms) == 0:
                continue
            if writer is None:
                writer = _PartWriter(fs, path, ladder_ms, None, is_quick)
            writer.add(chunk, targets(chunk.refs))
            if progress is not None:
                progress(writer.n_samples)
        if writer is None:
            return None
        header = writer.finish(seq_min=seq_min, seq_max=seq_max, level=level).header
    finally:
        if writer is not None:
            writer.close()
    fs.sync_dir(directory)
    return PartEntry(
        name=name,
        level=level,
        mint=header.mint,
        maxt=header.maxt,
        n_samples=header.n_samples,
        n_series=header.n_series,
        seq_min=seq_min,
        seq_max=seq_max,
        size_bytes=sum(fs.size(path) for path in writer.paths()),
    )


class _PartWriter:
    """A part under way: samples, and components once a chunk has some."""

    def __init__(
        self,
        fs: FileSystem,
        path: str,
        ladder_ms: tuple[int, ...],
        sections: Sections | None,
        is_quick: bool,
    ) -> None:
        self._fs = fs
        self._path = path
        self._ladder_ms = ladder_ms
        self._sections = sections
        self._samples = PartEncoder(
            fs, path, ladder_ms, with_statistics=sections is None, is_quick=is_quick
        )
        self._components: ComponentWriter | None = None

    @property
    def n_samples(self) -> int:
        """Samples written."""
        return self._samples.n_samples

    def add(self, chunk: SeriesColumns, targets: I64Array) -> None:
        """Encode and write the series of a chunk."""
        start_ms = _kept_starts(chunk.start_ms)
        has_histogram = chunk.histograms is not None and bool(is_handle(chunk.bits).any())
        chunk = replace(
            chunk, histograms=chunk.histograms if has_histogram else None, start_ms=start_ms
        )
        self._samples.add(replace(chunk, bits=_bits_in_file(chunk)), targets)
        if not has_histogram and start_ms is None:
            return
        if self._components is None:
            path = os.path.join(self._path, part_format.COMPONENTS_DIR)
            self._components = ComponentWriter(self._fs, path, self._ladder_ms)
        self._components.add(chunk, targets)

    def finish(self, *, seq_min: int, seq_max: int, level: int) -> WrittenIndex:
        """Sync everything; the part's index, which vouches for all other files, comes last."""
        self._samples.sync()
        sections = {} if self._sections is None else dict(self._sections())
        if self._components is not None:
            sections[Section.COMPONENT_FILES] = self._components.finish(
                seq_min=seq_min, seq_max=seq_max, level=level
            )
        index = self._samples.finish(
            seq_min=seq_min, seq_max=seq_max, level=level, sections=sections
        )
        self._fs.sync_dir(self._path)
        return index

    def paths(self) -> list[str]:
        """The part's files."""
        own = [os.path.join(self._path, name) for name in part_format.FILES]
        return own if self._components is None else own + self._components.paths()

    def close(self) -> None:
        """Close the files."""
        self._samples.close()
        if self._components is not None:
            self._components.close()


def _bits_in_file(chunk: SeriesColumns) -> U64Array:
    """Bits of the samples without the numbers of rows, which mean nothing in a file."""
    found = is_handle(chunk.bits)
    if not found.any():
        return chunk.bits
    if chunk.histograms is None:
        # A float of a part that is older than histograms; another NaN is as good.
        return without_handles(chunk.bits)
    return np.where(found, HANDLE_BITS, chunk.bits)


def _kept_starts(start_ms: I64Array | None) -> I64Array | None:
    """Start timestamps that a component can hold, others as unknown; None if there is none."""
    if start_ms is None:
        return None
    kept = np.where((start_ms > -START_MS_MAX) & (start_ms < START_MS_MAX), start_ms, 0)
    return kept if kept.any() else None
