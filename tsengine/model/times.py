"""What users may give as a time or a duration, turned into milliseconds.

Times: int (ms since the epoch), float (s), datetime (naive is UTC), numpy.datetime64.
Durations: int (ms), float (s), timedelta, numpy.timedelta64.
"""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import numpy.typing as npt

TimeLike = int | float | datetime | np.datetime64 | np.integer[Any] | np.floating[Any]
DurationLike = int | float | timedelta | np.timedelta64 | np.integer[Any] | np.floating[Any]

MINT = -(2**63)
MAXT = 2**63 - 1
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MS = timedelta(milliseconds=1)


def to_ms(time: TimeLike) -> int:
    """Milliseconds since the epoch, rounded.

    Raises
    ------
    TypeError, ValueError
        The value is no time, or does not fit 64-bit milliseconds.

    """
    if isinstance(time, bool):
        raise TypeError("a time can't be a bool")
    if isinstance(time, np.datetime64):
        if np.isnat(time):
            raise ValueError("a time can't be NaT")
        return int(time.astype("datetime64[ms]").astype(np.int64))
    if isinstance(time, datetime):
        aware = time if time.tzinfo is not None else time.replace(tzinfo=UTC)
        return round((aware - _EPOCH) / _MS)
    return _number_to_ms(time, "time")


def duration_to_ms(duration: DurationLike) -> int:
    """Milliseconds, rounded; raises TypeError or ValueError like `to_ms`."""
    if isinstance(duration, bool):
        raise TypeError("a duration can't be a bool")
    if isinstance(duration, np.timedelta64):
        if np.isnat(duration):
            raise ValueError("a duration can't be NaT")
        return int(duration.astype("timedelta64[ms]").astype(np.int64))
    if isinstance(duration, timedelta):
        return round(duration / _MS)
    return _number_to_ms(duration, "duration")


def text_of_ms(t_ms: int) -> str:
    """A time for humans, in UTC."""
    try:
        return datetime.fromtimestamp(t_ms / 1000, UTC).isoformat(timespec="milliseconds")
    except (OverflowError, ValueError, OSError):
        return f"{t_ms} ms"


def _number_to_ms(number: Any, what: str) -> int:
    if isinstance(number, (int, np.integer)):
        ms = int(number)
    elif isinstance(number, (float, np.floating)):
        if not math.isfinite(number):
            raise ValueError(f"a {what} must be finite, got {number}")
        ms = round(float(number) * 1000)
    else:
        raise TypeError(f"a {what} can't be a {type(number).__name__}")
    if not MINT <= ms <= MAXT:
        raise ValueError(f"{what} {number} does not fit 64-bit milliseconds")
    return ms


def times_to_ms(times: Any) -> npt.NDArray[np.int64]:
    """An array of times, by its dtype: integers are ms, floats s, datetime64 itself; i64[N].

    Raises
    ------
    TypeError, ValueError
        Another dtype, NaT, NaN or a value that does not fit.

    """
    array = np.asarray(times)
    if array.ndim != 1:
        array = np.atleast_1d(array)
        if array.ndim != 1:
            raise ValueError(f"timestamps must be one-dimensional, got shape {array.shape}")
    if array.dtype.kind == "M":
        if np.isnat(array).any():
            raise ValueError("timestamps contain NaT")
        return array.astype("datetime64[ms]").astype(np.int64)
    if array.dtype.kind in "iu":
        if array.dtype.kind == "u" and array.size and int(array.max()) > MAXT:
            raise ValueError("timestamps do not fit 64-bit milliseconds")
        return np.ascontiguousarray(array, np.int64)
    if array.dtype.kind == "f":
        ms = np.rint(array.astype(np.float64) * 1000)
        if not (np.isfinite(ms).all() and (np.abs(ms) < 2.0**63).all()):
            raise ValueError("timestamps must be finite and fit 64-bit milliseconds")
        return ms.astype(np.int64)
    if array.dtype == object or array.size == 0:
        return np.array([to_ms(time) for time in array.tolist()], np.int64)
    raise TypeError(f"timestamps can't have the type {array.dtype}")
