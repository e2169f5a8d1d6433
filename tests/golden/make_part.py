"""Makes the golden part; run once per format version, never again.

    python -m tests.golden.make_part tests/golden

tests/storage/test_part.py reads what is written here, with every later version.
"""

from __future__ import annotations

import sys

import numpy as np

from tests.reference import samples
from tests.reference.samples import STALE, Model
from tsengine.storage.filesystem import LocalFileSystem
from tsengine.storage.manifest import PartEntry
from tsengine.storage.part_writer import write_part

NAME = "part-v1"
DAY = 86_400_000
T0 = 1_700_000_000_000


def golden_model() -> Model:
    """Two targets and a series of its own; gaps, two days, special values, equal blocks."""
    model: Model = {}
    for ref in range(6):
        for k in range(50):
            if ref != 3 or k % 7:
                value = np.float64(ref % 4 * k)
                model.setdefault(ref, {})[T0 + k * 15_000] = int(value.view(np.uint64))
    for ref in (10, 12):
        for k in range(5):
            value = np.float64(k / (ref - 7))
            model.setdefault(ref, {})[k * DAY // 2] = int(value.view(np.uint64))
    model[1000] = {0: STALE, 1: 0x7FF8000000000001, 2: 1 << 63, 3: 0x3FB999999999999A}
    return model


def golden_entry() -> PartEntry:
    """What a manifest would say about the part; the size is not looked at when it is opened."""
    columns = samples.columns_of(golden_model())
    return PartEntry(
        name=NAME,
        level=2,
        mint=int(columns.t_ms.min()),
        maxt=int(columns.t_ms.max()),
        n_samples=len(columns.t_ms),
        n_series=len(columns),
        seq_min=3,
        seq_max=9,
        size_bytes=0,
    )


def main(folder: str) -> None:
    write_part(
        LocalFileSystem(),
        folder,
        NAME,
        [samples.columns_of(golden_model())],
        targets=lambda refs: np.where(refs < 1000, refs // 10, -1).astype(np.int64),
        seq_min=3,
        seq_max=9,
        level=2,
    )


if __name__ == "__main__":
    main(sys.argv[1])
