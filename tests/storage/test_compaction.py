"""Merging keeps exactly the samples that a read of the inputs gives, split by partition."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.reference import samples
from tests.reference.samples import Model
from tests.reference.unsynced import UnsyncedFileSystem
from tsengine.errors import Closed
from tsengine.storage import compaction
from tsengine.storage.compaction import merge_parts
from tsengine.storage.compaction_plan import partition_of
from tsengine.storage.part_reader import PartReader
from tsengine.storage.part_writer import write_part

DAY = 86_400_000
FS = UnsyncedFileSystem()


def write(folder: str, number: int, model: Model) -> PartReader:
    entry = write_part(
        FS, folder, f"{number:010d}", [samples.columns_of(model)],
        targets=no_targets, seq_min=number * 10, seq_max=number * 10 + 9, level=0,
    )  # fmt: skip
    assert entry is not None
    return PartReader.open(FS, f"{folder}/{number:010d}", entry)


def no_targets(refs):
    return np.full(len(refs), -1)


def names(first: int) -> Iterator[str]:
    while True:
        yield f"{first:010d}"
        first += 1


def models() -> st.SearchStrategy[Model]:
    times = st.one_of(
        st.integers(0, 40), st.integers(DAY - 3, DAY + 3), st.integers(-2 * DAY, 3 * DAY)
    )
    values = st.integers(0, 2**64 - 1)
    return st.dictionaries(
        st.integers(0, 2**32 - 1) | st.integers(0, 5),
        st.dictionaries(times, values, min_size=1, max_size=12),
        min_size=1,
        max_size=6,
    )


@settings(max_examples=60, deadline=None)
@given(
    st.lists(models(), min_size=1, max_size=4),
    st.sampled_from([None, 0, 20, DAY + 1, 10 * DAY]),
    st.sampled_from([1, 5, 1 << 20]),
)
def test_a_merge_keeps_the_samples(tmp_path_factory, parts, cut, chunk):
    folder = str(tmp_path_factory.mktemp("parts"))
    readers = [write(folder, number, model) for number, model in enumerate(parts)]
    told: list[int] = []
    new_names = names(100)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compaction, "CHUNK_SAMPLES", chunk)
        entries = merge_parts(
            FS, readers, folder, lambda: next(new_names),
            targets=no_targets, cut_before_ms=cut, level=1, progress=told.append,
        )  # fmt: skip
    expected = samples.merged(parts)
    low = -(2**63) if cut is None else cut
    expected = samples.clipped(expected, sorted(expected), low, 2**63 - 1)
    by_partition: dict[int, Model] = {}
    for ref, own in expected.items():
        for t, bits in own.items():
            by_partition.setdefault(partition_of(t), {}).setdefault(ref, {})[t] = bits
    assert len(entries) == len(by_partition)
    for entry, (partition, model) in zip(entries, sorted(by_partition.items()), strict=True):
        reader = PartReader.open(FS, f"{folder}/{entry.name}", entry)
        assert samples.model_of(reader.collect(None, -(2**63), 2**63 - 1)) == model
        assert partition_of(entry.mint) == partition_of(entry.maxt) == partition
        assert entry.level == 1
        inside = [
            r.entry for r, m in zip(readers, parts, strict=True)
            if any(partition_of(t) == partition and t >= low for own in m.values() for t in own)
        ]  # fmt: skip
        assert entry.seq_min <= min(e.seq_min for e in inside)
        assert entry.seq_max >= max(e.seq_max for e in inside)
        reader.verify()
        reader.close()
    assert told == sorted(told)
    assert (told[-1] if told else 0) == sum(len(own) for own in expected.values())
    for reader in readers:
        reader.close()


def test_a_cancelled_merge_raises_and_leaves_nothing(tmp_path):
    reader = write(str(tmp_path), 1, {1: {5: 6}})
    cancel = threading.Event()
    cancel.set()
    with pytest.raises(Closed, match="given up"):
        merge_parts(
            FS, [reader], str(tmp_path), lambda: "0000000002",
            targets=no_targets, cut_before_ms=None, level=1, cancel=cancel,
        )  # fmt: skip
    assert FS.listdir(str(tmp_path)) == ["0000000001"]
    reader.close()


def test_a_failed_merge_removes_what_it_wrote(tmp_path):
    good = write(str(tmp_path), 1, {1: {5: 6, 5 + DAY: 7}})

    def fail_on_second_day(refs):
        if FS.exists(str(tmp_path / "0000000003")):
            raise OSError(28, "No space left on device")
        return no_targets(refs)

    new_names = names(2)
    with pytest.raises(OSError, match="No space"):
        merge_parts(
            FS, [good], str(tmp_path), lambda: next(new_names),
            targets=fail_on_second_day, cut_before_ms=None, level=1,
        )  # fmt: skip
    assert FS.listdir(str(tmp_path)) == ["0000000001"]
    good.close()
