"""Series as bytes: the payload of the log's series record and of a catalog segment.

Format: docs/format/catalog.md. Every payload is self-contained: it carries the texts and pairs its
series use, numbered from 0 inside it, so it can be read without any other payload. Version 1 is of
series with consecutive refs, version 2 of what is left of a run of refs.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tsengine.errors import CorruptionError
from tsengine.kernels.postings import gather_rows
from tsengine.model.matchers import METRIC_NAME
from tsengine.storage.interning import NONE, InternedState, Interner
from tsengine.storage.ref_map import RefMap

DENSE_VERSION = 1
SPARSE_VERSION = 2
_HEADER = struct.Struct("<BxxxIIIIIQ")
_SPAN = struct.Struct("<I")
_COUNT_MAX = NONE - 1


@dataclass(frozen=True, slots=True)
class _Content:
    """A payload's arrays, ids local to it.

    Shapes: ``text: u8[.]``, ``text_ends: i64[K]``, ``pair_names, pair_values: u32[P]``,
    ``row_ends: i64[S]``, ``pairs: u32[E]``. The series have ``refs: i64[S]``, ascending; there are
    no others from ``first_ref`` up to ``next_ref``.
    """

    first_ref: int
    next_ref: int
    refs: npt.NDArray[np.int64]
    text: npt.NDArray[np.uint8]
    text_ends: npt.NDArray[np.int64]
    pair_names: npt.NDArray[np.uint32]
    pair_values: npt.NDArray[np.uint32]
    row_ends: npt.NDArray[np.int64]
    pairs: npt.NDArray[np.uint32]


def encode(state: InternedState, refs: RefMap, first_ref: int, n: int) -> bytes:
    """Payload of series ``first_ref <= ref < first_ref + n``, all of them there. Any thread."""
    first_row = first_ref - refs.next_ref(0)
    assert n == 0 or first_row >= len(refs.sparse), "only refs that have no holes among them"
    assert 0 <= n <= state.n_series - first_row, "only series that exist"
    offsets = state.row_offsets[first_row : first_row + n + 1]
    pairs = state.row_pairs[offsets[0] : offsets[-1]]
    return b"".join(_encoded(state, DENSE_VERSION, first_ref, b"", np.diff(offsets), pairs))


def encode_sparse(
    state: InternedState, refs: RefMap, kept: npt.NDArray[np.uint32], next_ref: int
) -> bytes:
    """Payload that says: below ``next_ref`` there are the series ``kept`` (ascending), no others.

    Any thread.
    """
    rows = refs.rows_of(kept, state.n_series)
    assert (rows >= 0).all(), "only series that exist"
    starts = state.row_offsets[rows]
    offsets = np.empty(len(rows) + 1, np.int64)
    pairs = np.empty(int((state.row_offsets[rows + 1] - starts).sum()), np.uint32)
    gather_rows(rows.astype(np.uint32), state.row_offsets, state.row_pairs, offsets, pairs)
    gaps = kept.copy()
    gaps[1:] -= kept[:-1]
    pieces = _encoded(state, SPARSE_VERSION, 0, _SPAN.pack(next_ref), np.diff(offsets), pairs)
    pieces.insert(-1, _packed(gaps))
    return b"".join(pieces)


def _encoded(
    state: InternedState,
    version: int,
    first_ref: int,
    span: bytes,
    counts: npt.NDArray[np.int64],
    global_pairs: npt.NDArray[np.uint32],
) -> list[bytes]:
    """Header, columns, texts of series with so many labels each and these pairs."""
    used_pairs, pairs = _numbered(global_pairs, state.n_pairs)
    names, values = state.pair_names[used_pairs], state.pair_values[used_pairs]
    used_symbols, both = _numbered(np.concatenate((names, values)), state.n_symbols)
    text_offsets = state.text_offsets
    starts, ends = text_offsets[used_symbols], text_offsets[used_symbols + 1]
    sizes = ends - starts
    text = _gathered_text(state, starts, sizes)
    header = _HEADER.pack(
        version, first_ref, len(counts), len(used_symbols), len(used_pairs), len(pairs), len(text)
    )
    columns = (sizes, both[: len(names)], both[len(names) :], counts, pairs)
    return [header, span, *(_packed(column) for column in columns), text]


def decode(interner: Interner, refs: RefMap, payload: bytes | memoryview) -> RefMap:
    """Take the payload's series over; those already there must be the same.

    ``refs`` are those of the interner's rows; returns them with the new ones. Nothing is taken over
    from a payload that breaks the format.

    Raises
    ------
    CorruptionError

    """
    content = _unpack(payload)
    _check(content)
    n_rows = interner.n_series
    next_ref = refs.next_ref(n_rows)
    if content.first_ref > next_ref:
        raise CorruptionError(f"series {next_ref} to {content.first_ref - 1} are missing")
    expected = refs.rows_of(content.refs, n_rows)
    is_new = expected < 0
    if (content.refs[is_new] < next_ref).any():
        raise CorruptionError("a series has the ref of one that was dropped")
    # What is known must be known by the same refs before anything new is taken over.
    found = _intern(interner, content, insert=False).astype(np.int64)
    if (found[~is_new] != expected[~is_new]).any() or (found[is_new] != NONE).any():
        raise CorruptionError("a series contradicts the one known by its ref")
    if is_new.any():
        expected[is_new] = n_rows + np.arange(np.count_nonzero(is_new))
        if (_intern(interner, content, insert=True) != expected).any():
            raise CorruptionError("a series occurs twice")
    return refs.extended(n_rows, content.refs[is_new], max(next_ref, content.next_ref))


def first_ref_of(payload: bytes | memoryview) -> int:
    """Ref of the payload's first series; raises CorruptionError if the payload is cut short."""
    if len(payload) < _HEADER.size:
        raise CorruptionError("a series payload is cut short", offset=len(payload))
    return int(_HEADER.unpack_from(payload)[1])


