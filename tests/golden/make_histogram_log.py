"""Makes the golden log with histograms, exemplars and start timestamps; run once, never again.

    python -m tests.golden.make_histogram_log tests/golden/histogram-log-v1

tests/storage/test_golden.py reads what is written here, with every later version.
"""

import sys

import numpy as np

from tests.faults.log import DATABASE_ID
from tsengine.model.batch import SampleBatch
from tsengine.model.exemplars import ExemplarBatch, pack_labels
from tsengine.model.histogram_values import NativeHistogram, from_list
from tsengine.model.histograms import handles
from tsengine.storage import filenames, wal_records
from tsengine.storage.exemplar_records import encode_exemplars
from tsengine.storage.filesystem import LocalFileSystem
from tsengine.storage.ingest_log import LogEntry
from tsengine.storage.wal import Wal
from tsengine.storage.wal_histograms import encode_histograms

T0 = 1_700_000_000_000
FLOATS = SampleBatch(
    np.arange(3, dtype=np.uint32),
    np.full(3, T0, np.int64),
    np.array([1.0, 2.0, 3.0]).view(np.uint64),
    start_ms=np.array([T0 - 60_000, 0, T0 - 1], np.int64),
)
NATIVE = [
    NativeHistogram(
        schema=3, count=21.0, sum=18.4, zero_threshold=0.001, zero_count=2.0,
        positive={0: 1.0, 1: 2.0, 3: 16.0}, negative={}, hint="not_reset",
    ),
    NativeHistogram(
        schema=-4, count=6.5, sum=float("-inf"), zero_count=0.5, positive={-7: 0.25},
        negative={-2: 4.0, 5: 1.75}, hint="gauge",
    ),
    NativeHistogram(
        schema=-53, count=4.0, sum=12.5, positive={0: 1.0, 2: 3.0}, custom_bounds=(0.5, 10.0),
    ),
    NativeHistogram(),
]  # fmt: skip
HISTOGRAMS = SampleBatch(
    np.array([5, 5, 9, 2**32 - 1], np.uint32),
    np.array([T0, T0 + 15_000, T0, -1], np.int64),
    handles(np.arange(4)),
    from_list(NATIVE),
    np.array([T0 - 60_000, T0 - 60_000, 0, -(2**63)], np.int64),
)
EXEMPLARS = ExemplarBatch(
    np.array([5, 9], np.uint32),
    np.array([T0 - 5, T0 - 4], np.int64),
    np.array([0.25, np.nan]),
    (pack_labels([("trace_id", "ab"), ("größe", "x")]), b""),
)
RECORDS = (
    (wal_records.FLOATS, wal_records.encode_floats(FLOATS)),
    (wal_records.HISTOGRAMS, encode_histograms(HISTOGRAMS)),
    (wal_records.EXEMPLARS, encode_exemplars(EXEMPLARS)),
)


def main(directory: str) -> None:
    fs = LocalFileSystem()
    fs.mkdir(filenames.wal_dir(directory))
    log = Wal(
        fs,
        directory,
        database_id=DATABASE_ID,
        next_segment=1,
        next_seq=7,
        fsync="always",
        queue_size_bytes_max=1 << 20,
        on_durable=lambda entries: None,
    )
    log.append(LogEntry(RECORDS, 1)).wait()
    log.close()


if __name__ == "__main__":
    main(sys.argv[1])
