"""Histograms, exemplars and start timestamps of a remote write body, as columns by row.

Only bodies that hold some of these come here; see `tsengine.storage.remote_write` for rows.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tsengine.errors import MalformedRequest
from tsengine.kernels import histogramscan, nestedwire, protowire
from tsengine.kernels.bits import STALE_BITS
from tsengine.kernels.jit import OK
from tsengine.model.exemplars import ExemplarBatch, pack_labels
from tsengine.model.histograms import Histograms, handles, no_histograms

I64Array = npt.NDArray[np.int64]
U64Array = npt.NDArray[np.uint64]
Bytes = npt.NDArray[np.uint8]

HISTOGRAM_BYTES_PER_REQUEST_MAX = 8 * 1024 * 1024
"""A bucket is one byte in a message and a good dozen in memory."""
EXEMPLARS_PER_REQUEST_MAX = 20_000
EXEMPLAR_LABELS_LENGTH_MAX = 128
"""Characters of all names and values of an exemplar's labels, as in OpenMetrics."""

# Statuses of exemplars besides those of `tsengine.kernels.nestedwire`.
LABELS_TOO_LONG = 3
LABEL_TWICE = 4
NOT_UTF8 = 5
TOO_MANY = 6


@dataclass(frozen=True, slots=True)
class HistogramRows:
    """H histograms of a body in its order.

    ``rows, statuses, t_ms, start_ms: i64[H]``. ``bits: u64[H]`` are handles of ``table``, or the
    staleness marker; they mean nothing where the status is not 0.
    """

    rows: I64Array
    statuses: I64Array
    t_ms: I64Array
    start_ms: I64Array
    bits: U64Array
    table: Histograms


@dataclass(frozen=True, slots=True)
class ExemplarRows:
    """E exemplars of a body in its order: ``rows, statuses: i64[E]``; ``batch.refs`` are 0."""

    rows: I64Array
    statuses: I64Array
    batch: ExemplarBatch


@dataclass(frozen=True, slots=True)
class Nested:
    """What a body holds besides float samples; ``start_ms: i64[n_samples]``, None: none known."""

    histograms: HistogramRows
    exemplars: ExemplarRows
    start_ms: I64Array | None

    def counts_by_row(self, n_rows: int) -> I64Array:
        """Histograms and exemplars of each row that are fine: i64[n_rows]."""
        counts = np.zeros(n_rows, np.int64)
        for found in (self.histograms, self.exemplars):
            counts += np.bincount(found.rows[found.statuses == 0], minlength=n_rows)
        return counts

    def refused_rows(self) -> I64Array:
        """Rows with a histogram or exemplar that is refused, ascending."""
        parts = [found.rows[found.statuses != 0] for found in (self.histograms, self.exemplars)]
        return np.unique(np.concatenate(parts))


def read_nested(
    data: Bytes,
    starts: I64Array,
    ends: I64Array,
    version: int,
    totals: I64Array,
    symbols: tuple[I64Array, I64Array] | None,
    malformed: Callable[[int], Exception],
) -> Nested:
    """Read what a scan has counted.

    Parameters
    ----------
    starts, ends
        The TimeSeries messages of the body: i64[n] each.
    totals
        Of the scan.
    symbols
        Spans of the symbols of a 2.0 body.
    malformed
        Makes the error for a break at a position; it is raised.

    """
    n_histograms = int(totals[protowire.N_HISTOGRAMS])
    n_exemplars = int(totals[protowire.N_EXEMPLARS])
    histograms = np.empty((3, n_histograms), np.int64)
    exemplars = np.empty((3, n_exemplars), np.int64)
    start_ms = np.empty(int(totals[protowire.N_SAMPLES]), np.int64)
    histogram_start_ms = np.empty(n_histograms, np.int64)
    status = nestedwire.find_nested(
        data, starts, ends, len(starts), version, histograms, exemplars, start_ms,
        histogram_start_ms,
    )  # fmt: skip
    assert status == OK, "the scan has proved the messages"
    read = _Reader(data, version, symbols, malformed)
    return Nested(
        read.histograms(histograms, histogram_start_ms),
        read.exemplars(exemplars),
        start_ms if start_ms.any() else None,
    )


