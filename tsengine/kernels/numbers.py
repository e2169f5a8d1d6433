"""Query answers as JSON text, written by one kernel into one buffer.

The digits of the floats come from orjson (shortest text that reads back the same double); what is
done here is the layout: Prometheus writes plain decimals for 1e-6 <= |v| < 1e21, exponents with
two digits otherwise, and quotes around each value.
"""

from __future__ import annotations

import numpy as np

from tsengine.kernels.jit import (
    ERR_CAPACITY,
    ERR_CORRUPT,
    F64_IN,
    I64_IN,
    U8_IN,
    U8_OUT,
    device,
    i64,
    kernel,
)

VALUE_SIZE_MAX = 32
"""No value's text is longer: sign, '0.', 5 zeros, 17 digits; or 21 digits before the point."""
_QUOTE, _COMMA, _OPEN, _CLOSE = 34, 44, 91, 93
_BRACE_OPEN, _BRACE_CLOSE, _COLON = 123, 125, 58
_ZERO, _NINE, _DOT, _MINUS, _PLUS, _E = 48, 57, 46, 45, 43, 101


@device
def _copy(source, start, end, out, at):
    for k in range(start, end):
        out[at + k - start] = source[k]
    return at + end - start


@device
def _write_special(value, out, at):
    if value != value:
        out[at], out[at + 1], out[at + 2] = 78, 97, 78  # NaN
        return at + 3
    out[at] = _PLUS if value > 0 else _MINUS
    out[at + 1], out[at + 2], out[at + 3] = 73, 110, 102  # Inf
    return at + 4


@device
def _write_finite(text, start, end, digits, out, at):
    """Lay out one orjson float ``text[start:end]`` the way Go does; -1 if it is not a float."""
    pos = start
    if text[pos] == _MINUS:
        out[at] = _MINUS
        at += 1
        pos += 1
    n = 0  # significant digits collected, leading zeros dropped
    point = 0  # the value is 0.d1d2d3... * 10**point
    seen_dot = False
    while pos < end and text[pos] != _E and text[pos] != 69:
        c = text[pos]
        if c == _DOT:
            seen_dot = True
        elif c < _ZERO or c > _NINE:
            return -1
        else:
            if n > 0 or c != _ZERO:
                if n >= digits.shape[0]:
                    return -1
                digits[n] = c
                n += 1
                if not seen_dot:
                    point += 1
            elif seen_dot:
                point -= 1
        pos += 1
    if pos < end:
        pos += 1
        negative = pos < end and text[pos] == _MINUS
        if pos < end and (text[pos] == _MINUS or text[pos] == _PLUS):
            pos += 1
        exponent = 0
        while pos < end:
            exponent = exponent * 10 + np.int64(text[pos]) - _ZERO
            pos += 1
        point += -exponent if negative else exponent
    while n > 0 and digits[n - 1] == _ZERO:
        n -= 1
    if n == 0:
        out[at] = _ZERO
        return at + 1
    if point < -5 or point > 21:
        return _write_exponent(digits, n, point - 1, out, at)
    if point <= 0:
        out[at], out[at + 1] = _ZERO, _DOT
        at += 2
        for _ in range(-point):
            out[at] = _ZERO
            at += 1
        return _copy(digits, 0, n, out, at)
    if n <= point:
        at = _copy(digits, 0, n, out, at)
        for _ in range(point - n):
            out[at] = _ZERO
            at += 1
        return at
    at = _copy(digits, 0, point, out, at)
    out[at] = _DOT
    return _copy(digits, point, n, out, at + 1)


@device
def _write_exponent(digits, n, exponent, out, at):
    out[at] = digits[0]
    at += 1
    if n > 1:
        out[at] = _DOT
        at = _copy(digits, 1, n, out, at + 1)
    out[at] = _E
    out[at + 1] = _MINUS if exponent < 0 else _PLUS
    at += 2
    exponent = abs(exponent)
    if exponent >= 100:
        out[at] = _ZERO + exponent // 100
        at += 1
    out[at] = _ZERO + exponent // 10 % 10
    out[at + 1] = _ZERO + exponent % 10
    return at + 2


@kernel(
    i64(U8_IN, F64_IN, I64_IN, I64_IN, U8_IN, I64_IN, U8_IN, I64_IN, I64_IN, I64_IN, i64, U8_OUT)
)
def write_series(
    text, values, value_offsets, stamps, stamp_text, stamp_offsets,
    pair_text, pair_offsets, row_pairs, row_offsets, is_matrix, out,
):  # fmt: skip
    """Write a matrix or vector result; returns its size in bytes or a negative status.

    Shapes: ``text`` orjson's array of ``values: f64[N]``; row s owns the values
    ``value_offsets[s]:value_offsets[s + 1]`` (vector: exactly one); ``stamps: i64[N]`` index into
    the texts of timestamps; ``row_pairs`` index into the texts ``"name":"value"``, row s owns
    ``row_offsets[s]:row_offsets[s + 1]``. ``out`` must hold every text, VALUE_SIZE_MAX bytes a
    value and 48 a row; the caller proves it.
    """
    digits = np.empty(40, np.uint8)
    metric = np.array([123, 34, 109, 101, 116, 114, 105, 99, 34, 58, 123], np.uint8)  # {"metric":{
    key = np.array([125, 44, 34, 118, 97, 108, 117, 101, 115, 34, 58], np.uint8)  # },"values":
    at = 0
    pos = 1
    for s in range(value_offsets.shape[0] - 1):
        if at + 48 > out.shape[0]:
            return ERR_CAPACITY
        if s > 0:
            out[at] = _COMMA
            at += 1
        at = _copy(metric, 0, metric.shape[0], out, at)
        for p in range(row_offsets[s], row_offsets[s + 1]):
            if p > row_offsets[s]:
                out[at] = _COMMA
                at += 1
            pair = row_pairs[p]
            at = _copy(pair_text, pair_offsets[pair], pair_offsets[pair + 1], out, at)
        if is_matrix:
            at = _copy(key, 0, key.shape[0], out, at)
            out[at] = _OPEN
            at += 1
        else:
            at = _copy(key, 0, 8, out, at)
            at = _copy(key, 9, key.shape[0], out, at)  # the key without its "s"
        for i in range(value_offsets[s], value_offsets[s + 1]):
            end = pos
            while end < text.shape[0] and text[end] != _COMMA and text[end] != _CLOSE:
                end += 1
            if end >= text.shape[0]:
                return ERR_CORRUPT
            if i > value_offsets[s]:
                out[at] = _COMMA
                at += 1
            out[at] = _OPEN
            stamp = stamps[i]
            at = _copy(stamp_text, stamp_offsets[stamp], stamp_offsets[stamp + 1], out, at + 1)
            out[at], out[at + 1] = _COMMA, _QUOTE
            at += 2
            if np.isfinite(values[i]):
                at = _write_finite(text, pos, end, digits, out, at)
                if at < 0:
                    return ERR_CORRUPT
            else:
                at = _write_special(values[i], out, at)
            out[at], out[at + 1] = _QUOTE, _CLOSE
            at += 2
            pos = end + 1
        if is_matrix:
            out[at] = _CLOSE
            at += 1
        out[at] = _BRACE_CLOSE
        at += 1
    return at
