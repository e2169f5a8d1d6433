"""Which samples of a batch are refused by their time, and how the refusal reads."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from tsengine.model.batch import SampleBatch
from tsengine.model.exemplars import ExemplarBatch
from tsengine.model.times import text_of_ms
from tsengine.storage.catalog import Reject

N_REJECTS_MAX = 100
"""Series named in the answer of one request; the rest is counted in the last entry."""


@dataclass(frozen=True, slots=True)
class TimeLimits:
    """Closed range of accepted timestamps in ms; None is no limit.

    If ``floors_of`` is there, ``mint`` is what is accepted of every series, and it tells the first
    time that is accepted of each of some refs: i64[N].
    """

    mint: int | None
    maxt: int | None
    floors_of: Callable[[npt.NDArray[np.uint32]], npt.NDArray[np.int64]] | None = None

    def take_all(self, t_ms: npt.NDArray[np.int64]) -> bool:
        """Whether samples at these times, at least one, are accepted whatever their series is."""
        if self.mint is not None and int(t_ms.min()) < self.mint:
            return False
        return self.maxt is None or int(t_ms.max()) <= self.maxt

    def floors(self, refs: npt.NDArray[np.uint32]) -> npt.NDArray[np.int64]:
        """First accepted time of each series: i64[N]."""
        assert self.mint is not None, "asked where it is"
        if self.floors_of is None:
            return np.full(len(refs), self.mint, np.int64)
        return self.floors_of(refs)

    def too_old(
        self, refs: npt.NDArray[np.uint32], t_ms: npt.NDArray[np.int64]
    ) -> npt.NDArray[np.bool_]:
        """Which samples are before the floor of their series: bool[N]."""
        if self.mint is None:
            return np.zeros(len(t_ms), np.bool_)
        old = t_ms < self.mint
        if self.floors_of is not None and old.any():
            rows = np.flatnonzero(old)
            old[rows] = t_ms[rows] < self.floors_of(refs[rows])
        return old


@dataclass(frozen=True, slots=True)
class TimeSplit:
    """The accepted samples, and the refused ones by series.

    ``kept`` are the rows of the batch that are accepted, ascending; None says all.
    """

    accepted: SampleBatch
    kept: npt.NDArray[np.int64] | None
    too_old: tuple[Reject, ...]
    too_new: tuple[Reject, ...]


def split_by_time(
    batch: SampleBatch, limits: TimeLimits, describe: Callable[[npt.NDArray[np.uint32]], list[str]]
) -> TimeSplit:
    """Part a batch into samples inside the limits and rejects.

    Parameters
    ----------
    describe
        Texts of series refs, for the rejects.

    """
    if len(batch) == 0 or limits.take_all(batch.t_ms):
        return TimeSplit(batch, None, (), ())
    none = np.zeros(0, bool)
    old = limits.too_old(batch.refs, batch.t_ms)
    new = batch.t_ms > limits.maxt if limits.maxt is not None else none
    if not old.any() and not new.any():
        return TimeSplit(batch, None, (), ())
    keep = np.ones(len(batch), bool)
    too_old: tuple[Reject, ...] = ()
    too_new: tuple[Reject, ...] = ()
    if limits.mint is not None and old.any():
        keep &= ~old
        reason = "sample {} is older than the retention, which begins at {}"
        too_old = _rejects(batch, old, reason, describe, limits.floors)
    if limits.maxt is not None and new.any():
        keep &= ~new
        reason = f"too far in the future; the limit is now {text_of_ms(limits.maxt)}"
        too_new = _rejects(batch, new, f"sample {{}} is {reason}", describe)
    kept = np.flatnonzero(keep)
    return TimeSplit(batch.take(kept), kept, too_old, too_new)


def split_exemplars(
    batch: ExemplarBatch | None,
    limits: TimeLimits,
    describe: Callable[[npt.NDArray[np.uint32]], list[str]],
) -> tuple[ExemplarBatch | None, tuple[Reject, ...]]:
    """Exemplars inside the limits (None: there are none), and the refused ones by series."""
    if batch is None:
        return None, ()
    refused = limits.too_old(batch.refs, batch.t_ms)
    if limits.maxt is not None:
        refused |= batch.t_ms > limits.maxt
    if not refused.any():
        return batch, ()
    reason = "an exemplar is refused: its time {} is out of range"
    rejects = tuple(replace(r, n_samples=0) for r in _rejects(batch, refused, reason, describe))
    kept = np.flatnonzero(~refused)
    return (batch.take(kept) if len(kept) else None), rejects


def _rejects(
    batch: SampleBatch | ExemplarBatch,
    refused: npt.NDArray[np.bool_],
    reason: str,
    describe: Callable[[npt.NDArray[np.uint32]], list[str]],
    limit_of: Callable[[npt.NDArray[np.uint32]], npt.NDArray[np.int64]] | None = None,
) -> tuple[Reject, ...]:
    """Refused samples by series; ``reason`` has places for the time and the series' limit."""
    refs, first, counts = np.unique(batch.refs[refused], return_index=True, return_counts=True)
    times = batch.t_ms[refused][first]
    shown = min(len(refs), N_REJECTS_MAX)
    limits = times[:shown] if limit_of is None else limit_of(refs[:shown])
    rows = zip(
        describe(refs[:shown]), times.tolist(), limits.tolist(), counts.tolist(), strict=False
    )
    named = [
        Reject(series=name, reason=reason.format(text_of_ms(t), text_of_ms(limit)), n_samples=n)
        for name, t, limit, n in rows
    ]
    if shown < len(refs):
        rest = int(counts[shown:].sum())
        named.append(
            Reject(series=f"{len(refs) - shown} more series", reason="likewise", n_samples=rest)
        )
    return tuple(named)
