"""Catalog segments: round trip, every damaged byte found, the format of version 1 kept."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.storage.test_catalog import make_catalog, numbered, read_back
from tsengine.errors import CorruptionError, UnsupportedFormat
from tsengine.storage import catalog_file
from tsengine.storage.catalog_file import read_catalog_segment, write_catalog_segment
from tsengine.storage.filesystem import LocalFileSystem
from tsengine.storage.sealed_file import write_sealed

GOLDEN = Path(__file__).parents[1] / "golden" / "catalog-v1.cat"
GOLDEN_SERIES = [
    {"__name__": "up", "job": "node", "instance": "a:9100"},
    {"__name__": "up", "job": "node", "instance": "b:9100"},
    {"__name__": "temperature", "Raum": "Küche", "unit": "°C"},
]


@pytest.fixture
def fs():
    return LocalFileSystem()


def test_segment_round_trip(fs, tmp_path):
    catalog = make_catalog()
    numbered(catalog, 5000)
    catalog.publish()
    path = str(tmp_path / "1.cat")
    payload = catalog.encode_series(0, 5000)
    write_catalog_segment(fs, path, payload)
    assert read_catalog_segment(fs, path) == payload
    copy = make_catalog()
    copy.decode_series(read_catalog_segment(fs, path))
    copy.publish()
    assert read_back(copy) == read_back(catalog)
    assert Path(path).stat().st_size < 10 * 5000


def test_every_flipped_byte_and_every_cut_is_found(fs, tmp_path):
    catalog = make_catalog()
    numbered(catalog, 3)
    path = tmp_path / "1.cat"
    write_catalog_segment(fs, str(path), catalog.encode_series(0, 3))
    whole = path.read_bytes()
    for place in range(len(whole)):
        damaged = bytearray(whole)
        damaged[place] ^= 0x41
        path.write_bytes(damaged)
        with pytest.raises(CorruptionError) as error:
            read_catalog_segment(fs, str(path))
        assert error.value.path == str(path)
        path.write_bytes(whole[:place])
        with pytest.raises(CorruptionError):
            read_catalog_segment(fs, str(path))
    path.write_bytes(whole + b"x")
    with pytest.raises(CorruptionError):
        read_catalog_segment(fs, str(path))


def test_a_newer_version_is_refused_by_name(fs, tmp_path):
    path = str(tmp_path / "1.cat")
    write_sealed(fs, path, b"later", magic=catalog_file.MAGIC, version=3)
    with pytest.raises(UnsupportedFormat, match="version 3"):
        read_catalog_segment(fs, path)


def test_golden_file_of_version_1_is_read(fs):
    catalog = make_catalog()
    catalog.decode_series(read_catalog_segment(fs, str(GOLDEN)))
    catalog.publish()
    expected = [
        tuple(sorted(labels.items(), key=lambda label: label[0].encode()))
        for labels in GOLDEN_SERIES
    ]
    assert read_back(catalog) == expected