def _intern(interner: Interner, content: _Content, *, insert: bool) -> npt.NDArray[np.uint32]:
    starts = np.concatenate((np.zeros(1, np.int64), content.text_ends))[: len(content.text_ends)]
    hashes = interner.hash_spans(content.text, starts, content.text_ends)
    symbols = interner.symbols(content.text, starts, content.text_ends, hashes, insert=insert)
    pairs = interner.pairs(symbols[content.pair_names], symbols[content.pair_values], insert=insert)
    return interner.series(content.row_ends, pairs[content.pairs], insert=insert)


def _numbered(
    ids: npt.NDArray[np.uint32], n_ids: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Distinct ids, ascending, and for each id its number among them.

    Small slices of a large catalog are sorted, so that a log record costs nothing of the whole.
    """
    if len(ids) < n_ids // 8:
        few, places = np.unique(ids, return_inverse=True)
        return few.astype(np.int64), places.astype(np.int64)
    is_used = np.zeros(n_ids, np.bool_)
    is_used[ids] = True
    distinct = np.flatnonzero(is_used)
    numbers = np.empty(n_ids, np.int64)
    numbers[distinct] = np.arange(len(distinct))
    return distinct, numbers[ids]


def _gathered_text(
    state: InternedState, starts: npt.NDArray[np.int64], sizes: npt.NDArray[np.int64]
) -> bytes:
    """Texts of symbols one after the other; runs of neighbours are copied in one piece."""
    if not len(starts):
        return b""
    ends = starts + sizes
    breaks = np.flatnonzero(starts[1:] != ends[:-1]) + 1
    run_starts = starts[np.concatenate((np.zeros(1, np.int64), breaks))].tolist()
    run_ends = ends[np.append(breaks, len(ends)) - 1].tolist()
    runs = zip(run_starts, run_ends, strict=True)
    return b"".join(state.text[start:end].tobytes() for start, end in runs)


def _packed(column: npt.NDArray[np.integer]) -> bytes:
    """A width byte, then that many byte planes of the column, lowest first."""
    largest = int(column.max()) if len(column) else 0
    width = max(1, (largest.bit_length() + 7) // 8)
    planes = column.astype("<u4").view(np.uint8).reshape(-1, 4)[:, :width]
    return bytes([width]) + planes.T.tobytes()


def _unpack(payload: bytes | memoryview) -> _Content:
    """Cut a payload into its arrays; raises CorruptionError if they don't fill it exactly."""
    data = np.frombuffer(payload, np.uint8)
    if len(data) < _HEADER.size:
        raise CorruptionError("a series payload is cut short", offset=len(data))
    version, first_ref, n_series, n_symbols, n_pairs, n_entries, n_text = _HEADER.unpack_from(
        payload
    )
    if version not in (DENSE_VERSION, SPARSE_VERSION):
        raise CorruptionError(f"series payload version {version} is not known", offset=0)
    pos = _HEADER.size
    lengths = [n_symbols, n_pairs, n_pairs, n_series, n_entries]
    next_ref = first_ref + n_series
    if version == SPARSE_VERSION:
        if len(data) < pos + _SPAN.size:
            raise CorruptionError("a series payload is cut short", offset=len(data))
        (next_ref,) = _SPAN.unpack_from(payload, pos)
        pos += _SPAN.size
        lengths.append(n_series)
    columns = []
    for count in lengths:
        width = int(data[pos]) if pos < len(data) else 0
        if not 1 <= width <= 4 or len(data) - pos - 1 < width * count:
            raise CorruptionError("a column does not fit into the series payload", offset=pos)
        planes = data[pos + 1 : pos + 1 + width * count].reshape(width, count)
        column = np.zeros((count, 4), np.uint8)
        column[:, :width] = planes.T
        columns.append(column.view("<u4").reshape(count))
        pos += 1 + width * count
    sizes, names, values, counts, pairs = columns[:5]
    refs = first_ref + np.arange(n_series, dtype=np.int64)
    if version == SPARSE_VERSION:
        refs = _refs_of_gaps(columns[5], first_ref, next_ref)
    text_ends = np.cumsum(sizes, dtype=np.int64)
    row_ends = np.cumsum(counts, dtype=np.int64)
    if len(data) - pos != n_text or n_text != (int(text_ends[-1]) if n_symbols else 0):
        raise CorruptionError("texts do not fill the series payload", offset=pos)
    if n_entries != (int(row_ends[-1]) if n_series else 0):
        raise CorruptionError("label counts do not add up", offset=pos)
    if next_ref > _COUNT_MAX:
        raise CorruptionError("series refs are out of range", offset=0)
    return _Content(
        first_ref, next_ref, refs, data[pos:], text_ends, names, values, row_ends, pairs
    )


def _refs_of_gaps(
    gaps: npt.NDArray[np.uint32], first_ref: int, next_ref: int
) -> npt.NDArray[np.int64]:
    """Refs i64[S] from the distance of each to the one before it, the first's to ``first_ref``."""
    refs = first_ref + np.cumsum(gaps, dtype=np.int64)
    ends = int(refs[-1]) if len(refs) else first_ref - 1
    if (gaps[1:] == 0).any() or ends >= next_ref:
        raise CorruptionError("series refs do not ascend", offset=0)
    return refs


def _check(content: _Content) -> None:
    """Raise CorruptionError unless every id is in range and every row a canonical label set."""
    n_symbols, n_pairs = len(content.text_ends), len(content.pair_names)
    _require(_all_below(content.pairs, n_pairs), "a pair is out of range")
    _require(_all_below(content.pair_names, n_symbols), "a name is out of range")
    _require(_all_below(content.pair_values, n_symbols), "a value is out of range")
    starts = np.concatenate((np.zeros(1, np.int64), content.text_ends))[:n_symbols]
    sizes = content.text_ends - starts
    _require(not (sizes[content.pair_names] == 0).any(), "a name is empty")
    _require(not (sizes[content.pair_values] == 0).any(), "a value is empty")
    counts = np.diff(content.row_ends, prepend=0)
    _require(bool((counts > 0).all()), "a series has no labels")
    raw = content.text.tobytes()
    _require(_is_text(raw, starts), "a text is not UTF-8")
    names = np.unique(content.pair_names)
    texts = [raw[starts[name] : content.text_ends[name]] for name in names.tolist()]
    _require(len(set(texts)) == len(texts), "a text occurs twice")
    ranks = np.zeros(n_symbols, np.int64)
    ranks[names[np.array(sorted(range(len(texts)), key=texts.__getitem__), np.int64)]] = np.arange(
        len(texts)
    )
    row_ranks = ranks[content.pair_names][content.pairs]
    ascending = np.diff(row_ranks) > 0
    ascending[content.row_ends[:-1] - 1] = True
    _require(bool(ascending.all()), "labels are not in order")
    is_metric = np.zeros(n_pairs, np.bool_)
    if METRIC_NAME.encode() in texts:
        is_metric = content.pair_names == names[texts.index(METRIC_NAME.encode())]
    n_named = np.count_nonzero(is_metric[content.pairs])
    _require(n_named == len(content.row_ends), "a series has no metric name")


def _all_below(ids: npt.NDArray[np.uint32], n: int) -> bool:
    return not len(ids) or int(ids.max()) < n


def _is_text(raw: bytes, starts: npt.NDArray[np.int64]) -> bool:
    """Whether all texts together are UTF-8 and none begins inside a character."""
    try:
        raw.decode()
    except UnicodeDecodeError:
        return False
    inside = starts[starts < len(raw)]
    return not ((np.frombuffer(raw, np.uint8)[inside] & 0xC0) == 0x80).any()


def _require(holds: bool, reason: str) -> None:
    if not holds:
        raise CorruptionError(reason)
