"""Codecs in many threads at once: scratch memory must be a call's own until its end."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]

PROGRAM = """
import threading, time
import numpy as np
from tsengine.codecs.axis import decode_axes, encode_axes
from tsengine.codecs.block import decode_blocks, encode_blocks

SECONDS = 3.0
wrong = []

def axes_of(seed):
    rng = np.random.default_rng(seed)
    t_ms = np.cumsum(rng.integers(1, 1000, (20, 1000)), axis=1) + seed
    return t_ms.reshape(-1), np.arange(21) * 1000

def work(seed):
    t_ms, offsets = axes_of(seed)
    expected, positions = encode_axes(t_ms, offsets)
    bits = (t_ms * 0.1).view(np.uint64)
    out, values = np.empty_like(t_ms), np.empty_like(bits)
    blocks = encode_blocks(bits, offsets, np.zeros(20, np.int64))
    stop = time.monotonic() + SECONDS
    while time.monotonic() < stop and not wrong:
        encoded, _ = encode_axes(t_ms, offsets)
        if encoded.tobytes() != expected.tobytes():
            wrong.append("encoded axes")
        try:
            decode_axes(
                expected, positions[:-1], np.diff(positions), np.full(20, 1000), out, offsets[:-1]
            )
        except Exception as error:
            wrong.append(repr(error))
        if not np.array_equal(out, t_ms):
            wrong.append("decoded axes")
        again = encode_blocks(bits, offsets, np.zeros(20, np.int64))
        if again.payload.tobytes() != blocks.payload.tobytes():
            wrong.append("encoded blocks")
        sizes = np.diff(blocks.offsets)
        try:
            decode_blocks(
                blocks.payload, blocks.offsets[:-1], sizes, np.zeros(20, np.int64),
                np.full(20, 1000), np.zeros(20, np.int64), np.full(20, 1000), values, offsets[:-1],
            )
        except Exception as error:
            wrong.append(repr(error))
        if not np.array_equal(values, bits):
            wrong.append("decoded blocks")

threads = [threading.Thread(target=work, args=(seed,)) for seed in range(6)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
print(sorted(set(wrong)))
"""


def test_results_do_not_depend_on_other_threads():
    # One arena: what one thread frees is what another is given next.
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], cwd=ROOT, capture_output=True, text=True, timeout=300,
        env={**os.environ, "MALLOC_ARENA_MAX": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.strip() == "[]"
