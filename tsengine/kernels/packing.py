"""Integer streams: bit packing, patched frame of reference, and the checksum of stored payloads.

Like `bits`, this file holds helpers for kernels of several files (`blockcode`, `axiscode`); its
kernels serve tests and benches. The stored form is described in docs/format/block.md,
"Integer streams". Everything counts modulo 2**64: a stream is u64, its values stand for int64
where an order is needed, and differences wrap, so int64 extremes need no special case.

A full vector of 1024 values is packed in 16 lanes of 64 rows: value 16 * r + l lies at bit r * W of
lane l, and the words of the lanes are interleaved. The inner loop over lanes has no dependence and
a run-time width, so that one kernel serves all widths and still vectorises.
"""

from __future__ import annotations

import numpy as np

from tsengine.kernels.bits import bit_length, load_u64, store_u64, trailing_zeros
from tsengine.kernels.jit import (
    ERR_CORRUPT,
    ERR_TRUNCATED,
    I64_IN,
    OK,
    U8_IN,
    U32_OUT,
    device,
    i64,
    inlined_device,
    intrinsic,
    kernel,
)

hold = intrinsic("hold")
has_crc32c = intrinsic("has_crc32c")
crc32c_u64 = intrinsic("crc32c_u64")
has_byte_shuffle = intrinsic("has_byte_shuffle")
unpack_eight = intrinsic("unpack_eight")

VECTOR_ROWS = 1024
"""Values of a full vector; also the raster of axis rows on which vectors are cut."""
LANES = 16
HAS_EXCEPTIONS = np.uint64(0x80)
"""Bit of a stream's width byte: positions and high bits of exceptions follow."""
SIGNED_EXCEPTIONS = np.uint64(0x80)
"""Bit of the exceptions' width byte: high bits are zigzag coded, values lie on both sides."""
STRIPED_BYTES = 128
"""Ranges at least this long are checksummed by four registers."""
PIECE_ROWS = 128
"""Values of a piece, where a vector's pieces have widths of their own."""
IN_PIECES = 0x7F
"""Stands in the place of a stream's width byte when it is stored in pieces."""

# Rows of the encoder's scratch, u64[WORK_ROWS, 1024]; the first three are the caller's.
DIFFERENCES = 3
SORTED = 4
SCRATCH = 5
WORK_ROWS = 6
MIN_DIGIT_BITS = 8
MAX_DIGIT_BITS = 11
# Sections of the encoder's plan, i64[PLAN_SIZE]: (base, width, exceptions, their bits) of bodies,
# counts of digits.
PLAN_TRIAL = 0
PLAN_WHOLE = 4
PLAN_PIECES = 8
PLAN_COUNTS = 40
PLAN_IS_QUICK = PLAN_COUNTS + (1 << MAX_DIGIT_BITS)
"""Not 0: streams take the narrowest width that holds all values, of the best order."""
PLAN_SIZE = PLAN_IS_QUICK + 1
EXCEPTIONS_HEADER_BITS = 16
PIECES_HOPE = 3
"""Pieces are planned if they would win by saving one 2**PIECES_HOPE-th of their packed bits."""
GUESS_SAMPLE = 48
GUESS_CENTRE = 9
SPREAD_ROWS_MIN = 32
SPREAD_BITS_MIN = 24
TRY_ALL_ROWS = 16
"""Up to here a guess is worth little, and planning all orders costs little."""

_ZERO = np.uint64(0)
_ONE = np.uint64(1)
_ALL = np.uint64(0xFFFFFFFFFFFFFFFF)
_SEVEN = np.uint64(7)
_BYTE = np.uint64(0xFF)
_LOW7 = np.uint64(0x7F)
_LOW56 = np.uint64((1 << 56) - 1)
_WORD = np.uint64(64)
_CRC_POLYNOMIAL = 0x82F63B78  # CRC-32C (Castagnoli), bits reversed
_CRC_SLICES = 8
_CRC_START = np.uint64(0xFFFFFFFF)
_SHUFFLED_BYTES = 64


def _crc_tables() -> np.ndarray:
    """Tables for 8 bytes at a time: entry ``256 * s + b`` is byte b followed by s zero bytes."""
    tables = np.empty((_CRC_SLICES, 256), dtype=np.uint32)
    row = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        row = np.where(row & 1, (row >> 1) ^ np.uint32(_CRC_POLYNOMIAL), row >> 1)
    tables[0] = row
    for s in range(1, _CRC_SLICES):
        tables[s] = (tables[s - 1] >> 8) ^ tables[0][tables[s - 1] & 0xFF]
    return tables.reshape(-1)


_CRC = _crc_tables()


