"""Query answers as CSV (RFC 4180 with newlines as line ends)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from tsengine.interop.texts import join_all, join_texts, time_texts, value_texts

_SLICE_ROWS = 1024 * 1024
"""Lines are made in slices, since one Arrow column of texts holds at most 2 GiB."""


def csv_bytes(
    label_sets: Sequence[dict[str, str]],
    offsets: npt.NDArray[np.int64],
    t_ms: npt.NDArray[np.int64],
    values: npt.NDArray[np.float64],
    histogram_texts: Mapping[int, bytes] | None = None,
) -> bytes:
    """A column per label name, sorted, then ``timestamp`` in seconds and ``value``.

    Parameters
    ----------
    label_sets
        Of the S series.
    offsets
        i64[S + 1]: series s owns ``offsets[s]:offsets[s + 1]`` of the samples.
    t_ms, values
        i64[N], f64[N].
    histogram_texts
        What stands for the values at some positions: those of native histograms.

    """
    names = sorted({name for labels in label_sets for name in labels})
    lines = csv_lines(names, label_sets, offsets, t_ms, values, histogram_texts)
    return b"".join((csv_header(names), *lines))


def csv_header(names: Sequence[str]) -> bytes:
    """The first line, for label columns of these names."""
    header = _quoted(pa.array([*names, "timestamp", "value"], pa.string()))
    return ",".join(header.to_pylist()).encode() + b"\n"


def csv_lines(
    names: Sequence[str],
    label_sets: Sequence[dict[str, str]],
    offsets: npt.NDArray[np.int64],
    t_ms: npt.NDArray[np.int64],
    values: npt.NDArray[np.float64],
    histogram_texts: Mapping[int, bytes] | None = None,
) -> Iterator[bytes]:
    """A line a sample, many lines a piece; see `csv_bytes`."""
    columns = [
        _quoted(pa.array([labels.get(name, "") for labels in label_sets], pa.string()))
        for name in names
    ]
    # Labels become one text per series before they are repeated per sample.
    heads = pa.array([""] * len(label_sets), pa.string())
    if columns:
        heads = join_texts(join_texts(*columns, separator=","), ",")
    series = np.repeat(np.arange(len(label_sets)), np.diff(offsets))
    for start in range(0, len(values), _SLICE_ROWS):
        some = slice(start, start + _SLICE_ROWS)
        stamps = time_texts(pa.array(t_ms[some]), in_seconds=True)
        numbers = _with_texts(value_texts(pa.array(values[some])), start, histogram_texts or {})
        head = pc.take(heads, pa.array(series[some]))
        yield join_all(join_texts(head, stamps, ",", numbers, "\n"))


def _with_texts(numbers: pa.Array, start: int, texts: Mapping[int, bytes]) -> pa.Array:
    """Numbers of the samples from `start` on, with texts instead at their positions."""
    here = [k for k in texts if start <= k < start + len(numbers)]
    if not here:
        return numbers
    mask = np.zeros(len(numbers), np.bool_)
    mask[np.array(here) - start] = True
    quoted = _quoted(pa.array([texts[k].decode() for k in sorted(here)], pa.string()))
    return pc.replace_with_mask(numbers, pa.array(mask), quoted)


def string_csv(t_ms: int, text: str) -> bytes:
    """The answer to a query that is a string."""
    printable = text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
    (stamp,) = time_texts(pa.array([t_ms]), in_seconds=True).to_pylist()
    (quoted,) = _quoted(pa.array([printable], pa.string())).to_pylist()
    return f"timestamp,value\n{stamp},{quoted}\n".encode()


def _quoted(texts: pa.Array) -> pa.Array:
    """Texts with separators in quotes, quotes inside doubled."""
    quoted = pc.replace_substring(texts, pattern='"', replacement='""')
    needs_quotes = pc.match_substring_regex(texts, '[",\r\n]')
    return pc.if_else(needs_quotes, join_texts('"', quoted, '"'), texts)
