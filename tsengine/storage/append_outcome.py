"""What became of one append, and who is told."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tsengine.errors import TooFarInFuture, TooOldSample
from tsengine.storage.rejects import Reject


@dataclass(frozen=True, slots=True)
class AppendOutcome:
    """What became of one append: floats, histograms and exemplars stored, things refused."""

    n_samples: int
    n_histograms: int
    n_exemplars: int
    rejected: tuple[Reject, ...]
    too_old: tuple[Reject, ...] = ()
    too_new: tuple[Reject, ...] = ()
    n_shed: int = 0
    """Refused series that are new and over a limit of series or memory."""

    def raise_rejects(self) -> None:
        """Raise TooOldSample or TooFarInFuture if samples were refused by their time."""
        for refused, error in ((self.too_old, TooOldSample), (self.too_new, TooFarInFuture)):
            if refused:
                first = refused[0]
                n_samples = sum(reject.n_samples for reject in refused)
                more = f" (and {n_samples - 1} more samples)" if n_samples > 1 else ""
                raise error(f"{first.series}: {first.reason}{more}; the others are stored")


OnAppended = Callable[[AppendOutcome, BaseException | None], None]
