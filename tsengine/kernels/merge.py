"""Samples of several sources made into one strictly ascending run per series."""

from __future__ import annotations

from tsengine.kernels.bits import STALE_BITS, unowned
from tsengine.kernels.jit import (
    I64_IN,
    I64_OUT,
    OK,
    U32_IN,
    U64_IN,
    U64_OUT,
    device,
    i64,
    kernel,
)

_I64_MIN, _I64_MAX = -(2**63), 2**63 - 1


@device
def _merge_pass(src_t, src_bits, src_at, dst_t, dst_bits, dst_at, n):
    """Merge neighbouring ascending runs pairwise, the left one first on ties; runs written."""
    n_runs = 0
    start = 0
    while start < n:
        mid = start + 1
        while mid < n and src_t[src_at + mid] >= src_t[src_at + mid - 1]:
            mid += 1
        end = mid
        if mid < n:
            end = mid + 1
            while end < n and src_t[src_at + end] >= src_t[src_at + end - 1]:
                end += 1
        left = src_at + start
        left_end = src_at + mid
        right = left_end
        right_end = src_at + end
        out = dst_at + start
        while left < left_end and right < right_end:
            # Stretches of one side: with two senders in step they are short but regular, and
            # branches foresee them.
            bound = src_t[right]
            while left < left_end and src_t[left] <= bound:
                dst_t[out] = src_t[left]
                dst_bits[out] = src_bits[left]
                left += 1
                out += 1
            if left == left_end:
                break
            bound = src_t[left]
            while right < right_end and src_t[right] < bound:
                dst_t[out] = src_t[right]
                dst_bits[out] = src_bits[right]
                right += 1
                out += 1
        rest = left if left < left_end else right
        for i in range(dst_at + end - out):
            dst_t[out + i] = src_t[rest + i]
        for i in range(dst_at + end - out):
            dst_bits[out + i] = src_bits[rest + i]
        n_runs += 1
        start = end
    return n_runs


@device
def _sort_row(t, bits, start, n, spare_t, spare_bits):
    """Stable natural merge sort of one row by time."""
    in_spare = False
    while True:
        if in_spare:
            n_runs = _merge_pass(spare_t, spare_bits, 0, t, bits, start, n)
        else:
            n_runs = _merge_pass(t, bits, start, spare_t, spare_bits, 0, n)
        in_spare = not in_spare
        if n_runs <= 1:
            break
    if in_spare:
        for i in range(n):
            t[start + i] = spare_t[i]
            bits[start + i] = spare_bits[i]


@kernel(i64(I64_IN, I64_OUT, U64_OUT, i64, I64_OUT, U64_OUT, I64_OUT))
def settle_rows(offsets, t_ms, bits, drop_stale, spare_t, spare_bits, out_offsets):
    """Make each row strictly ascending, in place: of equal times the last written row stays.

    ``offsets: i64[S + 1]`` ascending, from 0; ``t_ms: i64[N]``, ``bits: u64[N]`` in the order of
    arrival inside each row; ``spare_*`` at least as long as the longest row. With ``drop_stale``
    staleness markers go too, after they have replaced what they replace. Rows are packed towards
    the start of the arrays; ``out_offsets: i64[S + 1]``. Returns the samples left.
    """
    kept = 0
    out_offsets[0] = 0
    for row in range(offsets.shape[0] - 1):
        start = offsets[row]
        end = offsets[row + 1]
        # Counting without leaving the loop early lets it run over several samples at a time.
        n_falls = 0
        n_equal = 0
        for i in range(start + 1, end):
            n_falls += t_ms[i] < t_ms[i - 1]
            n_equal += t_ms[i] == t_ms[i - 1]
        n_stale = 0
        if drop_stale != 0:
            for i in range(start, end):
                n_stale += bits[i] == STALE_BITS
        if n_falls > 0:
            _sort_row(t_ms, bits, start, end - start, spare_t, spare_bits)
        elif n_equal == 0 and n_stale == 0:
            if kept < start:
                for i in range(start, end):
                    t_ms[kept + i - start] = t_ms[i]
                for i in range(start, end):
                    bits[kept + i - start] = bits[i]
            kept += end - start
            out_offsets[row + 1] = kept
            continue
        for i in range(start, end):
            t = t_ms[i]
            value = bits[i]
            t_ms[kept] = t
            bits[kept] = value
            is_replaced = i + 1 < end and t_ms[i + 1] == t
            is_dropped = drop_stale != 0 and value == STALE_BITS
            kept += not (is_replaced or is_dropped)
        out_offsets[row + 1] = kept
    return kept


@device
def _first_not_below(t_ms, low, high, bound):
    """Position of the first time >= bound in t_ms[low:high], else high."""
    while low < high:
        mid = (low + high) >> 1
        if t_ms[mid] < bound:
            low = mid + 1
        else:
            high = mid
    return low


@kernel(i64(U32_IN, I64_IN, I64_IN, U32_IN, i64, i64, I64_OUT, I64_OUT))
def slice_run(run_refs, run_offsets, run_t, refs, mint, maxt, starts, lengths):
    """Where a sorted run holds the samples of the wanted series in a closed time range.

    ``run_refs: u32[K]`` and ``refs: u32[S]`` strictly ascending; ``run_offsets: i64[K + 1]`` into
    ``run_t: i64[N]``, ascending inside each series. Fills ``starts, lengths: i64[S]`` (length 0
    where there is none) and returns the number of samples.
    """
    n_run = run_refs.shape[0]
    total = 0
    at = 0
    for row in range(refs.shape[0]):
        ref = refs[row]
        # Gallop from the last hit: near for dense requests, logarithmic for sparse ones.
        step = 1
        while at + step < n_run and run_refs[at + step] < ref:
            step <<= 1
        low = at + (step >> 1)
        high = min(at + step, n_run)
        while low < high:
            mid = (low + high) >> 1
            if run_refs[mid] < ref:
                low = mid + 1
            else:
                high = mid
        at = low
        starts[row] = 0
        lengths[row] = 0
        if at == n_run:
            continue
        if run_refs[at] == ref:
            first = run_offsets[at]
            end = run_offsets[at + 1]
            if mint > _I64_MIN and first < end and run_t[first] < mint:
                first = _first_not_below(run_t, first, end, mint)
            if maxt < _I64_MAX and first < end and run_t[end - 1] > maxt:
                end = _first_not_below(run_t, first, end, maxt + 1)
            starts[row] = first
            lengths[row] = end - first
            total += end - first
    return total


@kernel(i64(I64_IN, U64_IN, I64_IN, I64_IN, I64_OUT, I64_OUT, U64_OUT))
def append_slices(run_t, run_bits, starts, lengths, places, t_ms, bits):
    """Copy slices of a run behind what the rows have already.

    ``starts, lengths: i64[S]`` in ``run_t: i64[N]``, ``run_bits: u64[N]``, as of `slice_run`;
    ``places: i64[S]`` where in ``t_ms, bits`` each row goes on, which moves. The caller proves the
    bounds.
    """
    run_t = unowned(run_t)
    run_bits = unowned(run_bits)
    t_ms = unowned(t_ms)
    bits = unowned(bits)
    for row in range(starts.shape[0]):
        n = lengths[row]
        start = starts[row]
        at = places[row]
        for i in range(n):
            t_ms[at + i] = run_t[start + i]
        for i in range(n):
            bits[at + i] = run_bits[start + i]
        places[row] = at + n
    return OK
