"""What importers share: counting, batching, and reporting refused series without stopping."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from tsengine.errors import InvalidLabels, TooFarInFuture, TooOldSample
from tsengine.model.histograms import Histograms

Progress = Callable[[int, int], None]
"""Called with (bytes or rows done, in all)."""
N_REASONS_MAX = 20


class Target(Protocol):
    """What an importer needs of a database."""

    def series_refs(self, label_sets: Sequence[Mapping[str, str]]) -> npt.NDArray[np.uint32]:
        """See `Database.series_refs`."""
        ...

    def append_columns(
        self, refs: Any, timestamps_ms: Any, values: Any, histograms: Histograms | None = None
    ) -> None:
        """See `Database.append_columns`."""
        ...

    def append_metadata(self, metric: str, type: str, help: str = "", unit: str = "") -> None:
        """See `Database.append_metadata`."""
        ...


@dataclass(slots=True)
class ImportReport:
    """What an import stored and what it refused."""

    n_samples: int = 0
    n_series: int = 0
    n_refused: int = 0
    reasons: list[str] = field(default_factory=list)

    def refuse(self, reason: str, n_samples: int = 1) -> None:
        """Count refused samples; the first reasons are kept for the user."""
        self.n_refused += n_samples
        if len(self.reasons) < N_REASONS_MAX:
            self.reasons.append(reason)


class SeriesTable:
    """Refs of label sets that were met, so that each is looked up once. Refused ones are -1."""

    def __init__(self, db: Target, report: ImportReport) -> None:
        self._db = db
        self._report = report
        self._refs: dict[tuple[tuple[str, str], ...], int] = {}

    def ref(self, labels: tuple[tuple[str, str], ...], where: str) -> int:
        """Ref of a label set, -1 if the database refuses it (reported once, with `where`)."""
        known = self._refs.get(labels)
        if known is not None:
            return known
        try:
            found = int(self._db.series_refs([dict(labels)])[0])
            self._report.n_series += 1
        except InvalidLabels as error:
            found = -1
            self._report.refuse(f"{where}: {error}", 0)
        self._refs[labels] = found
        return found


def store(
    db: Target,
    report: ImportReport,
    refs: npt.NDArray[np.int64],
    t_ms: npt.NDArray[np.int64],
    values: npt.NDArray[np.float64],
    histograms: Histograms | None = None,
) -> None:
    """Append the rows whose ref is not -1 and count both kinds.

    ``histograms`` is the table of the handles among the values.
    """
    keep = refs >= 0
    n_bad = len(refs) - int(keep.sum())
    if n_bad:
        report.n_refused += n_bad
        refs, t_ms, values = refs[keep], t_ms[keep], values[keep]
    try:
        db.append_columns(refs.astype(np.uint32), t_ms, values, histograms)
    except (TooOldSample, TooFarInFuture) as error:
        # The samples inside the limits are stored; how many were not is in the error's text only.
        report.refuse(str(error))
    report.n_samples += len(refs)
