"""Arrays in scratch files: the same numbers at the same addresses, whatever happens meanwhile."""

from __future__ import annotations

import errno
import gc
import os
import threading
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tsengine.storage import columns, scratch
from tsengine.storage.array_bytes import array_bytes
from tsengine.storage.columns import GrowingColumn
from tsengine.storage.scratch import Memory, Scratch, bytes_of, memory_of, spilled, with_spilled

PAGE = scratch.PAGE_BYTES

pytestmark = pytest.mark.skipif(not scratch.IS_POSSIBLE, reason="Linux only")


@pytest.fixture(autouse=True)
def _small_pieces(monkeypatch):
    monkeypatch.setattr(scratch, "SPILL_BYTES_MIN", PAGE)
    monkeypatch.setattr(scratch, "_SYNC_BYTES", 3 * PAGE)
    monkeypatch.setattr(scratch, "_FREE_BYTES_MIN", 0)
    monkeypatch.setattr(columns, "_OWN_PAGES_BYTES_MIN", PAGE)
    monkeypatch.setattr(columns, "_SPILL_BYTES_MAX", 5 * PAGE)


def n_open_files():
    gc.collect()
    return len(os.listdir("/proc/self/fd"))


@dataclass(frozen=True, slots=True)
class Thing:
    number: int
    wide: np.ndarray
    none: np.ndarray
    narrow: np.ndarray


def test_a_thing_is_the_same_in_a_file(tmp_path):
    place = Scratch(str(tmp_path))
    n_files = n_open_files()
    rng = np.random.default_rng(1)
    thing = Thing(7, rng.integers(0, 2**60, 5000), np.empty(0, np.uint32), np.arange(9, dtype="u2"))

    found = with_spilled(place, thing)

    assert found.number == 7
    for name in ("wide", "none", "narrow"):
        before, after = getattr(thing, name), getattr(found, name)
        assert after.dtype == before.dtype
        assert after.flags.writeable
        np.testing.assert_array_equal(after, before)
    assert place.n_bytes >= thing.wide.nbytes
    assert array_bytes(thing.wide) == 40_000
    assert array_bytes([found.wide, found.narrow]) == 0, "files are not memory"
    assert os.listdir(tmp_path) == []
    assert n_open_files() == n_files, "what is mapped needs no descriptor"
    assert with_spilled(place, found) is found
    place.forget_touched()
    np.testing.assert_array_equal(found.wide, thing.wide)
    kept = found.wide[10:20]
    del found
    place.forget_touched()
    np.testing.assert_array_equal(kept, thing.wide[10:20])
    del kept, after
    gc.collect()
    assert place.n_bytes == 0


