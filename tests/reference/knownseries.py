"""Slow twin of tsengine/kernels/knownseries.py."""

from __future__ import annotations

from tests.reference.protowire import BrokenError, fields, read_sample


def scan_known_v1(data: bytes, known: dict[bytes, int]) -> list[tuple[int, int, int]] | None:
    """(ref, time, bits) of all samples by the labels' bytes; None if the body is another one."""
    found = []
    try:
        for field, wire, _, start, end in fields(data, 0, len(data), {}):
            if (field, wire) != (1, 2):
                return None
            parts = list(fields(data, start, end, {}))
            n_labels = 0
            while n_labels < len(parts) and parts[n_labels][:2] == (1, 2):
                n_labels += 1
            samples = parts[n_labels:]
            if not n_labels or not samples or any(part[:2] != (2, 2) for part in samples):
                return None
            labels = data[start : samples[0][2]]
            if labels not in known:
                return None
            found += [(known[labels], *read_sample(data, part[3], part[4], 1)) for part in samples]
    except BrokenError:
        return None
    return found
