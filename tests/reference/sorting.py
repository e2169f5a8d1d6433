"""Slow twins of tsengine/kernels/sorting.py."""

from __future__ import annotations


def order_by_key(keys: list[int]) -> list[int]:
    return sorted(range(len(keys)), key=lambda row: keys[row])


def group_by_key(
    keys: list[int], t_ms: list[int], bits: list[int]
) -> tuple[list[int], list[int], list[int], list[int], int]:
    """Keys, where their rows begin, times, bits, and how many times are not later."""
    order = order_by_key(keys)
    keys_out = sorted(set(keys))
    offsets = [sum(key < wanted for key in keys) for wanted in keys_out] + [len(keys)]
    falls = sum(
        keys[a] == keys[b] and t_ms[b] <= t_ms[a] for a, b in zip(order, order[1:], strict=False)
    )
    return keys_out, offsets, [t_ms[i] for i in order], [bits[i] for i in order], falls
