"""Time axes: strictly ascending timestamps to bytes and back, many axes a call.

Bytes only; the form is described in docs/format/axis.md. Timestamps are any int64, in practice ms
since the epoch. Thread-safe: no state, no shared scratch; the GIL is released while kernels work.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from tsengine.errors import CorruptionError
from tsengine.kernels import axiscode
from tsengine.kernels.jit import ERR_TRUNCATED
from tsengine.kernels.packing import VECTOR_ROWS

MAX_AXIS_ROWS = 1 << 40
"""No file comes near; keeps sums of lengths far from int64's end."""


def encode_axes(
    t_ms: npt.NDArray[np.int64], offsets: npt.NDArray[np.int64]
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    """Encode the axes ``t_ms[offsets[a]:offsets[a + 1]]``.

    Parameters
    ----------
    t_ms
        i64[M], strictly ascending inside each axis; any int64.
    offsets
        i64[A+1], ascending; an axis has at least one row.

    Returns
    -------
    (payload, positions)
        u8[P] and i64[A+1]: axis a is ``payload[positions[a]:positions[a + 1]]``.

    """
    t_ms = np.ascontiguousarray(t_ms, dtype=np.int64)
    offsets = np.ascontiguousarray(offsets, dtype=np.int64)
    if not len(offsets) or offsets[0] < 0 or offsets[-1] > len(t_ms):
        raise ValueError("offsets do not fit the timestamps")
    lengths = np.diff(offsets)
    if len(lengths) and lengths.min() < 1:
        raise ValueError("an axis has at least one row")
    n_vectors = int(((lengths + VECTOR_ROWS - 1) // VECTOR_ROWS).sum())
    capacity = (
        axiscode.AXIS_BYTES_MAX * len(lengths)
        + 10 * int(lengths.sum())
        + 128 * n_vectors
        + axiscode.SCRATCH_BYTES
    )
    out = np.empty(capacity, dtype=np.uint8)
    positions = np.empty(len(offsets), dtype=np.int64)
    size = axiscode.encode_axes(t_ms, offsets, out, positions)
    if size < 0:
        raise ValueError(f"axis {-1 - size} is not strictly ascending")
    return out[:size].copy(), positions


def decode_axes(
    payload: npt.NDArray[np.uint8],
    positions: npt.NDArray[np.int64],
    sizes: npt.NDArray[np.int64],
    lengths: npt.NDArray[np.int64],
    out: npt.NDArray[np.int64],
    out_positions: npt.NDArray[np.int64],
    *,
    path: str | None = None,
    base_offset: int = 0,
) -> None:
    """Decode whole axes into ``out[out_positions[a]:][:lengths[a]]``.

    Parameters
    ----------
    payload
        u8[P], read-only allowed.
    positions, sizes
        i64[A], where each axis lies in `payload`.
    lengths
        i64[A], rows of each axis; they are part of its checksum.
    out, out_positions
        i64[M], filled in place, and i64[A], the place of each axis's first row.
    path, base_offset
        File and the place of ``payload[0]`` in it, for errors.

    Raises
    ------
    CorruptionError
        A checksum or an invariant does not hold; `out` then holds values of no meaning.

    """
    columns = [
        np.ascontiguousarray(column, dtype=np.int64)
        for column in (positions, sizes, lengths, out_positions)
    ]
    positions, sizes, lengths, out_positions = columns
    if len({len(column) for column in columns}) != 1:
        raise ValueError("columns of axes differ in length")
    if not len(positions):
        return
    bad = (positions < 0) | (sizes < 0) | (positions > len(payload) - sizes)
    bad |= (lengths < 1) | (lengths > MAX_AXIS_ROWS)
    if bad.any():
        a = int(np.argmax(bad))
        raise CorruptionError(
            f"axis {a} of {lengths[a]} rows does not lie inside its payload",
            path=path,
            offset=base_offset + max(0, int(positions[a])),
        )
    if ((out_positions < 0) | (out_positions > len(out) - lengths)).any():
        raise ValueError("an axis does not fit into the output")
    error = np.zeros(1, dtype=np.int64)
    status = axiscode.decode_axes(payload, positions, sizes, lengths, out, out_positions, error)
    if status < 0:
        what = "is cut short" if status == ERR_TRUNCATED else "breaks its checksum or its form"
        raise CorruptionError(
            f"axis {what}", path=path, offset=base_offset + int(positions[error[0]])
        )
