"""When the samples of the fuzzer's series lie, and which are left out."""

from __future__ import annotations

import struct

BASE_MS = 1_700_000_000_000
SPAN_MS = 40 * 60_000
END_MS = BASE_MS + SPAN_MS
STALE_BITS = 0x7FF0000000000002


def from_bits(bits):
    """The float with these bits."""
    return struct.unpack("<d", struct.pack("<Q", bits))[0]


STALE = from_bits(STALE_BITS)


def scrapes(rng, interval_ms, start_ms=BASE_MS, end_ms=END_MS):
    """Times of scrapes: some exact, some jittered."""
    jitter = rng.choice((0, 0, 3, 900))
    start = start_ms + rng.randrange(interval_ms)
    times = {t + rng.randint(-jitter, jitter) for t in range(start, end_ms, interval_ms)}
    return sorted(t for t in times if start_ms <= t <= end_ms)


def gappy(rng, times, values):
    """Leave out single samples and whole stretches; end some stretches with a stale marker."""
    style = rng.choice(("whole", "whole", "holes", "stretches", "late", "early"))
    samples = list(zip(times, values, strict=True))
    if style == "holes":
        return [sample for sample in samples if rng.random() > 0.2]
    if style == "late":
        return samples[rng.randrange(len(samples)) :]
    if style == "early":
        return _ended(rng, samples[: rng.randrange(1, len(samples))], samples)
    if style == "stretches":
        kept, is_on = [], True
        for sample in samples:
            if rng.random() < 0.04:
                is_on = not is_on
                if not is_on and rng.random() < 0.7:
                    kept.append((sample[0], STALE))
                    continue
            if is_on:
                kept.append(sample)
        return kept
    return samples


def _ended(rng, kept, samples):
    if rng.random() < 0.7 and len(kept) < len(samples):
        return [*kept, (samples[len(kept)][0], STALE)]
    return kept
