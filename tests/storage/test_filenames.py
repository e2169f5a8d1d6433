"""Names and their inverses."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tsengine.storage import filenames as names

PAIRS = [
    (names.wal_name, names.parse_wal_name, "0000000007.wal"),
    (names.part_name, names.parse_part_name, "0000000007"),
    (names.catalog_name, names.parse_catalog_name, "0000000007.cat"),
    (names.metadata_name, names.parse_metadata_name, "0000000007.meta"),
]


@pytest.mark.parametrize(("make", "parse", "seven"), PAIRS)
def test_names_have_ten_digits_and_parse_back(make, parse, seven):
    assert make(7) == seven
    for number in (0, 7, 10**10 - 1, 10**10, 10**15):
        assert parse(make(number)) == number
    assert [make(n) for n in (1, 9, 10, 100)] == sorted(make(n) for n in (100, 10, 9, 1))


@pytest.mark.parametrize(("make", "parse", "seven"), PAIRS)
def test_other_names_are_not_ours(make, parse, seven):
    others = {seven for _, _, seven in PAIRS} - {seven}
    for other in [*others, "", "7", seven + ".damaged", seven + ".tmp", "x" + seven, " " + seven,
                  "00000000007" + seven[10:], "-000000007" + seven[10:], seven + "\n",
                  "٠٠٠٠٠٠٠٠٠٧" + seven[10:]]:  # fmt: skip
        assert parse(other) is None


@given(st.text(max_size=20))
def test_any_text_parses_only_to_itself(text):
    for make, parse, _ in PAIRS:
        number = parse(text)
        assert number is None or make(number) == text


def test_paths():
    assert names.manifest_path("d") == "d/manifest"
    assert names.manifest_tmp_path("d") == "d/manifest.tmp"
    assert names.lock_path("d") == "d/lock"
    assert names.wal_dir("d") == "d/wal"
    assert names.wal_path("d", 3) == "d/wal/0000000003.wal"
    assert names.part_dir("d", "0000000001") == "d/parts/0000000001"
    assert names.catalog_path("d", "0000000001.cat") == "d/catalog/0000000001.cat"
    assert names.metadata_path("d", "0000000001.meta") == "d/metadata/0000000001.meta"
    assert names.damaged_path("d/x") == "d/x.damaged"
