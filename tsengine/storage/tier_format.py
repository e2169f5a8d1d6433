"""What an index of a tier's part says besides that of any part. Bytes and checks, no I/O.

The format is described in docs/format/tiers.md. A tier's part is a part whose series are
**virtual**: one for each stored column of each series, in the order of (series, column).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tsengine.errors import CorruptionError, UnsupportedFormat
from tsengine.model.windows import FLOAT_COLUMNS, HISTOGRAM_COLUMNS, Column
from tsengine.storage import part_format
from tsengine.storage.part_format import Section, SectionEntry
from tsengine.storage.pieces import I64Array, U32Array, offsets_of
from tsengine.storage.tier_columns import SPARSE_COLUMNS
from tsengine.storage.tier_doubts import Doubts

MaskArray = npt.NDArray[np.uint32]

VERSION = 1
STORED_COLUMNS = FLOAT_COLUMNS | HISTOGRAM_COLUMNS
"""What `write_tier_part` wants of every chunk."""

_DAY_MS = 86_400_000
LADDER_MS = tuple(
    n * unit
    for unit, numbers in ((_DAY_MS, (360, 180, 30, 15, 5, 1)), (3_600_000, (6, 1)))
    for n in numbers
)
"""Rungs at which axes of a tier's part are cut: its blocks are long."""

TIER_SECTIONS = (Section.TIER, Section.TIER_REFS, Section.TIER_COLUMNS, Section.TIER_SPARSE)
_KNOWN_MASK = sum(1 << column for column in Column)
_SPARSE_MASK = sum(1 << column for column in SPARSE_COLUMNS)
_U32_MAX = 2**32 - 1


@dataclass(frozen=True, slots=True)
class TierTable:
    """Which columns of which series a tier's part has.

    ``refs: u32[S]`` ascending; bit c of ``masks: u32[S]`` is set if column c is stored, of
    ``sparse: u32[S]`` if with gaps; virtual series of series s are ``first[s]:first[s + 1]``
    (i64[S + 1]), in the order of columns.
    """

    refs: U32Array
    masks: MaskArray
    sparse: MaskArray
    first: I64Array

    def has(self, rows: I64Array, column: Column) -> npt.NDArray[np.bool_]:
        """Whether the column of some series is stored."""
        return _has_bit(self.masks[rows], column)

    def has_gaps(self, rows: I64Array, column: Column) -> npt.NDArray[np.bool_]:
        """Whether the column of some series is stored with gaps."""
        return _has_bit(self.sparse[rows], column)

    def virtual(self, rows: I64Array, column: Column) -> I64Array:
        """Numbers of the virtual series of a stored column of some series."""
        before = self.masks[rows] & np.uint32((1 << column) - 1)
        numbers: I64Array = self.first[rows] + np.bitwise_count(before)
        return numbers


def encode_sections(
    width_ms: int,
    cover: tuple[int, int],
    refs: U32Array,
    masks: MaskArray,
    sparse: MaskArray,
    doubts: Doubts,
) -> dict[int, I64Array]:
    """Sections of the index."""
    more: dict[int, I64Array] = {}
    if len(doubts):
        first, last = (times // width_ms for times in (doubts.mint - 1, doubts.maxt))
        more[Section.TIER_DOUBTS] = np.concatenate([doubts.owners, first, last - first])
    return more | {
        Section.TIER: np.array([VERSION, width_ms, *cover], np.int64),
        Section.TIER_REFS: refs.astype(np.int64),
        Section.TIER_COLUMNS: masks.astype(np.int64),
        Section.TIER_SPARSE: sparse.astype(np.int64),
    }


def decode_doubts(
    data: bytes,
    sections: Mapping[int, SectionEntry],
    path: str,
    *,
    width_ms: int,
    cover: tuple[int, int],
) -> Doubts:
    """The windows in doubt that `encode_sections` was given, by series.

    Raises CorruptionError if the checksum is wrong or a number breaks the rules of the format.
    """
    if Section.TIER_DOUBTS not in sections:
        return Doubts.none()
    column = part_format.decode_section(data, sections[Section.TIER_DOUBTS], path)
    _require(len(column) % 3 == 0, "windows in doubt that differ in length", path)
    owners, first, n = column.reshape(3, -1)
    low, high = (cover[0] - 1) // width_ms, cover[1] // width_ms
    is_inside = (first >= low) & (first < high) & (n >= 1) & (n <= high - first)
    _require(bool(is_inside.all()), "windows in doubt outside of the range", path)
    _require(bool(((owners >= 0) & (owners <= _U32_MAX)).all()), "a series out of range", path)
    order = owners[1:] - owners[:-1]
    follows = (order > 0) | ((order == 0) & (first[1:] > first[:-1] + n[:-1]))
    _require(bool(follows.all()), "windows in doubt that do not ascend", path)
    return Doubts(owners.copy(), first * width_ms + 1, (first + n) * width_ms)


def decode_table(
    data: bytes,
    sections: Mapping[int, SectionEntry],
    path: str,
    *,
    width_ms: int,
    cover: tuple[int, int],
) -> TierTable:
    """What `encode_sections` was given, every number checked, width and cover those expected.

    Raises
    ------
    CorruptionError
        A checksum is wrong or a number breaks the rules of the format.
    UnsupportedFormat
        A newer version wrote the part, or there are columns of one.

    """
    missing = set(TIER_SECTIONS) - sections.keys()
    _require(not missing, f"sections {sorted(missing)} are missing", path)
    tier, refs, masks, sparse = (
        part_format.decode_section(data, sections[number], path) for number in TIER_SECTIONS
    )
    _require(len(tier) > 0, "no version", path)
    if tier[0] != VERSION:
        raise UnsupportedFormat(f"{path}: version {tier[0]} of tiers is newer than {VERSION}")
    found = tier[1:].tolist()
    _require(found == [width_ms, *cover], "not the tier or range of the manifest", path)
    _require(len(refs) == len(masks) == len(sparse), "columns differ in length", path)
    if len(refs):
        _require(int(refs[0]) >= 0 and int(refs[-1]) <= _U32_MAX, "a series out of range", path)
        _require(bool((np.diff(refs) > 0).all()), "refs do not ascend", path)
        _require(int(masks.min()) >= 0, "columns out of range", path)
    _require(not (sparse & ~masks).any(), "gaps in a column that is not stored", path)
    if (masks & ~_KNOWN_MASK).any() or (sparse & ~_SPARSE_MASK).any():
        raise UnsupportedFormat(f"{path}: columns of a newer version")
    _require(bool((masks & (1 << Column.COUNT)).all()), "a series without counts", path)
    columns = masks.astype(np.uint32)
    first = offsets_of(np.bitwise_count(columns))
    return TierTable(refs.astype(np.uint32), columns, sparse.astype(np.uint32), first)


def _has_bit(masks: MaskArray, column: Column) -> npt.NDArray[np.bool_]:
    found: npt.NDArray[np.bool_] = (masks >> np.uint32(column)) & np.uint32(1) != 0
    return found


def _require(holds: bool, what: str, path: str) -> None:
    if not holds:
        raise CorruptionError(f"the table of the tier is inconsistent: {what}", path=path)