@device
def crc_word(crc, word):
    """CRC-32C register after 8 more bytes (a little-endian word); the register is held in a u64."""
    if has_crc32c():
        return crc32c_u64(crc, word)
    a = word ^ crc
    return np.uint64(
        _CRC[np.uint64(1792) + (a & _BYTE)]
        ^ _CRC[np.uint64(1536) + ((a >> np.uint64(8)) & _BYTE)]
        ^ _CRC[np.uint64(1280) + ((a >> np.uint64(16)) & _BYTE)]
        ^ _CRC[np.uint64(1024) + ((a >> np.uint64(24)) & _BYTE)]
        ^ _CRC[np.uint64(768) + ((a >> np.uint64(32)) & _BYTE)]
        ^ _CRC[np.uint64(512) + ((a >> np.uint64(40)) & _BYTE)]
        ^ _CRC[np.uint64(256) + ((a >> np.uint64(48)) & _BYTE)]
        ^ _CRC[a >> np.uint64(56)]
    )


@device
def crc_bytes(crc, data, pos, end):
    """CRC-32C register after ``data[pos:end]``."""
    while pos + 8 <= end:
        crc = crc_word(crc, load_u64(data, pos))
        pos += 8
    while pos < end:
        crc = np.uint64(_CRC[(crc ^ np.uint64(data[pos])) & _BYTE]) ^ (crc >> np.uint64(8))
        pos += 1
    return crc


@device
def checksum(data, pos, end, context):
    """Checksum of a context word and ``data[pos:end]``: CRC-32C, striped when the range is long.

    One register waits for its look-ups most of the time. From 128 bytes on, words go round
    robin to four registers, whose values then stand for those words: 6 GB/s instead of 2.
    """
    crc = crc_word(_CRC_START, context)
    if end - pos >= STRIPED_BYTES:
        a = _CRC_START
        b = _CRC_START
        c = _CRC_START
        d = _CRC_START
        while pos + 32 <= end:
            a = crc_word(a, load_u64(data, pos))
            b = crc_word(b, load_u64(data, pos + 8))
            c = crc_word(c, load_u64(data, pos + 16))
            d = crc_word(d, load_u64(data, pos + 24))
            pos += 32
        shift = np.uint64(32)
        crc = crc_word(crc, (a ^ _CRC_START) | ((b ^ _CRC_START) << shift))
        crc = crc_word(crc, (c ^ _CRC_START) | ((d ^ _CRC_START) << shift))
    return crc_bytes(crc, data, pos, end) ^ _CRC_START


@device
def seal(out, start, end, context):
    """Append the checksum of `context` (8 bytes) and ``out[start:end]``; return the new end."""
    crc = checksum(out, start, end, context)
    for i in range(4):
        out[end + i] = np.uint8((crc >> np.uint64(8 * i)) & _BYTE)
    return end + 4


@device
def is_sealed(data, start, end, context):
    """Whether the 4 bytes at `end`, which exist, are the checksum that `seal` writes."""
    stored = _ZERO
    for i in range(4):
        stored |= np.uint64(data[end + i]) << np.uint64(8 * i)
    return stored == checksum(data, start, end, context)


@device
def zigzag(x):
    """Map int64 bits to u64 so that small magnitudes are small numbers."""
    return (x << _ONE) ^ (_ZERO - (x >> np.uint64(63)))


@device
def unzigzag(z):
    """Inverse of `zigzag`."""
    return (z >> _ONE) ^ (_ZERO - (z & _ONE))


@device
def write_varint(out, pos, value):
    """LEB128, at most 10 bytes; returns the position behind."""
    while value >= np.uint64(128):
        out[pos] = np.uint8((value & _LOW7) | np.uint64(128))
        value >>= _SEVEN
        pos += 1
    out[pos] = np.uint8(value)
    return pos + 1


@device
def read_varint(data, pos, end):
    """Return (value, position behind); the position is a negative status on bad input."""
    value = _ZERO
    shift = _ZERO
    while pos < end:
        byte = np.uint64(data[pos])
        pos += 1
        value |= (byte & _LOW7) << shift
        if byte < np.uint64(128):
            # The tenth byte has room for the last of 64 bits only.
            return value, np.int64(ERR_CORRUPT) if shift > np.uint64(62) and byte > _ONE else pos
        shift += _SEVEN
        if shift > np.uint64(63):
            return value, np.int64(ERR_CORRUPT)
    return value, np.int64(ERR_TRUNCATED)


