"""What is past its retention: floors, and what is to go. Pure; the clock decides, not the data.

Times before a floor are gone: reads do not see them at once, files lose them later. Samples have a
floor by their series: that of the first rule that matches it, else that of all (`retention`). Tiers
have floors of their own; of series with a rule they keep nothing longer than the rule does.

Two floors are kept apart: a floor says what is *hidden*, and follows clock and options; samples
are *complete* from the later of it and the mark of what was erased (`retention_marks`), or of what
rules took that the series had before (`retention_taken`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from tsengine.storage.holes import outside
from tsengine.storage.manifest import PartEntry, TierEntry
from tsengine.storage.mask import ALL_SEQUENCES, Mask
from tsengine.storage.part_reader import PartReader
from tsengine.storage.retention_marks import Marks, window_start, window_start_after
from tsengine.storage.retention_overlaps import Below, FirstKept
from tsengine.storage.retention_past import PastGroup, PastGroups
from tsengine.storage.retention_rules import NO_RULE, Rule, RuleGroups, SeriesGroups
from tsengine.storage.tier_map import Span, TierMap, touched_spans
from tsengine.storage.tier_reader import TierReader
from tsengine.storage.tier_stretches import Loss
from tsengine.storage.tiering_plan import available_spans
from tsengine.storage.tombstones import Tombstone

DAY_MS = 86_400_000
MIN_MS = -(2**63)
"""The floor of what is kept for ever."""


@dataclass(frozen=True, slots=True)
class SampleFloors:
    """Floors of samples at one moment; MIN_MS for none.

    Parameters
    ----------
    common_ms
        Of series without a rule.
    groups
        The rules of the series; None if there are no rules.
    by_rule
        Of the series of each rule.
    marks
        Up to where samples of either may be gone, whatever the floors say.
    past
        Series by what rules took of them; None while that is hidden by the floors.
    is_tierless
        No tier has anything or is to have it. What is hidden is not missed then.

    """

    common_ms: int
    groups: RuleGroups | None
    by_rule: tuple[int, ...]
    marks: Marks = field(default_factory=Marks)
    past: PastGroups | None = None
    is_tierless: bool = False

    @property
    def lowest_ms(self) -> int:
        """Of no series samples before it are kept."""
        return min([self.common_ms, *(floor for _, floor in self._of_rules())])

    @property
    def highest_ms(self) -> int:
        """Of every series samples from it on are kept; rules count though they match nothing."""
        return max([self.common_ms, *self.by_rule])

    @property
    def rules(self) -> tuple[Rule, ...]:
        """Those that ``by_rule`` is of."""
        return () if self.groups is None else self.groups.rules

    @property
    def complete_ms(self) -> int:
        """From when on the samples of series without a rule are complete."""
        if self.is_tierless and self.marks.common_ms <= self.common_ms:
            return MIN_MS
        return max(self.common_ms, self.marks.common_ms)

    @property
    def longer(self) -> list[tuple[npt.NDArray[np.uint32], int]]:
        """Series that are complete from another time on, u32[S] ascending: of longer rules, say."""
        groups: SeriesGroups | None = self.groups
        times = [self._complete_from(number) for number in range(len(self.by_rule))]
        if self.past is not None:
            groups = self.past
            times = [self._complete_after(group) for group in self.past.groups]
        by_time: dict[int, list[int]] = {}
        for number, from_ms in enumerate(times):
            if from_ms != self.complete_ms:
                by_time.setdefault(from_ms, []).append(number)
        if groups is None or not by_time:
            return []
        found = [(groups.refs_of_any(tuple(of)), at) for at, of in sorted(by_time.items())]
        return [(refs, from_ms) for refs, from_ms in found if len(refs)]

    def _complete_from(self, number: int) -> int:
        """From when on the samples of a rule, or of NO_RULE, are complete."""
        if number == NO_RULE:
            return self.complete_ms
        floor_ms = self.by_rule[number]
        from_ms = max(floor_ms, self.marks.by_rule[number]) if self.marks.by_rule else floor_ms
        if self.is_tierless:
            return from_ms if from_ms > floor_ms else MIN_MS
        # Of shorter rules nothing is there before their floor, in tiers neither.
        is_longer = from_ms < self.complete_ms or floor_ms <= self.common_ms
        return from_ms if is_longer else self.complete_ms

    def _complete_after(self, group: PastGroup) -> int:
        """Likewise of series of which other rules took something."""
        from_ms = self._complete_from(group.rule)
        is_hidden = group.samples_ms <= self.of_rule(group.rule)
        return from_ms if is_hidden else max(from_ms, group.samples_ms)

    @property
    def losses(self) -> list[Loss]:
        """What rules took that is not hidden now, of disjoint groups of series."""
        if self.past is None:
            return []
        by_times: dict[tuple[int, int, int], list[int]] = {}
        for number, group in enumerate(self.past.groups):
            # Tiers keep for themselves what no rule is for.
            floor_ms = MIN_MS if group.rule == NO_RULE else self.by_rule[group.rule]
            if max(group.samples_ms, group.windows_ms) > floor_ms:
                times = (floor_ms, group.samples_ms, group.windows_ms)
                by_times.setdefault(times, []).append(number)
        found = [Loss(self.past.refs_of_any(tuple(of)), *times) for times, of in by_times.items()]
        return [loss for loss in found if len(loss.refs)]

    def with_marks(self, erased: Mapping[str, int]) -> SampleFloors:
        """The same floors beside what was erased, by selectors of rules."""
        if not erased and not self.rules:
            return self
        marks = Marks.of(erased, [rule.text for rule in self.rules])
        return replace(self, marks=marks)

    def rounded(self, width_ms: int) -> SampleFloors:
        """Floors at the starts of whole windows, never later: what is erased cuts none."""
        common_ms, *by_rule = [
            floor_ms if floor_ms == MIN_MS else max(MIN_MS, window_start(floor_ms, width_ms))
            for floor_ms in (self.common_ms, *self.by_rule)
        ]
        return replace(self, common_ms=common_ms, by_rule=tuple(by_rule))

    def lowered(self, first_kept: FirstKept) -> SampleFloors:
        """The same floors, but for nothing that is to be kept."""
        by_rule = [min(f, first_kept.get(number, f)) for number, f in enumerate(self.by_rule)]
        common_ms = min(self.common_ms, first_kept.get(NO_RULE, self.common_ms))
        return replace(self, common_ms=common_ms, by_rule=tuple(by_rule))

    def of_refs(self, refs: npt.NDArray[np.uint32]) -> npt.NDArray[np.int64]:
        """Floor of each series: i64[N]."""
        floors = np.array([*self.by_rule, self.common_ms], np.int64)
        if self.groups is None:
            return np.full(len(refs), self.common_ms, np.int64)
        return floors[self.groups.of_refs(refs)]

    def mask(self, deletes: Sequence[Tombstone]) -> Mask | None:
        """What deletes and floors hide, but for that of samples before the lowest floor."""
        rules = [_tombstone(refs, floor) for refs, floor in self._of_rules() if floor > MIN_MS]
        common = []
        if self.groups is not None and self.common_ms > self.lowest_ms:
            common = [_tombstone(self.groups.refs(NO_RULE), self.common_ms)]
        if not (deletes or rules or common):
            return None
        return Mask([*deletes, *rules], of_samples=common)

    def of_tiers(self) -> SampleFloors:
        """What rules alone say: of windows and exemplars, which have floors of their own."""
        return replace(self, common_ms=MIN_MS)

    def of_rule(self, number: int) -> int:
        """Floor of the series of a rule, or of NO_RULE."""
        return self.common_ms if number == NO_RULE else self.by_rule[number]

    def _of_rules(self) -> list[tuple[npt.NDArray[np.uint32], int]]:
        """Series and floor of each rule that is the rule of any."""
        if self.groups is None:
            return []
        pairs = [(self.groups.refs(k), floor) for k, floor in enumerate(self.by_rule)]
        return [(refs, floor) for refs, floor in pairs if len(refs)]


def none_for_ever(floor_ms: int) -> int | None:
    """A floor as views have it."""
    return None if floor_ms == MIN_MS else floor_ms


@dataclass(frozen=True, slots=True)
class PartShare:
    """What of a part the series of a rule, or of NO_RULE, have; samples as `series_samples`."""

    rule: int
    n_series: int
    n_samples: int


def shares_of(part: PartReader, groups: RuleGroups | None) -> tuple[PartShare, ...]:
    """A part by the rules of its series; reads nothing but its index."""
    if groups is None:
        return (PartShare(NO_RULE, len(part.refs), part.entry.n_samples),)
    refs, counts = part.series_samples(part.entry.mint, part.entry.maxt)
    of_series = groups.of_refs(refs)
    return tuple(
        PartShare(
            number,
            int(np.count_nonzero(of_series == number)),
            int(counts[of_series == number].sum()),
        )
        for number in np.unique(of_series).tolist()
    )


def tier_shares_of(tier: TierReader, groups: RuleGroups | None) -> tuple[PartShare, ...]:
    """A part of a tier by the rules of its series, each as many windows as any other."""
    entry = tier.entry
    if groups is None or entry.n_samples == 0:
        return (PartShare(NO_RULE, len(tier.refs), entry.n_samples),)
    numbers, counts = np.unique(groups.of_refs(tier.refs), return_counts=True)
    return tuple(
        PartShare(number, n_series, n_series * entry.n_samples // len(tier.refs))
        for number, n_series in zip(numbers.tolist(), counts.tolist(), strict=True)
    )


def _tombstone(refs: npt.NDArray[np.uint32], floor_ms: int) -> Tombstone:
    return Tombstone(ALL_SEQUENCES, MIN_MS, floor_ms - 1, refs)


def erase_floor(
    floor_ms: int,
    parts: Sequence[PartReader],
    tier_map: TierMap,
    tier_floors_ms: Mapping[int, int],
    heads: Sequence[Span] = (),
    *,
    mark_ms: int = MIN_MS,
    holes: Sequence[Span] = (),
    awaited: Sequence[Span] = (),
    given_up: Mapping[int, Sequence[Span]] | None = None,
) -> int:
    """Samples before it, at most ``floor_ms``, may be erased: all tiers that keep longer have them.

    ``tier_floors_ms`` are those of the tiers that are configured, by width; ``heads`` closed ranges
    in which heads may have samples, which no tier has yet; ``mark_ms`` up to where samples may be
    gone, ``holes`` where they are missing, ``awaited`` where windows may come back, ``given_up``
    where, by width, none are to be. Windows before it that can't be built are not waited for.
    """
    starts = [
        window_start(max(mint, tier_floor_ms), width_ms)
        for mint, maxt in heads
        for width_ms, tier_floor_ms in tier_floors_ms.items()
        if mint < floor_ms and maxt >= tier_floor_ms
    ]
    floor_ms = min([floor_ms, *starts])
    old = [part for part in parts if part.entry.mint < floor_ms]
    if not old:
        return floor_ms
    spans = np.concatenate([touched_spans(part) for part in old])
    low = int(spans[:, 0].min())
    for width_ms, tier_floor_ms in tier_floors_ms.items():
        first = max(window_start(low, width_ms), window_start_after(tier_floor_ms, width_ms))
        last = window_start(floor_ms - 1, width_ms) + width_ms - 1
        if first > last:
            continue
        buildable = available_spans(
            width_ms,
            tier_map,
            raw_floor_ms=none_for_ever(mark_ms),
            floors_ms=tier_floors_ms,
            holes=holes,
            awaited=awaited,
        )
        missing = tier_map.missing(width_ms, first, last)
        for lost in (given_up or {}).get(width_ms, ()):
            missing = [rest for span in missing for rest in outside(*span, [lost])]
        for mint, maxt in _common(missing, buildable):
            if ((spans[:, 0] <= maxt) & (spans[:, 1] >= mint)).any():
                # A whole window, or it could never be built.
                floor_ms = min(floor_ms, mint)
                break
    return floor_ms


def _common(ones: Sequence[Span], others: Sequence[Span]) -> list[Span]:
    """What ascending disjoint closed ranges have in common with others, ascending."""
    found = []
    at = 0
    for mint, maxt in ones:
        while at < len(others) and others[at][1] < mint:
            at += 1
        k = at
        while k < len(others) and others[k][0] <= maxt:
            found.append((max(mint, others[k][0]), min(maxt, others[k][1])))
            k += 1
    return found


def expired_parts(parts: Sequence[PartEntry], floor_ms: int) -> list[PartEntry]:
    """Parts all of whose samples lie before ``floor_ms`` (which itself is kept)."""
    return [part for part in parts if part.maxt < floor_ms]


def is_expired(entry: PartEntry, shares: Sequence[PartShare], floors: SampleFloors) -> bool:
    """Whether all samples of a part are before the floors of their series."""
    return all(entry.maxt < floors.of_rule(share.rule) for share in shares)


def expired_tiers(
    tiers: Sequence[TierEntry],
    floors_ms: Mapping[int, int],
    lost: Sequence[PartEntry | TierEntry] = (),
) -> list[TierEntry]:
    """Parts of tiers all of whose windows begin before the floor of their tier.

    Those that lie on others wait for these, and for damaged ones that are left out (``lost``).
    """
    expired = [
        tier
        for tier in tiers
        if tier.width_ms in floors_ms
        and tier.cover_max - tier.width_ms + 1 < floors_ms[tier.width_ms]
    ]
    return Below([*tiers, *lost]).without_held(expired) if expired else []


RULES_SHARE = 4
"""A part that rules are about is written anew when 1/4 of it is past its retention ..."""
COMMON_SHARE = 2
"""... and others when half of it is."""


PATIENCE_MS = 7 * DAY_MS
"""Series of which everything has been past their retention for so long go, however few."""


def is_worth_rewriting(entry: PartEntry, shares: Sequence[PartShare], floors: SampleFloors) -> bool:
    """Whether so much of a part is past its retention that it should be written anew.

    Samples are guessed to be spread evenly over the part. Series of which everything is going to
    be past it within a day are waited for; so what remains of a guess is one part a day, for which
    there are no more guesses.
    """
    gone = [_share_before(entry, floors.of_rule(share.rule)) for share in shares]
    return _is_much(shares, gone) or _is_long_ago(entry.maxt, shares, floors)


def is_tier_worth_rewriting(
    entry: TierEntry, shares: Sequence[PartShare], floors: SampleFloors
) -> bool:
    """Likewise for a part of a tier; only series of which all windows are hidden count."""
    gone = [float(entry.maxt < floors.of_rule(share.rule)) for share in shares]
    return _is_much(shares, gone) or _is_long_ago(entry.maxt, shares, floors)


def _is_much(shares: Sequence[PartShare], gone: Sequence[float]) -> bool:
    has_rules = any(share.rule != NO_RULE for share in shares)
    wanted = sum(share.n_samples for share in shares)
    n_gone = sum(share.n_samples * part for share, part in zip(shares, gone, strict=True))
    return 0 < wanted <= n_gone * (RULES_SHARE if has_rules else COMMON_SHARE)


def _is_long_ago(maxt: int, shares: Sequence[PartShare], floors: SampleFloors) -> bool:
    return any(
        share.n_samples > 0 and maxt < floors.of_rule(share.rule) - PATIENCE_MS for share in shares
    )


def _share_before(entry: PartEntry, floor_ms: int) -> float:
    """About what part of some samples is before a floor, 0 if the rest follows within a day."""
    if entry.maxt < floor_ms:
        return 1.0
    if entry.mint >= floor_ms or entry.maxt - floor_ms < DAY_MS:
        return 0.0
    return (floor_ms - entry.mint) / (entry.maxt - entry.mint + 1)
