"""What can be asked about the stored series besides their samples: labels, metadata, statistics.

Also what can be asked about a query's text. `Database` inherits all of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from tsengine.interop import prometheus_json
from tsengine.model.exemplars import unpack_labels
from tsengine.model.labels import label_dicts, texts_of_pairs
from tsengine.model.times import MAXT, MINT, TimeLike, to_ms
from tsengine.options import Options
from tsengine.promql import parser
from tsengine.promql.ast import VectorSelector, walk
from tsengine.promql.features import promql_features
from tsengine.promql.pretty import pretty
from tsengine.promql.syntax_json import syntax_tree
from tsengine.storage.database import StorageDatabase
from tsengine.storage.view import DatabaseView

Check = Callable[[], None]
"""Called now and then during a long search; raises to give it up."""

_UNITE_AT = 1 << 20
"""Series found more than once are united when there are so many of them, to bound the memory."""

_SERIES_AT_ONCE = 1 << 15
"""Label sets made between two looks at the clock."""

_VALUES_AT_ONCE = 1 << 10
"""Texts in one batch of label values."""


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
        *,
        check: Check | None = None,
    ) -> tuple[list[dict[str, str]], bool]:
        """Label sets that match any selector, and whether `limit` (0: none) cut the list.

        `check` is called now and then and may raise to give up; so in the other questions.
        """
        view = self._storage.view()
        refs, cut = _cut(self._find(view, selectors, start, end, check), limit)
        rows: list[dict[str, str]] = []
        for first in range(0, len(refs), _SERIES_AT_ONCE):
            if check is not None:
                check()
            rows += label_dicts(view.catalog, view.labels(refs[first : first + _SERIES_AT_ONCE]))
        return rows, cut

    def series_json(
        self,
        selectors: Sequence[str],
        start: TimeLike | None = None,
        end: TimeLike | None = None,
        limit: int = 0,
        *,
        check: Check | None = None,
    ) -> tuple[Iterator[bytes | memoryview], bool]:
        """`series` as a JSON list in pieces, which are made when they are asked for."""
        view = self._storage.view()
        refs, cut = _cut(self._find(view, selectors, start, end, check), limit)
        texts_of = partial(texts_of_pairs, view.dictionary)
        texts = view.dictionary.arrays
        pieces = prometheus_json.label_sets_json(view.labels(refs), texts_of, texts)
        return _checked(pieces, check), cut

    def label_names(
        self,
        selectors: Sequence[str] = (),
        start: TimeLike | None = None,
        end: TimeLike | None = None,
        limit: int = 0,
        *,
        check: Check | None = None,
    ) -> tuple[list[str], bool]:
        """Sorted label names of the matching (default: all) series, and whether it was cut."""
        view = self._storage.view()
        refs = self._find_or_all(view, selectors, start, end, check)
        return _cut(view.catalog.label_names(refs), limit)

    def label_values(
        self,
        name: str,
        selectors: Sequence[str] = (),
        start: TimeLike | None = None,
        end: TimeLike | None = None,
        limit: int = 0,
        *,
        check: Check | None = None,
    ) -> tuple[list[str], bool]:
        """Sorted values of one label over the matching (default: all) series."""
        view = self._storage.view()
        refs = self._find_or_all(view, selectors, start, end, check)
        return _cut(view.catalog.label_values(name, refs), limit)

    def label_value_batches(
        self,
        name: str,
        selectors: Sequence[str] = (),
        start: TimeLike | None = None,
        end: TimeLike | None = None,
        *,
        check: Check | None = None,
    ) -> Iterator[list[str]]:
        """As `label_values`, but unsorted and a thousand at a time: never all in memory."""
        view = self._storage.view()
        refs = self._find_or_all(view, selectors, start, end, check)
        symbols = view.catalog.label_value_symbols(name, refs)
        for first in range(0, len(symbols), _VALUES_AT_ONCE):
            if check is not None:
                check()
            yield view.catalog.texts(symbols[first : first + _VALUES_AT_ONCE])

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

    def query_exemplars(
        self, expr: str, start: TimeLike | None = None, end: TimeLike | None = None
    ) -> list[dict[str, Any]]:
        """Exemplars of all series that a PromQL text selects, in the shape of Prometheus's API.

        Each series has ``seriesLabels`` and ``exemplars``, those by time; both ends are closed.

        Raises
        ------
        ParseError
        CorruptionError
            A file of exemplars that is needed is damaged.

        """
        tree = parser.parse(expr, features=self.options.features)
        mint, maxt = time_range(start, end)
        catalog = self._storage.view().catalog
        refs = np.zeros(0, np.uint32)
        for node in walk(tree):
            if isinstance(node, VectorSelector):
                refs = np.union1d(refs, catalog.find(node.matchers))
        found = self._storage.find_exemplars(refs, mint, maxt)
        series, first = np.unique(found.refs, return_index=True)
        ends = [*first[1:].tolist(), len(found)][: len(series)]
        return [
            {
                "seriesLabels": labels,
                "exemplars": [
                    {
                        "labels": unpack_labels(found.labels[row]),
                        "value": prometheus_json.format_value(float(found.values[row])),
                        "timestamp": found.t_ms[row].item() / 1000,
                    }
                    for row in range(begin, stop)
                ],
            }
            for labels, begin, stop in zip(
                label_dicts(catalog, catalog.labels(series)), first.tolist(), ends, strict=True
            )
        ]

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
        check: Check | None = None,
    ) -> npt.NDArray[np.uint32]:
        mint, maxt = time_range(start, end)
        # Equal selectors find equal series; the order of the others does not matter.
        distinct = list(dict.fromkeys(parser.parse_selector(text) for text in selectors))
        if len(distinct) == 1:
            return view.live(view.catalog.find(distinct[0], check), mint, maxt)
        found = [np.zeros(0, np.uint32)]
        n_found = 0
        for matchers in distinct:
            if check is not None:
                check()
            found.append(view.catalog.find(matchers, check))
            n_found += len(found[-1])
            if n_found > _UNITE_AT + 2 * len(found[0]):
                found = [np.unique(np.concatenate(found))]
                n_found = len(found[0])
        return view.live(np.unique(np.concatenate(found)), mint, maxt)

    def _find_or_all(
        self,
        view: DatabaseView,
        selectors: Sequence[str],
        start: TimeLike | None,
        end: TimeLike | None,
        check: Check | None = None,
    ) -> npt.NDArray[np.uint32] | None:
        if selectors:
            return self._find(view, selectors, start, end, check)
        is_everything = start is None and end is None and self.options.retention is None
        if is_everything and not view.hides_samples:
            return None
        return view.live_of_all(*time_range(start, end))


def time_range(start: TimeLike | None, end: TimeLike | None) -> tuple[int, int]:
    """Closed range in ms of two optional ends."""
    return MINT if start is None else to_ms(start), MAXT if end is None else to_ms(end)


def _checked(
    pieces: Iterator[bytes | memoryview], check: Check | None
) -> Iterator[bytes | memoryview]:
    for piece in pieces:
        if check is not None:
            check()
        yield piece


def _cut(items: Any, limit: int) -> tuple[Any, bool]:
    if limit and len(items) > limit:
        return items[:limit], True
    return items, False