@device
def varint_bits(value):
    """Size of a varint in bits."""
    n = bit_length(value)
    return np.int64(8) if n == 0 else 8 * ((n + 6) // 7)


@device
def put_bits(out, bit, value, width):
    """Write `width` bits at bit position `bit` of `out`, which holds zeros there."""
    pos = bit >> 3
    shift = np.uint64(bit & 7)
    store_u64(out, pos, load_u64(out, pos) | (value << shift))
    if width + (bit & 7) > 64:
        out[pos + 8] |= np.uint8(value >> (_WORD - shift))


@device
def get_word(data, pos, limit):
    """Load 8 bytes at `pos`; what lies at or behind `limit` reads as zero."""
    if pos + 8 <= limit:
        return load_u64(data, pos)
    word = _ZERO
    shift = _ZERO
    while pos < limit:
        word |= np.uint64(data[pos]) << shift
        shift += np.uint64(8)
        pos += 1
    return word


@device
def get_bits(data, bit, width, limit):
    """Read `width` (0..64) bits at bit position `bit`; bytes at or behind `limit` read as zero."""
    pos = bit >> 3
    shift = np.uint64(bit & 7)
    value = get_word(data, pos, limit) >> shift
    if width + (bit & 7) > 64 and pos + 8 < limit:
        value |= np.uint64(data[pos + 8]) << (_WORD - shift)
    return value & low_mask(width)


@device
def peek(data, bit):
    """Load what of the 57 bits from bit position `bit` on lies in `data`, of 8 bytes or more.

    Near the end the load starts earlier and shifts more: no branch, so that callers inline it.
    """
    place = min(bit >> 3, data.shape[0] - 8)
    return load_u64(data, place) >> np.uint64(min(bit - (place << 3), 63))


@device
def low_mask(width):
    """`width` (0..64) ones."""
    if width >= 64:
        return _ALL
    return (_ONE << np.uint64(width)) - _ONE


@device
def clear(out, pos, size):
    """Zero ``out[pos:pos+size]``."""
    # A slice's indices are never negative for the compiler, so its loops vectorise.
    part = out[pos : pos + size]
    for i in range(part.shape[0]):
        part[i] = np.uint8(0)


@device
def pack_lanes(x, width, out, pos):
    """Pack 1024 values below 2**width; writes 128 * width bytes and returns the position behind."""
    clear(out, pos, 128 * width)
    for row in range(64):
        bit = row * width
        at = pos + (bit >> 6) * 128
        shift = np.uint64(bit & 63)
        first = row * LANES
        for lane in range(LANES):
            place = at + 8 * lane
            store_u64(out, place, load_u64(out, place) | (x[first + lane] << shift))
        if (bit & 63) + width > 64:
            rest = _WORD - shift
            for lane in range(LANES):
                store_u64(out, at + 128 + 8 * lane, x[first + lane] >> rest)
    return pos + 128 * width


@device
def unpack_lanes(data, pos, width, base, x, lo, hi):
    """Fill at least ``x[lo:hi]`` of 1024 values with base + packed value.

    The caller proves 128 * width bytes at `pos`.
    """
    if width == 0:
        for i in range(lo, hi):
            x[i] = base
        return
    mask = low_mask(width)
    for row in range(lo // LANES, (hi + LANES - 1) // LANES):
        bit = row * width
        at = pos + (bit >> 6) * 128
        shift = np.uint64(bit & 63)
        first = row * LANES
        if (bit & 63) + width > 64:
            rest = _WORD - shift
            for lane in range(LANES):
                place = at + 8 * lane
                word = (load_u64(data, place) >> shift) | (load_u64(data, place + 128) << rest)
                x[first + lane] = (word & mask) + base
        else:
            for lane in range(LANES):
                x[first + lane] = ((load_u64(data, at + 8 * lane) >> shift) & mask) + base


@device
def pack_tail(values, width, out, pos):
    """Pack values below 2**width one behind the other; return the position behind."""
    if width == 0:
        return pos
    end = pos + ((values.shape[0] * width + 7) >> 3)
    word = _ZERO
    filled = 0
    for i in range(values.shape[0]):
        word |= values[i] << np.uint64(filled)
        filled += width
        if filled >= 64:
            store_u64(out, pos, word)
            pos += 8
            filled -= 64
            # What did not fit: the top `filled` bits of the value, none if it ended on the border.
            word = (values[i] >> _ONE) >> np.uint64(width - filled - 1)
    while pos < end:
        out[pos] = np.uint8(word & _BYTE)
        word >>= np.uint64(8)
        pos += 1
    return end


@device
def unpack_tail(data, pos, width, base, x, start, lo, hi):
    """Fill ``x[start+lo:start+hi]`` from a sequential bit run: value i is at bit i * width.

    The caller proves ceil(hi * width / 8) bytes at `pos`.
    """
    part = x[start + lo : start + hi]
    n = part.shape[0]
    if width == 0:
        for i in range(n):
            part[i] = base
        return
    mask = low_mask(width)
    limit = pos + ((hi * width + 7) >> 3)
    if width <= 57 and has_byte_shuffle():
        # Eight values are `width` bytes. What comes before lo is ours too, and means nothing.
        first = lo & -8
        at = pos + (first >> 3) * width
        n_whole = min((hi - first) >> 3, (data.shape[0] - at - _SHUFFLED_BYTES) // width + 1)
        for k in range(n_whole):
            unpack_eight(data, at + k * width, width, mask, base, x, start + first + 8 * k)
        lo = max(lo, first + 8 * n_whole)
        part = x[start + lo : start + hi]
        n = part.shape[0]
    skipped = lo * width
    pos += skipped >> 3
    skipped &= 7
    # One load holds all bits of a value up to 57 wide, two those of any; neither may reach behind
    # the array, so the last values go the careful way.
    reach = 8 if width <= 57 else 16
    room = max(0, data.shape[0] - pos - reach - 1)
    fast = min(n, (room << 3) // width)
    if width <= 57:
        for i in range(fast):
            bit = skipped + i * width
            word = load_u64(data, pos + (bit >> 3)) >> np.uint64(bit & 7)
            part[i] = (word & mask) + base
    else:
        for i in range(fast):
            bit = skipped + i * width
            place = pos + (bit >> 3)
            shift = np.uint64(bit & 7)
            word = load_u64(data, place) >> shift
            word |= (load_u64(data, place + 8) << _ONE) << (np.uint64(63) - shift)
            part[i] = (word & mask) + base
    for i in range(fast, n):
        part[i] = get_bits(data, (pos << 3) + skipped + i * width, width, limit) + base


@device
def low_bits(n, count):
    """Elias-Fano: low bits kept per position for `count` positions below n."""
    bits = 0
    while (n >> (bits + 1)) >= count:
        bits += 1
    return bits


@device
def exception_bits(n, count, width):
    """Bits of `count` exceptions of `width` bits each, their positions included."""
    if count == 0:
        return 0
    low = low_bits(n, count)
    return EXCEPTIONS_HEADER_BITS + count * (low + 1 + width) + (n >> low) + 1


@device
def sort_u64(x, n, spread, scratch, counts):
    """Sort ``x[0:n]``, values at most `spread`, in place: radix sort, insertion when short.

    scratch: u64[n]; counts: i64[2**MAX_DIGIT_BITS]. Digits are as wide as pays for n values.
    """
    if n <= 24:
        for i in range(1, n):
            value = x[i]
            j = i
            while j > 0 and x[j - 1] > value:
                x[j] = x[j - 1]
                j -= 1
            x[j] = value
        return
    digit_bits = MAX_DIGIT_BITS if n > 2 * PIECE_ROWS else MIN_DIGIT_BITS
    mask = low_mask(digit_bits)
    shift = _ZERO
    flipped = False
    while shift < _WORD and (spread >> shift) != _ZERO:
        source, target = (scratch, x) if flipped else (x, scratch)
        digits = np.int64(min(mask, spread >> shift)) + 1
        for b in range(digits):
            counts[b] = 0
        for i in range(n):
            counts[(source[i] >> shift) & mask] += 1
        total = 0
        for b in range(digits):
            count = counts[b]
            counts[b] = total
            total += count
        for i in range(n):
            digit = (source[i] >> shift) & mask
            target[counts[digit]] = source[i]
            counts[digit] += 1
        flipped = not flipped
        shift += np.uint64(digit_bits)
    if flipped:
        for i in range(n):
            x[i] = scratch[i]


@device
def least_and_spread(part):
    """Return (least value, spread) of u64s read as int64."""
    smallest = np.int64(part[0])
    largest = smallest
    for i in range(part.shape[0]):
        value = np.int64(part[i])
        smallest = min(smallest, value)
        largest = max(largest, value)
    return np.uint64(smallest), np.uint64(largest) - np.uint64(smallest)


@device
def cheapest_width(x, count, stride, n, widths):
    """Guess (width, bits) of n values' cheapest packing from sorted ``x[0:count:stride]``.

    Widths from 0 to `widths` - 1 are tried; a window of samples stands for its share of n.
    """
    best_width = widths
    best = np.int64(0x7FFFFFFFFFFFFFFF)
    steps = (count - 1) // stride
    if steps < 1:
        return np.int64(widths), best
    full = bit_length(x[steps * stride] - x[0])
    inside = 0
    for width in range(min(widths, full)):
        span = _ONE << np.uint64(width)
        i = 0
        while i + inside < steps:
            while i + inside < steps and x[(i + inside + 1) * stride] - x[i * stride] < span:
                inside += 1
            i += 1
        bits = n * width + exception_bits(n, n - n * inside // steps, full - width)
        if inside > 0 and bits < best:
            best = bits
            best_width = width
    if full < widths and n * full < best:
        best = n * full
        best_width = full
    return best_width, best


@device
def put_sorted(x, n, value):
    """Insert a value, read as int64, into ascending ``x[0:n]``."""
    k = n
    while k > 0 and np.int64(x[k - 1]) > np.int64(value):
        x[k] = x[k - 1]
        k -= 1
    x[k] = value


@device
def is_spread_out(part, full, scratch):
    """Whether u64s that take `full` bits have no window worth exceptions, as far as one can see.

    Not half of them lie within an eighth of the width around the median of nine: then nothing that
    is two bits narrower holds enough of them. Few values are better tried.
    """
    count = part.shape[0]
    if count < SPREAD_ROWS_MIN or full < SPREAD_BITS_MIN:
        return False
    for j in range(GUESS_CENTRE):
        put_sorted(scratch, j, part[j * (count - 1) // (GUESS_CENTRE - 1)])
    half = _ONE << np.uint64(full - 3)
    low = scratch[GUESS_CENTRE // 2] - half
    width = half + half
    inside = 0
    for i in range(count):
        inside += 1 if part[i] - low < width else 0
    return 2 * inside < count


@device
def plan_body(d, start, stop, near, work, plan, at):
    """Choose base and width of ``d[start:stop]``, read as int64, with the fewest bits; return them.

    Puts (base, width, exceptions, their bits) into ``plan[at:at+4]``. `near` is what the base is
    written relative to. Every width is tried with the window of that width that holds most values:
    in the sorted values it only grows with the width, so one pass over all widths is nearly linear.
    """
    count = stop - start
    part = d[start:stop]
    low, spread = least_and_spread(part)
    full = bit_length(spread)
    # A full vector is packed with all its slots, those of the lost first differences included.
    slots = VECTOR_ROWS if stop == VECTOR_ROWS else count
    best = slots * full
    best_patches = np.int64(0)
    best_width = full
    best_first = 0
    best_inside = count
    if full > 0 and count > 2 and not is_spread_out(part, full, work[SORTED]):
        x = work[SORTED]
        for i in range(count):
            x[i] = part[i] - low
        sort_u64(x, count, spread, work[SCRATCH], plan[PLAN_COUNTS:])
        # Below the width that holds half of the values, every eighth value shows the best width.
        middle = x[(3 * count) >> 2] - x[count >> 2]
        least = max(0, bit_length(middle) - 1)
        width, bits = cheapest_width(x, count, 8, count, least)
        if bits >= best:
            width = least
        first = 0
        inside = 1
        while width < full:
            span = _ONE << np.uint64(width)
            i = 0
            while i + inside < count:
                while i + inside < count and x[i + inside] - x[i] < span:
                    inside += 1
                    first = i
                i += 1
            outside = count - inside
            two_sided = 1 if first > 0 else 0
            patches = exception_bits(count, outside, full + two_sided - width)
            bits = slots * width + patches
            if bits < best:
                best = bits
                best_patches = patches
                best_width = width
                best_first = first
                best_inside = inside
            width = max(width + 1, least)
        if best_inside < count:
            low += x[best_first]
            if full == 64:
                # The window may reach beyond int64's end, and modulo 2**64 that is its beginning.
                best_inside = 0
                for i in range(start, stop):
                    best_inside += 1 if high_part(d[i] - low, best_width, False) == _ZERO else 0
    plan[at] = np.int64(low)
    plan[at + 1] = best_width
    plan[at + 2] = count - best_inside
    plan[at + 3] = best_patches
    return best + 8 + varint_bits(zigzag(low - near))


@device
def plan_pieces(d, start, n, limit, work, plan):
    """Plan ``d[start:n]`` in pieces of 128; return the bits, or `limit` if they can't be fewer."""
    bits = np.int64(8)
    for at in range(start, n, PIECE_ROWS):
        stop = min(at + PIECE_ROWS, n)
        _low, spread = least_and_spread(d[at:stop])
        bits += 16 + (stop - at) * bit_length(spread)
    # Without exceptions; they may win what the whole vector's cost, and seldom more.
    if bits - (bits >> PIECES_HOPE) - plan[PLAN_WHOLE + 3] >= limit:
        return limit
    bits = np.int64(8)
    near = _ZERO
    at = PLAN_PIECES
    for first in range(start, n, PIECE_ROWS):
        bits += plan_body(d, first, min(first + PIECE_ROWS, n), near, work, plan, at)
        near = np.uint64(plan[at])
        at += 4
    return min(bits, limit)


@device
def write_exceptions(d, start, n, base, width, n_exceptions, out, pos):
    """Write positions and high bits of the values outside [base, base + 2**width)."""
    count = n - start
    part = d[start:n]
    low_value, _spread = least_and_spread(part)
    signed = np.int64(low_value) < np.int64(base)
    largest = _ONE
    for i in range(count):
        largest = max(largest, high_part(part[i] - base, width, signed))
    bits = bit_length(largest - _ONE)
    pos = write_varint(out, pos, np.uint64(n_exceptions))
    out[pos] = np.uint8(np.uint64(bits) | (SIGNED_EXCEPTIONS if signed else _ZERO))
    pos += 1
    low = low_bits(count, n_exceptions)
    size = (n_exceptions * (low + 1 + bits) + (count >> low) + 1 + 7) >> 3
    clear(out, pos, size + 8)
    low_at = pos << 3
    unary_at = low_at + n_exceptions * low
    high_at = unary_at + n_exceptions + (count >> low) + 1
    k = 0
    for idx in range(count):
        high = high_part(part[idx] - base, width, signed)
        if high != _ZERO:
            put_bits(out, low_at + k * low, np.uint64(idx) & low_mask(low), low)
            put_bits(out, unary_at + (idx >> low) + k, _ONE, 1)
            put_bits(out, high_at + k * bits, high - _ONE, bits)
            k += 1
    return pos + size


@device
def high_part(y, width, signed):
    """What of ``y = value - base`` does not fit in `width` bits; zigzag coded if `signed`."""
    if width >= 64:
        return _ZERO
    if signed:
        return zigzag(np.uint64(np.int64(y) >> np.int64(width)))
    return y >> np.uint64(width)


@device
def read_exceptions(data, pos, end, width, x, start, count):
    """Add the high bits of exceptions to ``x[start:start+count]``; return the position behind."""
    wide, pos = read_varint(data, pos, end)
    if pos < 0:
        return pos
    if wide == _ZERO or wide > np.uint64(count) or width >= 64:
        return np.int64(ERR_CORRUPT)
    if pos >= end:
        return np.int64(ERR_TRUNCATED)
    n_exceptions = np.int64(wide)
    signed = (np.uint64(data[pos]) & SIGNED_EXCEPTIONS) != _ZERO
    bits = np.int64(np.uint64(data[pos]) & _LOW7)
    pos += 1
    low = low_bits(count, n_exceptions)
    size = (n_exceptions * (low + 1 + bits) + (count >> low) + 1 + 7) >> 3
    if bits > 64 or pos + size > end or data.shape[0] < 8:
        return np.int64(ERR_CORRUPT)
    limit = pos + size
    low_at = pos << 3
    unary_at = low_at + n_exceptions * low
    high_at = unary_at + n_exceptions + (count >> low) + 1
    shift = np.uint64(width)
    low_part = low_mask(low)
    high_mask = low_mask(bits)
    part = x[start : start + count]
    # Whole words may be loaded from any bit, but for the last exceptions of the last stream.
    is_near_end = limit + 8 > data.shape[0] or bits > 57
    at = unary_at
    stop = high_at
    k = 0
    while k < n_exceptions:
        if at >= stop:
            return np.int64(ERR_CORRUPT)
        word = peek(data, at) & _LOW56
        while word != _ZERO and k < n_exceptions:
            one = at + trailing_zeros(word)
            word &= word - _ONE
            if is_near_end:
                below = peek(data, low_at) & low_part
                if bits <= 57:
                    high = (peek(data, high_at) & high_mask) + _ONE
                else:
                    high = get_bits(data, high_at, bits, limit) + _ONE
            else:
                below = (load_u64(data, low_at >> 3) >> np.uint64(low_at & 7)) & low_part
                high = load_u64(data, high_at >> 3) >> np.uint64(high_at & 7)
                high = (high & high_mask) + _ONE
            idx = ((one - unary_at - k) << low) + np.int64(below)
            if one >= stop or idx >= count:
                return np.int64(ERR_CORRUPT)
            part[idx] += (unzigzag(high) if signed else high) << shift
            low_at += low
            high_at += bits
            k += 1
        at += 56
    return limit


@device
def difference(x, n, order, d):
    """Fill ``d[order:n]`` with the differences of `order` 0, 1 or 2 of ``x[0:n]``."""
    if order == 0:
        for i in range(n):
            d[i] = x[i]
    elif order == 1:
        for i in range(1, n):
            d[i] = x[i] - x[i - 1]
    else:
        for i in range(2, n):
            d[i] = x[i] - x[i - 1] - (x[i - 1] - x[i - 2])


@device
def integrate(x, lo, hi, order, head, step):
    """Undo `difference` in place for ``x[lo:hi]``, lo < hi; the differences before lo are there.

    `head` is ``x[0]``, `step` the first difference (order 2).
    """
    if order == 0:
        return
    x[0] = head
    if order == 2 and hi > 1:
        x[1] = step
    # What lies before lo is only added up: no sum waits for the one before it.
    first = max(lo, np.int64(1))
    before = x[1:first]
    wanted = x[first:hi]
    value = head
    if order == 1:
        for i in range(before.shape[0]):
            value += before[i]
        for i in range(wanted.shape[0]):
            value += wanted[i]
            wanted[i] = value
        return
    step = _ZERO
    for i in range(before.shape[0]):
        step += before[i]
        value += before[i] * np.uint64(before.shape[0] - i)
    for i in range(wanted.shape[0]):
        step += wanted[i]
        value += step
        wanted[i] = value


@device
def difference_at(x, i, order):
    """Difference of `order` 0, 1 or 2 at position i >= order."""
    if order == 0:
        return x[i]
    if order == 1:
        return x[i] - x[i - 1]
    return x[i] - x[i - 1] - (x[i - 1] - x[i - 2])


@device
def guess_bits(x, n, order, sample):
    """Bits that the differences of `order` may need, guessed from up to 48 positions.

    Counted are the bits of distances from a centre, the median of nine; sample: u64[>= 128].
    """
    left = n - order
    for j in range(GUESS_CENTRE):
        i = order + j * (left - 1) // (GUESS_CENTRE - 1)
        put_sorted(sample, j, difference_at(x, i, order))
    centre = sample[GUESS_CENTRE // 2]
    for bits in range(65):
        sample[bits] = _ZERO
    stride = max(1, left // GUESS_SAMPLE)
    count = 0
    full = 0
    i = order
    while i < n and count < GUESS_SAMPLE:
        bits = bit_length(zigzag(difference_at(x, i, order) - centre))
        sample[bits] += _ONE
        full = max(full, bits)
        count += 1
        i += stride
    # An exception takes its high part, a unary bit and about the low bits of its position.
    header = EXCEPTIONS_HEADER_BITS * count // n
    place = bit_length(np.uint64(count)) + 1
    best = count * full
    outside = count
    for width in range(full):
        outside -= np.int64(sample[width])
        if outside < count:
            patch = full - width + place - bit_length(np.uint64(outside))
            best = min(best, count * width + header + outside * patch)
    return best * n // count


@device
def write_stream(x, n, max_order, out, pos, work, plan):
    """Encode ``x[0:n]`` at `pos`; return (position behind, order of differences).

    x: u64[1024], left as it was; work: u64[WORK_ROWS, 1024], of which x may be one of the first
    three rows; plan: i64[PLAN_SIZE]. Orders are compared by a sample first; only those whose guess
    lies within a quarter of a bit a value of the best one are planned exactly.
    """
    top = min(max_order, n - 1)
    sample = work[SORTED]
    none = np.int64(0x7FFFFFFFFFFFFFFF)
    if plan[PLAN_IS_QUICK] != 0:
        return write_quick_stream(x, n, top, out, pos, work, plan)
    is_long = n > TRY_ALL_ROWS
    guesses = (
        guess_bits(x, n, 0, sample) if is_long else none,
        guess_bits(x, n, 1, sample) if is_long and top >= 1 else none,
        guess_bits(x, n, 2, sample) if is_long and top >= 2 else none,
    )
    limit = min(guesses[0], guesses[1], guesses[2])
    if is_long:
        limit += n // 4
    best_bits = np.int64(0x7FFFFFFFFFFFFFFF)
    best_order = 0
    d = work[DIFFERENCES]
    for order in range(top + 1):
        if guesses[order] > limit:
            continue
        difference(x, n, order, d)
        bits = plan_body(d, order, n, _ZERO, work, plan, PLAN_TRIAL)
        if order >= 1:
            bits += varint_bits(zigzag(x[0]))
        if order >= 2:
            bits += varint_bits(zigzag(x[1] - x[0]))
        if bits < best_bits:
            best_bits = bits
            best_order = order
            for i in range(4):
                plan[PLAN_WHOLE + i] = plan[PLAN_TRIAL + i]
    difference(x, n, best_order, d)
    if best_order >= 1:
        pos = write_varint(out, pos, zigzag(x[0]))
    if best_order >= 2:
        pos = write_varint(out, pos, zigzag(x[1] - x[0]))
    near = _ZERO
    if n - best_order > PIECE_ROWS and (
        plan_pieces(d, best_order, n, best_bits, work, plan) < best_bits
    ):
        out[pos] = np.uint8(IN_PIECES)
        pos += 1
        at = PLAN_PIECES
        for first in range(best_order, n, PIECE_ROWS):
            stop = min(first + PIECE_ROWS, n)
            pos = write_body(d, first, stop, near, False, out, pos, work, plan, at)
            near = np.uint64(plan[at])
            at += 4
    else:
        pos = write_body(d, best_order, n, near, n == VECTOR_ROWS, out, pos, work, plan, PLAN_WHOLE)
    return pos, np.int64(best_order)


@device
def write_quick_stream(x, n, top, out, pos, work, plan):
    """As `write_stream`, of orders up to `top`, in one body without exceptions."""
    d = work[DIFFERENCES]
    best_bits = np.int64(0x7FFFFFFFFFFFFFFF)
    best_order = np.int64(0)
    for order in range(top + 1):
        difference(x, n, order, d)
        low, spread = least_and_spread(d[order:n])
        width = bit_length(spread)
        bits = (VECTOR_ROWS if n == VECTOR_ROWS else n - order) * width + varint_bits(zigzag(low))
        if order >= 1:
            bits += varint_bits(zigzag(x[0]))
        if order >= 2:
            bits += varint_bits(zigzag(x[1] - x[0]))
        if bits < best_bits:
            best_bits = bits
            best_order = order
            plan[PLAN_WHOLE] = np.int64(low)
            plan[PLAN_WHOLE + 1] = width
    plan[PLAN_WHOLE + 2] = 0
    if best_order != top:
        difference(x, n, best_order, d)
    if best_order >= 1:
        pos = write_varint(out, pos, zigzag(x[0]))
    if best_order >= 2:
        pos = write_varint(out, pos, zigzag(x[1] - x[0]))
    in_lanes = n == VECTOR_ROWS
    pos = write_body(d, best_order, n, _ZERO, in_lanes, out, pos, work, plan, PLAN_WHOLE)
    return pos, best_order


@device
def write_body(d, start, stop, near, in_lanes, out, pos, work, plan, at):
    """Write width byte, base, packed values and exceptions of ``d[start:stop]`` as planned."""
    base = np.uint64(plan[at])
    width = plan[at + 1]
    n_exceptions = plan[at + 2]
    out[pos] = np.uint8(np.uint64(width) | (HAS_EXCEPTIONS if n_exceptions > 0 else _ZERO))
    pos = write_varint(out, pos + 1, zigzag(base - near))
    mask = low_mask(width)
    packed = work[SCRATCH]
    part_in = d[start:stop]
    part_out = packed[start:stop]
    for i in range(stop - start):
        part_out[i] = (part_in[i] - base) & mask
    if in_lanes:
        for i in range(start):
            packed[i] = _ZERO
        pos = pack_lanes(packed, width, out, pos)
    else:
        pos = pack_tail(packed[start:stop], width, out, pos)
    if n_exceptions > 0:
        pos = write_exceptions(d, start, stop, base, width, n_exceptions, out, pos)
    return pos


@inlined_device
def read_body(data, pos, end, near, in_lanes, x, start, count, lo, hi):
    """Decode a body of `count` values from ``x[start]`` on; return (position or error, base).

    Of the values at least those of ``x[lo:hi]`` are decoded.
    """
    if pos >= end:
        return np.int64(ERR_TRUNCATED), near
    has_exceptions = (np.uint64(data[pos]) & HAS_EXCEPTIONS) != _ZERO
    width = np.int64(np.uint64(data[pos]) & _LOW7)
    coded, pos = read_varint(data, pos + 1, end)
    base = near + unzigzag(coded)
    if pos < 0:
        return pos, base
    if width > 64:
        return np.int64(ERR_CORRUPT), base
    size = 128 * width if in_lanes else (count * width + 7) >> 3
    if pos + size > end:
        return np.int64(ERR_TRUNCATED), base
    if in_lanes:
        unpack_lanes(data, pos, width, base, x, lo, hi)
    else:
        first = max(lo - start, np.int64(0))
        unpack_tail(data, pos, width, base, x, start, first, min(hi - start, count))
    pos += size
    if has_exceptions:
        pos = read_exceptions(data, pos, end, width, x, start, count)
    return pos, base


@inlined_device
def read_stream(data, pos, end, n, order, x, lo, hi):
    """Decode ``x[lo:hi]`` (x: u64[1024]) of n values; return the position behind or an error.

    The other values of x mean nothing then; lo < hi.
    """
    head = _ZERO
    step = _ZERO
    if order >= 1:
        head, pos = read_varint(data, pos, end)
        if pos < 0:
            return pos
        head = unzigzag(head)
    if order >= 2:
        step, pos = read_varint(data, pos, end)
        if pos < 0:
            return pos
        step = unzigzag(step)
    if pos >= end:
        return np.int64(ERR_TRUNCATED)
    if order > 2 or order > n - 1:
        return np.int64(ERR_CORRUPT)
    near = _ZERO
    # Differences are needed from the first on.
    needed = lo if order == 0 else np.int64(0)
    if data[pos] == IN_PIECES:
        pos += 1
        for first in range(order, n, PIECE_ROWS):
            count = min(np.int64(PIECE_ROWS), n - first)
            pos, near = read_body(data, pos, end, near, False, x, first, count, needed, hi)
            if pos < 0:
                return pos
    else:
        in_lanes = n == VECTOR_ROWS
        pos, near = read_body(data, pos, end, near, in_lanes, x, order, n - order, needed, hi)
        if pos < 0:
            return pos
    integrate(x, lo, hi, order, head, step)
    return pos


@kernel(i64(U8_IN, I64_IN, I64_IN, U32_OUT))
def checksum_ranges(data, starts, ends, out):
    """CRC-32C of ``data[starts[i]:ends[i]]`` for each i; the caller proves the bounds."""
    for i in range(starts.shape[0]):
        out[i] = np.uint32(crc_bytes(_CRC_START, data, starts[i], ends[i]) ^ _CRC_START)
    return OK
