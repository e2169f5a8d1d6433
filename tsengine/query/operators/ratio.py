"""Which series `limit_ratio` takes: Prometheus's hash of the label set as a share of 2^64.

The hash is XXH64 over the labels in order of their names, each name and value preceded by its
length in bytes: one byte up to 254, else 255 and three bytes, low byte first.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from tsengine.kernels.aggregate import hash_label_rows
from tsengine.model.labels import LabelRows
from tsengine.query.labelspace import LabelSpace

_LONG = 255


def _sized(text: str) -> bytes:
    data = text.encode("utf-8", "surrogateescape")
    if len(data) < _LONG:
        return bytes((len(data),)) + data
    return bytes((_LONG,)) + len(data).to_bytes(3, "little") + data


def label_hashes(space: LabelSpace, rows: LabelRows) -> npt.NDArray[np.uint64]:
    """Prometheus's hash of each label set: u64[S]."""
    distinct, codes = np.unique(rows.pairs, return_inverse=True)
    pieces = [
        _sized(space.name_of(pair)) + _sized(space.value_of(pair)) for pair in distinct.tolist()
    ]
    sizes = np.array([len(piece) for piece in pieces], np.int64)
    text_offsets = np.concatenate(([0], np.cumsum(sizes))).astype(np.int64)
    n_bytes = np.concatenate(([0], np.cumsum(sizes[codes]))).astype(np.int64)
    row_sizes = np.diff(n_bytes[rows.offsets])
    out = np.empty(len(rows), np.uint64)
    hash_label_rows(
        np.frombuffer(b"".join(pieces), np.uint8),
        text_offsets,
        rows.offsets,
        codes.astype(np.int64),
        np.empty(int(row_sizes.max(initial=0)), np.uint8),
        out,
    )
    return out


def sampling_offsets(space: LabelSpace, rows: LabelRows) -> npt.NDArray[np.float64]:
    """Place of each label set in [0, 1]: f64[S]."""
    return label_hashes(space, rows).astype(np.float64) / 2.0**64
