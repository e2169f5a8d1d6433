"""How samples are deleted. `Database` inherits it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tsengine.model.times import MAXT, MINT, TimeLike, to_ms
from tsengine.promql import parser
from tsengine.storage.database import StorageDatabase
from tsengine.storage.deleting import held


class Deleter:
    """Deletes; any thread."""

    _storage: StorageDatabase

    def delete_series(
        self,
        selectors: str | Sequence[str],
        start: TimeLike | None = None,
        end: TimeLike | None = None,
    ) -> int:
        """Delete samples and exemplars of all series that a selector matches.

        They are invisible when this returns, and stay so. Their bytes go when the parts that hold
        them are rewritten, in the background or by `clean_tombstones`. Samples that are stored
        later are visible, wherever in time they are.

        Parameters
        ----------
        selectors
            One, or several of which any may match, e.g. ``up{job="x"}``.
        start, end
            Both ends are deleted; default: everything. Integers are ms, floats s.

        Returns
        -------
        int
            Series that had something there, also what retention hides: a longer one must not bring
            it back.

        Raises
        ------
        ValueError
            There is no selector, or end is before start.
        ParseError
            A selector is not one, or matches everything.
        Overloaded, Full, Closed, ReadOnly
            Nothing is deleted.

        """
        texts = [selectors] if isinstance(selectors, str) else list(selectors)
        if not texts:
            raise ValueError("a delete needs a selector")
        mint = MINT if start is None else to_ms(start)
        maxt = MAXT if end is None else to_ms(end)
        if maxt < mint:
            raise ValueError("end is before start")
        wanted = [parser.parse_selector(text) for text in texts]
        state = self._storage.state
        found = [state.catalog.find(matchers) for matchers in wanted]
        refs = held(self._storage, state, np.unique(np.concatenate(found)), mint, maxt)
        self._storage.delete(refs, mint, maxt)
        return len(refs)

    def clean_tombstones(self) -> None:
        """Rewrite all parts that hold deleted samples; returns when their bytes are gone.

        Files that others may still read are removed within a minute after it.
        """
        self._storage.clean_tombstones()
