"""Doing a merge: several parts in, one part per touched partition out.

The samples of each series are those a read of the inputs would give. Memory is bounded by chunks of
series, whatever the parts' sizes. Nothing is committed here: the caller swaps the manifest, and
inputs stay as they are.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

import numpy as np

from tsengine.errors import Closed
from tsengine.model.batch import SeriesColumns
from tsengine.storage.compaction_plan import PARTITION_MS, partition_range
from tsengine.storage.filesystem import FileSystem, remove_tree
from tsengine.storage.head_read import sorted_unique
from tsengine.storage.manifest import PartEntry
from tsengine.storage.mask import Mask
from tsengine.storage.part_reader import PartReader
from tsengine.storage.part_writer import Progress, Targets, write_part
from tsengine.storage.pieces import expand_ranges
from tsengine.storage.select import read_columns

CHUNK_SAMPLES = 512 * 1024
"""Samples decoded at a time (more only if one series alone has more), see `series_samples`."""
_SERIES_SAMPLES = 8
"""What a series' columns take counts as so many samples."""


class Cancel(Protocol):
    """What a merge asks whether to go on; threading.Event is one."""

    def is_set(self) -> bool:
        """Whether to give up."""
        ...


def merge_parts(
    fs: FileSystem,
    readers: Sequence[PartReader],
    directory: str,
    next_name: Callable[[], str],
    *,
    targets: Targets,
    cut_before_ms: int | None,
    level: int,
    progress: Progress | None = None,
    cancel: Cancel | None = None,
    partition_ms: int = PARTITION_MS,
    mask: Mask | None = None,
    seq_max: int | None = None,
) -> list[PartEntry]:
    """Write the samples of ``readers`` (ascending sequence) as one part per partition.

    ``directory`` is the folder of parts, ``next_name`` gives names that were never used. Samples
    before ``cut_before_ms`` and those that ``mask`` hides are left out. ``progress`` is told the
    samples written so far. ``seq_max`` is the last sequence of what is written, if it is not to be
    that of the inputs.
    Returns entries in the order of time; none for partitions that nothing is left of.

    Raises Closed when ``cancel`` is set, CorruptionError for damaged inputs, OSError as the file
    system does; folders begun are removed then as far as possible.
    """
    written: list[PartEntry] = []
    names: list[str] = []
    n_done = 0
    try:
        for partition in _partitions_of(readers, partition_ms):
            mint, maxt = partition_range(partition, partition_ms)
            mint = max(mint, -(2**63)) if cut_before_ms is None else max(mint, cut_before_ms)
            maxt = min(maxt, 2**63 - 1)
            sources = [r for r in readers if len(r.series_samples(mint, maxt)[0])]
            if mint > maxt or not sources:
                continue
            names.append(next_name())
            entry = write_part(
                fs,
                directory,
                names[-1],
                _chunks(sources, mint, maxt, cancel, mask),
                targets=targets,
                seq_min=min(source.entry.seq_min for source in sources),
                seq_max=(
                    max(source.entry.seq_max for source in sources) if seq_max is None else seq_max
                ),
                level=level,
                progress=None if progress is None else _shifted(progress, n_done),
            )
            if entry is not None:
                written.append(entry)
                n_done += entry.n_samples
    except BaseException:
        for name in names:
            # What can't be removed is an orphan; the next start removes it.
            with contextlib.suppress(OSError):
                remove_tree(fs, os.path.join(directory, name))
        raise
    return written


def _partitions_of(readers: Sequence[PartReader], partition_ms: int) -> list[int]:
    """Partitions in which the parts have axes, ascending."""
    touched: set[int] = set()
    for reader in readers:
        first = (reader.index.axis_mint - 1) // partition_ms
        last = (reader.index.axis_maxt - 1) // partition_ms
        touched.update(np.unique(expand_ranges(first, last - first + 1)).tolist())
    return sorted(touched)


def _chunks(
    sources: Sequence[PartReader],
    mint: int,
    maxt: int,
    cancel: Cancel | None,
    mask: Mask | None,
) -> Iterator[SeriesColumns]:
    """The merged samples of a closed range, some series at a time."""
    tables = [source.series_samples(mint, maxt) for source in sources]
    refs = sorted_unique(np.concatenate([own for own, _ in tables]))
    n_samples = np.zeros(len(refs), np.int64)
    for own, counts in tables:
        n_samples[np.searchsorted(refs, own)] += counts
    chunk = np.cumsum(n_samples + _SERIES_SAMPLES) // CHUNK_SAMPLES
    borders = np.concatenate(([0], np.flatnonzero(np.diff(chunk)) + 1, [len(refs)]))
    for start, end in zip(borders[:-1].tolist(), borders[1:].tolist(), strict=True):
        if cancel is not None and cancel.is_set():
            raise Closed("the merge was given up because the database closes")
        yield read_columns(sources, [], refs[start:end], mint, maxt, with_start=True, mask=mask)


def _shifted(progress: Progress, n_before: int) -> Progress:
    return lambda n_samples: progress(n_before + n_samples)
