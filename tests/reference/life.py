"""What a database must hold, as dictionaries: samples, windows, exemplars, metadata.

A series is told by its label ``s``. `found_in` reads the same out of a database; the two are
compared with ``==``. Windows are made of the samples by the slow twins of the kernels, so a tier
that differs from what raw samples would give is found.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from tests.reference import rich_samples as rich
from tests.reference import tiers
from tests.reference.rich_samples import Histogram, Sample
from tests.reference.samples import STALE
from tests.reference.windowtiers import end_of
from tsengine.model.labels import label_dicts
from tsengine.model.windows import FLOAT_COLUMNS, Column
from tsengine.storage import select
from tsengine.storage.database import StorageDatabase

DAY_MS = 86_400_000
T0 = 20_010 * DAY_MS
"""The middle of a partition of 30 days."""
EVER = (-(2**63), 2**63 - 1)
NEVER = -(2**63)
H_COLUMNS = (Column.H_COUNT, Column.H_FIRST_T, Column.H_LAST_T, Column.H_FIRST, Column.H_LAST)
Windows = dict[str, dict[int, dict[Column, object]]]


@dataclass
class Life:
    """What was acknowledged and is still to be there.

    Parameters
    ----------
    samples
        By series and time: bits or a histogram, and the start timestamp.
    exemplars, metadata
        Series and time of each exemplar; help texts by metric.
    floor_ms, floors_ms
        Samples before the first are past the retention, windows stay. A series with a rule has its
        own instead, before which nothing is left.

    """

    samples: dict[str, dict[int, Sample]] = field(default_factory=dict)
    exemplars: set[tuple[str, int]] = field(default_factory=set)
    metadata: dict[str, str] = field(default_factory=dict)
    floor_ms: int = NEVER
    floors_ms: dict[str, int] = field(default_factory=dict)

    def copy(self) -> Life:
        """One that may be changed."""
        return Life(
            {name: dict(own) for name, own in self.samples.items()}, set(self.exemplars),
            dict(self.metadata), self.floor_ms, dict(self.floors_ms),
        )  # fmt: skip

    def append(self, rows: Iterable[tuple[str, int, Sample]]) -> None:
        """Later samples win."""
        for name, t, sample in rows:
            self.samples.setdefault(name, {})[t] = sample

    def delete(self, names: Iterable[str], mint: int, maxt: int) -> None:
        """What was appended so far, in a closed range."""
        gone = set(names)
        for name in gone & self.samples.keys():
            own = self.samples[name]
            self.samples[name] = {t: s for t, s in own.items() if not mint <= t <= maxt}
        self.exemplars = {
            (name, t) for name, t in self.exemplars if name not in gone or not mint <= t <= maxt
        }

    def kept(self) -> dict[str, dict[int, Sample]]:
        """Samples that reads give."""
        found = {}
        for name, own in self.samples.items():
            floor = self.floors_ms.get(name, self.floor_ms)
            left = {t: sample for t, sample in own.items() if t >= floor}
            if left:
                found[name] = left
        return found

    def windows(self, width_ms: int, mint: int, maxt: int) -> Windows:
        """Windows that reads give: those of samples that are past the retention of all, too."""
        found: Windows = {}
        for name, samples in self.samples.items():
            floor = max(mint, self.floors_ms.get(name, NEVER))
            own = {t: value for t, (value, _) in samples.items() if floor <= t <= maxt}
            if own:
                found[name] = _windows_of(tuple(sorted(own.items())), width_ms)
        return found

    def content(self, widths_ms: Sequence[int], mint: int, maxt: int) -> Content:
        """As `found_in` has it."""
        return Content(
            self.kept(),
            {width_ms: self.windows(width_ms, mint, maxt) for width_ms in widths_ms},
            self.exemplars,
            self.metadata,
        )


@dataclass(frozen=True)
class Content:
    """All that is compared."""

    samples: dict[str, dict[int, Sample]]
    windows: dict[int, Windows]
    exemplars: set[tuple[str, int]]
    metadata: dict[str, str]


def found_in(database: StorageDatabase, widths_ms: Sequence[int], mint: int, maxt: int) -> Content:
    """What a database holds; windows of whole days in the closed range."""
    view = database.view()
    refs = view.live(view.all_refs(), *EVER)
    names = [labels["s"] for labels in label_dicts(view.catalog, view.labels(refs))]
    assert len(set(names)) == len(names), "two series of one name"
    by_ref = dict(zip(refs.tolist(), names, strict=True))
    columns = select.read_columns(
        view._parts, view._heads, refs, *EVER, with_start=True, mask=view._mask
    )
    floor = NEVER if view._floor_ms is None else view._floor_ms
    samples = {}
    for ref, own in rich.model_of(columns).items():
        left = {t: sample for t, sample in own.items() if t >= floor}
        if left:
            samples[by_ref[ref]] = left
    exemplars = database.exemplars.view().find(refs, *EVER)
    return Content(
        samples,
        {
            width_ms: _read_windows(view, refs, names, width_ms, mint, maxt)
            for width_ms in widths_ms
        },
        {
            (by_ref[ref], t)
            for ref, t in zip(exemplars.refs.tolist(), exemplars.t_ms.tolist(), strict=True)
        },
        {entry.metric: entry.help for entry in database.metadata.entries()},
    )


def difference(found: Content, expected: Content) -> str:
    """Where the two differ, for people; empty if they do not."""
    lines = []
    for what in ("samples", "exemplars", "metadata"):
        lines += _lines(what, getattr(found, what), getattr(expected, what))
    for width_ms in expected.windows:
        lines += _lines(
            f"windows of {width_ms}", found.windows[width_ms], expected.windows[width_ms]
        )
    return "\n".join(lines)


def _lines(what: str, found: object, expected: object) -> list[str]:
    if found == expected:
        return []
    if not isinstance(found, dict) or not isinstance(expected, dict):
        return [f"{what}: found {found}, expected {expected}"[:500]]
    lines = []
    for key in sorted(found.keys() | expected.keys(), key=str):
        lines += _lines(f"{what} {key}", found.get(key), expected.get(key))
    return lines[:6]


@functools.lru_cache(maxsize=1000)
def _windows_of(
    samples: tuple[tuple[int, object], ...], width_ms: int
) -> dict[int, dict[Column, object]]:
    own = dict(samples)
    # A histogram is no float; the twin leaves it out as it does a marker.
    floats = {t: STALE if isinstance(value, Histogram) else value for t, value in own.items()}
    found: dict[int, dict[Column, object]] = tiers.windows_of({0: floats}, width_ms)[0]
    inside: dict[int, list[int]] = {}
    for t in sorted(own):
        inside.setdefault(end_of(t, width_ms), []).append(t)
    for end, times in inside.items():
        held = [t for t in times if isinstance(own[t], Histogram)]
        found[end] = found[end] | {
            Column.STALE: rich.bits(float(own[times[-1]] == STALE)),
            Column.H_COUNT: rich.bits(float(len(held))),
            Column.H_FIRST_T: held[0] if held else 0,
            Column.H_LAST_T: held[-1] if held else 0,
            Column.H_FIRST: own[held[0]] if held else None,
            Column.H_LAST: own[held[-1]] if held else None,
        }
    return found


def _read_windows(
    view, refs: np.ndarray, names: list[str], width_ms: int, mint: int, maxt: int
) -> Windows:
    batch = view.read_windows(refs, width_ms, mint, maxt, FLOAT_COLUMNS | set(H_COLUMNS))
    floats = replace(batch, columns={c: batch.columns[c] for c in FLOAT_COLUMNS})
    by_ref = dict(zip(refs.tolist(), names, strict=True))
    found: Windows = {
        by_ref[ref]: own for ref, own in tiers.windows_in(floats, refs.tolist()).items()
    }
    table = [] if batch.histograms is None else rich.rows_of_table(batch.histograms)
    for row, name in enumerate(names):
        first, end = batch.row_offsets[row : row + 2].tolist()
        axis = int(batch.row_axis[row])
        ends = batch.end_ms[slice(*batch.axis_offsets[axis : axis + 2])].tolist()
        for at, window_end in zip(range(first, end), ends, strict=True):
            for column in H_COLUMNS:
                found[name][window_end][column] = _value_of(
                    batch.columns[column], at, column, table
                )
    return found


def _value_of(column: np.ndarray, at: int, which: Column, table: list[Histogram]) -> object:
    if which in (Column.H_FIRST_T, Column.H_LAST_T):
        return int(column[at])
    bits = int(column.view(np.uint64)[at])
    if which == Column.H_COUNT:
        return bits
    return table[bits & 0xFFFFFFFFFFFF] if rich.is_handle(np.array([bits], np.uint64))[0] else None
