"""Pieces of a part: which blocks a read needs, their axes, and their values decoded in place.

Blocks are found by binary search in the index; axes are read and decoded once each, values when
they are asked for, straight to their place. No Python runs per series or block.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tsengine.codecs.axis import decode_axes
from tsengine.codecs.block import decode_blocks
from tsengine.errors import CorruptionError
from tsengine.kernels.axes import clip_blocks, copy_rows
from tsengine.model.histograms import Histograms
from tsengine.storage.axis_cache import number_used
from tsengine.storage.filesystem import ReadFile, storage_error
from tsengine.storage.part_format import FLAG_HISTOGRAM, FLAG_STALE
from tsengine.storage.part_index import PartIndex
from tsengine.storage.pieces import I64Array, U32Array, U64Array, expand_ranges, offsets_of
from tsengine.storage.spans import Span

GAP_BYTES_MAX = 32 * 1024
"""Payloads closer than this are read together: copying the gap costs less than another call."""
COUNTED_ROWS_MAX = 256 * 1024
"""Rows of axes that are decoded at most to count samples exactly."""

AxisTimes = Callable[[npt.NDArray[np.uint32]], tuple[I64Array, I64Array]]
"""Of axes the positions of their first rows in ``t_ms``, a new array, and these times."""

HistogramsOf = Callable[[U32Array, I64Array], Histograms]


class PartPieces:
    """Blocks of one part clipped to a closed time range; see `pieces.Pieces`.

    Made by `PartReader.pieces`, which says where histograms come from. With ``windows`` (inside the
    range; see `mask.Hidden.windows`) rows are clipped to these instead. Raises CorruptionError when
    an axis or a value is damaged.
    """

    __slots__ = (
        "_axis_t", "_blocks", "_histograms", "_index", "_lo", "_starts", "_values", "_values_path",
        "first_t", "has_histogram", "keys", "last_t", "may_be_stale", "n_samples", "rows", "sizes",
    )  # fmt: skip

    def __init__(
        self,
        index: PartIndex,
        axis_times: AxisTimes,
        values: ReadFile,
        values_path: str,
        refs: U32Array | None,
        mint: int,
        maxt: int,
        histograms: HistogramsOf | None = None,
        windows: Sequence[Span] | None = None,
    ) -> None:
        self._index = index
        self._histograms = histograms
        self._values = values
        self._values_path = values_path
        rows, blocks = blocks_of(index, refs, mint, maxt)
        axis = index.block_axis[blocks].astype(np.int64)
        starts, self._axis_t = axis_times(index.block_axis[blocks])
        starts += index.block_first_row[blocks]
        patterns = index.block_pattern[blocks].astype(np.int64)
        if windows is None:
            lo, hi, first_t, last_t = self._clip(blocks, starts, patterns, mint, maxt)
        else:
            which, lo, hi, first_t, last_t = self._clip_to(rows, blocks, starts, patterns, windows)
            rows, blocks, axis, starts, patterns = (
                column[which] for column in (rows, blocks, axis, starts, patterns)
            )
        self.n_samples = int((hi - lo).sum())
        if len(blocks) and int((hi - lo).min()) == 0:
            kept = np.flatnonzero(hi > lo)
            rows, blocks, axis, starts, patterns = (
                column[kept] for column in (rows, blocks, axis, starts, patterns)
            )
            lo, hi, first_t, last_t = (column[kept] for column in (lo, hi, first_t, last_t))
        self._blocks = blocks
        self._starts = starts
        self._lo = lo
        self.rows = rows
        self.sizes = hi - lo
        self.first_t = first_t
        self.last_t = last_t
        flags = index.block_flags[blocks]
        self.may_be_stale = (flags & FLAG_STALE) != 0
        self.has_histogram = (flags & FLAG_HISTOGRAM) != 0
        self.keys = np.empty((len(blocks), 3), np.int64)
        self.keys[:, 0] = axis
        self.keys[:, 1] = (patterns << 16) | index.block_first_row[blocks]
        self.keys[:, 2] = (lo << 16) | self.sizes

    def _clip(
        self, blocks: I64Array, starts: I64Array, patterns: I64Array, mint: int, maxt: int
    ) -> tuple[I64Array, I64Array, I64Array, I64Array]:
        """``lo, hi, first_t, last_t`` of blocks in a closed range; see `clip_blocks`."""
        index = self._index
        lo, hi, first_t, last_t = (np.empty(len(blocks), np.int64) for _ in range(4))
        clip_blocks(
            self._axis_t, starts, index.block_size[blocks].astype(np.int64), patterns,
            index.pattern_offsets, index.run_first, index.run_length, mint, maxt,
            lo, hi, first_t, last_t,
        )  # fmt: skip
        return lo, hi, first_t, last_t

    def _clip_to(
        self,
        rows: I64Array,
        blocks: I64Array,
        starts: I64Array,
        patterns: I64Array,
        windows: Sequence[Span],
    ) -> tuple[I64Array, I64Array, I64Array, I64Array, I64Array]:
        """As `_clip`, once for each window of a row; the first column says which block it is of."""
        found = [tuple(np.empty(0, np.int64) for _ in range(5))]
        for wanted, mint, maxt in windows:
            low = np.searchsorted(rows, wanted)
            which = expand_ranges(low, np.searchsorted(rows, wanted, side="right") - low)
            clipped = self._clip(blocks[which], starts[which], patterns[which], mint, maxt)
            kept = np.flatnonzero(clipped[1] > clipped[0])
            found.append((which[kept], *(column[kept] for column in clipped)))
        which, lo, hi, first_t, last_t = (
            np.concatenate(column) for column in zip(*found, strict=True)
        )
        order = np.lexsort((lo, which))
        return which[order], lo[order], hi[order], first_t[order], last_t[order]

    def copy_times(self, which: I64Array, out: I64Array, positions: I64Array) -> None:
        """See `pieces.Pieces.copy_times`."""
        index = self._index
        copy_rows(
            self._axis_t, self._starts[which], self._lo[which], self.sizes[which],
            index.block_pattern[self._blocks[which]].astype(np.int64),
            index.pattern_offsets, index.run_first, index.run_length, positions, out,
        )  # fmt: skip

    def times_in_place(self, which: I64Array) -> I64Array | None:
        """See `pieces.Pieces.times_in_place`."""
        starts = self._starts[which] + self._lo[which]
        ends = starts + self.sizes[which]
        follows = bool((starts[1:] == ends[:-1]).all())
        if len(which) == 0 or not follows or self._index.block_pattern[self._blocks[which]].any():
            return None
        return self._axis_t[starts[0] : ends[-1]]

    def copy_values(self, which: I64Array, out: U64Array, positions: I64Array) -> None:
        """See `pieces.Pieces.copy_values`."""
        if len(which) == 0:
            return
        index = self._index
        blocks = self._blocks[which]
        payloads, where = number_used(index.block_payload[blocks], len(index.payload_offsets) - 1)
        data = _read_ranges(
            self._values,
            index.payload_offsets[payloads],
            index.payload_offsets[payloads + 1],
            self._values_path,
        )
        lo = self._lo[which]
        try:
            decode_blocks(
                data.bytes,
                data.positions[where],
                data.sizes[where],
                index.block_first_row[blocks].astype(np.int64),
                index.block_size[blocks].astype(np.int64),
                lo,
                lo + self.sizes[which],
                out,
                positions,
                path=self._values_path,
            )
        except CorruptionError as error:
            raise data.located(error) from None

    def histograms_of(self, refs: U32Array, t_ms: I64Array, bits: U64Array) -> Histograms:
        """See `pieces.Pieces.histograms_of`; ``bits`` are all the same."""
        if self._histograms is None:
            raise CorruptionError("histograms in a part without any", path=self._values_path)
        return self._histograms(refs, t_ms)


def count_samples(
    index: PartIndex, axis_times: AxisTimes, refs: U32Array, mint: int, maxt: int
) -> int:
    """Samples of the series ``refs`` in a closed range, without reading values.

    Exact where blocks lie inside the range or their axes are few; else a block is taken to be
    spread evenly over its axis, because decoding the axes would cost as much as reading them.
    """
    _, blocks = blocks_of(index, refs, mint, maxt)
    axis = index.block_axis[blocks]
    axis_mint, axis_maxt = index.axis_mint[axis], index.axis_maxt[axis]
    sizes = index.block_size[blocks].astype(np.int64)
    is_cut = (axis_mint < mint) | (axis_maxt > maxt)
    inside = int(sizes[~is_cut].sum())
    if not is_cut.any():
        return inside
    used, _ = number_used(axis[is_cut], len(index.axis_rows))
    if int(index.axis_rows[used].sum(dtype=np.int64)) > COUNTED_ROWS_MAX:
        first, last = axis_mint[is_cut], axis_maxt[is_cut]
        covered = np.minimum(last, maxt) - np.maximum(first, mint) + 1.0
        share = covered / (last - first + 1.0)
        return inside + int(np.minimum(np.ceil(sizes[is_cut] * share) + 1, sizes[is_cut]).sum())
    blocks = blocks[is_cut]
    starts, axis_t = axis_times(index.block_axis[blocks])
    lo, hi, first_t, last_t = (np.empty(len(blocks), np.int64) for _ in range(4))
    return inside + int(
        clip_blocks(
            axis_t, starts + index.block_first_row[blocks], sizes[is_cut],
            index.block_pattern[blocks].astype(np.int64),
            index.pattern_offsets, index.run_first, index.run_length, mint, maxt,
            lo, hi, first_t, last_t,
        )
    )  # fmt: skip


def blocks_of(
    index: PartIndex, refs: U32Array | None, mint: int, maxt: int
) -> tuple[I64Array, I64Array]:
    """``(row of the request, block)`` of blocks on axes that touch the range, by row and time."""
    if refs is None:
        found = np.arange(len(index.refs))
        at = found
    else:
        at = np.searchsorted(index.refs, refs)
        at[at == len(index.refs)] = 0
        found = np.flatnonzero(index.refs[at] == refs)
        at = at[found]
    starts = index.series_blocks[at]
    counts = index.series_blocks[at + 1] - starts
    blocks = expand_ranges(starts, counts)
    rows = np.repeat(found, counts)
    axis = index.block_axis[blocks]
    touches = (index.axis_mint[axis] <= maxt) & (index.axis_maxt[axis] >= mint)
    if touches.all():
        return rows, blocks
    return rows[touches], blocks[touches]


@dataclass(frozen=True, slots=True)
class _Ranges:
    """Ranges of a file in one buffer: range k is ``bytes[positions[k]:][:sizes[k]]``."""

    bytes: npt.NDArray[np.uint8]
    positions: I64Array
    sizes: I64Array
    file_offsets: I64Array

    def located(self, error: CorruptionError) -> CorruptionError:
        """The error with a position in the file instead of one in the buffer."""
        if error.offset is None or len(self.positions) == 0:
            return error
        k = max(0, int(np.searchsorted(self.positions, error.offset, side="right")) - 1)
        offset = int(self.file_offsets[k]) + error.offset - int(self.positions[k])
        return CorruptionError(error.reason, path=error.path, offset=offset)


def _read_ranges(file: ReadFile, starts: I64Array, ends: I64Array, path: str) -> _Ranges:
    """Read ascending ranges that do not overlap, near ones with one call.

    Raises StorageError when the system can't read, CorruptionError when the file has become short.
    """
    if len(starts) == 0:
        return _Ranges(np.empty(0, np.uint8), starts, starts, starts)
    is_far = starts[1:] - ends[:-1] > GAP_BYTES_MAX
    first = np.concatenate(([0], np.flatnonzero(is_far) + 1))
    last = np.append(first[1:] - 1, len(starts) - 1)
    read_starts, read_sizes = starts[first], ends[last] - starts[first]
    pieces = []
    for offset, size in zip(read_starts.tolist(), read_sizes.tolist(), strict=True):
        try:
            piece = file.pread(offset, size)
        except OSError as error:
            raise storage_error(error, f"reading {path}") from error
        if len(piece) < size:
            raise CorruptionError("the file ends inside a payload", path=path, offset=offset)
        pieces.append(piece)
    data = pieces[0] if len(pieces) == 1 else b"".join(pieces)
    shift = offsets_of(read_sizes)[:-1] - read_starts
    positions = starts + np.repeat(shift, last - first + 1)
    return _Ranges(np.frombuffer(data, np.uint8), positions, ends - starts, starts)


def decode_times(
    index: PartIndex, file: ReadFile, path: str, axes: I64Array, t_ms: I64Array, positions: I64Array
) -> None:
    """Write the times of some axes (ascending) to ``t_ms[positions]``; raises CorruptionError."""
    if len(axes) == 0:
        return
    data = _read_ranges(file, index.axis_offsets[axes], index.axis_offsets[axes + 1], path)
    rows = index.axis_rows[axes].astype(np.int64)
    try:
        decode_axes(data.bytes, data.positions, data.sizes, rows, t_ms, positions, path=path)
    except CorruptionError as error:
        raise data.located(error) from None
    # Times outside the index's claim would put samples where no read looks for them.
    is_wrong = (t_ms[positions] != index.axis_mint[axes]) | (
        t_ms[positions + rows - 1] != index.axis_maxt[axes]
    )
    if is_wrong.any():
        k = int(np.argmax(is_wrong))
        raise CorruptionError(
            "an axis has other times than the index says",
            path=path,
            offset=int(data.file_offsets[k]),
        )
