"""Which samples of a batch are refused by their time, and how the refusal reads."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime

import numpy as np
import numpy.typing as npt

from tsengine.model.batch import SampleBatch
from tsengine.model.exemplars import ExemplarBatch
from tsengine.storage.catalog import Reject

N_REJECTS_MAX = 100
"""Series named in the answer of one request; the rest is counted in the last entry."""


@dataclass(frozen=True, slots=True)
class TimeLimits:
    """Closed range of accepted timestamps in ms; None is no limit."""

    mint: int | None
    maxt: int | None


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
    if len(batch) == 0:
        return TimeSplit(batch, None, (), ())
    none = np.zeros(0, bool)
    old = batch.t_ms < limits.mint if limits.mint is not None else none
    new = batch.t_ms > limits.maxt if limits.maxt is not None else none
    if not old.any() and not new.any():
        return TimeSplit(batch, None, (), ())
    keep = np.ones(len(batch), bool)
    too_old: tuple[Reject, ...] = ()
    too_new: tuple[Reject, ...] = ()
    if limits.mint is not None and old.any():
        keep &= ~old
        reason = f"older than the retention, which begins at {_text(limits.mint)}"
        too_old = _rejects(batch, old, f"sample {{}} is {reason}", describe)
    if limits.maxt is not None and new.any():
        keep &= ~new
        reason = f"too far in the future; the limit is now {_text(limits.maxt)}"
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
    refused = np.zeros(len(batch), bool)
    if limits.mint is not None:
        refused |= batch.t_ms < limits.mint
    if limits.maxt is not None:
        refused |= batch.t_ms > limits.maxt
    if not refused.any():
        return batch, ()
    reason = "an exemplar is refused: its time {} is out of range"
    rejects = tuple(replace(r, n_samples=0) for r in _rejects(batch, refused, reason, describe))
    kept = np.flatnonzero(~refused)
    return (batch.take(kept) if len(kept) else None), rejects


def _text(t_ms: int) -> str:
    try:
        return datetime.fromtimestamp(t_ms / 1000, UTC).isoformat(timespec="milliseconds")
    except (OverflowError, ValueError, OSError):
        return f"{t_ms} ms"


def _rejects(
    batch: SampleBatch | ExemplarBatch,
    refused: npt.NDArray[np.bool_],
    reason: str,
    describe: Callable[[npt.NDArray[np.uint32]], list[str]],
) -> tuple[Reject, ...]:
    refs, first, counts = np.unique(batch.refs[refused], return_index=True, return_counts=True)
    times = batch.t_ms[refused][first]
    shown = min(len(refs), N_REJECTS_MAX)
    named = [
        Reject(series=name, reason=reason.format(_text(int(t))), n_samples=int(n))
        for name, t, n in zip(describe(refs[:shown]), times[:shown], counts[:shown], strict=True)
    ]
    if shown < len(refs):
        rest = int(counts[shown:].sum())
        named.append(
            Reject(series=f"{len(refs) - shown} more series", reason="likewise", n_samples=rest)
        )
    return tuple(named)
