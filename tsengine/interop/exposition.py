"""The newest samples of series as the text that scrapers read (federation).

Formats: Prometheus text 0.0.4 and 1.0.0, OpenMetrics 1.0.0. All work on texts is Arrow's, column by
column: nothing happens in Python per series.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from tsengine.interop.arrow import SELECT_SCHEMA, TIMESTAMP, label_maps, read_slices, row_times
from tsengine.interop.texts import join_all, join_texts, time_texts, value_texts
from tsengine.kernels.bits import STALE_BITS
from tsengine.model.frame import FrameBatch
from tsengine.model.histograms import is_handle
from tsengine.model.labels import LabelDictionary, LabelRows
from tsengine.model.matchers import METRIC_NAME, Matcher

_PLAIN_METRIC = "^[a-zA-Z_:][a-zA-Z0-9_:]*$"
_PLAIN_LABEL = "^[a-zA-Z_][a-zA-Z0-9_]*$"
_INSTANCE = "instance"


class _View(Protocol):
    @property
    def dictionary(self) -> LabelDictionary: ...
    def find(self, matchers: Sequence[Matcher], mint: int, maxt: int) -> npt.NDArray[np.uint32]: ...
    def labels(self, refs: npt.NDArray[np.uint32]) -> LabelRows: ...
    def count_samples(self, refs: npt.NDArray[np.uint32], mint: int, maxt: int) -> int: ...
    def read(
        self, refs: npt.NDArray[np.uint32], mint: int, maxt: int, *, drop_stale: bool
    ) -> FrameBatch: ...


def newest_table(view: _View, refs: npt.NDArray[np.uint32], mint: int, maxt: int) -> pa.Table:
    """The newest sample of each series in the closed range, one row each.

    Series whose newest sample is a stale marker or a native histogram, for which the text formats
    have no form, or that have none, are left out. Columns as those of `Database.select`; rows in
    the order of `refs`: u32[S].
    """
    kept: list[npt.NDArray[np.uint32]] = [np.zeros(0, np.uint32)]
    times: list[npt.NDArray[np.int64]] = [np.zeros(0, np.int64)]
    values: list[npt.NDArray[np.float64]] = [np.zeros(0, np.float64)]
    for start, stop, frames in read_slices(view, refs, mint, maxt):
        ends = frames.row_offsets[1:]
        filled = ends > frames.row_offsets[:-1]
        last = ends[filled] - 1
        newest = frames.values[last]
        alive = newest.view(np.uint64) != STALE_BITS
        if frames.histograms is not None:
            alive &= ~is_handle(newest.view(np.uint64))
        kept.append(refs[start:stop][filled][alive])
        times.append(row_times(frames)[last][alive])
        values.append(newest[alive])
    found = np.concatenate(kept)
    maps = label_maps(view.dictionary, view.labels(found))
    labels = pa.DictionaryArray.from_arrays(pa.array(np.arange(len(found), dtype=np.int32)), maps)
    stamps = pa.array(np.concatenate(times)).cast(pa.timestamp("ms")).cast(TIMESTAMP)
    return pa.table([labels, stamps, pa.array(np.concatenate(values))], schema=SELECT_SCHEMA)


def exposition(table: pa.Table, *, openmetrics: bool = False, utf8: bool = False) -> bytes:
    """Text of a table of `newest_table`, sorted by name and then labels.

    Series without a name are left out; an absent ``instance`` is written as an empty one, which
    keeps a scraper with ``honor_labels`` from adding its own.

    Parameters
    ----------
    openmetrics
        OpenMetrics instead of Prometheus's text: times in seconds, ``# EOF`` at the end.
    utf8
        Names that need quotes are quoted; otherwise their odd characters become ``_``.

    """
    labels = table.column("labels").combine_chunks()
    names, bodies, plain = _series_texts(labels.dictionary.take(labels.indices), utf8)
    value = value_texts(table.column("value").combine_chunks())
    stamp = time_texts(
        table.column("timestamp").combine_chunks().cast(pa.int64()), in_seconds=openmetrics
    )
    named = pc.not_equal(names, "")
    columns = [pc.filter(column, named) for column in (names, bodies, plain, value, stamp)]
    order = pc.sort_indices(
        pa.table(columns, names=["name", "body", "plain", "value", "time"]),
        sort_keys=[("name", "ascending"), ("body", "ascending")],
    )
    names, bodies, plain, value, stamp = (pc.take(column, order) for column in columns)
    lines = join_texts(_heads(names, plain, openmetrics), bodies, " ", value, " ", stamp, "\n")
    text = join_all(lines)
    return text + b"# EOF\n" if openmetrics else text


def _series_texts(maps: pa.MapArray, utf8: bool) -> tuple[pa.Array, pa.Array, pa.Array]:
    """Name, name with labels in braces, and whether the name needs no quotes, of each series."""
    offsets = np.asarray(maps.offsets, np.int64)
    keys = maps.keys.slice(offsets[0], offsets[-1] - offsets[0])
    items = maps.items.slice(offsets[0], offsets[-1] - offsets[0])
    row = np.repeat(np.arange(len(maps)), np.diff(offsets))
    is_name = pc.equal(keys, METRIC_NAME).to_numpy(zero_copy_only=False)
    names = _spread(items, row, is_name, len(maps))
    plain = pc.match_substring_regex(names, _PLAIN_METRIC)
    if not utf8:
        names = _underscored(names, plain, "[^a-zA-Z0-9_:]")
        plain = pc.is_valid(names)
    is_label = ~is_name
    pairs = _pair_texts(keys.filter(pa.array(is_label)), items.filter(pa.array(is_label)), utf8)
    counts = np.bincount(row[is_label], minlength=len(maps))
    lists = pa.ListArray.from_arrays(
        pa.array(np.concatenate([[0], np.cumsum(counts)]).astype(np.int32)), pairs
    )
    has_instance = np.zeros(len(maps), bool)
    has_instance[row[pc.equal(keys, _INSTANCE).to_numpy(zero_copy_only=False)]] = True
    missing = np.where(has_instance, "", f'{_INSTANCE}=""')
    comma = np.where(has_instance | (counts == 0), "", ",")
    braced = join_texts(pc.binary_join(lists, ","), pa.array(comma), pa.array(missing))
    quoted = join_texts('{"', _escaped(names), '",', braced, "}")
    return names, pc.if_else(plain, join_texts(names, "{", braced, "}"), quoted), plain


def _spread(
    items: pa.Array, row: npt.NDArray[np.int64], mask: npt.NDArray[np.bool_], n_rows: int
) -> pa.Array:
    """The masked item of each row, an empty text where there is none."""
    place = np.full(n_rows, -1, np.int64)
    place[row[mask]] = np.flatnonzero(mask)
    indices = pa.array(place, mask=place < 0)
    return pc.fill_null(pc.take(items, indices), "")


def _pair_texts(keys: pa.Array, items: pa.Array, utf8: bool) -> pa.Array:
    plain = pc.match_substring_regex(keys, _PLAIN_LABEL)
    if utf8:
        shown = pc.if_else(plain, keys, join_texts('"', _escaped(keys), '"'))
    else:
        shown = _underscored(keys, plain, "[^a-zA-Z0-9_]")
    return join_texts(shown, '="', _escaped(items), '"')


def _underscored(names: pa.Array, plain: pa.Array, odd: str) -> pa.Array:
    """Names with every character that the old rules forbid replaced; a first digit is one."""
    cleaned = pc.replace_substring_regex(names, pattern=odd, replacement="_")
    cleaned = pc.replace_substring_regex(cleaned, pattern="^[0-9]", replacement="_")
    return pc.if_else(plain, names, cleaned)


def _escaped(texts: pa.Array) -> pa.Array:
    for plain, escaped in (("\\", "\\\\"), ('"', '\\"'), ("\n", "\\n")):
        texts = pc.replace_substring(texts, pattern=plain, replacement=escaped)
    return texts


def _heads(names: pa.Array, plain: pa.Array, openmetrics: bool) -> pa.Array:
    """A TYPE line before the first series of each name, nothing before the others."""
    kind = "unknown" if openmetrics else "untyped"
    quoted = pc.if_else(plain, names, join_texts('"', _escaped(names), '"'))
    heads = join_texts("# TYPE ", quoted, f" {kind}\n")
    first = np.ones(len(names), bool)
    if len(names) > 1:
        first[1:] = pc.not_equal(names[1:], names[:-1]).to_numpy(zero_copy_only=False)
    return pc.if_else(pa.array(first), heads, "")
