"""Query answers as JSON text, written by one kernel into buffers of any size.

Floats are the shortest decimals that read back the same double, laid out as Prometheus does: plain
for 1e-6 <= |v| < 1e21, else with an exponent of two digits or more; quotes around each value.
Source of the digits: Giulietti, "The Schubfach way to render doubles", 2020.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from tsengine.kernels.bits import (
    f64_bits,
    leading_zeros,
    load_u64,
    mul_high,
    store_u64,
    trailing_zeros,
    unowned,
)
from tsengine.kernels.jit import (
    BOOL_IN,
    ERR_CAPACITY,
    ERR_CORRUPT,
    F64_IN,
    I64_IN,
    I64_OUT,
    U8_IN,
    U8_OUT,
    U32_IN,
    device,
    i64,
    kernel,
)
from tsengine.kernels.packing import hold

VALUE_SIZE_MAX = 32
"""No value's text is longer: sign, '0.', 5 zeros, 17 digits; or 21 digits before the point."""
HEAD_SIZE_MAX = 40
"""What stands around the labels of a series and its lists."""
POINT_SIZE_MAX = VALUE_SIZE_MAX + 32
"""A float sample without its timestamp, with the key of its list."""
HISTOGRAM_SIZE_MAX = 2 * VALUE_SIZE_MAX + 64
"""A histogram without its timestamp and buckets."""
BUCKET_SIZE_MAX = 3 * VALUE_SIZE_MAX + 16
WORD_SLACK = 7
"""Bytes that there must be behind the last one of `write_series`'s texts."""
STAMP_SIZE_MAX = 24
"""No timestamp's text is longer: sign, 16 digits of seconds, point, 3 digits."""
VECTOR, MATRIX, LABEL_SETS = 0, 1, 2
"""What `write_series` writes of a row: one sample, lists of samples, nothing but its labels."""
CURSOR_SIZE = 4
"""Series, stage, value and whether its list is open: where `write_series` goes on."""

_POWER_MIN, _POWER_MAX = -292, 324
_FRACTION = np.uint64((1 << 52) - 1)
_HIDDEN = np.uint64(1 << 52)
_ZERO, _ONE, _TWO, _FOUR, _TEN = (np.uint64(n) for n in (0, 1, 2, 4, 10))
_THOUSAND = np.uint64(1000)
_TEN_THOUSAND, _TEN_TO_8 = np.uint64(10**4), np.uint64(10**8)
_DIGITS_MAX = 24
_ZEROS = np.uint64(0x3030303030303030)
_SECONDS_DIGITS_MAX = 16

_QUOTE, _COMMA, _OPEN, _CLOSE, _BRACE_CLOSE = 34, 44, 91, 93, 125
_0, _DOT, _MINUS, _PLUS, _E, _S = 48, 46, 45, 43, 101, 115
_METRIC = np.frombuffer(b'{"metric":{', np.uint8)
_METRIC_SIZE = len(_METRIC)
_VALUE = np.frombuffer(b',"value', np.uint8)
_HISTOGRAM = np.frombuffer(b',"histogram', np.uint8)
_COUNT = np.frombuffer(b'{"count":"', np.uint8)
_SUM = np.frombuffer(b'","sum":"', np.uint8)
_BUCKETS = np.frombuffer(b',"buckets":[', np.uint8)

_HEAD, _FLOATS, _HISTOGRAMS, _END = 0, 1, 2, 3
_HANDLE_SHIFT = np.uint64(48)
_HANDLE_TAG = np.uint64(0x7FFC)
_ROW_MASK = np.uint64((1 << 48) - 1)


