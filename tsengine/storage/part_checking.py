"""Checking a part or a part of a tier: its own checksums, its entry, then the catalog."""

from __future__ import annotations

import numpy as np

from tsengine.errors import CorruptionError
from tsengine.model.batch import SeriesColumns
from tsengine.model.windows import Column, WindowBatch
from tsengine.storage.catalog import Catalog
from tsengine.storage.filesystem import FileSystem
from tsengine.storage.manifest import PartEntry, TierEntry
from tsengine.storage.part_reader import PartReader
from tsengine.storage.pieces import U32Array
from tsengine.storage.tier_reader import TierReader

_PIECE_NUMBERS = 4 * 1024 * 1024


def check_part(fs: FileSystem, path: str, entry: PartEntry) -> int:
    """Read a part as a whole; returns how many samples it has.

    Raises
    ------
    CorruptionError
        A checksum or number is wrong, or it does not hold what the manifest says.
    UnsupportedFormat, OSError

    """
    part = PartReader.open(fs, path, entry)
    try:
        part.verify()
        n_samples = 0
        first, last = entry.maxt, entry.mint
        # Histograms weigh as many samples as they have numbers.
        n_numbers = int(part.series_samples(entry.mint, entry.maxt)[1].sum())
        for refs in _pieces(part.refs, n_numbers):
            columns = part.collect(refs, entry.mint, entry.maxt)
            part.start_times(refs, entry.mint, entry.maxt)
            _check_order(columns, path)
            n_samples += len(columns.t_ms)
            if len(columns.t_ms):
                first = min(first, int(columns.t_ms.min()))
                last = max(last, int(columns.t_ms.max()))
        if n_samples != entry.n_samples:
            raise CorruptionError(
                f"{n_samples} samples, the manifest says {entry.n_samples}", path=path
            )
        if (first, last) != (entry.mint, entry.maxt):
            raise CorruptionError(
                f"samples from {first} to {last}, the manifest says {entry.mint} to {entry.maxt}",
                path=path,
            )
        return n_samples
    finally:
        part.close()


def check_tier(fs: FileSystem, path: str, entry: TierEntry) -> None:
    """Read all windows of a part of a tier; raises as `check_part`."""
    tier = TierReader.open(fs, path, entry)
    try:
        tier.verify()
        # Every column of every window, some series at a time.
        n_numbers = tier.count_windows(tier.refs, entry.mint, entry.maxt) * len(Column)
        for refs in _pieces(tier.refs, n_numbers):
            windows = tier.read(refs, entry.cover_min, entry.cover_max, frozenset(Column))
            _check_windows(windows, entry, path)
    finally:
        tier.close()


def check_part_series(
    fs: FileSystem, path: str, entry: PartEntry | TierEntry, catalog: Catalog
) -> None:
    """Compare the series of a part that is fine with a catalog that is; raises as `check_part`."""
    kind = TierReader if isinstance(entry, TierEntry) else PartReader
    part = kind.open(fs, path, entry)  # type: ignore[arg-type]
    try:
        unknown = part.refs[~catalog.has(part.refs)]
    finally:
        part.close()
    if len(unknown):
        raise CorruptionError(f"series {int(unknown[0])} is not in the catalog", path=path)


def _pieces(refs: U32Array, n_numbers: int) -> list[U32Array]:
    n_pieces = max(1, min(n_numbers // _PIECE_NUMBERS, len(refs)))
    return [piece for piece in np.array_split(refs, n_pieces) if len(piece)]


def _check_order(columns: SeriesColumns, path: str) -> None:
    """Each series ascends in time, without two samples of one time."""
    ascends = np.diff(columns.t_ms) > 0
    # From one series to the next time may jump back.
    ascends[columns.offsets[1:-1] - 1] = True
    if not ascends.all():
        row = int(np.searchsorted(columns.offsets, int(np.argmin(ascends)), side="right")) - 1
        raise CorruptionError(
            f"the times of series {int(columns.refs[row])} do not ascend", path=path
        )


def _check_windows(windows: WindowBatch, entry: TierEntry, path: str) -> None:
    ends = windows.end_ms
    if len(ends) and (
        (ends % entry.width_ms).any()
        or int(ends.min()) <= entry.cover_min - 1
        or int(ends.max()) > entry.cover_max
    ):
        raise CorruptionError("windows that are not those the manifest says", path=path)
