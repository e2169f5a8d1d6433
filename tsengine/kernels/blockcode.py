"""Value blocks: one kernel encodes all blocks of a call, one decodes all blocks of a call.

The stored form is described in docs/format/block.md; the constants of that page are defined here
and nowhere else. A block is cut into vectors at multiples of 1024 axis rows; several vectors
make checksummed groups. Kernels allocate their scratch once per call, so that any number of threads
may run them.
"""

from __future__ import annotations

import numpy as np

from tsengine.kernels.bits import (
    STALE_BITS,
    bit_length,
    bits_f64,
    f64_bits,
    load_u64,
    store_u64,
    unowned,
)
from tsengine.kernels.decimals import (
    MAX_EXPONENT,
    POWERS_OF_TEN,
    add_residuals,
    common_divisor,
    common_shift,
    find_exponent,
    from_integers,
    from_ordered,
    is_special,
    magnitude,
    residual_of,
    to_integers,
    to_ordered,
)
from tsengine.kernels.jit import (
    ERR_CAPACITY,
    ERR_CORRUPT,
    ERR_TRUNCATED,
    F64_2D_OUT,
    I64_2D_OUT,
    I64_IN,
    I64_OUT,
    OK,
    U8_IN,
    U8_OUT,
    U16_IN,
    U32_IN,
    U64_IN,
    U64_OUT,
    device,
    external,
    i32,
    i64,
    inlined_device,
    kernel,
    u64,
)
from tsengine.kernels.packing import (
    PLAN_IS_QUICK,
    PLAN_SIZE,
    VECTOR_ROWS,
    WORK_ROWS,
    hold,
    is_sealed,
    read_stream,
    read_varint,
    seal,
    unzigzag,
    write_stream,
    write_varint,
    zigzag,
)

# Kinds of a vector: low four bits of its tag. 0 is reserved, unknown kinds are refused.
CONSTANT = 1
CONSTANT_DECIMAL = 2
DECIMAL = 3
DECIMAL_RESIDUAL = 4
ORDERED = 5
# Flags of a tag.
HAS_SPECIALS = 0x10
HAS_DIVISOR = 0x20
REPEATED = 0x80
ORDER_SHIFT = 6

# Codes of special values; 0 says that the eight bytes follow.
SPECIAL_ESCAPE = 0
SPECIAL_BITS = np.array(
    [
        0,
        0x7FF0000000000002,  # Prometheus's stale marker
        0x7FF8000000000000,  # the NaN of arithmetic
        0x7FF8000000000001,  # the NaN that Go's math.NaN() makes
        0x7FF0000000000000,
        0xFFF0000000000000,
        0x8000000000000000,
    ],
    dtype=np.uint64,
)

# Statistics flags.
HAS_STALE = 1
HAS_NAN = 2
HAS_INF = 4
EXACT_SUM = 8
ONE_SIGN = 16

MAX_BLOCK_VALUES = 8192
GROUP_BYTES = 512
"""A group takes no further vector once its body is this long."""
CHECKSUM_BYTES = 4
VECTOR_BYTES_MAX = 16 * VECTOR_ROWS + 128
SCRATCH_BYTES = 4 * VECTOR_BYTES_MAX
"""Room behind the last byte that the encoder may use while it compares forms."""

NEAR_BYTES = 4 * 1024
"""Payloads of a file closer than this are read together."""
SIDE_BYTES = 4 * 1024
"""Room for a payload that several blocks have, beside those that are read in order."""

_pread = external("pread", i64(i32, u64, u64, i64))
"""C's ``pread(fd, buffer, size, offset)``."""

_ZERO = np.uint64(0)
_ONE = np.uint64(1)
_SIGN = np.uint64(0x8000000000000000)
_INF = np.uint64(0x7FF0000000000000)
_TWO_53 = 9007199254740992.0
_SAMPLE = 16
WIDE_BITS = 32
HEAD_BITS = 64
"""Decimals that take more bits, so many a value and these, are compared with the other forms."""


@device
def context_of(length, first_row, vector):
    """Eight bytes that go into a group's checksum before its own: what the block is taken for."""
    return (
        np.uint64(length)
        | (np.uint64(first_row & (VECTOR_ROWS - 1)) << np.uint64(16))
        | (np.uint64(vector) << np.uint64(32))
    )


