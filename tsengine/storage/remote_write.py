"""Remote write bodies to rows: samples as columns, labels still as bytes with fingerprints.

A row is one TimeSeries message that has something to store or to refuse. Labels are looked into
only for rows that somebody asks about (`Rows.label_sets`): known series never need it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tsengine.errors import MalformedRequest
from tsengine.kernels import hashing, labelwire
from tsengine.kernels import protowire as kernels
from tsengine.kernels.jit import ERR_CAPACITY
from tsengine.model.batch import SampleBatch
from tsengine.model.metadata import METRIC_TYPES, MetadataEntry
from tsengine.storage.label_sets import LabelSets
from tsengine.storage.memo import SenderMemo
from tsengine.storage.nested_messages import Nested, read_nested

ROW_OK = kernels.ROW_OK
BAD_SYMBOL_TABLE = 4
"""Row status besides those of `tsengine.kernels.protowire`: symbols[0] is not the empty text."""

BODY_SIZE_MAX = 1 << 30
SAMPLES_PER_REQUEST_MAX = 2 * 1024 * 1024
"""A sample may take two bytes of a message; in memory it takes ten times that."""
MESSAGES_PER_REQUEST_MAX = 2 * 1024 * 1024
"""Of TimeSeries; of symbols (2.0) and of metadata (1.0) as many."""
METADATA_PER_REQUEST_MAX = 20_000
_HELP_SIZE_MAX = 16 * 1024
_CAPACITY_MIN = 1024
_SCRATCH_KEPT_MAX = 1024 * 1024
"""Rows, symbols or samples for which scratch is kept after an unusually large body."""


@dataclass(frozen=True, slots=True)
class Rows:
    """What one body holds, row by row; arrays are views of scratch, valid until the next scan.

    Row r has samples ``t_ms, bits[sample_ends[r - 1]:sample_ends[r]]``, ``n_histograms[r]``, the
    label fingerprint ``hashes[2r:2r + 2]`` (of labels *and* metadata in 2.0) and a status.
    ``is_plain`` says that every row is fine and has samples, and that there are no histograms or
    exemplars. ``nested`` is None for a body of float samples without start timestamps.
    """

    n: int
    hashes: npt.NDArray[np.uint64]
    statuses: npt.NDArray[np.int64]
    sample_ends: npt.NDArray[np.int64]
    n_histograms: npt.NDArray[np.int64]
    t_ms: npt.NDArray[np.int64]
    bits: npt.NDArray[np.uint64]
    totals: npt.NDArray[np.int64]
    is_plain: bool
    source: _SourceV1 | _SourceV2
    nested: Nested | None

    @property
    def n_samples(self) -> int:
        """Float samples in the body."""
        return len(self.t_ms)

    def label_sets(self, rows: npt.NDArray[np.int64]) -> LabelSets:
        """Labels of some rows, as they came; raises MalformedRequest."""
        return self.source.label_sets(rows)

    def sample_counts(self) -> npt.NDArray[np.int64]:
        """Samples of each row: i64[n]."""
        return np.diff(self.sample_ends, prepend=0)

    def listed_metadata(self) -> list[MetadataEntry]:
        """The metadata list of a 1.0 body, in order; raises MalformedRequest."""
        return self.source.metadata() if isinstance(self.source, _SourceV1) else []

    def metadata_columns(
        self, rows: npt.NDArray[np.int64]
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.int64]] | None:
        """Of some rows: type's number plus one (0: no metadata), help and unit symbol; None in 1.0.

        Shapes: i64[R] each.
        """
        return self.source.metadata_columns(rows) if isinstance(self.source, _SourceV2) else None

    def symbol_text(self, symbol: int) -> str:
        """Text of a symbol of a 2.0 body, clipped, with what is not UTF-8 replaced."""
        assert isinstance(self.source, _SourceV2), "only 2.0 has symbols"
        return self.source.text(symbol)


class RemoteWriteScanner:
    """Owns the scratch arrays of scans. Writer lane only."""

    def __init__(self, span_key: npt.NDArray[np.uint64]) -> None:
        self._key = span_key
        self._allocate()

    def _allocate(self) -> None:
        self._spans = _Spans(_CAPACITY_MIN)
        self._rows = np.empty((6, 0), np.int64)
        self._hashes = np.empty(0, np.uint64)
        self._symbols = np.empty(_CAPACITY_MIN, np.uint32)
        self._refs = np.empty(_CAPACITY_MIN, np.uint32)
        self._t_ms = np.empty(_CAPACITY_MIN, np.int64)
        self._bits = np.empty(_CAPACITY_MIN, np.uint64)
        self._totals = np.zeros(kernels.TOTALS_SIZE, np.int64)

    def scan_known(
        self, body: bytes | memoryview, memo: SenderMemo, next_ref: int
    ) -> SampleBatch | None:
        """Samples of a 1.0 body of nothing but known series and floats; None for any other."""
        if not 0 < len(body) <= BODY_SIZE_MAX:
            return None
        if len(self._t_ms) > _SCRATCH_KEPT_MAX:
            self._allocate()
        data = np.frombuffer(body, np.uint8)
        if len(self._refs) < len(self._t_ms):
            self._refs = np.empty(len(self._t_ms), np.uint32)
        while True:
            n = memo.scan_known(
                data, self._key, self._refs, self._t_ms, self._bits, next_ref=next_ref
            )
            if n != ERR_CAPACITY:
                break
            self._more_samples()
            self._refs = np.empty(len(self._t_ms), np.uint32)
        if n < 0:
            return None
        return SampleBatch(self._refs[:n].copy(), self._t_ms[:n].copy(), self._bits[:n].copy())

    def scan(self, body: bytes | memoryview, version: int) -> Rows:
        """Walk a body; raises MalformedRequest with the position of the first break."""
        if len(body) > BODY_SIZE_MAX:
            raise MalformedRequest(f"{len(body)} bytes are more than {BODY_SIZE_MAX}")
        if max(len(self._t_ms), len(self._symbols), len(self._hashes)) > _SCRATCH_KEPT_MAX:
            self._allocate()
        data = np.frombuffer(body, np.uint8)
        if version == 1:
            return self._scan_v1(data)
        assert version == 2, "the caller negotiated a version we know"
        return self._scan_v2(data)

    def _scan_v1(self, data: npt.NDArray[np.uint8]) -> Rows:
        n_series, n_metadata = self._spans.split(data, 1, 3)
        starts, ends = self._spans.a_starts, self._spans.a_ends
        label_starts, label_ends, n_labels, sample_ends, n_histograms, _ = self._row_arrays(
            n_series
        )
        while True:
            n = kernels.scan_series_v1(
                data, starts, ends, n_series, label_starts, label_ends, n_labels, sample_ends,
                n_histograms, self._t_ms, self._bits, self._totals,
            )  # fmt: skip
            if n != ERR_CAPACITY:
                break
            self._more_samples()
        if n < 0:
            raise _malformed(self._totals[kernels.ERROR_POSITION])
        hashes = self._hashes[: 2 * n]
        hashing.hash_spans(data, label_starts, label_ends, n, self._key, hashes)
        source = _SourceV1(
            data, label_starts, label_ends, n_labels,
            self._spans.b_starts[:n_metadata], self._spans.b_ends[:n_metadata],
        )  # fmt: skip
        statuses = np.zeros(n, np.int64)
        nested = self._nested(data, 1, n_series, None)
        return self._made_rows(n, hashes, statuses, sample_ends, n_histograms, source, nested)

    def _scan_v2(self, data: npt.NDArray[np.uint8]) -> Rows:
        n_series, n_symbols = self._spans.split(data, 5, 4)
        spans = self._spans
        symbol_ends, types, statuses, sample_ends, n_histograms, _ = self._row_arrays(n_series)
        # Each reference takes a byte, and a row has two more.
        n_used_max = len(data) + 2 * n_series
        while True:
            n = kernels.scan_series_v2(
                data, spans.a_starts, spans.a_ends, n_series, n_symbols, symbol_ends,
                self._symbols, types, statuses, sample_ends, n_histograms, self._t_ms, self._bits,
                self._totals,
            )  # fmt: skip
            if n != ERR_CAPACITY:
                break
            n_symbols_max = len(self._symbols)
            if n_symbols_max < n_used_max:
                self._symbols = np.empty(min(4 * n_symbols_max, n_used_max), np.uint32)
            if n_symbols_max >= n_used_max or len(self._t_ms) < SAMPLES_PER_REQUEST_MAX:
                self._more_samples()
        if n < 0:
            raise _malformed(self._totals[kernels.ERROR_POSITION])
        symbol_starts, symbol_text_ends = spans.b_starts[:n_symbols], spans.b_ends[:n_symbols]
        hashes = self._hashes[: 2 * n]
        symbol_hashes = np.empty(2 * n_symbols, np.uint64)
        if n_symbols == 0 or symbol_starts[0] != symbol_text_ends[0]:
            statuses[:n] = BAD_SYMBOL_TABLE
            hashes[:] = 0
        else:
            hashing.hash_spans(
                data, symbol_starts, symbol_text_ends, n_symbols, self._key, symbol_hashes
            )
            hashing.hash_rows(
                symbol_ends, self._symbols, types, n, symbol_hashes, self._key, hashes
            )
        source = _SourceV2(
            data, symbol_starts, symbol_text_ends, symbol_hashes, self._symbols, symbol_ends, types
        )
        nested = self._nested(data, 2, n_series, (symbol_starts, symbol_text_ends))
        return self._made_rows(n, hashes, statuses[:n], sample_ends, n_histograms, source, nested)

    def _nested(
        self,
        data: npt.NDArray[np.uint8],
        version: int,
        n_series: int,
        symbols: tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]] | None,
    ) -> Nested | None:
        """What the body holds besides float samples; None if there is nothing."""
        totals = self._totals
        if not (self._has_others() or totals[kernels.N_STARTS]):
            return None
        starts, ends = self._spans.a_starts[:n_series], self._spans.a_ends[:n_series]
        return read_nested(data, starts, ends, version, totals, symbols, _malformed)

    def _has_others(self) -> bool:
        """Whether the last scan met histograms or exemplars."""
        return bool(self._totals[kernels.N_HISTOGRAMS] or self._totals[kernels.N_EXEMPLARS])

    def _made_rows(
        self,
        n: int,
        hashes: npt.NDArray[np.uint64],
        statuses: npt.NDArray[np.int64],
        sample_ends: npt.NDArray[np.int64],
        n_histograms: npt.NDArray[np.int64],
        source: _SourceV1 | _SourceV2,
        nested: Nested | None,
    ) -> Rows:
        n_samples = int(self._totals[kernels.N_SAMPLES])
        is_plain = not self._has_others() and not statuses.any()
        return Rows(
            n, hashes, statuses, sample_ends[:n], n_histograms[:n], self._t_ms[:n_samples],
            self._bits[:n_samples], self._totals, is_plain, source, nested,
        )  # fmt: skip

    def _row_arrays(self, n: int) -> npt.NDArray[np.int64]:
        """Six row arrays of at least n, and room for the rows' fingerprints."""
        if n > self._rows.shape[1]:
            self._rows = np.empty((6, max(_CAPACITY_MIN, n + n // 4)), np.int64)
            self._hashes = np.empty(2 * self._rows.shape[1], np.uint64)
        return self._rows

    def _more_samples(self) -> None:
        if len(self._t_ms) >= SAMPLES_PER_REQUEST_MAX:
            raise MalformedRequest(
                f"more than {SAMPLES_PER_REQUEST_MAX} samples in one request; send smaller ones"
            )
        self._t_ms = np.empty(min(4 * len(self._t_ms), SAMPLES_PER_REQUEST_MAX), np.int64)
        self._bits = np.empty(len(self._t_ms), np.uint64)


class _Spans:
    """Scratch of the top-level walk."""

    def __init__(self, capacity: int) -> None:
        self._counts = np.zeros(3, np.int64)
        self._allocate(capacity)

    def _allocate(self, capacity: int) -> None:
        self.a_starts, self.a_ends, self.b_starts, self.b_ends = np.empty((4, capacity), np.int64)

    def split(self, data: npt.NDArray[np.uint8], field_a: int, field_b: int) -> tuple[int, int]:
        """Fill the spans of two fields' messages; returns their numbers."""
        while True:
            status = kernels.split_fields(
                data, field_a, field_b, self.a_starts, self.a_ends, self.b_starts, self.b_ends,
                self._counts,
            )  # fmt: skip
            if status != ERR_CAPACITY:
                break
            capacity = len(self.a_starts)
            if capacity >= MESSAGES_PER_REQUEST_MAX:
                raise MalformedRequest(
                    f"more than {MESSAGES_PER_REQUEST_MAX} series, symbols or metadata entries in "
                    "one request; send smaller ones"
                )
            self._allocate(min(4 * capacity, MESSAGES_PER_REQUEST_MAX))
        if status < 0:
            raise _malformed(self._counts[2])
        return int(self._counts[0]), int(self._counts[1])


@dataclass(frozen=True, slots=True)
class _SourceV1:
    data: npt.NDArray[np.uint8]
    label_starts: npt.NDArray[np.int64]
    label_ends: npt.NDArray[np.int64]
    n_labels: npt.NDArray[np.int64]
    metadata_starts: npt.NDArray[np.int64]
    metadata_ends: npt.NDArray[np.int64]

    def label_sets(self, rows: npt.NDArray[np.int64]) -> LabelSets:
        n_labels = int(self.n_labels[rows].sum())
        row_ends = np.empty(len(rows), np.int64)
        labels, label_starts, label_ends, names, values = np.empty((5, n_labels), np.int64)
        starts, ends = np.empty((2, 2 * n_labels), np.int64)
        counts = np.zeros(labelwire.COUNTS_SIZE, np.int64)
        found = labelwire.parse_label_rows(
            self.data, self.label_starts[rows], self.label_ends[rows], len(rows), row_ends, labels,
            label_starts, label_ends, names, values, starts, ends, counts,
        )  # fmt: skip
        if found < 0:
            raise _malformed(counts[labelwire.BREAK])
        assert found == n_labels, "the scan counted the same fields"
        n_distinct, n_texts = counts[labelwire.N_DISTINCT], counts[labelwire.N_TEXTS]
        return LabelSets(
            self.data, starts[:n_texts], ends[:n_texts], None, names[:n_distinct],
            values[:n_distinct], labels, row_ends,
        )  # fmt: skip

    def metadata(self) -> list[MetadataEntry]:
        entries = []
        last = METADATA_PER_REQUEST_MAX
        spans = zip(self.metadata_starts[:last], self.metadata_ends[:last], strict=True)
        for start, end in spans:
            entry = _metadata_entry(self.data[start:end].tobytes(), int(start))
            if entry is not None:
                entries.append(entry)
        return entries


@dataclass(frozen=True, slots=True)
class _SourceV2:
    data: npt.NDArray[np.uint8]
    starts: npt.NDArray[np.int64]
    ends: npt.NDArray[np.int64]
    hashes: npt.NDArray[np.uint64]
    symbols: npt.NDArray[np.uint32]
    symbol_ends: npt.NDArray[np.int64]
    types: npt.NDArray[np.int64]

    def label_sets(self, rows: npt.NDArray[np.int64]) -> LabelSets:
        row_starts = np.where(rows > 0, self.symbol_ends[rows - 1], 0)
        # The last two symbols of a row are its metadata's, an odd one has no partner.
        n_labels = (self.symbol_ends[rows] - 2 - row_starts) // 2
        if not len(self.starts):
            n_labels = np.zeros(len(rows), np.int64)
        row_ends = np.empty(len(rows), np.int64)
        labels, names, values = np.empty((3, int(n_labels.sum())), np.int64)
        counts = np.zeros(labelwire.COUNTS_SIZE, np.int64)
        labelwire.share_label_rows(
            self.symbols, row_starts, n_labels, len(rows), row_ends, labels, names, values, counts
        )
        n_distinct = counts[labelwire.N_DISTINCT]
        return LabelSets(
            self.data, self.starts, self.ends, self.hashes, names[:n_distinct],
            values[:n_distinct], labels, row_ends,
        )  # fmt: skip

    def metadata_columns(
        self, rows: npt.NDArray[np.int64]
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        ends = self.symbol_ends[rows]
        helps = self.symbols[ends - 2].astype(np.int64)
        return self.types[rows], helps, self.symbols[ends - 1].astype(np.int64)

    def text(self, symbol: int) -> str:
        start, end = int(self.starts[symbol]), int(self.ends[symbol])
        return _clipped(self.data[start:end].tobytes())


def _metadata_entry(message: bytes, position: int) -> MetadataEntry | None:
    """MetricMetadata of 1.0: 1 type, 2 metric family name, 4 help, 5 unit."""
    kind = 0
    texts = {2: b"", 4: b"", 5: b""}
    pos = 0
    while pos < len(message):
        tag, pos = _varint(message, pos, position)
        field, wire = tag >> 3, tag & 7
        if wire == 0:
            value, pos = _varint(message, pos, position)
            if field == 1:
                kind = value
        elif wire == 2:
            size, start = _varint(message, pos, position)
            pos = start + size
            if field in texts:
                texts[field] = message[start:pos]
        elif wire in (1, 5):
            pos += 8 if wire == 1 else 4
        else:
            raise _malformed(position)
        known = field == 1 or field in texts
        if pos > len(message) or field == 0 or (known and wire != (0 if field == 1 else 2)):
            raise _malformed(position)
    if not texts[2]:
        return None
    name = METRIC_TYPES[kind] if kind < len(METRIC_TYPES) else METRIC_TYPES[0]
    return MetadataEntry(_clipped(texts[2]), name, _clipped(texts[4]), _clipped(texts[5]))


def _varint(message: bytes, pos: int, position: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if pos >= len(message):
            break
        byte = message[pos]
        pos += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value & 0xFFFFFFFFFFFFFFFF, pos
    raise _malformed(position)


def _clipped(text: bytes) -> str:
    return text[:_HELP_SIZE_MAX].decode(errors="replace")


def _malformed(position: int | np.int64) -> MalformedRequest:
    return MalformedRequest(f"the bytes are not a remote write message: break at byte {position}")