def _powers_of_ten() -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.uint64]]:
    """10^k for k from _POWER_MIN to _POWER_MAX, scaled into [2^127, 2^128) and rounded up."""
    numbers = []
    for k in range(_POWER_MIN, _POWER_MAX + 1):
        power = 10 ** abs(k)
        size = power.bit_length()
        if k < 0:
            numbers.append(-(-(1 << (127 + size)) // power))
        else:
            numbers.append(power << (128 - size) if size <= 128 else -(-power >> (size - 128)))
    high = np.array([n >> 64 for n in numbers], np.uint64)
    return high, np.array([n & ((1 << 64) - 1) for n in numbers], np.uint64)


_POWERS_HIGH, _POWERS_LOW = _powers_of_ten()


@device
def _copy(source, start, end, out, at):
    for k in range(start, end):
        out[at + k - start] = source[k]
    return at + end - start


@device
def _copy_words(source, start, end, out, at):
    """As `_copy`, in words: reads and writes up to WORD_SLACK bytes behind the end."""
    for k in range(start, end, 8):
        store_u64(out, at + k - start, load_u64(source, k))
    return at + end - start


@device
def _scaled(high, low, c):
    """Upper 64 bits of (2^64 high + low) * c / 2^64, its last bit set if anything is below."""
    lower = high * c
    upper = mul_high(high, c)
    total = lower + mul_high(low, c)
    if total < lower:
        upper += _ONE
    if total > _ONE:
        upper |= _ONE
    return upper


@device
def _shortest(bits):
    """Digits (as a number) and power of ten of a finite positive double; section 8 of the paper."""
    fraction = bits & _FRACTION
    biased = np.int64(bits >> np.uint64(52))
    c, q = fraction, np.int64(-1074)
    if biased != 0:
        c, q = fraction | _HIDDEN, biased - 1075
        if -53 < q <= 0 and (c >> np.uint64(-q)) << np.uint64(-q) == c:
            return c >> np.uint64(-q), np.int64(0)
    odd = c & _ONE
    is_closer_below = fraction == _ZERO and biased > 1
    k = (q * 1262611 - (524031 if is_closer_below else 0)) >> 22
    h = np.uint64(q + ((-k * 1741647) >> 19) + 1)
    high, low = _POWERS_HIGH[-k - _POWER_MIN], _POWERS_LOW[-k - _POWER_MIN]
    middle = _scaled(high, low, (c << _TWO) << h)
    below = (c << _TWO) - (_ONE if is_closer_below else _TWO)
    lower = _scaled(high, low, below << h) + odd
    upper = _scaled(high, low, ((c << _TWO) + _TWO) << h) - odd
    s = middle >> _TWO
    if s >= _TEN:
        tenth = s // _TEN
        is_in = lower <= _FOUR * _TEN * tenth
        is_next_in = _FOUR * _TEN * (tenth + _ONE) <= upper
        if is_in != is_next_in:
            return (tenth + _ONE if is_next_in else tenth), k + 1
    is_in = lower <= _FOUR * s
    is_next_in = _FOUR * (s + _ONE) <= upper
    if is_in != is_next_in:
        return (s + _ONE if is_next_in else s), k
    half = (s << _TWO) + _TWO
    if middle > half or (middle == half and s & _ONE == _ONE):
        s += _ONE
    return s, k


@device
def _eight_digits(x):
    """The eight decimal digits of x < 10^8 in the bytes of a word, the first one lowest."""
    high = x // _TEN_THOUSAND
    two = high | ((x - high * _TEN_THOUSAND) << np.uint64(32))
    hundreds = ((two * np.uint64(10486)) >> np.uint64(20)) & np.uint64(0x0000007F0000007F)
    four = hundreds | ((two - hundreds * np.uint64(100)) << np.uint64(16))
    tens = ((four * np.uint64(103)) >> np.uint64(10)) & np.uint64(0x000F000F000F000F)
    return tens | ((four - tens * _TEN) << np.uint64(8))


@device
def _write_digits(number, digits):
    """Write 0 < number < 10^18 up to ``digits[_DIGITS_MAX]``; its bounds there without outer 0s."""
    upper = number // _TEN_TO_8
    low = _eight_digits(number - upper * _TEN_TO_8)
    top = upper // _TEN_TO_8
    middle = _eight_digits(upper - top * _TEN_TO_8)
    high = _eight_digits(top)
    store_u64(digits, 0, high | _ZEROS)
    store_u64(digits, 8, middle | _ZEROS)
    store_u64(digits, 16, low | _ZEROS)
    first = 16 + (trailing_zeros(low) >> 3)
    if high != _ZERO:
        first = trailing_zeros(high) >> 3
    elif middle != _ZERO:
        first = 8 + (trailing_zeros(middle) >> 3)
    end = 8 - (leading_zeros(high) >> 3)
    if low != _ZERO:
        end = 24 - (leading_zeros(low) >> 3)
    elif middle != _ZERO:
        end = 16 - (leading_zeros(middle) >> 3)
    return first, end


@device
def _write_value(value, digits, out, at):
    """Text of one float; writes up to WORD_SLACK bytes behind it.

    ``digits`` is scratch: u8[_DIGITS_MAX + 8].
    """
    if value != value:
        out[at], out[at + 1], out[at + 2] = 78, 97, 78  # NaN
        return at + 3
    if abs(value) == np.inf:
        out[at] = _PLUS if value > 0 else _MINUS
        out[at + 1], out[at + 2], out[at + 3] = 73, 110, 102  # Inf
        return at + 4
    bits = f64_bits(value)
    if bits >> np.uint64(63):
        out[at] = _MINUS
        at += 1
        bits = (bits << _ONE) >> _ONE
    if bits == _ZERO:
        out[at] = _0
        return at + 1
    number, power = _shortest(bits)
    first, end = _write_digits(number, digits)
    point = _DIGITS_MAX - first + power  # the value is 0.d1d2d3... * 10**point
    if point < -5 or point > 21:
        return _write_exponent(digits, first, end, point - 1, out, at)
    if point <= 0:
        out[at], out[at + 1] = _0, _DOT
        at += 2
        for _ in range(-point):
            out[at] = _0
            at += 1
        return _copy_words(digits, first, end, out, at)
    if end - first <= point:
        at = _copy_words(digits, first, end, out, at)
        for _ in range(point - (end - first)):
            out[at] = _0
            at += 1
        return at
    at = _copy_words(digits, first, first + point, out, at)
    out[at] = _DOT
    return _copy_words(digits, first + point, end, out, at + 1)


@device
def _write_exponent(digits, first, end, exponent, out, at):
    out[at] = digits[first]
    at += 1
    if end - first > 1:
        out[at] = _DOT
        at = _copy(digits, first + 1, end, out, at + 1)
    out[at] = _E
    out[at + 1] = _MINUS if exponent < 0 else _PLUS
    at += 2
    exponent = abs(exponent)
    if exponent >= 100:
        out[at] = _0 + exponent // 100
        at += 1
    out[at] = _0 + exponent // 10 % 10
    out[at + 1] = _0 + exponent % 10
    return at + 2


@device
def _write_text(value, digits, out, at):
    """One float in quotes."""
    out[at] = _QUOTE
    at = _write_value(value, digits, out, at + 1)
    out[at] = _QUOTE
    return at + 1


@device
def _write_histogram(
    count, sum_, start, end, rules, lowers, uppers, bucket_counts, digits, out, at
):  # fmt: skip
    at = _copy(_COUNT, 0, _COUNT.shape[0], out, at)
    at = _write_value(count, digits, out, at)
    at = _copy(_SUM, 0, _SUM.shape[0], out, at)
    at = _write_value(sum_, digits, out, at)
    out[at] = _QUOTE
    at += 1
    for b in range(start, end):
        if b == start:
            at = _copy(_BUCKETS, 0, _BUCKETS.shape[0], out, at)
        else:
            out[at] = _COMMA
            at += 1
        out[at], out[at + 1], out[at + 2] = _OPEN, _0 + rules[b], _COMMA
        at = _write_text(lowers[b], digits, out, at + 3)
        out[at] = _COMMA
        at = _write_text(uppers[b], digits, out, at + 1)
        out[at] = _COMMA
        at = _write_text(bucket_counts[b], digits, out, at + 1)
        out[at] = _CLOSE
        at += 1
    if end > start:
        out[at] = _CLOSE
        at += 1
    out[at] = _BRACE_CLOSE
    return at + 1


@device
def _write_key(stage, is_matrix, out, at):
    """Key of a list of samples, or of the one sample of a vector's row."""
    if stage == _FLOATS:
        at = _copy(_VALUE, 0, _VALUE.shape[0], out, at)
    else:
        at = _copy(_HISTOGRAM, 0, _HISTOGRAM.shape[0], out, at)
    if is_matrix:
        out[at] = _S
        at += 1
    out[at], out[at + 1] = _QUOTE, 58
    at += 2
    if is_matrix:
        out[at] = _OPEN
        at += 1
    return at


@kernel(
    i64(F64_IN, BOOL_IN, I64_IN, I64_IN, U8_IN, I64_IN, U8_IN, I64_IN, I64_IN, U32_IN, I64_IN,
        F64_IN, F64_IN, I64_IN, U8_IN, F64_IN, F64_IN, F64_IN, i64, I64_OUT, U8_OUT)
)  # fmt: skip
def write_series(
    values, present, value_offsets, stamps, stamp_text, stamp_offsets,
    pair_text, pair_starts, pair_ends, row_pairs, row_offsets,
    counts, sums, bucket_offsets, rules, lowers, uppers, bucket_counts, form, cursor, out,
):  # fmt: skip
    """Write as much of a matrix or vector result, or of label sets, as fits; returns the bytes.

    Goes on where ``cursor: i64[CURSOR_SIZE]`` says (zeros: the beginning) and leaves there where
    the next call has to; all is written when ``cursor[0]`` is S. ERR_CAPACITY if `out` is too small
    for the next item alone, ERR_CORRUPT for a handle without a histogram.

    Shapes: row s owns the values ``value_offsets[s]:value_offsets[s + 1]`` of ``values: f64[N]``
    (vector: exactly one), those of them where ``present: bool[N]`` is set; an empty one means all.
    ``stamps: i64[N]`` index into the texts of timestamps; if they are empty, it is a value's
    position in its row. Pair p is ``pair_text[pair_starts[p]:pair_ends[p]]``, row s owns the pairs
    ``row_offsets[s]:row_offsets[s + 1]``. Both texts have WORD_SLACK bytes more.
    Histograms: ``counts, sums: f64[H]``; histogram h owns the buckets
    ``bucket_offsets[h]:bucket_offsets[h + 1]`` of ``rules: u8[B]`` (boundary rules 0 to 3),
    ``lowers, uppers, bucket_counts: f64[B]``. Handles among the values count only if H > 0.
    """
    scratch = np.empty(_DIGITS_MAX + 8, np.uint8)
    digits = unowned(scratch)
    out = unowned(out)
    stamp_text, pair_text = unowned(stamp_text), unowned(pair_text)
    rules, bucket_counts = unowned(rules), unowned(bucket_counts)
    lowers, uppers = unowned(lowers), unowned(uppers)
    n_rows = value_offsets.shape[0] - 1
    n_histograms = counts.shape[0]
    is_matrix = form == MATRIX
    size = out.shape[0]
    s, stage, i, is_open = cursor[0], cursor[1], cursor[2], cursor[3]
    at = 0
    is_full = False
    is_corrupt = False
    while s < n_rows and not is_full:
        if stage == _HEAD:
            room = HEAD_SIZE_MAX + row_offsets[s + 1] - row_offsets[s]
            for p in range(row_offsets[s], row_offsets[s + 1]):
                room += pair_ends[row_pairs[p]] - pair_starts[row_pairs[p]]
            if at + room > size:
                is_full = True
                continue
            if s > 0:
                out[at] = _COMMA
                at += 1
            first = _METRIC_SIZE - 1 if form == LABEL_SETS else 0
            at = _copy(_METRIC, first, _METRIC_SIZE, out, at)
            for p in range(row_offsets[s], row_offsets[s + 1]):
                if p > row_offsets[s]:
                    out[at] = _COMMA
                    at += 1
                pair = row_pairs[p]
                at = _copy_words(pair_text, pair_starts[pair], pair_ends[pair], out, at)
            out[at] = _BRACE_CLOSE
            at += 1
            if form == LABEL_SETS:
                s += 1
                continue
            stage, i, is_open = _FLOATS, value_offsets[s], 0
        end = value_offsets[s + 1]
        while i < end:
            if present.shape[0] > 0 and not present[i]:
                i += 1
                continue
            bits = f64_bits(values[i])
            is_histogram = n_histograms > 0 and bits >> _HANDLE_SHIFT == _HANDLE_TAG
            if is_histogram != (stage == _HISTOGRAMS):
                i += 1
                continue
            row = 0
            stamp = stamps[i] if stamps.shape[0] > 0 else i - value_offsets[s]
            room = POINT_SIZE_MAX + stamp_offsets[stamp + 1] - stamp_offsets[stamp]
            if is_histogram:
                row = np.int64(bits & _ROW_MASK)
                if row >= n_histograms:
                    is_corrupt = True
                    is_full = True
                    break
                n_buckets = bucket_offsets[row + 1] - bucket_offsets[row]
                room += HISTOGRAM_SIZE_MAX + BUCKET_SIZE_MAX * n_buckets
            if at + room > size:
                is_full = True
                break
            if is_open:
                out[at] = _COMMA
                at += 1
            else:
                at = _write_key(stage, is_matrix, out, at)
                is_open = 1
            out[at] = _OPEN
            first = stamp_offsets[stamp]
            at = _copy_words(stamp_text, first, stamp_offsets[stamp + 1], out, at + 1)
            out[at] = _COMMA
            at += 1
            if is_histogram:
                at = _write_histogram(
                    counts[row], sums[row], bucket_offsets[row], bucket_offsets[row + 1],
                    rules, lowers, uppers, bucket_counts, digits, out, at,
                )  # fmt: skip
            else:
                at = _write_text(values[i], digits, out, at)
            out[at] = _CLOSE
            at += 1
            i += 1
        if is_full or at + 2 > size:
            is_full = True
            continue
        if is_open and is_matrix:
            out[at] = _CLOSE
            at += 1
        stage, i, is_open = stage + 1, value_offsets[s], 0
        if stage == _END or n_histograms == 0:
            out[at] = _BRACE_CLOSE
            at += 1
            s, stage = s + 1, _HEAD
    hold(scratch)
    if is_corrupt:
        return ERR_CORRUPT
    cursor[0], cursor[1], cursor[2], cursor[3] = s, stage, i, is_open
    if at == 0 and s < n_rows:
        return ERR_CAPACITY
    return at


@kernel(i64(I64_IN, U8_OUT, I64_OUT))
def write_stamps(stamps_ms, out, offsets):
    """Write timestamps in seconds, one after the other; returns the bytes written.

    ``stamps_ms: i64[K]``; `out` holds STAMP_SIZE_MAX bytes for each. ``offsets: i64[K + 1]`` tells
    where each begins.
    """
    at = 0
    for k in range(stamps_ms.shape[0]):
        offsets[k] = at
        rest = np.uint64(stamps_ms[k])
        if stamps_ms[k] < 0:
            out[at] = _MINUS
            at += 1
            rest = _ZERO - rest
        seconds = rest // _THOUSAND
        millis = np.int64(rest - seconds * _THOUSAND)
        end = at + 1
        bound = _TEN
        while end - at < _SECONDS_DIGITS_MAX and bound <= seconds:
            bound *= _TEN
            end += 1
        for place in range(end - 1, at - 1, -1):
            tenth = seconds // _TEN
            out[place] = _0 + np.int64(seconds - tenth * _TEN)
            seconds = tenth
        at = end
        if millis:
            out[at], out[at + 1] = _DOT, _0 + millis // 100
            out[at + 2], out[at + 3] = _0 + millis // 10 % 10, _0 + millis % 10
            at += 4
    offsets[stamps_ms.shape[0]] = at
    return at
