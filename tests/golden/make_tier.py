"""Makes the golden part of a tier; run once per format version, never again.

    python -m tests.golden.make_tier tests/golden

tests/storage/test_tier_part.py reads what is written here, with every later version.
"""

from __future__ import annotations

import sys

import numpy as np

from tests.reference import rich_samples
from tests.reference.rich_samples import Histogram, Rich, bits
from tests.reference.samples import STALE
from tsengine.model.frame import FrameBatch
from tsengine.model.windows import WindowBatch
from tsengine.storage.filesystem import LocalFileSystem
from tsengine.storage.manifest import TierEntry
from tsengine.storage.tier_format import STORED_COLUMNS
from tsengine.storage.tier_windows import windows_of_samples
from tsengine.storage.tier_writer import write_tier_part

NAME = "tier-v1"
DAY = 86_400_000
T0 = 19_675 * DAY
WIDTH = 300_000
COVER = (T0 + 1, T0 + DAY)
REFS = np.array([2, 3, 5, 7, 11], np.uint32)


def golden_model() -> Rich:
    """A counter with a reset, a gauge with gaps and a marker, a constant, histograms, a NaN."""
    model: Rich = {int(ref): {} for ref in REFS}
    for k in range(240):
        t = T0 + 5_000 + k * 15_000
        model[2][t] = (bits(float(k % 170 * 3 + 7)), 0)
        if not 30 <= k < 65:
            model[3][t] = (STALE if k == 29 else bits((k * k % 23) / 10), 0)
        model[5][t] = (bits(1.5), 0)
        if k < 60:
            n = k % 25 + 1
            histogram = Histogram(
                3, 0, bits(float(3 * n)), bits(n / 4), bits(2.0**-128), 0,
                ((2**20 + 1, bits(float(n))), (2**20 + 4, bits(float(2 * n)))), None,
            )  # fmt: skip
            model[7][t] = (histogram, 0)
    model[11][T0 + DAY] = (0x7FF8000000000001, 0)
    return model


def golden_windows() -> WindowBatch:
    """The windows of the model's series, made by the kernels."""
    columns = rich_samples.columns_of(golden_model())
    frames = FrameBatch(
        columns.t_ms, columns.offsets, np.arange(len(REFS)), columns.bits.view(np.float64),
        columns.offsets, columns.histograms,
    )  # fmt: skip
    return windows_of_samples(frames, WIDTH, STORED_COLUMNS)


def golden_entry() -> TierEntry:
    """What a manifest would say about the part; the size is not looked at when it is opened."""
    return TierEntry(
        name=NAME, width_ms=WIDTH, cover_min=COVER[0], cover_max=COVER[1], level=0,
        mint=T0 + WIDTH, maxt=T0 + DAY, n_samples=293, n_series=34, seq_min=0, seq_max=9,
        size_bytes=0,
    )  # fmt: skip


def main(folder: str) -> TierEntry:
    """Write the part into a folder."""
    return write_tier_part(
        LocalFileSystem(), folder, NAME, [(REFS, golden_windows())], width_ms=WIDTH, cover=COVER,
        targets=lambda refs: np.zeros(len(refs), np.int64), seq_max=9, level=0,
    )  # fmt: skip


if __name__ == "__main__":
    print(main(sys.argv[1]))
