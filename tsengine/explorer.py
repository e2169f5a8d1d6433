"""What can be asked about the stored series besides their samples: labels, metadata, statistics.

Also what can be asked about a query's text. `Database` inherits all of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from tsengine.model.labels import label_dicts
from tsengine.model.times import MAXT, MINT, TimeLike, to_ms
from tsengine.options import Options
from tsengine.promql import parser
from tsengine.promql.ast import VectorSelector, walk
from tsengine.promql.features import promql_features
from tsengine.promql.pretty import pretty
from tsengine.promql.syntax_json import syntax_tree
from tsengine.storage.database import StorageDatabase
from tsengine.storage.view import DatabaseView


class Explorer:
    """Questions about labels, metadata and texts; any thread."""

    _storage: StorageDatabase
    options: Options

    def series(
        self,
        selectors: Sequence[str],
        start: TimeLike | None = None,
        end: TimeLike | None = None,
        limit: int = 0,
    ) -> tuple[list[dict[str, str]], bool]:
        """Label sets that match any selector, and whether `limit` (0: none) cut the list."""
        view = self._storage.view()
        refs, cut = _cut(self._find(view, selectors, start, end), limit)
        return label_dicts(view.catalog, view.labels(refs)), cut

    def label_names(
        self,
        selectors: Sequence[str] = (),
        start: TimeLike | None = None,
        end: TimeLike | None = None,
        limit: int = 0,
    ) -> tuple[list[str], bool]:
        """Sorted label names of the matching (default: all) series, and whether it was cut."""
        view = self._storage.view()
        refs = self._find_or_all(view, selectors, start, end)
        return _cut(view.catalog.label_names(refs), limit)

    def label_values(
        self,
        name: str,
        selectors: Sequence[str] = (),
        start: TimeLike | None = None,
        end: TimeLike | None = None,
        limit: int = 0,
    ) -> tuple[list[str], bool]:
        """Sorted values of one label over the matching (default: all) series."""
        view = self._storage.view()
        refs = self._find_or_all(view, selectors, start, end)
        return _cut(view.catalog.label_values(name, refs), limit)

    def metadata(
        self, metric: str | None = None, limit: int = 0, limit_per_metric: int = 0
    ) -> dict[str, list[dict[str, str]]]:
        """Type, help and unit by metric name, in the shape of Prometheus's API."""
        found = self._storage.metadata.by_metric(metric)
        names = list(found)[:limit] if limit else list(found)
        return {
            name: [
                {"type": entry.type, "help": entry.help, "unit": entry.unit}
                for entry in found[name][: limit_per_metric or None]
            ]
            for name in names
        }

    def has_selectors(self, expr: str) -> bool:
        """Whether a PromQL text reads any series; raises ParseError."""
        tree = parser.parse(expr, features=self.options.features)
        return any(isinstance(node, VectorSelector) for node in walk(tree))

    def format_query(self, expr: str) -> str:
        """A PromQL text in Prometheus's layout, long ones on several lines; raises ParseError."""
        return pretty(parser.parse(expr, features=self.options.features))

    def parse_query(self, expr: str) -> dict[str, Any]:
        """The syntax tree of a PromQL text, in the shape of Prometheus's API; raises ParseError."""
        return syntax_tree(parser.parse(expr, features=self.options.features))

    def tsdb_status(self, limit: int = 10) -> dict[str, Any]:
        """Cardinality statistics, in the shape of Prometheus's /status/tsdb."""
        view = self._storage.view()
        found: dict[str, Any] = dict(view.catalog.cardinality(limit))
        n_pairs = found.pop("numLabelPairs")
        status: dict[str, Any] = {
            key: [{"name": name, "value": value} for name, value in counts]
            for key, counts in found.items()
        }
        bounds = view.bounds
        stats = self._storage.stats()
        status["headStats"] = {
            "numSeries": view.catalog.n_series,
            "numLabelPairs": n_pairs,
            "chunkCount": stats["parts"],
            "minTime": MAXT if bounds is None else bounds[0],
            "maxTime": MINT if bounds is None else bounds[1],
        }
        return status

    def tsdb_blocks(self) -> list[dict[str, Any]]:
        """The parts, oldest first, in the shape of Prometheus's /status/tsdb/blocks."""
        return [
            {
                "ulid": entry.name,
                "minTime": entry.mint,
                "maxTime": entry.maxt + 1,  # Prometheus's blocks end before it.
                "stats": {
                    "numSamples": entry.n_samples,
                    "numSeries": entry.n_series,
                    "numBytes": entry.size_bytes,
                },
                "compaction": {"level": entry.level + 1, "sources": [entry.name]},
                "version": 1,
            }
            for entry in sorted(self._storage.view().entries, key=lambda entry: entry.mint)
        ]

    def promql_features(self) -> dict[str, dict[str, bool]]:
        """Which words, functions and operators queries may use, as in Prometheus's /features."""
        found = promql_features(self.options.features)
        found["promql"]["delayed_name_removal"] = self.options.delayed_name_removal
        return found

    def _find(
        self,
        view: DatabaseView,
        selectors: Sequence[str],
        start: TimeLike | None,
        end: TimeLike | None,
    ) -> npt.NDArray[np.uint32]:
        mint, maxt = time_range(start, end)
        refs = np.zeros(0, np.uint32)
        for selector in selectors:
            matchers = parser.parse_selector(selector)
            refs = np.union1d(refs, view.find(matchers, mint, maxt))
        return refs

    def _find_or_all(
        self,
        view: DatabaseView,
        selectors: Sequence[str],
        start: TimeLike | None,
        end: TimeLike | None,
    ) -> npt.NDArray[np.uint32] | None:
        if selectors:
            return self._find(view, selectors, start, end)
        if start is None and end is None and self.options.retention is None:
            return None
        mint, maxt = time_range(start, end)
        return view.live(view.all_refs(), mint, maxt)


def time_range(start: TimeLike | None, end: TimeLike | None) -> tuple[int, int]:
    """Closed range in ms of two optional ends."""
    return MINT if start is None else to_ms(start), MAXT if end is None else to_ms(end)


def _cut(items: Any, limit: int) -> tuple[Any, bool]:
    if limit and len(items) > limit:
        return items[:limit], True
    return items, False
