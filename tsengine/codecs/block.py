"""Value blocks: runs of samples of one series to bytes and back, many blocks a call.

Bytes only: where a block lies in a file, and what says so, is the part format's business. The form
is described in docs/format/block.md. Values are float64 bits (u64) from end to end: staleness
markers, NaN payloads and -0.0 come back as they went in.

Thread-safe: no state, no shared scratch; both functions release the GIL while they work.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tsengine.errors import CorruptionError
from tsengine.kernels import blockcode
from tsengine.kernels.jit import ERR_TRUNCATED
from tsengine.kernels.packing import VECTOR_ROWS

MAX_BLOCK_VALUES = blockcode.MAX_BLOCK_VALUES

HAS_STALE = blockcode.HAS_STALE
"""The block holds at least one staleness marker (left out of all statistics)."""
HAS_NAN = blockcode.HAS_NAN
"""The block holds a NaN that is no staleness marker: statistics must not stand for samples."""
HAS_INF = blockcode.HAS_INF
"""The block holds an infinity."""
EXACT_SUM = blockcode.EXACT_SUM
"""All values are integers, their magnitudes sum up to less than 2**53: vsum is exact."""
ONE_SIGN = blockcode.ONE_SIGN
"""No two values have opposite signs: vsum cancels nothing."""


@dataclass(frozen=True, slots=True)
class BlockStats:
    """Statistics of blocks over their non-stale samples, one entry a block.

    Attributes
    ----------
    count
        i64[B], non-stale samples.
    first, last
        f64[B]; NaN if count is 0.
    vmin, vmax
        f64[B], NaNs left out; NaN if there is no other value.
    vsum
        f64[B], compensated sum; 0 if count is 0.
    reset_sum
        f64[B], sum of the value before each drop, as counter resets add it.
    flags
        u32[B]: HAS_STALE, HAS_NAN, HAS_INF, EXACT_SUM, ONE_SIGN.

    """

    count: npt.NDArray[np.int64]
    first: npt.NDArray[np.float64]
    last: npt.NDArray[np.float64]
    vmin: npt.NDArray[np.float64]
    vmax: npt.NDArray[np.float64]
    vsum: npt.NDArray[np.float64]
    reset_sum: npt.NDArray[np.float64]
    flags: npt.NDArray[np.uint32]


@dataclass(frozen=True, slots=True)
class EncodedBlocks:
    """Result of `encode_blocks`.

    Attributes
    ----------
    payload
        u8[P], the blocks one behind the other, owned by the caller.
    offsets
        i64[B+1]; block b is ``payload[offsets[b]:offsets[b + 1]]``.
    stats
        Statistics of each block; not part of the payload.

    """

    payload: npt.NDArray[np.uint8]
    offsets: npt.NDArray[np.int64]
    stats: BlockStats


def encode_blocks(
    bits: npt.NDArray[np.uint64],
    offsets: npt.NDArray[np.int64],
    first_rows: npt.NDArray[np.int64],
    *,
    is_quick: bool = False,
) -> EncodedBlocks:
    """Encode ``bits[offsets[b]:offsets[b + 1]]`` for each block b.

    Parameters
    ----------
    bits
        u64[N], float64 bits.
    offsets
        i64[B+1], ascending; a block has 1 to 8192 values.
    first_rows
        i64[B], axis row of each block's first value; blocks are cut into vectors at multiples of
        1024 axis rows, each of which has its own transform.
    is_quick
        Take a third of the time, and more bytes: for blocks that are soon encoded again.

    """
    bits = np.ascontiguousarray(bits, dtype=np.uint64)
    offsets = np.ascontiguousarray(offsets, dtype=np.int64)
    first_rows = np.ascontiguousarray(first_rows, dtype=np.int64)
    n_blocks = len(first_rows)
    lengths = np.diff(offsets)
    if len(offsets) != n_blocks + 1 or offsets[0] < 0 or offsets[-1] > len(bits):
        raise ValueError("offsets do not fit the values and first rows")
    if n_blocks and (lengths.min() < 1 or lengths.max() > MAX_BLOCK_VALUES):
        raise ValueError(f"a block has 1 to {MAX_BLOCK_VALUES} values")
    if n_blocks and first_rows.min() < 0:
        raise ValueError("a first row is negative")
    n_vectors = int(((first_rows % VECTOR_ROWS + lengths + VECTOR_ROWS - 1) // VECTOR_ROWS).sum())
    n_values = int(offsets[-1] - offsets[0])
    # An upper bound; pages that are never written cost nothing.
    capacity = 16 * n_values + 160 * n_vectors + blockcode.SCRATCH_BYTES
    out = np.empty(capacity, dtype=np.uint8)
    out_offsets = np.empty(n_blocks + 1, dtype=np.int64)
    floats = np.empty((6, n_blocks), dtype=np.float64)
    flags = np.empty((2, n_blocks), dtype=np.int64)
    size = blockcode.encode_blocks(
        bits, offsets, first_rows, int(is_quick), out, out_offsets, floats, flags
    )
    first, last, vmin, vmax, vsum, reset_sum = floats
    stats = BlockStats(
        count=flags[0],
        first=first,
        last=last,
        vmin=vmin,
        vmax=vmax,
        vsum=vsum,
        reset_sum=reset_sum,
        flags=flags[1].astype(np.uint32),
    )
    return EncodedBlocks(out[:size].copy(), out_offsets, stats)


def decode_blocks(
    payload: npt.NDArray[np.uint8],
    positions: npt.NDArray[np.int64],
    sizes: npt.NDArray[np.int64],
    first_rows: npt.NDArray[np.int64],
    lengths: npt.NDArray[np.int64],
    lo: npt.NDArray[np.int64],
    hi: npt.NDArray[np.int64],
    out: npt.NDArray[np.uint64],
    out_positions: npt.NDArray[np.int64],
    *,
    path: str | None = None,
    base_offset: int = 0,
) -> None:
    """Decode values [lo[b], hi[b]) of each block into ``out[out_positions[b]:]``.

    Parameters
    ----------
    payload
        u8[P], read-only allowed.
    positions, sizes
        i64[B], where each block lies in `payload`.
    first_rows, lengths
        i64[B], as they were given to `encode_blocks`; they are part of the checksum.
    lo, hi
        i64[B], half-open range of wanted values. Vectors wholly outside are skipped.
    out
        u64[M], filled in place; untouched where nothing is wanted.
    out_positions
        i64[B], place of value lo[b].
    path, base_offset
        File and the place of ``payload[0]`` in it, for errors.

    Raises
    ------
    CorruptionError
        A checksum or an invariant does not hold; `out` then holds values of no meaning.

    """
    columns = [
        np.ascontiguousarray(column, dtype=np.int64)
        for column in (positions, sizes, first_rows, lengths, lo, hi, out_positions)
    ]
    positions, sizes, first_rows, lengths, lo, hi, out_positions = columns
    if len({len(column) for column in columns}) != 1:
        raise ValueError("columns of blocks differ in length")
    if not len(positions):
        return
    bad = (positions < 0) | (sizes < 0) | (positions > len(payload) - sizes)
    bad |= (lengths < 1) | (lengths > MAX_BLOCK_VALUES) | (first_rows < 0)
    if bad.any():
        b = int(np.argmax(bad))
        raise CorruptionError(
            f"block {b} of {lengths[b]} values does not lie inside its payload",
            path=path,
            offset=base_offset + max(0, int(positions[b])),
        )
    wanted = hi > lo
    if (wanted & ((lo < 0) | (hi > lengths))).any():
        raise ValueError("a wanted range lies outside its block")
    if (wanted & ((out_positions < 0) | (out_positions > len(out) - (hi - lo)))).any():
        raise ValueError("a wanted range does not fit into the output")
    error = np.zeros(2, dtype=np.int64)
    status = blockcode.decode_blocks(
        payload, positions, sizes, first_rows, lengths, lo, hi, out, out_positions, error
    )
    if status < 0:
        what = "is cut short" if status == ERR_TRUNCATED else "breaks its checksum or its form"
        raise CorruptionError(f"value block {what}", path=path, offset=base_offset + int(error[1]))
