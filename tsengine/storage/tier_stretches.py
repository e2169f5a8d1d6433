"""Plans of who answers for which stretch of time, and from when on samples are complete. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from tsengine.storage.head_read import is_among
from tsengine.storage.holes import inside, joined, widened
from tsengine.storage.pieces import U32Array
from tsengine.storage.tier_map import Span

STRETCHES_MAX = 32
"""Of a plan, as long as samples may answer for what lies between them."""

EVER = -(2**62), 2**62
"""A closed range that holds all times."""
_MIN_MS = -(2**63)


@dataclass(frozen=True, slots=True)
class Unseen:
    """A part that is aside: of a closed range of time, with its last sequence.

    Parts of tiers that end before that lack it; of a part of a tier (``width_ms``) only those of
    the same width do, which it has made needless.
    """

    mint: int
    maxt: int
    seq_max: int
    width_ms: int = 0

    def is_lacked_by(self, width_ms: int, seq_max: int) -> bool:
        """Whether a part of a tier has not seen it."""
        return self.seq_max > seq_max and self.width_ms in (0, width_ms)


@dataclass(frozen=True, slots=True, eq=False)
class Loss:
    """What rules took of the series ``refs``, u32[S] ascending, that no rule hides now.

    From ``mint`` on: samples before ``samples_ms``, and windows of tiers before ``windows_ms``.
    """

    refs: U32Array
    mint: int
    samples_ms: int
    windows_ms: int


@dataclass(frozen=True, slots=True, eq=False)
class Completeness:
    """From when on samples are complete; None if all are there.

    Before that some may be gone: tiers answer where they have anything, and what there is of
    samples elsewhere.

    Parameters
    ----------
    common_ms
        Of most series.
    longer
        Series for which another time holds, u32[S] ascending, in disjoint groups.
    hidden_ms
        No sample before it is returned; None if nothing is hidden.
    holes
        Closed ranges, ascending and disjoint, where samples of any series are missing.
    unseen
        What is missing, as far as known.
    losses
        What rules took; whose samples they took is among ``longer`` too.

    """

    common_ms: int | None
    longer: tuple[tuple[U32Array, int | None], ...] = ()
    hidden_ms: int | None = None
    holes: tuple[Span, ...] = ()
    unseen: tuple[Unseen, ...] = ()
    losses: tuple[Loss, ...] = ()

    @property
    def times(self) -> list[int | None]:
        """All of them, without duplicates."""
        return list(dict.fromkeys([self.common_ms, *(from_ms for _, from_ms in self.longer)]))

    @property
    def latest_ms(self) -> int | None:
        """From when on the samples of all series are complete."""
        times = [from_ms for from_ms in self.times if from_ms is not None]
        return max([*times, *(last + 1 for _, last in self.holes)], default=None)

    def is_beside_aside(self, mint: int, maxt: int) -> bool:
        """Whether a part that is aside may have something of a closed range."""
        return any(away.mint <= maxt and away.maxt >= mint for away in self.unseen)

    def incomplete(self, from_ms: int | None, width_ms: int = 1) -> tuple[Span, ...]:
        """Whole windows in which samples may be gone, of series with one of the times."""
        old = [] if from_ms is None else [(EVER[0], -(-(from_ms - 1) // width_ms) * width_ms)]
        return joined([*old, *widened(self.holes, width_ms)])

    def of_refs(self, refs: U32Array) -> npt.NDArray[np.int64]:
        """Of each series, the least time there is for None: i64[S]."""
        found = np.full(len(refs), _MIN_MS if self.common_ms is None else self.common_ms)
        for own, from_ms in self.longer:
            found[is_among(refs, own)] = _MIN_MS if from_ms is None else from_ms
        return found

    def groups(self, refs: U32Array) -> list[tuple[int | None, npt.NDArray[np.int64]]]:
        """Times and the rows of ``refs`` for which they hold, none without rows."""
        if not self.longer:
            return [(self.common_ms, np.arange(len(refs)))] if len(refs) else []
        of_rows = self.of_refs(refs)
        found = [
            (from_ms, np.flatnonzero(of_rows == (_MIN_MS if from_ms is None else from_ms)))
            for from_ms in self.times
        ]
        return [(from_ms, rows) for from_ms, rows in found if len(rows)]


@dataclass(frozen=True, slots=True)
class Stretch:
    """One closed range of whole windows and who answers for it: a tier of a width, or samples (0).

    ``tier`` is the number of the reader; it is not ``clean`` if there may be samples that it lacks.
    """

    mint: int
    maxt: int
    width_ms: int
    tier: int
    is_clean: bool = True


def with_fewer(found: Sequence[Stretch], incomplete: Sequence[Span]) -> list[Stretch]:
    """A plan that reads samples also between stretches of samples that are close together.

    Never where samples may be gone, which are closed ranges of whole windows.

    Late samples all over may make every other window dirty.
    """
    raw = [k for k, s in enumerate(found) if s.width_ms == 0]
    lengths = sorted(
        (found[after].mint - found[before].maxt, before, after)
        for before, after in zip(raw, raw[1:], strict=False)
        if not inside(found[before].mint, found[after].maxt, incomplete)
    )
    is_joined = [False] * len(found)
    n_left = len(found)
    for _, before, after in lengths:
        if n_left <= STRETCHES_MAX:
            break
        is_joined[before + 1 : after + 1] = [True] * (after - before)
        n_left -= after - before
    fewer: list[Stretch] = []
    for stretch, joins in zip(found, is_joined, strict=True):
        if joins:
            fewer[-1] = replace(fewer[-1], maxt=stretch.maxt)
        else:
            fewer.append(stretch)
    return fewer