@device
def vector_count(length, first_row):
    """Number of vectors of a block."""
    return ((first_row & (VECTOR_ROWS - 1)) + length + VECTOR_ROWS - 1) // VECTOR_ROWS


@device
def vector_start(length, first_row, vector):
    """Index of the first value of a vector inside its block; `length` behind the last vector."""
    if vector == 0:
        return np.int64(0)
    return min(np.int64(length), vector * VECTOR_ROWS - (first_row & (VECTOR_ROWS - 1)))


@device
def move_down(out, source, target, size):
    """Copy `size` bytes to a lower place; the ranges may overlap."""
    bytes_out = out[target : target + size]
    bytes_in = out[source : source + size]
    for i in range(size):
        bytes_out[i] = bytes_in[i]


# ---------------------------------------------------------------------------- encoding


@device
def write_specials(bits, start, n, filled, out, pos):
    """Write the runs of specials; `filled` gets the values with specials replaced by neighbours."""
    good = _ZERO
    for i in range(n):
        if not is_special(bits[start + i]):
            good = bits[start + i]
            break
    runs = 0
    previous = _ZERO
    inside = False
    for i in range(n):
        value = bits[start + i]
        if is_special(value):
            if not inside or value != previous:
                runs += 1
            inside = True
            filled[i] = good
        else:
            inside = False
            good = value
            filled[i] = value
        previous = value
    pos = write_varint(out, pos, np.uint64(runs))
    behind = 0
    i = 0
    while i < n:
        value = bits[start + i]
        if not is_special(value):
            i += 1
            continue
        first = i
        while i < n and bits[start + i] == value:
            i += 1
        code = SPECIAL_ESCAPE
        for c in range(1, SPECIAL_BITS.shape[0]):
            if SPECIAL_BITS[c] == value:
                code = c
        pos = write_varint(out, pos, np.uint64(first - behind))
        pos = write_varint(out, pos, np.uint64(((i - first - 1) << 3) | code))
        if code == SPECIAL_ESCAPE:
            store_u64(out, pos, value)
            pos += 8
        behind = i
    return pos


@device
def write_constant(value, out, pos):
    """Write a vector of equal bits."""
    if not is_special(value):
        v = bits_f64(value)
        for k in range(MAX_EXPONENT + 1):
            scaled = v * POWERS_OF_TEN[k]
            if not abs(scaled) < _TWO_53:
                break
            m = np.rint(scaled)
            if m / POWERS_OF_TEN[k] == v:
                word = (zigzag(np.uint64(np.int64(m))) << np.uint64(4)) | np.uint64(k)
                if bit_length(word) <= 49:
                    out[pos] = np.uint8(CONSTANT_DECIMAL)
                    return write_varint(out, pos + 1, word)
                break
    out[pos] = np.uint8(CONSTANT)
    store_u64(out, pos + 1, value)
    return pos + 9


