"""What retention rules took: remembered by the lists of rules that did, whatever is in force. Pure.

A rule takes samples and windows of the series that it is the first of its list to match. When it is
made longer, goes, or comes behind another one, these series have other floors; what was taken stays
gone. So each commit that drops something by rules raises what the manifest has of their list.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tsengine.storage.retention_marks import COMMON, NOTHING_MS

EVERY = ("",)
"""The list that stands for all series: no rule has an empty selector."""
TAKEN_MAX = 16
"""Lists that are remembered; what those before took counts for all series."""


@dataclass(frozen=True, slots=True)
class Taken:
    """What the rules of one list took of their series.

    Parameters
    ----------
    rules
        Selectors, in order: the first that matches a series counts. Or `EVERY`.
    samples_ms, windows_ms
        By rule: samples, or windows of tiers, before it may be gone; NOTHING_MS: none are.

    """

    rules: tuple[str, ...]
    samples_ms: tuple[int, ...]
    windows_ms: tuple[int, ...]

    @property
    def is_empty(self) -> bool:
        """Whether nothing was taken."""
        return all(t_ms == NOTHING_MS for t_ms in (*self.samples_ms, *self.windows_ms))

    def and_more(self, more: Taken) -> Taken:
        """Both, of one list."""
        return Taken(
            self.rules,
            tuple(map(max, self.samples_ms, more.samples_ms)),
            tuple(map(max, self.windows_ms, more.windows_ms)),
        )

    def of_every(self) -> Taken:
        """The same, as if it had been taken of all series."""
        return Taken(EVERY, (max(self.samples_ms),), (max(self.windows_ms),))


def with_more(taken: Sequence[Taken], more: Taken | None) -> tuple[Taken, ...]:
    """What is remembered once a commit has taken more; the list that did so last comes last."""
    if more is None:
        return tuple(taken)
    others = [one for one in taken if one.rules != more.rules]
    for one in taken:
        if one.rules == more.rules:
            more = one.and_more(more)
    found = [*others, more]
    while len(found) > TAKEN_MAX:
        found[:2] = [found[0].of_every().and_more(found[1].of_every())]
    return tuple(found)


def still_needed(
    taken: Sequence[Taken], erased: Mapping[str, int], first_window_ms: int
) -> tuple[Taken, ...]:
    """What is to be remembered on: not what is gone of all series anyway.

    Samples before the lowest mark may be (``erased``, as the manifest has them), and no part of a
    tier has windows before ``first_window_ms``.
    """
    lost_ms = min(erased.values()) if COMMON in erased else NOTHING_MS
    left = [
        Taken(
            one.rules,
            tuple(t_ms if t_ms > lost_ms else NOTHING_MS for t_ms in one.samples_ms),
            tuple(t_ms if t_ms > first_window_ms else NOTHING_MS for t_ms in one.windows_ms),
        )
        for one in taken
    ]
    return tuple(one for one in left if not one.is_empty)
