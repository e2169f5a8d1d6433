"""Slow twin of tsengine/kernels/logcolumns.py, from docs/format/wal.md."""

from __future__ import annotations


def write_columns(t_ms: list[int], refs: list[int]) -> tuple[bytes, list[int]]:
    """Bytes of both columns, and kind, base and step of each."""
    times, times_layout = _column([t % 2**64 for t in t_ms], 64)
    numbers, refs_layout = _column(refs, 32)
    return times + numbers, times_layout + refs_layout


def _column(values: list[int], n_bits: int) -> tuple[bytes, list[int]]:
    if not values:
        return b"", [0, 0, 0]
    width, lowest = _width(values, n_bits)
    if width > 1 and len(values) > 1:
        pairs = zip(values[1:], values, strict=False)
        deltas = [(later - earlier) % 2**n_bits for later, earlier in pairs]
        delta_width, step = _width(deltas, n_bits)
        if delta_width < width:
            return _written(deltas, step, delta_width, n_bits), [
                0x80 | delta_width,
                values[0],
                step,
            ]
    return _written(values, lowest, width, n_bits), [width, lowest, 0]


def _width(values: list[int], n_bits: int) -> tuple[int, int]:
    """Bytes that offsets from the lowest value need, by the signed reading; that value."""
    signed = [value - (2**n_bits if value >> n_bits - 1 else 0) for value in values]
    n_bytes = ((max(signed) - min(signed)).bit_length() + 7) // 8
    return min(w for w in (0, 1, 2, 4, 8) if w >= n_bytes), min(signed) % 2**n_bits


def _written(values: list[int], base: int, width: int, n_bits: int) -> bytes:
    return b"".join(
        ((value - base) % 2**n_bits).to_bytes(width, "little") if width else b"" for value in values
    )
