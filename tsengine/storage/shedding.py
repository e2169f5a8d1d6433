"""Who brought the series that there is no memory for: what the newest ones have in common."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from tsengine.model.labels import NO_ID
from tsengine.storage.catalog_view import CatalogView

NEWEST_MAX = 20_000
"""Series that count as new."""


def describe_newest(view: CatalogView) -> str:
    """The job that most of the newest series have, and the metric that most of these have."""
    n = min(view.n_series, NEWEST_MAX)
    if n == 0:
        return "there are no series"
    refs = view.all_refs()[-n:]
    told = f"of the newest {n} series"
    jobs = view.pair_column(refs, "job")
    job, n_job = _most(jobs)
    if job == NO_ID:
        told += f" {n_job} have no job"
    else:
        told += f' {n_job} have job="{_value(view, job)}"'
    metric, n_metric = _most(view.pair_column(refs[jobs == job], "__name__"))
    return f'{told}, {n_metric} of these the metric "{_value(view, metric)}"'


def _most(pairs: npt.NDArray[np.integer]) -> tuple[int, int]:
    """The pair that occurs most often, and how often."""
    found, counts = np.unique(pairs, return_counts=True)
    at = int(np.argmax(counts))
    return int(found[at]), int(counts[at])


def _value(view: CatalogView, pair: int) -> str:
    return view.text(int(view.pair_values[pair]))
