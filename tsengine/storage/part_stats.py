"""Statistics of blocks as columns of the index. Stored for queries that can do without samples.

Neighbouring statistics are alike (a gauge that never moved has one value four times), so they are
stored as the exclusive or of their bits, which is zero where they are equal.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from tsengine.codecs.block import BlockStats
from tsengine.storage.part_format import Section
from tsengine.storage.pieces import I64Array

STATISTICS = (
    Section.STAT_MISSING,
    Section.STAT_FLAGS,
    Section.STAT_FIRST,
    Section.STAT_LAST,
    Section.STAT_MIN,
    Section.STAT_MAX,
    Section.STAT_SUM,
    Section.STAT_RESETS,
)


def columns_of_stats(stats: BlockStats, sizes: I64Array) -> dict[int, I64Array]:
    """Columns of the index, one item a payload; ``sizes: i64[B]`` its samples."""
    first, last = _bits(stats.first), _bits(stats.last)
    return {
        Section.STAT_MISSING: sizes - stats.count,
        Section.STAT_FLAGS: stats.flags.astype(np.int64),
        Section.STAT_FIRST: first,
        Section.STAT_LAST: last ^ first,
        Section.STAT_MIN: _bits(stats.vmin) ^ first,
        Section.STAT_MAX: _bits(stats.vmax) ^ last,
        Section.STAT_SUM: _bits(stats.vsum),
        Section.STAT_RESETS: _bits(stats.reset_sum),
    }


def stats_of_columns(columns: Mapping[int, I64Array], sizes: I64Array) -> BlockStats:
    """What `columns_of_stats` was given."""
    first = columns[Section.STAT_FIRST]
    last = columns[Section.STAT_LAST] ^ first
    return BlockStats(
        count=sizes - columns[Section.STAT_MISSING],
        first=first.view(np.float64),
        last=last.view(np.float64),
        vmin=(columns[Section.STAT_MIN] ^ first).view(np.float64),
        vmax=(columns[Section.STAT_MAX] ^ last).view(np.float64),
        vsum=columns[Section.STAT_SUM].view(np.float64),
        reset_sum=columns[Section.STAT_RESETS].view(np.float64),
        flags=columns[Section.STAT_FLAGS].astype(np.uint32),
    )


def _bits(values: npt.NDArray[np.float64]) -> I64Array:
    return np.ascontiguousarray(values).view(np.int64)
