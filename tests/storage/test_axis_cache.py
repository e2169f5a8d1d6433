"""Decoded axes that are kept: what is decoded when, what stays, what goes."""

from __future__ import annotations

import gc
from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tsengine.errors import CorruptionError
from tsengine.storage.axis_cache import AxisCache, decode_used


@dataclass(frozen=True)
class Index:
    axis_rows: np.ndarray


@dataclass(eq=False)
class Owner:
    """Axis a has the times 1000 a, 1000 a + 1, ..."""

    rows: list[int]
    decoded: list[int] = field(default_factory=list)
    damaged: int = -1

    @property
    def index(self):
        return Index(np.array(self.rows, np.uint16))

    def decode(self, axes, t_ms, positions):
        for axis, at in zip(axes.tolist(), positions.tolist(), strict=True):
            if axis == self.damaged:
                raise CorruptionError("damaged")
            self.decoded.append(axis)
            t_ms[at : at + self.rows[axis]] = 1000 * axis + np.arange(self.rows[axis])


def check(owner, axis, starts, t_ms):
    assert len(starts) == len(axis)
    for a, start in zip(axis, starts.tolist(), strict=True):
        wanted = 1000 * a + np.arange(owner.rows[a])
        np.testing.assert_array_equal(t_ms[start : start + owner.rows[a]], wanted)


def read(cache, owner, axis):
    starts, t_ms = cache.times(owner, np.array(axis, np.uint32), owner.decode)
    check(owner, axis, starts, t_ms)
    return t_ms


@given(
    st.lists(st.integers(1, 9), min_size=1, max_size=300),
    st.lists(st.lists(st.integers(0, 299), max_size=8), max_size=6),
    st.sampled_from([0, 100, 1 << 20]),
)
def test_times_are_those_of_the_axes_and_are_decoded_once(rows, reads, size):
    owner = Owner(rows)
    cache = AxisCache(lambda: size)
    asked = set()
    for axis in reads:
        axis = [a % len(rows) for a in axis]
        read(cache, owner, axis)
        asked |= set(axis)
    if size > 16 * sum(rows):
        assert sorted(owner.decoded) == sorted(asked)
        assert cache.n_bytes == (8 * sum(rows) if reads else 0)
    for axis in reads[:1]:
        numbers = np.array(axis, np.uint32) % len(rows)
        check(owner, numbers.tolist(), *decode_used(owner.index, numbers, owner.decode))


def test_the_part_read_longest_ago_goes_first():
    cache = AxisCache(lambda: 8 * 30)
    one, two, three = Owner([10]), Owner([10]), Owner([15])
    read(cache, one, [0])
    read(cache, two, [0])
    read(cache, one, [0])
    read(cache, three, [0])
    assert cache.n_bytes == 8 * 25
    read(cache, one, [0])
    assert one.decoded == [0]
    read(cache, two, [0])
    assert two.decoded == [0, 0]


def test_large_parts_are_not_kept_and_less_room_is_kept_to():
    room = 8 * 100
    cache = AxisCache(lambda: room)
    large, small, other = Owner([60]), Owner([40]), Owner([10])
    assert read(cache, large, [0]).flags.writeable
    read(cache, large, [0])
    assert large.decoded == [0, 0]
    read(cache, small, [0])
    room = 8 * 30
    read(cache, other, [0])
    assert cache.n_bytes == 8 * 10


def test_kept_times_are_not_to_be_written():
    cache = AxisCache(lambda: 1 << 20)
    t_ms = read(cache, Owner([3]), [0])
    with pytest.raises(ValueError, match="read-only"):
        t_ms[0] = 1


def test_a_damaged_axis_is_not_kept():
    cache = AxisCache(lambda: 1 << 20)
    owner = Owner([3, 3, 3], damaged=1)
    for _ in range(2):
        with pytest.raises(CorruptionError):
            read(cache, owner, [0, 1])
    owner.damaged = -1
    read(cache, owner, [2, 1, 0, 1])


def test_nothing_stays_of_a_part_that_is_gone():
    cache = AxisCache(lambda: 1 << 20)
    owner = Owner([1000])
    read(cache, owner, [0])
    assert cache.n_bytes == 8000
    del owner
    gc.collect()
    assert cache.n_bytes == 0
