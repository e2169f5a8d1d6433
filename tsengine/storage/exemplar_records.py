"""Exemplars as bytes: the payload of the log's record type 4 and of exemplar files.

Layout in docs/format/exemplars.md.
"""

from __future__ import annotations

import struct

import numpy as np

from tsengine.errors import CorruptionError, UnsupportedFormat
from tsengine.model.exemplars import ExemplarBatch, unpack_labels
from tsengine.model.ragged import offsets_of

_HEADER = struct.Struct("<IIQ")


def encode_exemplars(batch: ExemplarBatch) -> bytes:
    """Payload of a batch."""
    sizes = np.array([len(labels) for labels in batch.labels], np.dtype("<u4"))
    return b"".join(
        (
            _HEADER.pack(0, len(batch), int(sizes.sum(dtype=np.uint64))),
            batch.t_ms.astype("<i8").tobytes(),
            batch.values.astype("<f8").tobytes(),
            batch.refs.astype("<u4").tobytes(),
            sizes.tobytes(),
            *batch.labels,
        )
    )


def decode_exemplars(payload: bytes) -> ExemplarBatch:
    """The batch of a payload.

    Raises
    ------
    CorruptionError
        The payload is not one that `encode_exemplars` makes.
    UnsupportedFormat
        It has flags of a newer version.

    """
    if len(payload) < _HEADER.size:
        raise CorruptionError(f"exemplars of {len(payload)} bytes are shorter than their header")
    flags, n, text_size = _HEADER.unpack_from(payload)
    if flags:
        raise UnsupportedFormat(f"exemplars with unknown flags {flags:#x}")
    begin = _HEADER.size + 24 * n
    if len(payload) != begin + text_size:
        raise CorruptionError(f"{n} exemplars have {len(payload)} bytes, not {begin + text_size}")
    offset = _HEADER.size
    t_ms = np.frombuffer(payload, "<i8", n, offset).astype(np.int64)
    values = np.frombuffer(payload, "<f8", n, offset + 8 * n).astype(np.float64)
    refs = np.frombuffer(payload, "<u4", n, offset + 16 * n).astype(np.uint32)
    sizes = np.frombuffer(payload, "<u4", n, offset + 20 * n).astype(np.int64)
    ends = offsets_of(sizes)
    if int(ends[-1]) != text_size:
        raise CorruptionError("sizes of exemplars' labels do not fit their texts")
    cuts = (begin + ends).tolist()
    labels = tuple(payload[a:b] for a, b in zip(cuts[:-1], cuts[1:], strict=True))
    for packed in set(labels):
        try:
            unpack_labels(packed)
        except ValueError as error:
            raise CorruptionError(f"exemplar with malformed labels: {error}") from error
    return ExemplarBatch(refs, t_ms, values, labels)