@device
def write_integers(x, n, divisor, shift, out, pos, tag_at, work, plan):
    """Write the divisor, if any, and the main stream of x; sets the tag's bits. Destroys x.

    `divisor` > 1 divides all differences; `shift` > 0 does the same for 2**shift (ordered bits).
    """
    tag = np.int64(out[tag_at])
    if shift > 0:
        tag |= HAS_DIVISOR
        pos = write_varint(out, pos, np.uint64(shift))
        pos = write_varint(out, pos, zigzag(x[0]))
        first = x[0]
        for i in range(n):
            x[i] = np.uint64(np.int64(x[i] - first) >> shift)
    elif divisor > _ONE:
        tag |= HAS_DIVISOR
        pos = write_varint(out, pos, divisor)
        pos = write_varint(out, pos, zigzag(x[0]))
        first = x[0]
        for i in range(n):
            x[i] = np.uint64(np.int64(x[i] - first) // np.int64(divisor))
    pos, order = write_stream(x, n, 2, out, pos, work, plan)
    out[tag_at] = np.uint8(tag | (order << ORDER_SHIFT))
    return pos


@device
def guess_residual_exponent(filled, n, changes):
    """Guess (k, is_sure): the exponent whose decimals plus residuals look cheapest.

    k is -1 if ordered bits look cheaper, or less than a sixteenth dearer: then comparing both whole
    is not worth it; `is_sure` if they look a third dearer. Counts bits of first differences where
    the value changes, at no more than 16 such places, which `changes`, u64[1024], gets.
    """
    found = 0
    largest = 0.0
    for i in range(n):
        largest = max(largest, magnitude(filled[i]))
        if i > 0 and filled[i] != filled[i - 1]:
            changes[found] = np.uint64(i)
            found += 1
    stride = max(1, (found + _SAMPLE - 1) // _SAMPLE)
    best = np.int64(0)
    for c in range(0, found, stride):
        i = np.int64(changes[c])
        best += bit_length(zigzag(to_ordered(filled[i]) - to_ordered(filled[i - 1])))
    ordered = best
    best_k = -1
    for k in range(MAX_EXPONENT + 1):
        power = POWERS_OF_TEN[k]
        if not largest * power < 0.5 * _TWO_53:
            break
        by_value = np.int64(0)
        by_step = np.int64(0)
        residuals = np.int64(0)
        first = np.uint64(np.int64(np.rint(bits_f64(filled[0]) * power)))
        for c in range(0, found, stride):
            i = np.int64(changes[c])
            before = np.uint64(np.int64(np.rint(bits_f64(filled[i - 1]) * power)))
            m = np.uint64(np.int64(np.rint(bits_f64(filled[i]) * power)))
            by_value += bit_length(zigzag(m - first))
            by_step += bit_length(zigzag(m - before))
            residuals += bit_length(zigzag(residual_of(filled[i], m, k)))
        bits = min(by_value, by_step) + residuals
        if bits < best:
            best = bits
            best_k = k
    if 16 * best > 15 * ordered:
        best_k = -1
    return best_k, 4 * best < 3 * ordered


@device
def write_real(filled, n, head_at, special_at, out, pos, work, plan):
    """Write values that are no decimals: ordered bits, or decimals with residuals if smaller.

    ``out[head_at]`` is the tag, with the specials (if any) already written in
    ``out[special_at:pos]``. Returns the position behind.
    """
    x = work[1]
    flags = np.int64(out[head_at]) & HAS_SPECIALS
    k, is_sure = -1, False
    if plan[PLAN_IS_QUICK] == 0:
        k, is_sure = guess_residual_exponent(filled, n, work[2])
    end = pos
    if not is_sure:
        out[head_at] = np.uint8(ORDERED | flags)
        for i in range(n):
            x[i] = to_ordered(filled[i])
        end = write_integers(x, n, _ONE, common_shift(x, n), out, pos, head_at, work, plan)
        if k < 0:
            return end
    # The rival is written behind, whole, and moved down if it is smaller.
    at = end
    out[at] = np.uint8(DECIMAL_RESIDUAL | flags)
    for i in range(pos - special_at):
        out[at + 2 + i] = out[special_at + i]
    rival = at + 2 + (pos - special_at)
    r = work[2]
    power = POWERS_OF_TEN[k]
    for i in range(n):
        x[i] = np.uint64(np.int64(np.rint(bits_f64(filled[i]) * power)))
        r[i] = residual_of(filled[i], x[i], k)
    divisor = common_divisor(x, n)
    rival = write_integers(x, n, divisor, 0, out, rival, at, work, plan)
    rival, order = write_stream(r, n, 1, out, rival, work, plan)
    out[at + 1] = np.uint8(k | (order << 4))
    if not is_sure and rival - at >= end - head_at:
        return end
    move_down(out, at, head_at, rival - at)
    return head_at + rival - at


@device
def write_vector(bits, start, n, out, pos, work, plan):
    """Encode ``bits[start:start+n]`` at `pos`; return the position behind."""
    differs = _ZERO
    specials = 0
    part = bits[start : start + n]
    for i in range(n):
        differs |= part[i] ^ part[0]
        specials += 1 if is_special(part[i]) else 0
    if differs == _ZERO:
        return write_constant(part[0], out, pos)
    filled = work[0]
    head_at = pos
    v = filled.view(np.float64)
    # The decimal's exponent stands before the specials; ordered bits have none and move them.
    if specials > 0:
        end = write_specials(bits, start, n, filled, out, head_at + 2)
    else:
        end = head_at + 2
        for i in range(n):
            filled[i] = part[i]
    k = find_exponent(v, n, 0)
    flags = HAS_SPECIALS if specials > 0 else 0
    if k < 0:
        move_down(out, head_at + 2, head_at + 1, end - head_at - 2)
        out[head_at] = np.uint8(flags)
        return write_real(filled, n, head_at, head_at + 1, out, end - 1, work, plan)
    x = work[1]
    to_integers(v, n, k, x)
    out[head_at] = np.uint8(DECIMAL | flags)
    out[head_at + 1] = np.uint8(k)
    special_bytes = end - head_at - 2
    end = write_integers(x, n, common_divisor(x, n), 0, out, end, head_at, work, plan)
    if plan[PLAN_IS_QUICK] != 0 or 8 * (end - head_at) <= WIDE_BITS * n + HEAD_BITS:
        return end
    # Decimals of so many digits may cost more than the bits of their doubles.
    out[end] = np.uint8(flags)
    for i in range(special_bytes):
        out[end + 1 + i] = out[head_at + 2 + i]
    rival = write_real(filled, n, end, end + 1, out, end + 1 + special_bytes, work, plan)
    if rival - end >= end - head_at:
        return end
    move_down(out, end, head_at, rival - end)
    return head_at + rival - end


@device
def equal_vectors(bits, start, length, first_row, vector):
    """How many vectors from `vector` on hold nothing but the same bits; the block is at `start`."""
    i = vector_start(length, first_row, vector)
    value = bits[start + i]
    while i < length and bits[start + i] == value:
        i += 1
    if i == length:
        return vector_count(length, first_row) - vector
    return ((first_row & (VECTOR_ROWS - 1)) + i) // VECTOR_ROWS - vector


@device
def write_sized(bits, start, n, out, pos, work, plan):
    """Encode a vector with its size before it."""
    end = write_vector(bits, start, n, out, pos + 3, work, plan)
    size = end - pos - 3
    body = write_varint(out, pos, np.uint64(size))
    move_down(out, pos + 3, body, size)
    return body + size


@device
def write_block(bits, start, length, first_row, out, pos, work, plan):
    """Encode one block at `pos`; return the position behind."""
    n_vectors = vector_count(length, first_row)
    if n_vectors == 1:
        end = write_vector(bits, start, length, out, pos, work, plan)
        return seal(out, pos, end, context_of(length, first_row, 0))
    vector = 0
    while vector < n_vectors:
        first = vector
        body = pos + 3
        end = body
        equal = equal_vectors(bits, start, length, first_row, vector)
        if equal > 1:
            end = write_constant(
                bits[start + vector_start(length, first_row, vector)], out, body + 1
            )
            out[body] = np.uint8(end - body - 1)
            out[body + 1] |= np.uint8(REPEATED)
            vector += equal
        else:
            while vector < n_vectors and end - body < GROUP_BYTES:
                if vector > first and equal_vectors(bits, start, length, first_row, vector) > 1:
                    break
                at = vector_start(length, first_row, vector)
                n = vector_start(length, first_row, vector + 1) - at
                end = write_sized(bits, start + at, n, out, end, work, plan)
                vector += 1
        if equal <= 1 and vector - first == 1:
            # A group of one vector needs no size.
            _size, at = read_varint(out, body, end)
            move_down(out, at, body, end - at)
            end -= at - body
        size = end - body
        head = np.uint64((size << 4) | (vector - first))
        end = write_varint(out, pos, head)
        move_down(out, body, end, size)
        pos = seal(out, pos, end + size, context_of(length, first_row, first))
    return pos


@device
def gather_statistics(bits, start, n, floats, flags, b):
    """Fill column b of the statistics; floats: f64[6, B], flags: i64[2, B] (count, flags)."""
    seen = 0
    count = 0
    first = np.nan
    last = np.nan
    smallest = np.inf
    largest = -np.inf
    total = 0.0
    lost = 0.0
    size = 0.0
    resets = 0.0
    whole = True
    block = bits[start : start + n]
    # Choices between values, not between ways: data decide them, so branches would be mispredicted.
    for i in range(n):
        word = block[i]
        v = bits_f64(word)
        if (word & _INF) == _INF:
            if word == STALE_BITS:
                seen |= HAS_STALE
                continue
            seen |= HAS_INF if (word << _ONE) == (_INF << _ONE) else HAS_NAN
        if count == 0:
            first = v
        # The last value is NaN at first, and no value is less than that.
        resets += last if v < last else 0.0
        count += 1
        last = v
        smallest = v if v < smallest else smallest
        largest = v if v > largest else largest
        whole &= v == np.rint(v)
        size += abs(v)
        # Neumaier's sum: what the larger addend swallowed is kept apart.
        moved = total + v
        swaps = abs(v) > abs(total)
        larger = v if swaps else total
        smaller = total if swaps else v
        lost += (larger - moved) + smaller
        total = moved
    if (seen & (HAS_NAN | HAS_INF)) == 0 and count > 0:
        total += lost if abs(total) < np.inf else 0.0
        seen |= EXACT_SUM if whole and size < _TWO_53 else 0
        seen |= ONE_SIGN if smallest >= 0.0 or largest <= 0.0 else 0
    if not smallest <= largest:
        smallest = np.nan
        largest = np.nan
    floats[0, b] = first
    floats[1, b] = last
    floats[2, b] = smallest
    floats[3, b] = largest
    floats[4, b] = total
    floats[5, b] = resets
    flags[0, b] = count
    flags[1, b] = seen


@kernel(i64(U64_IN, I64_IN, I64_IN, i64, U8_OUT, I64_OUT, F64_2D_OUT, I64_2D_OUT))
def encode_blocks(bits, offsets, first_rows, is_quick, out, out_offsets, floats, flags):
    """Encode ``bits[offsets[b]:offsets[b+1]]`` for each b; return the bytes used in `out`.

    Shapes: u64[N], i64[B+1], i64[B], u8[C], i64[B+1], f64[6, B], i64[2, B]. The wrapper proves
    C >= VECTOR_BYTES_MAX for each vector plus SCRATCH_BYTES, and 1..8192 values a block. With
    `is_quick` forms are chosen in a third of the time, and not always the smallest.
    """
    scratch = np.empty((WORK_ROWS, VECTOR_ROWS), np.uint64)
    plans = np.empty(PLAN_SIZE, np.int64)
    work = unowned(scratch)
    plan = unowned(plans)
    plan[PLAN_IS_QUICK] = is_quick
    bits = unowned(bits)
    out = unowned(out)
    pos = np.int64(0)
    out_offsets[0] = 0
    for b in range(first_rows.shape[0]):
        length = offsets[b + 1] - offsets[b]
        gather_statistics(bits, offsets[b], length, floats, flags, b)
        pos = write_block(bits, offsets[b], length, first_rows[b], out, pos, work, plan)
        out_offsets[b + 1] = pos
    hold(scratch)
    hold(plans)
    return pos


# ---------------------------------------------------------------------------- decoding


@device
def read_constant(data, pos, end, tag):
    """Return (bits, position behind or error) of a constant vector whose tag was read."""
    if tag & (HAS_SPECIALS | HAS_DIVISOR | 1 << ORDER_SHIFT):
        return _ZERO, np.int64(ERR_CORRUPT)
    if tag & 15 == CONSTANT:
        if pos + 8 > end:
            return _ZERO, np.int64(ERR_TRUNCATED)
        return load_u64(data, pos), pos + 8
    word, pos = read_varint(data, pos, end)
    m = np.int64(unzigzag(word >> np.uint64(4)))
    power = POWERS_OF_TEN[word & np.uint64(15)]
    return f64_bits(np.float64(m) / power), pos


@device
def apply_specials(data, pos, end, n, x):
    """Put the runs of specials at `pos` over ``x[0:n]``; return the position behind or an error."""
    runs, pos = read_varint(data, pos, end)
    behind = np.int64(0)
    for _ in range(min(runs, np.uint64(n + 1))):
        if pos < 0:
            return pos
        gap, pos = read_varint(data, pos, end)
        if pos < 0:
            return pos
        word, pos = read_varint(data, pos, end)
        if pos < 0:
            return pos
        if gap >= np.uint64(n) or (word >> np.uint64(3)) >= np.uint64(n):
            return np.int64(ERR_CORRUPT)
        first = behind + np.int64(gap)
        behind = first + np.int64(word >> np.uint64(3)) + 1
        code = np.int64(word & np.uint64(7))
        if behind > n or code >= SPECIAL_BITS.shape[0]:
            return np.int64(ERR_CORRUPT)
        value = SPECIAL_BITS[code]
        if code == SPECIAL_ESCAPE:
            if pos + 8 > end:
                return np.int64(ERR_TRUNCATED)
            value = load_u64(data, pos)
            pos += 8
        for i in range(first, behind):
            x[i] = value
    return pos if runs <= np.uint64(n) else np.int64(ERR_CORRUPT)


@device
def skip_specials(data, pos, end, n):
    """Position behind the runs of specials at `pos`, or an error."""
    runs, pos = read_varint(data, pos, end)
    if pos >= 0 and runs > np.uint64(n):
        return np.int64(ERR_CORRUPT)
    for _ in range(runs):
        if pos < 0:
            return pos
        _gap, pos = read_varint(data, pos, end)
        if pos < 0:
            return pos
        word, pos = read_varint(data, pos, end)
        if pos >= 0 and (word & np.uint64(7)) == _ZERO:
            pos += 8
    return pos if pos <= end else np.int64(ERR_TRUNCATED)


@inlined_device
def read_integers(data, pos, end, n, tag, kind, x, lo, hi):
    """Decode divisor and main stream into ``x[lo:hi]``; return the position behind or an error."""
    order = tag >> ORDER_SHIFT
    if tag & HAS_DIVISOR == 0:
        return read_stream(data, pos, end, n, order, x, lo, hi)
    divisor, pos = read_varint(data, pos, end)
    if pos < 0:
        return pos
    first, pos = read_varint(data, pos, end)
    if pos < 0:
        return pos
    first = unzigzag(first)
    if kind == ORDERED:
        if divisor > np.uint64(63):
            return np.int64(ERR_CORRUPT)
        divisor = _ONE << divisor
    pos = read_stream(data, pos, end, n, order, x, lo, hi)
    part = x[lo:hi]
    for i in range(part.shape[0]):
        part[i] = part[i] * divisor + first
    return pos


@inlined_device
def read_vector(data, pos, end, n, x, r, lo, hi):
    """Decode ``x[lo:hi]`` of a vector of n values; return the position behind or an error.

    x, r: u64[1024], the rest of them means nothing then; lo < hi. Unknown kinds are refused.
    """
    if pos >= end:
        return np.int64(ERR_TRUNCATED)
    tag = np.int64(data[pos])
    kind = tag & 15
    pos += 1
    if kind == CONSTANT or kind == CONSTANT_DECIMAL:
        value, pos = read_constant(data, pos, end, tag)
        part = x[lo:hi]
        for i in range(part.shape[0]):
            part[i] = value
        return pos
    if kind < CONSTANT or kind > ORDERED:
        return np.int64(ERR_CORRUPT)
    k = np.int64(0)
    residual_order = np.int64(0)
    if kind != ORDERED:
        if pos >= end:
            return np.int64(ERR_TRUNCATED)
        k = np.int64(data[pos]) & 15
        residual_order = np.int64(data[pos]) >> 4
        pos += 1
    specials_at = pos
    if tag & HAS_SPECIALS:
        pos = skip_specials(data, pos, end, n)
        if pos < 0:
            return pos
    pos = read_integers(data, pos, end, n, tag, kind, x, lo, hi)
    if pos < 0:
        return pos
    if kind == ORDERED:
        part = x[lo:hi]
        for i in range(part.shape[0]):
            part[i] = from_ordered(part[i])
    else:
        from_integers(x, lo, hi, k)
        if kind == DECIMAL_RESIDUAL:
            pos = read_stream(data, pos, end, n, residual_order, r, lo, hi)
            if pos < 0:
                return pos
            add_residuals(x, r, lo, hi)
        elif residual_order != 0:
            return np.int64(ERR_CORRUPT)
    if tag & HAS_SPECIALS:
        status = apply_specials(data, specials_at, end, n, x)
        if status < 0:
            return status
    return pos


@device
def copy_wanted(x, first, behind, lo, hi, out, out_pos):
    """Copy what of the values [first, behind) of a block, held in x, lies in [lo, hi)."""
    start = max(first, lo)
    stop = min(behind, hi)
    target = out_pos + start - lo
    # Slices: their indices are never negative for the compiler, so the loop vectorises.
    wanted = out[target : target + stop - start]
    source = x[start - first : stop - first]
    for i in range(wanted.shape[0]):
        wanted[i] = source[i]


@inlined_device
def read_group(data, pos, end, vector, n_vectors, length, first_row, lo, hi, out, out_pos, x, r):
    """Decode the wanted vectors of the group with the body ``data[pos:end]``; OK or an error."""
    behind = vector + n_vectors
    while vector < behind:
        size = end - pos
        if n_vectors > 1:
            wide, pos = read_varint(data, pos, end)
            if pos < 0:
                return pos
            if wide == _ZERO or wide > np.uint64(end - pos):
                return np.int64(ERR_CORRUPT)
            size = np.int64(wide)
        last = vector + 1
        tag = np.int64(data[pos]) if size > 0 else 0
        kind = tag & 15
        if tag & REPEATED and (kind == CONSTANT or kind == CONSTANT_DECIMAL):
            last = behind
        stop = pos + size
        first_value = vector_start(length, first_row, vector)
        last_value = vector_start(length, first_row, last)
        if first_value < hi and last_value > lo:
            if last > vector + 1:
                value, pos = read_constant(data, pos + 1, stop, tag)
                for i in range(max(first_value, lo), min(last_value, hi)):
                    out[out_pos + i - lo] = value
            else:
                start = max(lo - first_value, np.int64(0))
                behind_wanted = min(hi, last_value) - first_value
                n = last_value - first_value
                pos = read_vector(data, pos, stop, n, x, r, start, behind_wanted)
                if pos >= 0:
                    copy_wanted(x, first_value, last_value, lo, hi, out, out_pos)
            if pos < 0:
                return pos
            if pos != stop:
                return np.int64(ERR_CORRUPT)
        pos = stop
        vector = last
    return np.int64(OK) if pos == end else np.int64(ERR_CORRUPT)


@inlined_device
def read_block(data, pos, end, length, first_row, lo, hi, out, out_pos, x, r, place):
    """Decode values [lo, hi) of the block ``data[pos:end]``; return OK or an error.

    place: i64[>=1] gets the position of the group that was looked at last.
    """
    n_vectors = vector_count(length, first_row)
    vector = np.int64(0)
    while vector < n_vectors:
        place[0] = pos
        group_at = pos
        group_vectors = np.int64(1)
        size = end - pos - CHECKSUM_BYTES
        if n_vectors > 1:
            head, pos = read_varint(data, pos, end)
            if pos < 0:
                return pos
            group_vectors = np.int64(head & np.uint64(15))
            if (head >> np.uint64(4)) > np.uint64(MAX_BLOCK_VALUES * 16):
                return np.int64(ERR_CORRUPT)
            size = np.int64(head >> np.uint64(4))
        stop = pos + size
        if size < 1 or stop + CHECKSUM_BYTES > end:
            return np.int64(ERR_TRUNCATED)
        behind = vector + group_vectors
        if group_vectors < 1 or behind > n_vectors:
            return np.int64(ERR_CORRUPT)
        first_value = vector_start(length, first_row, vector)
        if first_value >= hi:
            return np.int64(OK)
        if vector_start(length, first_row, behind) > lo:
            if not is_sealed(data, group_at, stop, context_of(length, first_row, vector)):
                return np.int64(ERR_CORRUPT)
            status = read_group(
                data, pos, stop, vector, group_vectors, length, first_row, lo, hi,
                out, out_pos, x, r,
            )  # fmt: skip
            if status < 0:
                return status
        vector = behind
        pos = stop + CHECKSUM_BYTES
    return np.int64(OK) if pos == end else np.int64(ERR_CORRUPT)


@kernel(i64(U8_IN, I64_IN, I64_IN, I64_IN, I64_IN, I64_IN, I64_IN, U64_OUT, I64_IN, I64_OUT))
def decode_blocks(data, positions, sizes, first_rows, lengths, lo, hi, out, out_positions, error):
    """Decode values [lo[b], hi[b]) of each block into ``out[out_positions[b]:]``.

    Shapes: u8[P], i64[B] seven times, u64[M], error: i64[2]. Returns OK, or a negative status with
    (block, position of the damaged group) in `error`. The wrapper proves that blocks lie inside
    `data`, 0 <= lo <= hi <= length <= 8192 and that the values lie inside `out`.
    """
    scratch = np.empty((2, VECTOR_ROWS), np.uint64)
    places = np.zeros(1, np.int64)
    x = unowned(scratch[0])
    r = unowned(scratch[1])
    place = unowned(places)
    data = unowned(data)
    out = unowned(out)
    status = np.int64(OK)
    for b in range(positions.shape[0]):
        if lo[b] >= hi[b]:
            continue
        end = positions[b] + sizes[b]
        status = read_block(
            data,
            positions[b],
            end,
            lengths[b],
            first_rows[b],
            lo[b],
            hi[b],
            out,
            out_positions[b],
            x,
            r,
            place,
        )
        if status < 0:
            error[0] = b
            error[1] = place[0]
            break
    hold(scratch)
    hold(places)
    return status


@kernel(
    i64(
        i64, I64_IN, U32_IN, U16_IN, U16_IN, I64_IN, I64_IN, I64_IN, I64_IN, I64_IN, U8_OUT, U64_OUT
    )
)  # fmt: skip
def decode_file(
    fd, payload_offsets, block_payload, first_rows, lengths, blocks, lo, sizes, which, positions,
    window, out,
):  # fmt: skip
    """Read blocks of an open file and decode what is wanted of each, in the order of `which`.

    Piece p wants the values ``lo[p]:lo[p] + sizes[p]`` of block ``blocks[p]``; piece ``which[k]``
    goes to ``out[positions[k]:]``. Block b lies in the payload ``block_payload[b]`` at
    ``payload_offsets`` (ascending), and has ``lengths[b]`` values from axis row ``first_rows[b]``
    on. `window: u8[W]` is scratch of more than SIDE_BYTES: near payloads are read at once.

    Returns OK; ERR_CAPACITY if a payload is too long for the window, a piece does not fit into
    `out` or the file is not read; or what a damaged block gives. `out` means nothing then.
    """
    scratch = np.empty((2, VECTOR_ROWS), np.uint64)
    places = np.zeros(1, np.int64)
    x = unowned(scratch[0])
    r = unowned(scratch[1])
    place = unowned(places)
    data = unowned(window)
    out = unowned(out)
    address = np.uint64(window.ctypes.data)
    room = window.shape[0] - SIDE_BYTES
    begin = np.int64(0)
    end = np.int64(0)
    aside = np.int64(-1)
    status = np.int64(OK)
    for k in range(which.shape[0]):
        piece = which[k]
        block = blocks[piece]
        payload = np.int64(block_payload[block])
        start = payload_offsets[payload]
        stop = payload_offsets[payload + 1]
        place_in = start - begin
        if start < begin and stop - start <= SIDE_BYTES:
            # One that earlier blocks have too.
            place_in = np.int64(room)
            if start != aside:
                size = stop - start
                if _pread(np.int32(fd), address + np.uint64(room), np.uint64(size), start) != size:
                    status = np.int64(ERR_CAPACITY)
                    break
                aside = start
        elif start < begin or stop > end:
            begin = start
            end = stop
            for j in range(k + 1, which.shape[0]):
                later = np.int64(block_payload[blocks[which[j]]])
                if payload_offsets[later] < begin:
                    continue
                if payload_offsets[later] > end + NEAR_BYTES:
                    break
                if payload_offsets[later + 1] > begin + room:
                    break
                end = max(end, payload_offsets[later + 1])
            place_in = np.int64(0)
            if end - begin > room:
                status = np.int64(ERR_CAPACITY)
                break
            if _pread(np.int32(fd), address, np.uint64(end - begin), begin) != end - begin:
                status = np.int64(ERR_CAPACITY)
                break
        if positions[k] < 0 or positions[k] + sizes[piece] > out.shape[0]:
            status = np.int64(ERR_CAPACITY)
            break
        status = read_block(
            data,
            place_in,
            place_in + stop - start,
            np.int64(lengths[block]),
            np.int64(first_rows[block]),
            lo[piece],
            lo[piece] + sizes[piece],
            out,
            positions[k],
            x,
            r,
            place,
        )
        if status < 0:
            break
    hold(scratch)
    hold(places)
    hold(window)
    return status
