"""The table of a part's components: what each of their virtual series is. Bytes and checks, no I/O.

The format is described in docs/format/components.md.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum

import numpy as np
import numpy.typing as npt

from tsengine.errors import CorruptionError, UnsupportedFormat
from tsengine.kernels.histogramcolumns import FIRST_SPECIAL
from tsengine.model.histograms import CUSTOM_SCHEMA, KEY_BIAS, SCHEMA_MAX, SCHEMA_MIN
from tsengine.storage.part_format import check_sections, decode_section, decode_sections
from tsengine.storage.part_format import encode_sections as _encode_sections
from tsengine.storage.pieces import I64Array, U32Array, offsets_of

VERSION = 1
MAGIC = b"tseCOMP\n"
_HEADER = struct.Struct("<8sIHH")

COUNT_KEY = FIRST_SPECIAL
SUM_KEY = FIRST_SPECIAL + 1
ZERO_COUNT_KEY = FIRST_SPECIAL + 2
HINT_KEY = FIRST_SPECIAL + 3
START_KEY = FIRST_SPECIAL + 4
"""Keys of components that are no bucket; they stand before all buckets."""

START_MS_MAX = 2**53
"""Start timestamps of a greater magnitude are not kept: doubles do not tell them apart."""

_U32_MAX = 2**32 - 1


class Section(IntEnum):
    """Columns of the table. 0 is reserved; a reader skips numbers it does not know."""

    REF = 1
    LAYOUT = 2
    KEY = 3
    LAYOUT_SCHEMA = 4
    LAYOUT_THRESHOLD = 5
    LAYOUT_BOUNDS = 6
    BOUND = 7


_DELTA_SECTIONS = frozenset({Section.REF, Section.LAYOUT, Section.KEY})


@dataclass(frozen=True, slots=True)
class Layouts:
    """What histograms of one series have in common as a rule; layout l is number l + 1 in files.

    ``schema: i8[L]``, ``zero_threshold: f64[L]``, ``bounds_offsets: i64[L + 1]`` into
    ``bounds: f64[B]``; exponential layouts have none.
    """

    schema: npt.NDArray[np.int8]
    zero_threshold: npt.NDArray[np.float64]
    bounds_offsets: I64Array
    bounds: npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class ComponentTable:
    """C components, strictly ascending by (ref, layout, key); virtual series c is row c.

    ``refs: u32[C]``, ``keys: i32[C]``, ``layouts: i64[C]`` (0: start timestamps, else 1 + index).
    """

    refs: U32Array
    layouts: I64Array
    keys: npt.NDArray[np.int32]
    layout_table: Layouts

    def __len__(self) -> int:
        return len(self.refs)


def encode_table(table: ComponentTable) -> bytes:
    """The whole file `table`."""
    layouts = table.layout_table
    columns: dict[int, I64Array] = {
        Section.REF: table.refs.astype(np.int64),
        Section.LAYOUT: table.layouts,
        Section.KEY: table.keys.astype(np.int64),
        Section.LAYOUT_SCHEMA: layouts.schema.astype(np.int64),
        Section.LAYOUT_THRESHOLD: layouts.zero_threshold.view(np.int64),
        Section.LAYOUT_BOUNDS: np.diff(layouts.bounds_offsets),
        Section.BOUND: layouts.bounds.view(np.int64),
    }
    return _encode_sections(_HEADER.pack(MAGIC, VERSION, len(columns), 0), columns, _DELTA_SECTIONS)


def decode_table(data: bytes, path: str) -> ComponentTable:
    """What `encode_table` was given, every number checked.

    Raises
    ------
    CorruptionError
        A checksum is wrong or a number breaks the rules of the format.
    UnsupportedFormat
        A newer version wrote the file.

    """
    if len(data) < _HEADER.size or data[: len(MAGIC)] != MAGIC:
        raise CorruptionError("this is not a table of components", path=path, offset=0)
    _, version, n_sections, _ = _HEADER.unpack_from(data)
    check_sections(data, _HEADER.size, n_sections, path)
    if version != VERSION:
        raise UnsupportedFormat(f"{path}: version {version} is newer than {VERSION}")
    sections = decode_sections(data, _HEADER.size, n_sections, path)
    missing = set(Section) - sections.keys()
    _require(not missing, f"sections {sorted(missing)} are missing", path)
    columns = {number: decode_section(data, sections[number], path) for number in Section}
    layouts = _layouts(columns, path)
    refs, layout, keys = (columns[s] for s in (Section.REF, Section.LAYOUT, Section.KEY))
    _require(len(refs) == len(layout) == len(keys), "columns differ in length", path)
    _require(_within(refs, 0, _U32_MAX), "a series out of range", path)
    _require(_within(layout, 0, len(layouts.schema)), "a layout that is not there", path)
    _require(_within(keys, FIRST_SPECIAL, 2 * KEY_BIAS), "a key out of range", path)
    is_bucket = keys > START_KEY
    _require(_within(np.abs(keys[is_bucket]), 1, 2 * KEY_BIAS), "a bucket out of range", path)
    _require(bool(((layout == 0) == (keys == START_KEY)).all()), "a key without layout", path)
    same_ref = refs[1:] == refs[:-1]
    same_group = same_ref & (layout[1:] == layout[:-1])
    ascends = np.where(
        same_group,
        keys[1:] > keys[:-1],
        np.where(same_ref, layout[1:] > layout[:-1], refs[1:] > refs[:-1]),
    )
    _require(bool(ascends.all()), "components do not ascend", path)
    # Every group starts with the counts, whose rows are those of the group.
    is_first = np.append(True, ~same_group)[: len(keys)]
    is_fine = (keys[is_first] == COUNT_KEY) | (layout[is_first] == 0)
    _require(bool(is_fine.all()), "histograms without a count", path)
    return ComponentTable(refs.astype(np.uint32), layout, keys.astype(np.int32), layouts)


def _layouts(columns: dict[Section, I64Array], path: str) -> Layouts:
    schema, sizes = columns[Section.LAYOUT_SCHEMA], columns[Section.LAYOUT_BOUNDS]
    threshold, bounds = columns[Section.LAYOUT_THRESHOLD], columns[Section.BOUND]
    _require(len(schema) == len(sizes) == len(threshold), "layouts differ in length", path)
    is_custom = schema == CUSTOM_SCHEMA
    is_known = is_custom | ((schema >= SCHEMA_MIN) & (schema <= SCHEMA_MAX))
    _require(bool(is_known.all()), "a schema that is not known", path)
    _require(_within(sizes, 0, _U32_MAX), "a number of bounds out of range", path)
    _require(int(sizes.sum()) == len(bounds), "number of bounds", path)
    _require(not sizes[~is_custom].any(), "bounds of an exponential layout", path)
    return Layouts(
        schema.astype(np.int8), threshold.view(np.float64), offsets_of(sizes),
        bounds.view(np.float64),
    )  # fmt: skip


def _within(column: I64Array, low: int, high: int) -> bool:
    return len(column) == 0 or (int(column.min()) >= low and int(column.max()) <= high)


def _require(holds: bool, what: str, path: str) -> None:
    if not holds:
        raise CorruptionError(f"the table is inconsistent: {what}", path=path)
