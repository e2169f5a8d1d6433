"""Tables of native histograms for tests, and a plain form that can be compared bit for bit."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st

from tests.reference import histogramscan as reference
from tests.reference.histogram_strategies import messages
from tests.reference.histogramscan import Message
from tsengine.model.histograms import Histograms, is_handle, no_histograms, rows_of
from tsengine.model.ragged import offsets_of

Plain = tuple


def plain_of(message: Message) -> Plain:
    """What storage makes of a valid message; floats as bits."""
    status, keys = reference.checked(message)
    assert status == 0, "a valid message"
    counts = [message.count, message.zero_count]
    if not message.is_float:
        counts = [bits(float(count)) for count in counts]
    bounds = tuple(message.custom) if message.schema == -53 else None
    buckets = tuple((key, bits(count)) for key, count in keys.items())
    schema = min(message.schema, 8)
    return (
        schema, message.hint, counts[0], message.sum, message.threshold, counts[1], buckets, bounds
    )  # fmt: skip


def bits(value: float) -> int:
    return int(np.float64(value).view(np.uint64))


def plain_rows(table: Histograms | None) -> list[Plain]:
    """Each row of a table in the form of `plain_of`."""
    if table is None:
        return []
    counts = table.counts.view(np.uint64).tolist()
    bounds = table.bounds.view(np.uint64).tolist()
    rows = []
    for row in range(len(table)):
        a, b = table.offsets[row : row + 2].tolist()
        bounds_id = int(table.bounds_id[row])
        own = None
        if bounds_id >= 0:
            own = tuple(bounds[slice(*table.bounds_offsets[bounds_id : bounds_id + 2].tolist())])
        numbers = (table.count, table.sum, table.zero_threshold, table.zero_count)
        rows.append(
            (
                int(table.schema[row]), int(table.hint[row]),
                *(int(column[row].view(np.uint64)) for column in numbers),
                tuple(zip(table.keys[a:b].tolist(), counts[a:b], strict=True)), own,
            )
        )  # fmt: skip
    return rows


def table_of(rows: list[Plain]) -> Histograms:
    """Invert `plain_rows`; every custom row has bounds of its own."""
    if not rows:
        return no_histograms()
    schema, hint, count, sum_, threshold, zero_count, buckets, bounds = zip(*rows, strict=True)

    def floats(column) -> np.ndarray:
        return np.array(column, np.uint64).view(np.float64)

    custom = [row for row in bounds if row is not None]
    ids = np.cumsum([row is not None for row in bounds]) - 1
    return Histograms(
        schema=np.array(schema, np.int8),
        hint=np.array(hint, np.uint8),
        count=floats(count),
        sum=floats(sum_),
        zero_threshold=floats(threshold),
        zero_count=floats(zero_count),
        offsets=offsets_of(np.array([len(row) for row in buckets], np.int64)),
        keys=np.array([key for row in buckets for key, _ in row], np.int32),
        counts=floats([count for row in buckets for _, count in row]),
        bounds_id=np.where([row is not None for row in bounds], ids, -1).astype(np.int32),
        bounds_offsets=offsets_of(np.array([len(row) for row in custom], np.int64)),
        bounds=floats([bound for row in custom for bound in row]),
    )


def values_of(values_bits: np.ndarray, table: Histograms | None) -> list[int | Plain]:
    """Samples in plain form: bits of floats, histograms in the form of `plain_of`."""
    rows = plain_rows(table)
    numbers = rows_of(values_bits).tolist()
    return [
        rows[number] if handle else value
        for value, handle, number in zip(
            values_bits.tolist(), is_handle(values_bits).tolist(), numbers, strict=True
        )
    ]


valid_messages = messages(faults=False)
plain_histograms = valid_messages.map(plain_of)
tables = st.lists(plain_histograms, max_size=5).map(table_of)
