"""Pieces of a part: which blocks a read needs, their axes, and their values decoded in place.

Blocks are found by binary search in the index; axes are read and decoded once each, values when
they are asked for, straight to their place. No Python runs per series or block.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from tsengine.codecs.axis import decode_axes
from tsengine.codecs.block import decode_blocks
from tsengine.errors import CorruptionError
from tsengine.kernels import axes, blockcode
from tsengine.kernels.axes import clip_blocks, copy_rows
from tsengine.kernels.jit import OK
from tsengine.model.histograms import Histograms
from tsengine.storage.axis_cache import number_used
from tsengine.storage.cold import ColdFile
from tsengine.storage.filesystem import ReadFile, storage_error
from tsengine.storage.part_format import FLAG_HISTOGRAM, FLAG_STALE
from tsengine.storage.part_index import PartIndex
from tsengine.storage.pieces import I64Array, U32Array, U64Array, expand_ranges, offsets_of
from tsengine.storage.spans import Span

GAP_BYTES_MAX = 32 * 1024
"""Payloads closer than this are read together: copying the gap costs less than another call."""
WINDOW_BYTES = 128 * 1024 + blockcode.SIDE_BYTES
"""Bytes of a file that are read at once where no gap is larger; they stay in the core's cache."""
COUNTED_ROWS_MAX = 256 * 1024
"""Rows of axes that are decoded at most to count samples exactly."""

KnownAxes = tuple[npt.NDArray[np.bool_], I64Array, I64Array]
"""Which axes are decoded; where each begins in ``t_ms``; and these times, not to be written."""


class PartAxes(Protocol):
    """Times of a part's axes."""

    def known(self) -> KnownAxes | None:
        """Those that were decoded before; None if none are kept."""
        ...

    def times(self, axis: npt.NDArray[np.uint32]) -> tuple[I64Array, I64Array]:
        """Of some axes the positions of their first rows in ``t_ms``, a new array, and these times.

        Raises CorruptionError.
        """
        ...


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
        part_axes: PartAxes,
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
        if refs is None:
            refs = index.refs
        columns, keys, self._axis_t = _find(index, part_axes, refs, mint, maxt)
        if windows is not None:
            columns, keys = self._clip_to(columns, keys, windows)
        self._blocks = columns[axes.BLOCK]
        self._starts = columns[axes.START]
        self._lo = columns[axes.LOW]
        self.rows = columns[axes.ROW]
        self.sizes = columns[axes.SIZE]
        self.first_t = columns[axes.FIRST_T]
        self.last_t = columns[axes.LAST_T]
        self.keys = keys
        self.n_samples = int(self.sizes.sum())
        flags = columns[axes.FLAGS]
        self.may_be_stale = (flags & FLAG_STALE) != 0
        self.has_histogram = (flags & FLAG_HISTOGRAM) != 0

    def _clip_to(
        self, columns: I64Array, keys: I64Array, windows: Sequence[Span]
    ) -> tuple[I64Array, I64Array]:
        """Pieces clipped to windows, one for each that a piece of the row has anything in."""
        rows, blocks, starts = columns[axes.ROW], columns[axes.BLOCK], columns[axes.START]
        found = [tuple(np.empty(0, np.int64) for _ in range(5))]
        for wanted, mint, maxt in windows:
            low = np.searchsorted(rows, wanted)
            which = expand_ranges(low, np.searchsorted(rows, wanted, side="right") - low)
            clipped = _clip(self._index, self._axis_t, blocks[which], starts[which], mint, maxt)
            kept = np.flatnonzero(clipped[1] > clipped[0])
            found.append((which[kept], *(column[kept] for column in clipped)))
        which, lo, hi, first_t, last_t = (
            np.concatenate(column) for column in zip(*found, strict=True)
        )
        order = np.lexsort((lo, which))
        which, lo, sizes = which[order], lo[order], (hi - lo)[order]
        columns, keys = columns.take(which, axis=1), keys[which]
        columns[axes.LOW], columns[axes.SIZE] = lo, sizes
        columns[axes.FIRST_T], columns[axes.LAST_T] = first_t[order], last_t[order]
        keys[:, 2] = (lo << 16) | sizes
        return columns, keys

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
        fd = self._values.fileno
        if fd is not None:
            index = self._index
            status = blockcode.decode_file(
                fd, index.payload_offsets, index.block_payload, index.block_first_row,
                index.block_size, self._blocks, self._lo, self.sizes,
                np.ascontiguousarray(which), np.ascontiguousarray(positions),
                np.empty(WINDOW_BYTES, np.uint8), out,
            )  # fmt: skip
            # A file that was closed meanwhile may have left its number to another one.
            if status == OK and self._values.fileno == fd:
                return
        self._copy_values(which, out, positions)

    def _copy_values(self, which: I64Array, out: U64Array, positions: I64Array) -> None:
        """As `copy_values` where the system has no file, or to find out what is wrong with it."""
        index = self._index
        blocks = self._blocks[which]
        payloads, where = number_used(index.block_payload[blocks], len(index.payload_offsets) - 1)
        lo = self._lo[which]

        def decode(data: _Ranges) -> None:
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

        starts, ends = index.payload_offsets[payloads], index.payload_offsets[payloads + 1]
        _decode_ranges(self._values, starts, ends, self._values_path, decode)

    def histograms_of(self, refs: U32Array, t_ms: I64Array, bits: U64Array) -> Histograms:
        """See `pieces.Pieces.histograms_of`; ``bits`` are all the same."""
        if self._histograms is None:
            raise CorruptionError("histograms in a part without any", path=self._values_path)
        return self._histograms(refs, t_ms)


