"""Label sets on their way in: spans of text, checked and brought into canonical order.

Every source of labels (remote write 1.0, 2.0, mappings) becomes `LabelSets`; from there on there
is one way to check, describe and intern them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from tsengine.errors import InvalidLabels
from tsengine.kernels import catalog as kernels
from tsengine.model.metadata import METRIC_TYPES
from tsengine.options import LabelLimits
from tsengine.storage.interning import Interner

_TEXT_SIZE_MAX = 512
_METADATA_LABELS = ("__type__", "__unit__")


@dataclass(frozen=True, slots=True, eq=False)
class LabelSets:
    """R rows of labels, which are D pairs of K texts; equal ones may be there several times.

    Row r is ``labels[row_ends[r - 1]:row_ends[r]]``, label d the texts ``names[d], values[d]``.
    Shapes: ``data: u8[.]``, ``starts, ends: i64[K]``, ``hashes: u64[2K]`` or None if not computed
    yet, ``names, values: i64[D]``, ``labels: i64[L]``, ``row_ends: i64[R]``.
    """

    data: npt.NDArray[np.uint8]
    starts: npt.NDArray[np.int64]
    ends: npt.NDArray[np.int64]
    hashes: npt.NDArray[np.uint64] | None
    names: npt.NDArray[np.int64]
    values: npt.NDArray[np.int64]
    labels: npt.NDArray[np.int64]
    row_ends: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.row_ends)

    def checked(self, limits: LabelLimits) -> tuple[LabelSets, npt.NDArray[np.int64]]:
        """Labels sorted by name, those without a value dropped; and a status i64[R] per row.

        An invalid row loses all its labels; its status is one of `tsengine.kernels.catalog`.
        """
        kept = np.empty(len(self.labels), np.int64)
        row_ends, statuses = np.empty((2, len(self)), np.int64)
        label_statuses, smaller = np.empty((2, len(self.names)), np.int64)
        n_kept = kernels.check_labels(
            self.data, self.row_ends, self.labels, self.starts[self.names], self.ends[self.names],
            self.starts[self.values], self.ends[self.values], limits.n_labels_max,
            limits.name_size_max, limits.value_size_max, limits.series_size_max, len(self),
            label_statuses, smaller, kept, row_ends, statuses,
        )  # fmt: skip
        return replace(self, labels=kept[:n_kept], row_ends=row_ends), statuses

    def take(self, rows: npt.NDArray[np.int64]) -> LabelSets:
        """Some of the rows."""
        row_starts = np.concatenate((np.zeros(1, np.int64), self.row_ends[:-1]))[rows]
        counts = self.row_ends[rows] - row_starts
        labels = self.labels[ragged_positions(row_starts, counts)]
        return replace(self, labels=labels, row_ends=np.cumsum(counts))

    def intern(self, interner: Interner, *, insert: bool) -> npt.NDArray[np.uint32]:
        """Series refs u32[R]; NONE for rows without labels and, if not inserted, unknown ones."""
        is_used = np.zeros(len(self.names), np.bool_)
        is_used[self.labels] = True
        names, values = self.names[is_used], self.values[is_used]
        used = np.zeros(len(self.starts), np.bool_)
        used[names] = True
        used[values] = True
        starts, ends = self.starts[used], self.ends[used]
        if self.hashes is None:
            hashes = interner.hash_spans(self.data, starts, ends)
        else:
            hashes = self.hashes.reshape(-1, 2)[used].ravel()
        ids = np.empty(len(self.starts), np.uint32)
        ids[used] = interner.symbols(self.data, starts, ends, hashes, insert=insert)
        pairs = np.empty(len(self.names), np.uint32)
        pairs[is_used] = interner.pairs(ids[names], ids[values], insert=insert)
        return interner.series(self.row_ends, pairs[self.labels], insert=insert)

    def text(self, row: int) -> str:
        """A row as ``name{a="b"}``, shortened, with what is not UTF-8 replaced."""
        start = int(self.row_ends[row - 1]) if row else 0
        metric = ""
        parts = []
        size = 0
        for label in self.labels[start : int(self.row_ends[row])].tolist():
            name, value = self._text(self.names[label]), self._text(self.values[label])
            if name == "__name__" and not metric:
                metric = value
                continue
            parts.append(f'{name}="{value}"')
            size += len(parts[-1])
            if size > _TEXT_SIZE_MAX:
                parts.append("...")
                break
        return f"{metric}{{{', '.join(parts)}}}"

    def _text(self, idx: int) -> str:
        start, end = int(self.starts[idx]), int(self.ends[idx])
        shown = self.data[start : min(end, start + _TEXT_SIZE_MAX)].tobytes()
        text = shown.decode(errors="replace")
        return text + "..." if end - start > _TEXT_SIZE_MAX else text


def with_type_and_unit(
    label_sets: LabelSets, types: npt.NDArray[np.int64], units: npt.NDArray[np.int64]
) -> LabelSets:
    """Rows with their metadata as labels ``__type__`` and ``__unit__``, which replace given ones.

    ``types: i64[R]`` is the type's number plus one (0: none), ``units: i64[R]`` a text. Rows that
    have neither a known type nor a unit stay as they are.
    """
    n_texts = len(label_sets.starts)
    if not n_texts:
        return label_sets
    own = [name.encode() for name in (*_METADATA_LABELS, *METRIC_TYPES)]
    own_ends = len(label_sets.data) + np.cumsum([len(text) for text in own])
    starts = np.concatenate((label_sets.starts, [len(label_sets.data)], own_ends[:-1]))
    ends = np.concatenate((label_sets.ends, own_ends))
    data = np.concatenate((label_sets.data, np.frombuffer(b"".join(own), np.uint8)))
    has_type = types > 1
    has_unit = label_sets.ends[units] > label_sets.starts[units]
    counts = np.diff(label_sets.row_ends, prepend=0)
    rows = np.repeat(np.arange(len(counts)), counts)
    given = [label_sets.data[s:e].tobytes() in own[:2] for s, e in zip(
        label_sets.starts.tolist(), label_sets.ends.tolist(), strict=True)]  # fmt: skip
    given_names = label_sets.names[label_sets.labels]
    kept = ~(np.array(given, np.bool_)[given_names] & (has_type | has_unit)[rows])
    with_type, with_unit = np.flatnonzero(has_type), np.flatnonzero(has_unit)
    all_rows = np.concatenate((rows[kept], with_type, with_unit))
    names = np.concatenate(
        (
            given_names[kept],
            np.full(len(with_type), n_texts),
            np.full(len(with_unit), n_texts + 1),
        )
    )
    type_texts = n_texts + len(_METADATA_LABELS) + types[with_type] - 1
    given_values = label_sets.values[label_sets.labels]
    values = np.concatenate((given_values[kept], type_texts, units[with_unit]))
    order = np.argsort(all_rows, kind="stable")
    row_ends = np.cumsum(np.bincount(all_rows, minlength=len(counts)))
    return LabelSets(data, starts, ends, None, names, values, order, row_ends)


def label_sets_of_mappings(label_sets: Sequence[Mapping[str, str]]) -> LabelSets:
    """Label sets of plain mappings; raises InvalidLabels for names or values that are no text."""
    texts: dict[str, int] = {}
    pairs: dict[tuple[int, int], int] = {}
    rows: list[int] = []
    row_ends: list[int] = []
    for labels in label_sets:
        for name, value in labels.items():
            if not isinstance(name, str) or not isinstance(value, str):
                raise InvalidLabels(f"labels must be text, got {name!r}: {value!r}")
            pair = texts.setdefault(name, len(texts)), texts.setdefault(value, len(texts))
            rows.append(pairs.setdefault(pair, len(pairs)))
        row_ends.append(len(rows))
    # Lone surrogates become bytes that the check refuses by name.
    encoded = [text.encode("utf-8", "surrogatepass") for text in texts]
    ends = np.cumsum(np.fromiter(map(len, encoded), np.int64, len(encoded)))
    starts = np.concatenate((np.zeros(1, np.int64), ends))[: len(ends)]
    data = np.frombuffer(b"".join(encoded), np.uint8)
    names, values = np.array(list(pairs), np.int64).reshape(-1, 2).T
    return LabelSets(
        data, starts, ends, None, names, values, np.array(rows, np.int64),
        np.array(row_ends, np.int64),
    )  # fmt: skip


def ragged_positions(
    starts: npt.NDArray[np.int64], counts: npt.NDArray[np.int64]
) -> npt.NDArray[np.int64]:
    """``starts[i], starts[i] + 1, ...`` for ``counts[i]`` positions, rows one after the other."""
    ends = np.cumsum(counts)
    total = int(ends[-1]) if len(ends) else 0
    return np.repeat(starts - (ends - counts), counts) + np.arange(total, dtype=np.int64)
