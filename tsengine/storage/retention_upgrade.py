"""Marks for a database of a version that had none: what tiers know and samples no longer do.

Nothing tells up to where such a version erased samples but what is left. Windows before the oldest
sample say that older ones are gone.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence

import numpy as np

from tsengine.errors import CorruptionError
from tsengine.model.times import MAXT
from tsengine.model.windows import Column
from tsengine.storage.head_read import HeadView
from tsengine.storage.part_reader import PartReader
from tsengine.storage.retention import shares_of, tier_shares_of
from tsengine.storage.retention_marks import COMMON, NOTHING_MS, window_start_after
from tsengine.storage.retention_policy import PolicyMoment
from tsengine.storage.retention_rules import NO_RULE, RuleGroups
from tsengine.storage.state import State
from tsengine.storage.tier_reader import TierReader

_REFS_AT_ONCE = 1 << 16
"""Series whose windows are looked at together."""


def marks_of_left(state: State, moment: PolicyMoment) -> dict[str, int]:
    """Marks, as the manifest has them, of a state that has none; empty if nothing was erased.

    Of series without a rule and of each rule that keeps no less: where the oldest samples begin,
    rounded up to a window of the widest tier, if tiers have windows of theirs before it.
    """
    tiers = [tier for tier in state.tiers if tier.entry.n_samples]
    if state.erased or not tiers:
        return {}
    groups = moment.rules.groups(state.catalog) if moment.has_rules else None
    widest_ms = max(tier.entry.width_ms for tier in state.tiers)
    numbers = {COMMON: NO_RULE}
    for number, rule in enumerate(moment.rules.rules):
        if moment.keeps_no_less(rule):
            numbers.setdefault(rule.text, number)
    marks = {
        text: _mark(state, tiers, groups, number, widest_ms) for text, number in numbers.items()
    }
    if all(mark_ms == NOTHING_MS for mark_ms in marks.values()):
        return {}
    return {text: mark_ms for text, mark_ms in marks.items() if text or mark_ms > NOTHING_MS}


def _mark(
    state: State,
    tiers: Sequence[TierReader],
    groups: RuleGroups | None,
    number: int,
    widest_ms: int,
) -> int:
    """Of the series of one rule, or of NO_RULE."""
    windows = [
        tier
        for tier in tiers
        if any(share.rule == number for share in tier_shares_of(tier, groups))
    ]
    if not windows:
        return NOTHING_MS
    oldest_ms = _oldest_sample(state, groups, number)
    if oldest_ms is None:
        oldest_ms = max(tier.entry.cover_max for tier in windows) + 1
    if groups is None and state.holes:
        # What was put aside was there; with rules nothing tells of which series it was.
        oldest_ms = min(oldest_ms, state.holes[0][0])
    if not any(_has_windows_before(tier, groups, number, oldest_ms) for tier in windows):
        return NOTHING_MS
    return window_start_after(oldest_ms, widest_ms)


def _has_windows_before(
    tier: TierReader, groups: RuleGroups | None, number: int, before_ms: int
) -> bool:
    """Whether a series of the rule has a window that ends before a time; damaged ones may have."""
    entry = tier.entry
    if entry.mint >= before_ms or groups is None:
        return entry.mint < before_ms
    refs = tier.refs[groups.of_refs(tier.refs) == number]
    for first in range(0, len(refs), _REFS_AT_ONCE):
        own = refs[first : first + _REFS_AT_ONCE]
        if not tier.count_windows(own, entry.mint, before_ms - 1):
            continue
        try:
            if tier.read(own, entry.mint, before_ms - 1, [Column.COUNT]).n_windows:
                return True
        except CorruptionError:
            return True
    return False


def _oldest_sample(state: State, groups: RuleGroups | None, number: int) -> int | None:
    """About the time of the first sample, never later; None if there is none."""
    found: list[int] = []
    for part in sorted(state.parts, key=lambda part: part.entry.mint):
        if found and part.entry.mint >= min(found):
            break
        rules = {share.rule for share in shares_of(part, groups)}
        if number in rules:
            is_alone = groups is None or len(rules) == 1
            found.append(part.entry.mint if is_alone else _first_of(part, groups, number))
    for head in (*(frozen.head for frozen in state.frozen), state.head):
        view = head.view()
        if view.n_samples and view.mint < min(found, default=MAXT):
            found += _first_of_head(view, groups, number, min(found, default=MAXT))
    return min(found, default=None)


def _first_of_head(
    view: HeadView, groups: RuleGroups | None, number: int, before_ms: int
) -> list[int]:
    """Likewise of a head, if it is before a time: one or none."""
    if groups is None:
        return [view.mint]
    refs = view.refs()
    t_ms = view.collect_bits(refs[groups.of_refs(refs) == number], view.mint, before_ms).t_ms
    return [int(t_ms.min())] if len(t_ms) else []


def _first_of(part: PartReader, groups: RuleGroups | None, number: int) -> int:
    """Likewise of a part with samples of other series too: where the first of its axes begins."""
    times = np.unique(part.index.axis_mint).tolist()

    def is_there(t_ms: int) -> bool:
        refs, _ = part.series_samples(part.entry.mint, t_ms)
        return groups is None or number in groups.of_refs(refs)

    at = bisect_left(times, True, key=is_there)
    return int(times[at]) if at < len(times) else part.entry.mint
