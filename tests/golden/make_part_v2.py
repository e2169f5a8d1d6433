"""Makes the golden part of version 2, with components; run once, never again.

    python -m tests.golden.make_part_v2 tests/golden

tests/storage/test_components.py reads what is written here, with every later version.
"""

from __future__ import annotations

import sys

import numpy as np

from tests.reference import rich_samples
from tests.reference.rich_samples import Histogram, Rich, bits
from tests.reference.samples import STALE
from tsengine.storage.filesystem import LocalFileSystem
from tsengine.storage.manifest import PartEntry
from tsengine.storage.part_writer import write_part

NAME = "part-v2"
T0 = 1_700_000_000_000
BIAS = 2**20


def golden_model() -> Rich:
    """Histograms of three layouts, with a reset, a marker, a float, negative and custom buckets."""
    model: Rich = {0: {}, 1: {}, 2: {}, 7: {}}
    for k in range(40):
        t = T0 + k * 15_000
        n = k % 25 + 1
        buckets = tuple((BIAS + i, bits(float(n * i))) for i in range(1, 6 if k > 3 else 4))
        total = bits(float(sum(n * i for i in range(1, len(buckets) + 1)) + k // 10))
        start = T0 - 1 if k < 25 else T0 + 25 * 15_000 - 1
        model[0][t] = (
            Histogram(
                3 if k < 30 else 2, 2 if k else 1, total, bits(n / 8), bits(2.0**-128),
                bits(float(k // 10)), buckets, None,
            ),
            start,
        )  # fmt: skip
        model[7][t] = (bits(float(k)), start if k % 2 else 0)
    model[0][T0 + 12 * 15_000] = (STALE, 0)
    model[0][T0 + 13 * 15_000] = (bits(0.5), T0 - 1)
    gauge = ((-BIAS - 2, bits(1.5)), (-BIAS + 3, bits(-2.0)), (BIAS - 4, bits(0.25)))
    model[1][T0 + 5] = (
        Histogram(-4, 3, bits(-0.25), 0x7FF8000000000001, 0, bits(-0.0), gauge, None),
        0,
    )
    for k, bounds in enumerate([(bits(0.1), bits(1.0)), (bits(0.1), bits(2.5)), ()]):
        own = tuple((BIAS + i, bits(float(i + k + 1))) for i in range(len(bounds) + 1))
        count = bits(float(sum(i + k + 1 for i in range(len(bounds) + 1))))
        model[2][T0 + k] = (Histogram(-53, 0, count, bits(3.5), 0, 0, own, bounds), 0)
    return model


def golden_entry() -> PartEntry:
    """What a manifest would say about the part; the size is not looked at when it is opened."""
    columns = rich_samples.columns_of(golden_model())
    return PartEntry(
        name=NAME,
        level=1,
        mint=int(columns.t_ms.min()),
        maxt=int(columns.t_ms.max()),
        n_samples=len(columns.t_ms),
        n_series=len(columns),
        seq_min=4,
        seq_max=6,
        size_bytes=0,
    )


def main(folder: str) -> None:
    write_part(
        LocalFileSystem(),
        folder,
        NAME,
        [rich_samples.columns_of(golden_model())],
        targets=lambda refs: np.where(refs < 7, 0, -1),
        seq_min=4,
        seq_max=6,
        level=1,
    )


if __name__ == "__main__":
    main(sys.argv[1])