def _find(
    index: PartIndex, part_axes: PartAxes, refs: U32Array, mint: int, maxt: int
) -> tuple[I64Array, I64Array, I64Array]:
    """Pieces of series in a closed range: their columns and keys as `find_pieces` has them, times.

    Raises CorruptionError if an axis that is needed is damaged.
    """
    known = part_axes.known()
    found = None if known is None else _find_known(index, known, refs, mint, maxt)
    if found is None:
        _, blocks = blocks_of(index, refs, mint, maxt)
        axis = index.block_axis[blocks]
        is_known = np.zeros(len(index.axis_rows), np.bool_)
        starts = np.zeros(len(index.axis_rows), np.int64)
        first_rows, t_ms = part_axes.times(axis)
        starts[axis], is_known[axis] = first_rows, True
        found = _find_known(index, (is_known, starts, t_ms), refs, mint, maxt)
        assert found is not None, "all axes of the blocks were asked for"
    return found


def _find_known(
    index: PartIndex, known: KnownAxes, refs: U32Array, mint: int, maxt: int
) -> tuple[I64Array, I64Array, I64Array] | None:
    """As `_find` where all axes that are needed are known; None if they are not."""
    refs = np.ascontiguousarray(refs, np.uint32)
    capacity = 2 * len(refs)
    while True:
        columns = np.empty((axes.N_COLUMNS, capacity), np.int64)
        keys = np.empty((capacity, 3), np.int64)
        n_found = axes.find_pieces(
            index.refs, index.series_blocks, index.block_axis, index.block_first_row,
            index.block_size, index.block_pattern, index.block_flags, index.axis_mint,
            index.axis_maxt, index.pattern_offsets, index.run_first, index.run_length, *known,
            refs, mint, maxt, columns, keys,
        )  # fmt: skip
        if n_found < 0:
            return None
        if n_found <= capacity:
            return columns[:, :n_found], keys[:n_found], known[2]
        capacity = n_found


def _clip(
    index: PartIndex, axis_t: I64Array, blocks: I64Array, starts: I64Array, mint: int, maxt: int
) -> tuple[I64Array, I64Array, I64Array, I64Array]:
    """``lo, hi, first_t, last_t`` of blocks in a closed range; see `clip_blocks`."""
    lo, hi, first_t, last_t = (np.empty(len(blocks), np.int64) for _ in range(4))
    clip_blocks(
        axis_t, starts, index.block_size[blocks].astype(np.int64),
        index.block_pattern[blocks].astype(np.int64),
        index.pattern_offsets, index.run_first, index.run_length, mint, maxt,
        lo, hi, first_t, last_t,
    )  # fmt: skip
    return lo, hi, first_t, last_t


def count_samples(
    index: PartIndex, part_axes: PartAxes, refs: U32Array, mint: int, maxt: int
) -> int:
    """Samples of the series ``refs`` in a closed range, without reading values.

    Exact where blocks lie inside the range or their axes are few; else a block is taken to be
    spread evenly over its axis, because decoding the axes would cost as much as reading them.
    """
    known = part_axes.known()
    found = None if known is None else _find_known(index, known, refs, mint, maxt)
    if found is not None:
        return int(found[0][axes.SIZE].sum())
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
    starts, axis_t = part_axes.times(index.block_axis[blocks])
    lo, hi, _, _ = _clip(index, axis_t, blocks, starts + index.block_first_row[blocks], mint, maxt)
    return inside + int((hi - lo).sum())


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


def _decode_ranges(
    file: ReadFile, starts: I64Array, ends: I64Array, path: str, decode: Callable[[_Ranges], None]
) -> None:
    """Read ranges and decode them; what an object store may have given wrongly once more.

    ``decode`` may be called twice. Raises what it and `_read_ranges` raise, with positions in the
    file.
    """
    data = _read_ranges(file, starts, ends, path)
    try:
        decode(data)
        return
    except CorruptionError as error:
        if not isinstance(file, ColdFile):
            raise data.located(error) from None
    for start, end in zip(starts.tolist(), ends.tolist(), strict=True):
        file.forget(start, end - start)
    data = _read_ranges(file, starts, ends, path)
    try:
        decode(data)
    except CorruptionError as error:
        raise data.located(error) from None


def decode_times(
    index: PartIndex, file: ReadFile, path: str, axes: I64Array, t_ms: I64Array, positions: I64Array
) -> None:
    """Write the times of some axes (ascending) to ``t_ms[positions]``; raises CorruptionError."""
    if len(axes) == 0:
        return
    rows = index.axis_rows[axes].astype(np.int64)

    def decode(data: _Ranges) -> None:
        decode_axes(data.bytes, data.positions, data.sizes, rows, t_ms, positions, path=path)
        # Times outside the index's claim would put samples where no read looks for them.
        is_wrong = (t_ms[positions] != index.axis_mint[axes]) | (
            t_ms[positions + rows - 1] != index.axis_maxt[axes]
        )
        if is_wrong.any():
            raise CorruptionError(
                "an axis has other times than the index says",
                path=path,
                offset=int(data.positions[np.argmax(is_wrong)]),
            )

    _decode_ranges(file, index.axis_offsets[axes], index.axis_offsets[axes + 1], path, decode)
