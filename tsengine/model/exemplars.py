"""Exemplars on their way in and out, as columns."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

_SEPARATOR = b"\xff"
"""Occurs in no UTF-8 text."""


@dataclass(frozen=True, slots=True)
class ExemplarBatch:
    """N exemplars of any series in any order.

    ``refs: u32[N]``, ``t_ms: i64[N]``, ``values: f64[N]``, ``labels``: N label sets as texts of
    `pack_labels`.
    """

    refs: npt.NDArray[np.uint32]
    t_ms: npt.NDArray[np.int64]
    values: npt.NDArray[np.float64]
    labels: tuple[bytes, ...]

    def __len__(self) -> int:
        return len(self.refs)

    def take(self, rows: npt.NDArray[np.integer]) -> ExemplarBatch:
        """Rows in the order given, as copies."""
        return ExemplarBatch(
            self.refs[rows],
            self.t_ms[rows],
            self.values[rows],
            tuple(self.labels[row] for row in rows.tolist()),
        )


def join_batches(batches: Sequence[ExemplarBatch]) -> ExemplarBatch:
    """All rows of the batches, one after the other."""
    return ExemplarBatch(
        np.concatenate([np.empty(0, np.uint32), *(b.refs for b in batches)]),
        np.concatenate([np.empty(0, np.int64), *(b.t_ms for b in batches)]),
        np.concatenate([np.empty(0, np.float64), *(b.values for b in batches)]),
        tuple(labels for batch in batches for labels in batch.labels),
    )


def pack_labels(labels: Iterable[tuple[str, str]]) -> bytes:
    """A label set as one text: names and values in order of the names."""
    return _SEPARATOR.join(text.encode() for pair in sorted(labels) for text in pair)


def unpack_labels(packed: bytes) -> dict[str, str]:
    """Invert `pack_labels`."""
    if not packed:
        return {}
    texts = [str(text, "utf-8") for text in packed.split(_SEPARATOR)]
    return dict(zip(texts[::2], texts[1::2], strict=True))
