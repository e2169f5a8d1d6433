"""What reads must not see: samples that deletes hide, and those past the retention of their series.

A `Mask` is made for each view. A read asks it once which of its series are touched (`touching`) and
then, for each source, what is hidden (`spans`) or what is left (`windows`). A source is hidden by
tombstones of higher sequences than any of its own; no source has samples on both sides of one.

Immutable; any thread. Reads that nothing is hidden from get None, and go on as without a mask.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tsengine.storage.head_read import is_among
from tsengine.storage.pieces import I64Array, U32Array
from tsengine.storage.spans import Span, visible
from tsengine.storage.tombstones import Tombstone

ALL_SEQUENCES = 2**63 - 1
"""The sequence of a tombstone that hides samples whatever their age: a retention's."""


class Mask:
    """All that is hidden at one moment.

    Parameters
    ----------
    tombstones
        Of deletes; and of retention rules, with the sequence ALL_SEQUENCES.
    of_samples
        Likewise of the retention of samples, which tiers don't have.

    """

    __slots__ = ("_n_of_samples", "tombstones")

    def __init__(
        self, tombstones: Sequence[Tombstone], of_samples: Sequence[Tombstone] = ()
    ) -> None:
        self.tombstones = (*of_samples, *tombstones)
        self._n_of_samples = len(of_samples)

    @property
    def of_tiers(self) -> Mask | None:
        """What windows of tiers must not show; None for nothing."""
        kept = self.tombstones[self._n_of_samples :]
        return Mask(kept) if kept else None

    @property
    def deletes(self) -> tuple[Tombstone, ...]:
        """Tombstones of deletes, without those of retention."""
        return tuple(t for t in self.tombstones if t.seq != ALL_SEQUENCES)

    def touching(self, refs: U32Array, mint: int, maxt: int) -> Hidden | None:
        """What is hidden of the series ``refs`` (ascending) in a closed range; None for nothing."""
        spans: list[tuple[int, Span]] = []
        for tombstone in self.tombstones:
            if tombstone.touches(mint, maxt):
                rows = rows_of_refs(refs, tombstone.refs)
                if len(rows):
                    lo, hi = max(mint, tombstone.mint), min(maxt, tombstone.maxt)
                    spans.append((tombstone.seq, Span(rows, lo, hi)))
        return Hidden(spans, len(refs), mint, maxt) if spans else None

    def spans(self, refs: U32Array, seq_max: int, mint: int, maxt: int) -> list[Span] | None:
        """What is hidden of one source, rows being those of ``refs``; see `Hidden.spans`."""
        hidden = self.touching(refs, mint, maxt)
        return None if hidden is None else hidden.spans(seq_max)


def rows_of_refs(refs: U32Array, wanted: U32Array) -> I64Array:
    """Where in ascending ``refs`` the refs ``wanted`` (ascending) stand; others have no row."""
    if len(refs) == 0 or len(wanted) == 0 or wanted[0] > refs[-1] or wanted[-1] < refs[0]:
        return np.empty(0, np.int64)
    if len(refs) <= len(wanted):
        return np.flatnonzero(is_among(refs, wanted))
    at = np.searchsorted(refs, wanted)
    at = at[: np.searchsorted(at, len(refs))]
    rows: I64Array = at[refs[at] == wanted[: len(at)]]
    return rows


class Hidden:
    """What a mask hides of some series in a closed range."""

    __slots__ = ("_maxt", "_mint", "_n_rows", "_spans", "_windows")

    def __init__(
        self, spans: Sequence[tuple[int, Span]], n_rows: int, mint: int, maxt: int
    ) -> None:
        self._spans = spans
        self._n_rows = n_rows
        self._mint = mint
        self._maxt = maxt
        self._windows: dict[int, list[Span]] = {}

    def spans(self, seq_max: int) -> list[Span] | None:
        """What is hidden of a source that has sequences up to ``seq_max``; None for nothing.

        Spans lie inside the range; those of one row may overlap.
        """
        return [span for seq, span in self._spans if seq > seq_max] or None

    def windows(self, seq_max: int) -> list[Span] | None:
        """What is left of such a source; None for everything.

        Each row has as many windows as it has visible pieces of time, which don't overlap.
        """
        spans = self.spans(seq_max)
        if spans is None:
            return None
        # A list has all spans of the shorter ones, so lists of one length are the same.
        found = self._windows.get(len(spans))
        if found is None:
            found = visible(spans, self._n_rows, self._mint, self._maxt)
            self._windows[len(spans)] = found
        return found
