"""Makes the golden tombstone; run once per format version, never again.

python -m tests.golden.make_tombstone tests/golden/tombstones-v1
"""

import sys

import numpy as np

from tsengine.storage.filesystem import LocalFileSystem
from tsengine.storage.manifest import TombstoneEntry
from tsengine.storage.tombstones import Tombstone, write_tombstone

NAME = "0000000007.tomb"
TOMBSTONE = Tombstone(
    seq=2**40,
    mint=-(2**63),
    maxt=1_700_000_060_000,
    refs=np.array([0, 5, 6, 9, 70_000, 2**32 - 1], np.uint32),
)


def main(directory: str) -> TombstoneEntry:
    return write_tombstone(LocalFileSystem(), directory, NAME, TOMBSTONE)


if __name__ == "__main__":
    main(sys.argv[1])
