"""A database of a few series in memory, to be asked before anybody asks a real one.

Python makes code quick when it has run about ten times, and code that never ran is in no cache: the
first small queries of a process take two to three times as long as later ones. So a server asks
this one while it opens the real one: docs/decisions/0022-the-first-queries-are-not-slow.md.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np

from tsengine.engine import Database
from tsengine.model.batch import SampleBatch
from tsengine.options import LabelLimits, Options
from tsengine.query.engine import Engine
from tsengine.storage.catalog import Catalog
from tsengine.storage.head import Head
from tsengine.storage.view import DatabaseView

_N_SERIES = 16
_N_SAMPLES = 20
_STEP_MS = 15_000


class RehearsalDatabase(Database):
    """Counters ``rehearsal{instance, job}`` of five minutes from 0 on; for reads alone."""

    def __init__(self) -> None:
        self.options = Options(query_threads=1)
        self.path = ""
        view = _view_of_some_series()
        # All that reads ask of a storage.
        storage: Any = SimpleNamespace(
            view=lambda: view, recovery=SimpleNamespace(has_lost_parts=False)
        )
        self._storage = storage
        self._engine = Engine(storage, self.options)

    def close(self) -> None:
        """Forget it."""
        self._engine.close()


def _view_of_some_series() -> DatabaseView:
    catalog = Catalog(secret=bytes(32), limits=LabelLimits(), max_series=_N_SERIES)
    refs, _, _ = catalog.series_refs(
        [
            {"__name__": "rehearsal", "instance": f"host-{k}", "job": "ab"[k % 2]}
            for k in range(_N_SERIES)
        ]
    )
    catalog.publish()
    t_ms = np.repeat(np.arange(1, _N_SAMPLES + 1) * _STEP_MS, _N_SERIES)
    values = np.arange(len(t_ms), dtype=np.float64)
    head = Head()
    head.append(SampleBatch(np.tile(refs, _N_SAMPLES), t_ms, values.view(np.uint64)), 1)
    return DatabaseView(catalog.view(), (), [head.view()], None)
