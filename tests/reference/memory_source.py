"""A database of dicts and lists: the simplest thing that fulfils `SampleSource`.

Two flavours of reading test both paths of the kernels: rows of equal times share an axis, or every
row has an axis of its own. With `tiers`, samples are also seen as windows, and may be gone as such.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import re2

from tests.reference.memory_windows import to_batch, windows_of
from tsengine.errors import QueryError
from tsengine.model.batch import SeriesColumns
from tsengine.model.frame import FrameBatch
from tsengine.model.histograms import Histograms, concatenate, handles
from tsengine.model.labels import NO_ID, LabelRows, LabelTexts
from tsengine.model.matchers import Matcher, MatchOp
from tsengine.model.windows import Column, WindowBatch

STALE_BITS = 0x7FF0000000000002
STALE = np.array([STALE_BITS], np.uint64).view(np.float64)[0]


class MemoryDictionary:
    """Symbols and pairs as Python lists."""

    def __init__(self) -> None:
        self._texts: list[str] = []
        self._symbols: dict[str, int] = {}
        self._pairs: dict[tuple[int, int], int] = {}
        self._names: list[int] = []
        self._values: list[int] = []

    @property
    def n_symbols(self) -> int:
        return len(self._texts)

    @property
    def pair_names(self) -> np.ndarray:
        return np.array(self._names, np.uint32)

    @property
    def pair_values(self) -> np.ndarray:
        return np.array(self._values, np.uint32)

    @property
    def arrays(self) -> LabelTexts:
        texts = [text.encode("utf-8", "surrogatepass") for text in self._texts]
        offsets = np.cumsum([0, *map(len, texts)]).astype(np.int64)
        text = np.frombuffer(b"".join(texts), np.uint8)
        return LabelTexts(text, offsets, self.pair_names, self.pair_values)

    def text(self, symbol: int) -> str:
        return self._texts[symbol]

    def texts(self, symbols: np.ndarray) -> list[str]:
        return [self._texts[symbol] for symbol in symbols.tolist()]

    def find_symbol(self, text: str) -> int:
        return self._symbols.get(text, NO_ID)

    def find_pair(self, name: int, value: int) -> int:
        return self._pairs.get((name, value), NO_ID)

    def symbol(self, text: str) -> int:
        if text not in self._symbols:
            self._symbols[text] = len(self._texts)
            self._texts.append(text)
        return self._symbols[text]

    def pair(self, name: str, value: str) -> int:
        key = (self.symbol(name), self.symbol(value))
        if key not in self._pairs:
            self._pairs[key] = len(self._names)
            self._names.append(key[0])
            self._values.append(key[1])
        return self._pairs[key]


class MemorySource:
    """Series as dicts of time to value; also its own view, since tests don't write while reading.

    A histogram is a table of one row; its staleness marker has the sum that is one.

    Parameters
    ----------
    share_axes
        Whether rows of equal times share an axis in what `read` gives.
    tiers
        Widths of tiers.
    floors
        By width, 0 for samples: what is not after this time is gone there.
    """

    def __init__(
        self,
        *,
        share_axes: bool = True,
        tiers: Sequence[int] = (),
        floors: Mapping[int, int] | None = None,
    ) -> None:
        self.dictionary = MemoryDictionary()
        self.share_axes = share_axes
        self.tiers = tuple(sorted(tiers))
        self.floors = dict(floors or {})
        self.windows_read: list[tuple[int, int, int]] = []
        self._labels: list[dict[str, str]] = []
        self._samples: list[dict[int, float | Histograms]] = []
        self._starts: list[dict[int, int]] = []
        self._refs: dict[tuple[tuple[str, str], ...], int] = {}

    def view(self) -> MemorySource:
        return self

    def append(
        self,
        labels: Mapping[str, str],
        timestamps: Sequence[int],
        values: Sequence[float | Histograms],
        start_timestamps: Sequence[int] | None = None,
    ) -> int:
        """Store samples of one series; returns its ref."""
        key = tuple(sorted((k, v) for k, v in labels.items() if v))
        ref = self._refs.setdefault(key, len(self._labels))
        if ref == len(self._labels):
            self._labels.append(dict(sorted(key, key=lambda kv: kv[0].encode())))
            self._samples.append({})
            self._starts.append({})
            for name, value in key:
                self.dictionary.pair(name, value)
        self._samples[ref].update(zip(timestamps, values, strict=True))
        starts = [0] * len(timestamps) if start_timestamps is None else list(start_timestamps)
        self._starts[ref].update((t, int(s)) for t, s in zip(timestamps, starts, strict=True))
        return ref

    def append_histograms(
        self,
        labels: Mapping[str, str],
        timestamps: Sequence[int],
        histograms: Histograms,
        start_timestamps: Sequence[int] | None = None,
    ) -> int:
        """Store histograms of one series; returns its ref."""
        rows = [histograms.take(np.array([i])) for i in range(len(histograms))]
        values = [STALE if is_stale(row.sum[0]) else row for row in rows]
        return self.append(labels, timestamps, values, start_timestamps)

    def find(self, matchers: Sequence[Matcher], mint: int, maxt: int, check=None) -> np.ndarray:
        return np.array(
            [r for r, ls in enumerate(self._labels) if all(_matches(m, ls) for m in matchers)],
            np.uint32,
        )

    def labels(self, refs: np.ndarray) -> LabelRows:
        offsets, pairs = [0], []
        for ref in refs:
            for name, value in self._labels[ref].items():
                pairs.append(self.dictionary.pair(name, value))
            offsets.append(len(pairs))
        return LabelRows(np.array(offsets, np.int64), np.array(pairs, np.uint32))

    def count_samples(self, refs: np.ndarray, mint: int, maxt: int) -> int:
        return sum(sum(mint <= t <= maxt for t in self._samples[ref]) for ref in refs)

    def read(
        self,
        refs: np.ndarray,
        mint: int,
        maxt: int,
        *,
        drop_stale: bool,
        with_values: bool = True,
    ) -> FrameBatch:
        axes: list[tuple[int, ...]] = []
        known: dict[tuple[int, ...], int] = {}
        row_axis, row_offsets, values = [], [0], []
        tables = []
        for ref in refs:
            samples = self._kept(ref)
            times = tuple(
                t
                for t in sorted(samples)
                if mint <= t <= maxt and not (drop_stale and is_stale(samples[t]))
            )
            if not self.share_axes or times not in known:
                known[times] = len(axes)
                axes.append(times)
            row_axis.append(known[times])
            for t in times:
                value = samples[t]
                if isinstance(value, Histograms):
                    tables.append(value)
                    value = handles(np.array([len(tables) - 1])).view(np.float64)[0]
                elif not with_values and not is_stale(value):
                    value = 0.0
                values.append(value)
            row_offsets.append(len(values))
        return FrameBatch(
            t_ms=np.array([t for axis in axes for t in axis], np.int64),
            axis_offsets=np.cumsum([0] + [len(axis) for axis in axes]).astype(np.int64),
            row_axis=np.array(row_axis, np.int64),
            values=np.array(values, np.float64),
            row_offsets=np.array(row_offsets, np.int64),
            histograms=concatenate(tables) if tables else None,
        )

    def _kept(self, ref: int) -> dict[int, float | Histograms]:
        """Samples, where they are gone the last ones of windows, with a marker at a stale end."""
        floor = self.floors.get(0)
        if floor is None:
            return self._samples[ref]
        kept = {t: v for t, v in self._samples[ref].items() if t > floor}
        for width in self.tiers:
            upto = min(kept, default=floor + 1)
            for end, window in self._windows(ref, width).items():
                if end > floor or not self._has(width, end):
                    continue
                last_t, last = window[Column.LAST_T], window[Column.LAST]
                if window[Column.H_COUNT] and (
                    not window[Column.COUNT] or window[Column.H_LAST_T] > last_t
                ):
                    last_t, last = window[Column.H_LAST_T], window[Column.H_LAST]
                if (window[Column.COUNT] or window[Column.H_COUNT]) and last_t < upto:
                    kept[last_t] = last
                if window[Column.STALE] and end < upto:
                    kept[end] = STALE
        return kept

    def _windows(self, ref: int, width: int) -> dict[int, dict]:
        return windows_of(sorted(self._samples[ref].items()), width)

    def _has(self, width: int, end: int) -> bool:
        """Whether a window of a width, or finer ones in its place, are there."""
        floors = [self.floors.get(w) for w in (0, *self.tiers) if w == 0 or width % w == 0]
        return any(floor is None or end - width >= floor for floor in floors)

    @property
    def tier_widths_ms(self) -> tuple[int, ...]:
        return self.tiers

    def exact_floor_ms(self, width_ms: int, refs: np.ndarray) -> int | None:
        floors = [self.floors.get(w) for w in (0, *self.tiers) if w <= width_ms]
        return None if None in floors else min(floors)

    def missing_spans(
        self, width_ms: int, refs: np.ndarray, mint: int, maxt: int
    ) -> list[tuple[int, int]]:
        floor_ms = self.exact_floor_ms(width_ms, refs)
        last = mint - 1 if floor_ms is None else min(floor_ms, maxt)
        return [(mint, last)] if last >= mint else []

    def doubtful_spans(
        self, width_ms: int, refs: np.ndarray, mint: int, maxt: int
    ) -> list[tuple[int, int]]:
        return []

    def covered(self, width_ms: int, mint: int, maxt: int) -> bool:
        return any(width <= width_ms for width in self.tiers)

    def tiers_read(self, width_ms: int, mint: int, maxt: int) -> tuple[str, ...]:
        return (f"{width_ms}ms" if width_ms else "raw",)

    def read_windows(self, refs, width_ms, mint, maxt, columns) -> WindowBatch:
        assert (mint - 1) % width_ms == maxt % width_ms == 0
        self.windows_read.append((width_ms, mint, maxt))
        rows = [
            {
                end: window
                for end, window in self._windows(ref, width_ms).items()
                if mint <= end <= maxt and self._has(width_ms, end)
            }
            for ref in refs
        ]
        return to_batch(rows, width_ms, columns, share_axes=self.share_axes)

    def count_windows(self, refs: np.ndarray, width_ms: int, mint: int, maxt: int) -> int:
        return sum(sum(mint <= t <= maxt for t in self._windows(ref, width_ms)) for ref in refs)

    def has_histograms(self, refs: np.ndarray, mint: int, maxt: int) -> bool:
        return any(
            mint <= t <= maxt and isinstance(v, Histograms)
            for ref in refs
            for t, v in self._samples[ref].items()
        )

    def read_start_times(self, refs: np.ndarray, mint: int, maxt: int) -> SeriesColumns:
        used, offsets, times, starts = [], [0], [], []
        for ref in refs:
            known = {t: s for t, s in self._starts[ref].items() if s and mint <= t <= maxt}
            if known:
                used.append(ref)
                times.extend(sorted(known))
                starts.extend(known[t] for t in sorted(known))
                offsets.append(len(times))
        return SeriesColumns(
            refs=np.array(used, np.uint32),
            offsets=np.array(offsets, np.int64),
            t_ms=np.array(times, np.int64),
            bits=np.array(starts, np.int64).view(np.uint64),
        )


def is_stale(value: float | Histograms) -> bool:
    if isinstance(value, Histograms):
        return False
    return int(np.array([value], np.float64).view(np.uint64)[0]) == STALE_BITS


def _matches(matcher: Matcher, labels: Mapping[str, str]) -> bool:
    value = labels.get(matcher.name, "")
    if matcher.op is MatchOp.EQUAL:
        return value == matcher.value
    if matcher.op is MatchOp.NOT_EQUAL:
        return value != matcher.value
    try:
        found = re2.fullmatch(f"(?s:{matcher.value})", value) is not None
    except re2.error as error:
        raise QueryError(f"invalid regular expression {matcher.value!r}: {error}") from error
    return found == (matcher.op is MatchOp.REGEX)
