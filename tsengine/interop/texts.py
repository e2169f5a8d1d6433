"""Columns of numbers as texts, and columns of texts joined; all of it Arrow's work."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc


def value_texts(values: pa.Array) -> pa.Array:
    """Shortest texts that read back the same double; ``NaN``, ``+Inf``, ``-Inf``."""
    texts = pc.cast(values, pa.string())
    texts = pc.if_else(pc.is_nan(values), "NaN", texts)
    texts = pc.if_else(pc.equal(values, np.inf), "+Inf", texts)
    return pc.if_else(pc.equal(values, -np.inf), "-Inf", texts)


def time_texts(t_ms: pa.Array, *, in_seconds: bool) -> pa.Array:
    """Milliseconds, or seconds with three decimals, of int64 milliseconds."""
    if not in_seconds:
        return pc.cast(t_ms, pa.string())
    numbers = t_ms.to_numpy()
    size = np.abs(numbers)
    sign = pa.array(np.where(numbers < 0, "-", ""))
    seconds = pc.cast(pa.array(size // 1000), pa.string())
    millis = pc.utf8_lpad(pc.cast(pa.array(size % 1000), pa.string()), 3, "0")
    return join_texts(sign, seconds, ".", millis)


def join_texts(*parts: pa.Array | str, separator: str = "") -> pa.Array:
    """Row by row, one text of columns and constants."""
    return pc.binary_join_element_wise(*parts, separator)


def join_all(texts: pa.Array) -> bytes:
    """All rows of a column behind each other."""
    if len(texts) == 0:
        return b""
    one_list = pa.LargeListArray.from_arrays(pa.array([0, len(texts)], pa.int64()), texts)
    joined: bytes = pc.binary_join(one_list, "")[0].as_buffer().to_pybytes()
    return joined
