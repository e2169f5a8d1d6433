"""Finding, making and replacing series, one thread at a time: the lane.

`catalog` is changed under the lane only. `_lane_catalog` is its last published view, which goes
with the next entry to the log; readers see it when that entry is durable.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from tsengine.errors import AppendLimitExceeded
from tsengine.model.labels import format_series, label_dicts
from tsengine.storage.catalog import Catalog, CatalogView
from tsengine.storage.database_core import DatabaseCore
from tsengine.storage.shedding import describe_newest


class SeriesLane(DatabaseCore):
    """Series of a database, by whoever holds the lane."""

    _lane: threading.Lock
    _lane_catalog: CatalogView

    @property
    def lane(self) -> threading.Lock:
        """Held by whoever finds, makes or replaces series; to be held briefly."""
        return self._lane

    def series_refs(self, label_sets: Sequence[Mapping[str, str]]) -> npt.NDArray[np.uint32]:
        """Refs of label sets, made if need be: u32[S]. New ones become durable with their samples.

        They are valid while the database is open. Raises InvalidLabels, AppendLimitExceeded.
        """
        with self._lane:
            refs = self._find_series(label_sets)
            self.held_refs.hold_for_ever(refs)
            return refs

    @contextlib.contextmanager
    def refs_in_use(
        self, label_sets: Sequence[Mapping[str, str]]
    ) -> Iterator[npt.NDArray[np.uint32]]:
        """As `series_refs`, valid inside the ``with``."""
        with self._lane:
            refs = self._find_series(label_sets)
            token = self.held_refs.hold(refs)
        try:
            yield refs
        finally:
            self.held_refs.release(token)

    def encode_series(self, first_ref: int, n: int) -> bytes:
        """Payload of series for a catalog segment."""
        with self._lane:
            return self.catalog.encode_series(first_ref, n)

    def take_catalog(self, other: Catalog) -> None:
        """Let a published catalog of the same series but dead ones be ours. Lane only."""
        self.catalog.replace_by(other)
        self._lane_catalog = self.catalog.view()

    def shed_reason(self) -> str:
        """Why new series are refused, and who brought the last ones, for people."""
        memory = self.memory
        if memory.series_bytes() >= memory.series_limit() * 9 // 10:
            why = (
                f"series and caches hold {memory.series_bytes() >> 20} MiB of the "
                f"{memory.series_limit() >> 20} MiB that the memory budget of "
                f"{memory.budget >> 20} MiB gives them"
            )
        else:
            why = f"there are {self.catalog.n_series} series"
        return f"{why}; {describe_newest(self.state.catalog)}"

    def _find_series(self, label_sets: Sequence[Mapping[str, str]]) -> npt.NDArray[np.uint32]:
        """Refs of label sets, made if need be. Lane only."""
        self._check_writable()
        self._note_memory()
        try:
            return self.catalog.series_refs(label_sets)[0]
        except AppendLimitExceeded as error:
            self._n_shed += len(label_sets)
            raise AppendLimitExceeded(f"{error}; {self.shed_reason()}") from None

    def _note_memory(self) -> None:
        """Tell the catalog how many series there is memory for. Lane only."""
        self.catalog.memory_max_series = self.memory.series_max(self.catalog.n_series)

    def _use_refs(self, refs: npt.NDArray[np.uint32]) -> None:
        """Check that the refs of samples were given out. Lane only."""
        distinct = refs[np.flatnonzero(np.diff(refs, prepend=~refs[:1]))]
        unknown = distinct[~self.catalog.has(distinct)]
        if len(unknown):
            raise ValueError(f"series ref {int(unknown[0])} was not given out by this database")
        self.catalog.note_used(distinct)

    def _publish_lane_catalog(self) -> None:
        self.catalog.publish()
        self._lane_catalog = self.catalog.view()

    def _describe_in_lane(self, refs: npt.NDArray[np.uint32]) -> list[str]:
        self._publish_lane_catalog()
        catalog = self._lane_catalog
        return [format_series(labels) for labels in label_dicts(catalog, catalog.labels(refs))]