def test_little_stays_in_memory(tmp_path):
    place = Scratch(str(tmp_path))
    thing = Thing(1, np.arange(PAGE // 8 - 2), np.empty(0, np.uint32), np.arange(4, dtype="u2"))
    assert with_spilled(place, thing) is thing


def test_a_disk_without_room_gets_nothing(tmp_path, monkeypatch):
    place = Scratch(str(tmp_path))
    thing = Thing(1, np.arange(5000), np.empty(0, np.uint32), np.arange(4, dtype="u2"))
    monkeypatch.setattr(scratch, "_FREE_BYTES_MIN", 1 << 60)
    assert with_spilled(place, thing) is thing
    assert not Scratch(str(tmp_path)).has_room(1)


def test_memory_is_known_by_its_arrays():
    memory = Memory(10 * PAGE - 5)
    whole = bytes_of(memory)
    assert len(whole) == 10 * PAGE
    assert not whole.any()
    assert memory_of(whole[3:9].view(np.uint8)[1:]) is memory
    assert memory_of(np.zeros(3)) is None
    assert array_bytes(whole) == 10 * PAGE


def test_too_much_is_an_error_as_numpys():
    with pytest.raises(MemoryError, match="mapping"):
        Memory(1 << 60)


def test_readers_see_nothing_of_it(tmp_path):
    """Threads that sum an array all the time while it is put under a file, and forgotten."""
    place = Scratch(str(tmp_path))
    memory = Memory(400 * PAGE)
    whole = bytes_of(memory)
    whole[:] = np.arange(len(whole)) % 251
    expected = int(whole.sum(dtype=np.int64))
    stop = threading.Event()
    sums = set()

    def read():
        while not stop.is_set():
            sums.add(int(whole.sum(dtype=np.int64)))

    threads = [threading.Thread(target=read) for _ in range(3)]
    for thread in threads:
        thread.start()
    file = place.new_file()
    for start in range(0, 400, 8):
        end = (start + 8) * PAGE
        file.write(whole[start * PAGE : end], start * PAGE)
        file.put_under(memory, start * PAGE, end)
        place.forget_touched()
    file.close()
    file.close()
    stop.set()
    for thread in threads:
        thread.join()
    assert sums == {expected}
    assert int(whole.sum(dtype=np.int64)) == expected
    assert place.n_bytes == 400 * PAGE


def test_folders_without_nameless_files_do_as_well(tmp_path, monkeypatch):
    open_file = os.open

    def refuse(path, flags, *rest, **more):
        if flags & os.O_TMPFILE == os.O_TMPFILE:
            raise OSError(errno.EOPNOTSUPP, "no such files")
        return open_file(path, flags, *rest, **more)

    monkeypatch.setattr(os, "open", refuse)
    (found,) = spilled(Scratch(str(tmp_path)), [np.arange(3000)])
    assert os.listdir(tmp_path) == []
    np.testing.assert_array_equal(found, np.arange(3000))


def test_a_file_system_that_does_not_map_is_asked_elsewhere_first(tmp_path, monkeypatch):
    place = Scratch(str(tmp_path))
    memory = Memory(4 * PAGE)
    file = place.new_file()
    file.write(bytes_of(memory), 0)

    def refuse(*_, **__):
        raise OSError(errno.ENODEV, "no such mapping")

    with monkeypatch.context() as patch:
        patch.setattr(scratch.mmap, "mmap", refuse)
        patch.setattr(scratch, "_map_fixed", lambda *_: pytest.fail("in place of the memory"))
        with pytest.raises(OSError, match="no such mapping"):
            file.put_under(memory, 0, 4 * PAGE)
    assert (memory.n_given_back, place.n_bytes) == (0, 0)
    file.put_under(memory, 0, 4 * PAGE)
    assert place.n_bytes == 4 * PAGE
    file.close()


def grown(column, values, n_used):
    """Append values as the catalog does: grow, then write behind what is used."""
    column.grow(n_used, n_used + len(values))
    column.array[n_used : n_used + len(values)] = values
    return n_used + len(values)


steps = st.lists(
    st.one_of(st.tuples(st.just("add"), st.integers(0, 6000)), st.just(("spill", 0)),
              st.just(("fail", 0)), st.just(("grow between", 3000)), st.just(("forget", 0))),
    max_size=14,
)  # fmt: skip


@settings(max_examples=60, deadline=None)
@given(steps=steps, dtype=st.sampled_from([np.uint8, np.uint32, np.int64]))
def test_a_column_keeps_its_numbers(tmp_path_factory, steps, dtype):
    place = Scratch(str(tmp_path_factory.getbasetemp()))
    column = GrowingColumn(dtype, 256)
    rng = np.random.default_rng(len(steps))
    expected = np.empty(0, dtype)
    readers = []

    def add(n):
        nonlocal expected
        values = rng.integers(0, 250, n).astype(dtype)
        grown(column, values, len(expected))
        expected = np.append(expected, values)

    for step, n in steps:
        if step == "add":
            add(n)
            readers.append((column.array, len(expected)))
        elif step == "forget":
            place.forget_touched()
        else:
            part = column.part_to_spill(len(expected))
            if part is None:
                continue
            assert len(part.content) % PAGE == 0
            if step == "fail":
                with pytest.MonkeyPatch.context() as patch:
                    patch.setattr(os, "fdatasync", _no_space)
                    with pytest.raises(OSError, match="full"):
                        column.write(place, part)
                continue
            column.write(place, part)
            if step == "grow between":
                add(n)
            column.place(part)
        np.testing.assert_array_equal(column.array[: len(expected)], expected)
    for array, n in readers:
        np.testing.assert_array_equal(array[:n], expected[:n])


def _no_space(fd):
    raise OSError(errno.ENOSPC, "full")


def test_a_column_that_was_spilled_takes_no_memory(tmp_path):
    place = Scratch(str(tmp_path))
    column = GrowingColumn(np.int64, 256)
    values = np.arange(20_000)
    n_used = 0
    for start in range(0, 20_000, 700):
        n_used = grown(column, values[start : start + 700], n_used)
    before = array_bytes(column)
    assert before >= 160_000
    while (part := column.part_to_spill(n_used)) is not None:
        column.write(place, part)
        column.place(part)
    assert array_bytes(column) <= before - 160_000 + PAGE
    n_used = grown(column, values, n_used)
    assert place.n_bytes >= 160_000 - PAGE
    np.testing.assert_array_equal(column.array[:n_used], np.tile(values, 2))


def test_a_file_that_can_not_be_mapped_again_is_copied(tmp_path, monkeypatch):
    place = Scratch(str(tmp_path))
    column = GrowingColumn(np.int64, 256)
    n_used = grown(column, np.arange(6000), 0)
    part = column.part_to_spill(n_used)
    column.write(place, part)
    column.place(part)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scratch, "_map_fixed", _no_mapping)
        n_used = grown(column, np.arange(60_000), n_used)
    expected = np.append(np.arange(6000), np.arange(60_000))
    np.testing.assert_array_equal(column.array[:n_used], expected)
    part = column.part_to_spill(n_used)
    assert part.first == 0, "all is in memory again"
    column.write(place, part)
    column.place(part)
    np.testing.assert_array_equal(column.array[:n_used], expected)


def _no_mapping(*_):
    raise OSError(errno.ENOMEM, "too many mappings")
