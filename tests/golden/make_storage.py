"""Makes the golden files of the log and the manifest; run once per format version, never again.

    python -m tests.golden.make_storage tests/golden/storage-v1

tests/storage/test_golden.py reads what is written here, with every later version.
"""

import sys

import numpy as np

from tests.faults.log import DATABASE_ID
from tsengine.model.batch import SampleBatch
from tsengine.storage import filenames, manifest, wal_records
from tsengine.storage.filesystem import LocalFileSystem
from tsengine.storage.ingest_log import LogEntry
from tsengine.storage.manifest import Manifest, PartEntry
from tsengine.storage.wal import Wal

T0 = 1_700_000_000_000
BATCHES = [
    # One scrape: consecutive refs, one timestamp; the values stale, -0.0, infinite, a NaN, 1.5.
    SampleBatch(
        np.arange(5, dtype=np.uint32),
        np.full(5, T0, np.int64),
        np.array(
            [0x7FF0000000000002, 1 << 63, 0x7FF0000000000000, 0x7FF8000000000001, 0x3FF8 << 48],
            np.uint64,
        ),
    ),
    # A run of one series: steady times.
    SampleBatch(
        np.full(300, 7, np.uint32),
        T0 + 15_000 * np.arange(300, dtype=np.int64),
        np.arange(300, dtype=np.float64).view(np.uint64),
    ),
    # Nothing regular, every extreme.
    SampleBatch(
        np.array([2**32 - 1, 0, 70_000, 70_000], np.uint32),
        np.array([2**63 - 1, -(2**63), 0, -1], np.int64),
        np.array([2**64 - 1, 0, 1, 2**63], np.uint64),
    ),
]
METADATA = [("up", "gauge", "Whether the target is up.", ""), ("größe_bytes", "counter", "", "By")]
SERIES = b"as the catalog has it"

MANIFEST = Manifest(
    database_id=DATABASE_ID,
    secret="5e" * 32,
    generation=12,
    parts=(
        PartEntry("0000000003", 0, T0, T0 + 7_200_000, 1_000_000, 5_000, 0, 99, 400_000),
        PartEntry("0000000007", 1, -(2**63), 2**63 - 1, 1, 1, 100, 2**40, 77),
    ),
    catalog_segments=("0000000002.cat", "0000000006.cat"),
    metadata_file="0000000005.meta",
    wal_floor=4,
    next_ref=5_000,
    next_seq=2**40 + 1,
    next_file_number=8,
)


def main(directory: str) -> None:
    fs = LocalFileSystem()
    fs.mkdir(filenames.wal_dir(directory))
    manifest.swap(fs, directory, MANIFEST)
    log = Wal(
        fs,
        directory,
        database_id=DATABASE_ID,
        next_segment=4,
        next_seq=41,
        fsync="always",
        queue_size_bytes_max=1 << 20,
        on_durable=lambda entries: None,
    )
    first, *others = [(wal_records.FLOATS, wal_records.encode_floats(b)) for b in BATCHES]
    log.append(LogEntry(((wal_records.SERIES, SERIES), first), 1)).wait()
    log.append(LogEntry((others[0],), 1)).wait()
    log.cut(lambda segment: None).wait()
    metadata = (wal_records.METADATA, wal_records.encode_metadata(METADATA))
    log.append(LogEntry((others[1], metadata), 1)).wait()
    log.close()


if __name__ == "__main__":
    main(sys.argv[1])
