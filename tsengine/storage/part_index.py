"""A part's index in memory: built from the stored columns, every number of them checked once.

Kernels that read payloads later rely on these checks: no position leaves its file, no row leaves
its axis, whatever bytes were on the disk.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tsengine.errors import CorruptionError
from tsengine.storage.part_format import (
    BLOCK_ROWS_MAX,
    FILE_HEADER_SIZE,
    PartHeader,
    Section,
)
from tsengine.storage.pieces import I64Array, U32Array, offsets_of

_U32_MAX = 2**32 - 1
_LIMITS: dict[int, tuple[int, int]] = {
    Section.REFS: (0, _U32_MAX),
    Section.SERIES_BLOCKS: (1, _U32_MAX),
    Section.BLOCK_AXIS: (0, _U32_MAX),
    Section.BLOCK_FIRST_ROW: (0, BLOCK_ROWS_MAX - 1),
    Section.BLOCK_SIZE: (1, BLOCK_ROWS_MAX),
    Section.BLOCK_PATTERN: (0, _U32_MAX),
    Section.BLOCK_PAYLOAD_BACK: (0, _U32_MAX),
    Section.BLOCK_FLAGS: (0, 255),
    Section.PAYLOAD_SIZE: (1, _U32_MAX),
    Section.AXIS_SIZE: (1, _U32_MAX),
    Section.AXIS_ROWS: (1, BLOCK_ROWS_MAX),
    Section.PATTERN_RUNS: (1, BLOCK_ROWS_MAX),
    Section.RUN_SKIP: (0, BLOCK_ROWS_MAX),
    Section.RUN_LENGTH: (1, BLOCK_ROWS_MAX),
}
"""Closed range of each column's numbers; times may be anything."""

_TABLES = (
    (Section.REFS, Section.SERIES_BLOCKS),
    (
        Section.BLOCK_SIZE,
        Section.BLOCK_AXIS,
        Section.BLOCK_FIRST_ROW,
        Section.BLOCK_PATTERN,
        Section.BLOCK_PAYLOAD_BACK,
        Section.BLOCK_FLAGS,
    ),
    (Section.AXIS_ROWS, Section.AXIS_SIZE, Section.AXIS_MINT, Section.AXIS_SPAN),
    (Section.RUN_LENGTH, Section.RUN_SKIP),
)
"""Columns of one table have one length."""

REQUIRED_SECTIONS = frozenset(section for section in Section if section < Section.COMPONENT_FILES)


@dataclass(frozen=True, slots=True)
class PartIndex:
    """The index's columns, checked. About 25 bytes a block, 8 a payload and 26 an axis.

    ``refs: u32[S]``, ``series_blocks: i64[S + 1]`` first block of each series; per block axis,
    first row on it, number of samples, pattern (0: contiguous), payload and flags; per payload
    and axis where it lies in its file; per axis rows and closed time range; pattern p has runs
    ``pattern_offsets[p]:pattern_offsets[p + 1]`` of ``(run_first, run_length)``, pattern 0 none.
    """

    refs: U32Array
    series_blocks: I64Array
    block_axis: npt.NDArray[np.uint32]
    block_first_row: npt.NDArray[np.uint16]
    block_size: npt.NDArray[np.uint16]
    block_pattern: npt.NDArray[np.uint32]
    block_payload: npt.NDArray[np.uint32]
    block_flags: npt.NDArray[np.uint8]
    payload_offsets: I64Array
    axis_offsets: I64Array
    axis_rows: npt.NDArray[np.uint16]
    axis_mint: I64Array
    axis_maxt: I64Array
    pattern_offsets: I64Array
    run_first: I64Array
    run_length: I64Array

    @property
    def n_bytes(self) -> int:
        """Memory of the arrays."""
        return sum(getattr(self, name).nbytes for name in self.__slots__)

    def series_samples(self, mint: int, maxt: int) -> I64Array:
        """Samples of each series in blocks whose axes touch the closed range: i64[S]."""
        touches = (self.axis_mint <= maxt) & (self.axis_maxt >= mint)
        sizes = np.where(touches[self.block_axis], self.block_size, 0).astype(np.int64)
        return np.add.reduceat(sizes, self.series_blocks[:-1])


@dataclass(frozen=True, slots=True)
class _Patterns:
    """Runs of patterns; ``n_rows`` and ``n_present`` count pattern 0 as empty."""

    offsets: I64Array
    run_first: I64Array
    run_length: I64Array
    n_rows: I64Array
    n_present: I64Array


def build_index(columns: dict[int, I64Array], header: PartHeader, path: str) -> PartIndex:
    """The index from its decoded columns.

    Raises
    ------
    CorruptionError
        A number is out of its range or does not fit the others.

    """
    missing = REQUIRED_SECTIONS - columns.keys()
    _require(not missing, f"sections {sorted(missing)} are missing", path)
    for section, (low, high) in _LIMITS.items():
        column = columns[section]
        is_fine = len(column) == 0 or (int(column.min()) >= low and int(column.max()) <= high)
        _require(is_fine, f"section {section} has numbers out of range", path)
    for table in _TABLES:
        lengths = {len(columns[section]) for section in table}
        _require(len(lengths) == 1, f"sections {[int(s) for s in table]} differ in length", path)
    return _build(columns, header, path)