@dataclass(frozen=True, slots=True)
class _Reader:
    data: Bytes
    version: int
    symbols: tuple[I64Array, I64Array] | None
    malformed: Callable[[int], Exception]

    def histograms(self, spans: I64Array, start_ms: I64Array) -> HistogramRows:
        starts, ends, rows = spans
        n = len(rows)
        none = np.empty(0, np.int64)
        if n == 0:
            return HistogramRows(rows, none, none, none, handles(none), no_histograms())
        sizes = ends - starts
        size = int(sizes.sum())
        if size > HISTOGRAM_BYTES_PER_REQUEST_MAX:
            raise MalformedRequest(
                f"{size} bytes of native histograms are more than "
                f"{HISTOGRAM_BYTES_PER_REQUEST_MAX} in one request; send smaller ones"
            )
        longest = min(int(sizes.max()), histogramscan.MESSAGE_SIZE_MAX)
        statuses, t_ms = np.empty((2, n), np.int64)
        numbers = np.empty((3, n), np.int64)
        values = np.empty((4, n), np.float64)
        offsets, bounds_offsets = np.empty((2, n + 1), np.int64)
        keys, counts = np.empty(size, np.int32), np.empty(size, np.float64)
        bounds = np.empty(size // 8, np.float64)
        scratch = np.empty((2, histogramscan.SCRATCH_ROWS, longest), np.int64)
        totals = np.zeros(protowire.TOTALS_SIZE, np.int64)
        found = histogramscan.parse_histograms(
            self.data, starts, ends, n, self.version, statuses, t_ms, start_ms, numbers, values,
            offsets, keys, counts, bounds_offsets, bounds, scratch[0], scratch[1], totals,
        )  # fmt: skip
        if found < 0:
            raise self.malformed(int(totals[protowire.ERROR_POSITION]))
        n_keys = int(totals[histogramscan.N_KEYS])
        n_bounds = int(totals[histogramscan.N_BOUNDS_ROWS])
        table = Histograms(
            schema=numbers[0].astype(np.int8),
            hint=numbers[1].astype(np.uint8),
            count=values[0],
            sum=values[1],
            zero_threshold=values[2],
            zero_count=values[3],
            offsets=offsets,
            keys=keys[:n_keys].copy(),
            counts=counts[:n_keys].copy(),
            bounds_id=numbers[2].astype(np.int32),
            bounds_offsets=bounds_offsets[: n_bounds + 1].copy(),
            bounds=bounds[: bounds_offsets[n_bounds]].copy(),
        )
        bits = handles(np.arange(n))
        bits[table.sum.view(np.uint64) == STALE_BITS] = STALE_BITS
        return HistogramRows(rows, statuses, t_ms, start_ms, bits, table)

    def exemplars(self, spans: I64Array) -> ExemplarRows:
        starts, ends, rows = spans
        n = len(rows)
        refs = np.zeros(n, np.uint32)
        if n == 0:
            batch = ExemplarBatch(refs, np.empty(0, np.int64), np.empty(0), ())
            return ExemplarRows(rows, np.empty(0, np.int64), batch)
        t_ms, symbol_ends, statuses = np.empty((3, n), np.int64)
        bits = np.empty(n, np.uint64)
        used = np.empty(int((ends - starts).sum()), np.uint32)
        totals = np.zeros(protowire.TOTALS_SIZE, np.int64)
        n_symbols = 0 if self.symbols is None else len(self.symbols[0])
        n_used = nestedwire.parse_exemplars(
            self.data, starts, ends, n, self.version, n_symbols, t_ms, bits, symbol_ends, used,
            statuses, totals,
        )  # fmt: skip
        if n_used < 0:
            raise self.malformed(int(totals[protowire.ERROR_POSITION]))
        if self.symbols is None:
            texts, text_ends = self._label_texts_v1(starts, ends)
        else:
            texts, text_ends = self._symbol_texts(used[:n_used]), symbol_ends
        statuses[EXEMPLARS_PER_REQUEST_MAX:] = TOO_MANY
        labels = [b""] * n
        first = 0
        for i, last in enumerate(text_ends[:EXEMPLARS_PER_REQUEST_MAX].tolist()):
            if last - first > 4 * EXEMPLAR_LABELS_LENGTH_MAX:
                statuses[i] = LABELS_TOO_LONG
            if statuses[i] == nestedwire.EXEMPLAR_OK:
                labels[i], statuses[i] = _packed(texts(first, last))
            first = last
        batch = ExemplarBatch(refs, t_ms, bits.view(np.float64), tuple(labels))
        return ExemplarRows(rows, statuses, batch)

    def _label_texts_v1(
        self, starts: I64Array, ends: I64Array
    ) -> tuple[Callable[[int, int], list[bytes]], I64Array]:
        """Texts name, value, ... of a range of positions, and the end of each exemplar's."""
        # A label takes two bytes at least.
        capacity = int((ends - starts).sum()) // 2
        row_ends = np.empty(len(starts), np.int64)
        spans = np.empty((4, capacity), np.int64)
        totals = np.zeros(protowire.TOTALS_SIZE, np.int64)
        n_labels = protowire.parse_labels(
            self.data, starts, ends, len(starts), row_ends, *spans, totals
        )
        if n_labels < 0:
            raise self.malformed(int(totals[protowire.ERROR_POSITION]))
        text_starts = spans[0::2, :n_labels].T.reshape(-1)
        text_ends = spans[1::2, :n_labels].T.reshape(-1)
        return self._slices(text_starts, text_ends), 2 * row_ends

    def _symbol_texts(self, used: npt.NDArray[np.uint32]) -> Callable[[int, int], list[bytes]]:
        assert self.symbols is not None, "only 2.0 has symbols"
        starts, ends = self.symbols
        if not len(starts):
            return lambda first, last: []
        return self._slices(starts[used], ends[used])

    def _slices(self, starts: I64Array, ends: I64Array) -> Callable[[int, int], list[bytes]]:
        def texts(first: int, last: int) -> list[bytes]:
            spans = zip(starts[first:last].tolist(), ends[first:last].tolist(), strict=True)
            return [self.data[a:b].tobytes() for a, b in spans]

        return texts


def _packed(texts: list[bytes]) -> tuple[bytes, int]:
    """Names and values in turn as `pack_labels` has them, and a status."""
    if sum(map(len, texts)) > 4 * EXEMPLAR_LABELS_LENGTH_MAX:
        return b"", LABELS_TOO_LONG
    try:
        decoded = [text.decode() for text in texts]
    except UnicodeDecodeError:
        return b"", NOT_UTF8
    pairs = list(zip(decoded[::2], decoded[1::2], strict=True))
    if sum(map(len, decoded)) > EXEMPLAR_LABELS_LENGTH_MAX:
        return b"", LABELS_TOO_LONG
    if len({name for name, _ in pairs}) < len(pairs):
        return b"", LABEL_TWICE
    return pack_labels((name, value) for name, value in pairs if value), nestedwire.EXEMPLAR_OK
