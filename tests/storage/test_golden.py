"""Files written by the first version of each format stay readable, and are written alike."""

import re
from pathlib import Path

import numpy as np
import pytest

from tests.faults.log import read
from tests.golden import make_histogram_log as made_histograms
from tests.golden import make_storage as made
from tsengine.model.histogram_values import to_list
from tsengine.storage import filenames, manifest, wal_records
from tsengine.storage.exemplar_records import decode_exemplars
from tsengine.storage.filesystem import LocalFileSystem
from tsengine.storage.wal_histograms import decode_histograms

GOLDEN = Path(__file__).parent.parent / "golden" / "storage-v1"
GOLDEN_HISTOGRAMS = GOLDEN.parent / "histogram-log-v1"


def test_manifest():
    assert manifest.load(LocalFileSystem(), str(GOLDEN)) == made.MANIFEST


def test_log():
    records, report = read(GOLDEN, first_segment=4)
    assert [(r.type, r.seq, r.segment) for r in records] == [
        (wal_records.SERIES, 41, 4),
        (wal_records.FLOATS, 41, 4),
        (wal_records.FLOATS, 42, 4),
        (wal_records.FLOATS, 43, 5),
        (wal_records.METADATA, 43, 5),
    ]
    assert records[0].payload == made.SERIES
    for record, wanted in zip(records[1:4], made.BATCHES, strict=True):
        batch = wal_records.decode_floats(record.payload)
        np.testing.assert_array_equal(batch.refs, wanted.refs)
        np.testing.assert_array_equal(batch.t_ms, wanted.t_ms)
        np.testing.assert_array_equal(batch.bits, wanted.bits)
    assert wal_records.decode_metadata(records[4].payload) == made.METADATA
    assert report.damage == report.torn_tails == []
    assert report.last_segment == 5


def test_log_with_histograms_exemplars_and_start_timestamps():
    records, report = read(GOLDEN_HISTOGRAMS)
    assert [(r.type, r.seq) for r in records] == [(2, 7), (3, 7), (4, 7)]
    assert report.damage == report.torn_tails == []
    floats = wal_records.decode_floats(records[0].payload)
    histograms = decode_histograms(records[1].payload)
    for found, wanted in (
        (floats, made_histograms.FLOATS),
        (histograms, made_histograms.HISTOGRAMS),
    ):
        for name in ("refs", "t_ms", "bits", "start_ms"):
            np.testing.assert_array_equal(getattr(found, name), getattr(wanted, name))
    assert to_list(histograms.histograms) == made_histograms.NATIVE
    exemplars = decode_exemplars(records[2].payload)
    wanted = made_histograms.EXEMPLARS
    assert exemplars.labels == wanted.labels
    for name in ("refs", "t_ms", "values"):
        np.testing.assert_array_equal(getattr(exemplars, name), getattr(wanted, name))


def test_this_version_writes_the_same_log_with_histograms(tmp_path):
    made_histograms.main(str(tmp_path))
    name = f"wal/{filenames.wal_name(1)}"
    assert (tmp_path / name).read_bytes() == (GOLDEN_HISTOGRAMS / name).read_bytes()


def test_the_example_in_the_document_is_real(tmp_path):
    text = (Path(__file__).parents[2] / "docs" / "format" / "wal.md").read_text()
    lines = re.findall(r"^    [0-9a-f]{4}((?:  ?[0-9a-f]{2})+)(?:  |$)", text, re.MULTILINE)
    path = tmp_path / "wal" / filenames.wal_name(7)
    path.parent.mkdir()
    path.write_bytes(bytes.fromhex("".join(lines)))
    [record], report = read(tmp_path, first_segment=7)
    batch = wal_records.decode_floats(record.payload)
    assert (record.type, record.seq) == (wal_records.FLOATS, 42)
    assert batch.refs.tolist() == [5, 6]
    assert batch.t_ms.tolist() == [made.T0, made.T0]
    assert [str(v) for v in batch.bits.view(np.float64)] == ["1.0", "-0.0"]
    assert report.damage == report.torn_tails == []


@pytest.mark.parametrize(
    "name", ["manifest", *(f"wal/{filenames.wal_name(number)}" for number in (4, 5))]
)
def test_this_version_writes_the_same_bytes(tmp_path, name):
    made.main(str(tmp_path))
    assert (tmp_path / name).read_bytes() == (GOLDEN / name).read_bytes()