def _build(columns: dict[int, I64Array], header: PartHeader, path: str) -> PartIndex:
    refs, blocks = columns[Section.REFS], columns[Section.SERIES_BLOCKS]
    sizes, axis = columns[Section.BLOCK_SIZE], columns[Section.BLOCK_AXIS]
    pattern, axis_rows = columns[Section.BLOCK_PATTERN], columns[Section.AXIS_ROWS]
    _require(len(refs) == header.n_series, "number of series", path)
    _require(bool((np.diff(refs) > 0).all()), "refs do not ascend", path)
    _require(int(blocks.sum()) == len(sizes), "number of blocks", path)
    _require(int(sizes.sum()) == header.n_samples, "number of samples", path)
    _require(int(axis.max(initial=-1)) < len(axis_rows), "a block on a missing axis", path)

    axis_mint = columns[Section.AXIS_MINT]
    axis_maxt = axis_mint + columns[Section.AXIS_SPAN]
    _require(bool((axis_mint <= axis_maxt).all()), "an axis that ends before it starts", path)
    patterns = _patterns(columns, path)
    n_patterns = len(patterns.offsets) - 1
    _require(int(pattern.max(initial=0)) < n_patterns, "a block with a missing pattern", path)
    is_sparse = pattern > 0
    fits = patterns.n_present[pattern[is_sparse]] == sizes[is_sparse]
    _require(bool(fits.all()), "a pattern of another number of samples", path)
    end_row = columns[Section.BLOCK_FIRST_ROW] + np.where(
        is_sparse, patterns.n_rows[pattern], sizes
    )
    _require(bool((end_row <= axis_rows[axis]).all()), "a block behind its axis's end", path)

    follows = axis_mint[axis[1:]] > axis_maxt[axis[:-1]]
    follows[offsets_of(blocks)[1:-1] - 1] = True
    _require(bool(follows.all()), "blocks of a series that overlap", path)

    payload = _payloads(columns, path)
    payload_offsets = offsets_of(columns[Section.PAYLOAD_SIZE]) + FILE_HEADER_SIZE
    axis_offsets = offsets_of(columns[Section.AXIS_SIZE]) + FILE_HEADER_SIZE
    _require(int(payload_offsets[-1]) == header.values_size_bytes, "size of the values", path)
    _require(int(axis_offsets[-1]) == header.axes_size_bytes, "size of the axes", path)
    return PartIndex(
        refs=refs.astype(np.uint32),
        series_blocks=offsets_of(blocks),
        block_axis=axis.astype(np.uint32),
        block_first_row=columns[Section.BLOCK_FIRST_ROW].astype(np.uint16),
        block_size=sizes.astype(np.uint16),
        block_pattern=pattern.astype(np.uint32),
        block_payload=payload.astype(np.uint32),
        block_flags=columns[Section.BLOCK_FLAGS].astype(np.uint8),
        payload_offsets=payload_offsets,
        axis_offsets=axis_offsets,
        axis_rows=axis_rows.astype(np.uint16),
        axis_mint=axis_mint,
        axis_maxt=axis_maxt,
        pattern_offsets=patterns.offsets,
        run_first=patterns.run_first,
        run_length=patterns.run_length,
    )


def _patterns(columns: dict[int, I64Array], path: str) -> _Patterns:
    """Runs from skips and lengths; pattern 0, which has none, is put in front."""
    n_runs = columns[Section.PATTERN_RUNS]
    skips, run_length = columns[Section.RUN_SKIP], columns[Section.RUN_LENGTH]
    _require(int(n_runs.sum()) == len(skips), "number of pattern runs", path)
    offsets = offsets_of(n_runs)
    ends = offsets_of(skips + run_length)
    before = np.repeat(ends[offsets[:-1]], n_runs)
    run_first = ends[1:] - run_length - before
    first_skips = skips[offsets[:-1]]
    _require(not first_skips.any(), "a pattern that starts with a gap", path)
    present = offsets_of(run_length)
    zero = np.zeros(1, np.int64)
    return _Patterns(
        offsets=np.concatenate([zero, offsets]),
        run_first=run_first,
        run_length=run_length,
        n_rows=np.concatenate([zero, ends[offsets[1:]] - ends[offsets[:-1]]]),
        n_present=np.concatenate([zero, present[offsets[1:]] - present[offsets[:-1]]]),
    )


def _payloads(columns: dict[int, I64Array], path: str) -> I64Array:
    """Payload of each block: its own, the next one in the file, or one that many back."""
    back, sizes = columns[Section.BLOCK_PAYLOAD_BACK], columns[Section.BLOCK_SIZE]
    is_own = back == 0
    n_before = np.cumsum(is_own)
    payload = np.where(is_own, n_before - 1, n_before - back)
    own = np.flatnonzero(is_own)
    _require(len(own) == len(columns[Section.PAYLOAD_SIZE]), "number of payloads", path)
    _require(int(payload.min(initial=0)) >= 0, "a payload before the first", path)
    _require(bool((sizes[own[payload]] == sizes).all()), "a shared payload of another size", path)
    return payload


def _require(holds: bool, what: str, path: str) -> None:
    if not holds:
        raise CorruptionError(f"the index is inconsistent: {what}", path=path)
