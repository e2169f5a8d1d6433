"""The retention of an open database: its options, its clock and its catalog made floors."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from tsengine.clock import Clock
from tsengine.errors import OptionsError
from tsengine.options import Options, RetentionRule
from tsengine.storage.catalog_view import CatalogView
from tsengine.storage.holes import joined
from tsengine.storage.manifest import TierEntry
from tsengine.storage.retention import MIN_MS, SampleFloors, erase_floor
from tsengine.storage.retention_counters import RetentionCounters
from tsengine.storage.retention_marks import COMMON, NEVER_MS, NOTHING_MS, Raise, mark_after
from tsengine.storage.retention_overlaps import FirstKept
from tsengine.storage.retention_past import PastGroups, group_series
from tsengine.storage.retention_rules import NO_RULE, Rule, RuleSet, SelectorParser
from tsengine.storage.retention_taken import EVERY, Taken
from tsengine.storage.state import State
from tsengine.storage.tier_map import Span


@dataclass(frozen=True, slots=True)
class PolicyMoment:
    """What one pair of options and rules says at one time, whatever is reloaded meanwhile."""

    options: Options
    rules: RuleSet
    now_ms: int

    @property
    def has_rules(self) -> bool:
        """Whether floors differ by series."""
        return bool(self.rules.rules)

    @property
    def common_ms(self) -> int | None:
        """As `RetentionPolicy.common_floor`."""
        retention = self.options.retention
        return None if retention is None else self.now_ms - round(retention * 1000)

    @property
    def highest_ms(self) -> int | None:
        """Of every series samples from it on are kept; None keeps all."""
        if not self.rules.rules:
            return self.common_ms
        floors = [self.common_ms]
        kept = [rule.keep_ms for rule in self.rules.rules if rule.keep_ms is not None]
        floors += [self.now_ms - keep_ms for keep_ms in kept]
        return max((floor for floor in floors if floor is not None), default=None)

    def keeps_no_less(self, rule: Rule) -> bool:
        """Whether a rule keeps its series at least as long as others are kept."""
        retention = self.options.retention
        if rule.keep_ms is None or retention is None:
            return rule.keep_ms is None
        return rule.keep_ms >= round(retention * 1000)

    def sample_floors(self, catalog: CatalogView, common_ms: int | None = None) -> SampleFloors:
        """As `RetentionPolicy.sample_floors`."""
        if common_ms is None:
            common_ms = MIN_MS if self.common_ms is None else self.common_ms
        if not self.has_rules:
            return SampleFloors(common_ms, None, ())
        by_rule = tuple(
            MIN_MS if rule.keep_ms is None else self.now_ms - rule.keep_ms
            for rule in self.rules.rules
        )
        return SampleFloors(common_ms, self.rules.groups(catalog), by_rule)


class RetentionPolicy:
    """Floors of one database. Thread-safe.

    Parameters
    ----------
    options
        Tells the options in force.
    parse
        Makes matchers of the selectors of rules; None if there are to be no rules.

    """

    def __init__(
        self, options: Callable[[], Options], clock: Clock, parse: SelectorParser | None
    ) -> None:
        self._options = options
        self._clock = clock
        self._parse = parse
        self.counters = RetentionCounters()
        # Of the options in force and of those that were checked last: two that may come and go.
        self._known: tuple[RuleSet, ...] = (RuleSet(options().retention_rules, parse),)
        self._given_up: tuple[int | None, dict[int, tuple[Span, ...]]] = (None, {})
        self._past = _PastMemo(parse)

    def check(self, options: Options) -> None:
        """Raise OptionsError if a rule of options that are to come into force has no selector.

        Nothing else changes until they are in force. One thread at a time.
        """
        current = self.moment().rules
        if options.retention_rules != current.given:
            self._known = (current, RuleSet(options.retention_rules, self._parse))

    def moment(self) -> PolicyMoment:
        """What is in force now."""
        while True:
            options = self._options()
            for rules in self._known:
                if rules.given == options.retention_rules:
                    return PolicyMoment(options, rules, self._clock())

    def common_floor(self) -> int | None:
        """Samples of series without a rule before it are past the retention; None keeps all."""
        return self.moment().common_ms

    @property
    def has_rules(self) -> bool:
        """Whether floors differ by series."""
        return self.moment().has_rules

    def keep_s(self, number: int) -> float | None:
        """Seconds that the samples of a rule, or of NO_RULE, are kept; None for ever."""
        options = self._options()
        return options.retention if number == NO_RULE else options.retention_rules[number].keep

    def tier_keep_s(self, width_ms: int) -> float | None:
        """Seconds that the windows of a tier are kept; None for ever."""
        tiers = self._options().tiers
        return {round(tier.width * 1000): tier.retention for tier in tiers}[width_ms]

    def with_options(self, options: Options) -> RetentionPolicy:
        """The same database under other options; raises OptionsError."""
        return RetentionPolicy(lambda: options, self._clock, self._parse)

    def tier_floors(self) -> dict[int, int]:
        """By width in ms: windows that begin before it are past the retention of their tier."""
        now = self._clock()
        return {
            round(tier.width * 1000): now - round(tier.retention * 1000)
            for tier in self._options().tiers
            if tier.retention is not None
        }

    def sample_floors(self, catalog: CatalogView, common_ms: int | None = None) -> SampleFloors:
        """Floors of the series of a catalog; ``common_ms`` takes the place of the common one."""
        return self.moment().sample_floors(catalog, common_ms)

    def kept_from(self) -> dict[int, int]:
        """As `tier_floors`, of all tiers; MIN_MS of those that are kept for ever."""
        widths = [round(tier.width * 1000) for tier in self._options().tiers]
        return dict.fromkeys(widths, MIN_MS) | self.tier_floors()

    def floors_of(self, state: State) -> SampleFloors:
        """As `sample_floors`, with what is remembered of what a state has lost."""
        moment = self.moment()
        is_tierless = not (state.tiers or moment.options.tiers)
        return replace(self._floors_of(moment, state), is_tierless=is_tierless)

    def _floors_of(
        self,
        moment: PolicyMoment,
        state: State,
        common_ms: int | None = None,
        *,
        width_ms: int = 1,
    ) -> SampleFloors:
        """Floors where windows of a width begin; what rules took beside these."""
        floors = moment.sample_floors(state.catalog, common_ms).with_marks(state.erased)
        if width_ms > 1:
            floors = floors.rounded(width_ms)
        past = self._past.groups(state, moment.rules, floors)
        return floors if past is None else replace(floors, past=past)

    def erase_floors(self, state: State) -> SampleFloors:
        """As `sample_floors`: what may go for good, up to whole windows of the widest tier.

        Samples wait for the tiers that keep longer.
        """
        moment = self.moment()
        common = moment.common_ms
        if common is not None:
            floors = self.kept_from()
            views = [frozen.head.view() for frozen in state.frozen] + [state.head.view()]
            heads = [span for view in views if view.n_samples for span in view.touched_spans()]
            mark_ms = state.erased.get(COMMON, NOTHING_MS)
            common = erase_floor(
                common, state.parts, state.tier_map, floors, heads, mark_ms=mark_ms,
                holes=state.holes, awaited=state.awaited, given_up=self.given_up,
            )  # fmt: skip
        return self._floors_of(moment, state, common, width_ms=_widest_ms(moment.options))

    def lowered(self, floors: SampleFloors, first_kept: FirstKept) -> SampleFloors:
        """`erase_floors` for parts that lie on others, of which something is kept."""
        if not first_kept:
            return floors
        return floors.lowered(first_kept).rounded(_widest_ms(self.moment().options))

    @property
    def given_up(self) -> Mapping[int, tuple[Span, ...]]:
        """Windows, by width, that the limit of bytes has taken: closed ranges.

        They are not built again, or they would be taken again, while the limit is the same and
        until the next start.
        """
        limit, spans = self._given_up
        return spans if limit == self._options().retention_size else {}

    def give_up(self, tiers: Sequence[TierEntry]) -> None:
        """The limit of bytes takes parts of tiers. One thread at a time."""
        spans = dict(self.given_up)
        for tier in tiers:
            own = spans.get(tier.width_ms, ())
            spans[tier.width_ms] = joined([*own, (tier.cover_min, tier.cover_max)])
        self._given_up = self._options().retention_size, spans

    def build_floors(self, state: State) -> SampleFloors:
        """What builds of tiers read: all that a rule does not hide, past the retention or not."""
        erase = self.erase_floors(state)
        marks = erase.marks
        if COMMON not in state.erased:
            # Versions before there were marks may have erased up to there.
            marks = replace(marks, common_ms=erase.common_ms)
        return replace(erase, common_ms=MIN_MS, marks=marks)

    def raised(self, floors: SampleFloors, dropped: Sequence[Span]) -> Raise | None:
        """What a commit raises that drops the samples of closed ranges before `erase_floors`.

        None if it drops none.
        """
        if all(mint >= floors.highest_ms for mint, _ in dropped):
            return None
        moment = self.moment()
        width_ms = _widest_ms(moment.options)
        longer = {
            rule.text: mark_after(dropped, floor_ms, width_ms)
            for rule, floor_ms in zip(floors.rules, floors.by_rule, strict=True)
            if moment.keeps_no_less(rule)
        }
        common_ms = mark_after(dropped, floors.common_ms, width_ms)
        return Raise(common_ms, longer, _taken(floors, dropped, width_ms))

    def taken_by_build(self, floors: SampleFloors, built: Span) -> Taken | None:
        """What rules take when windows of a closed range are made that `build_floors` hide."""
        taken = _taken(floors, [built], _widest_ms(self.moment().options))
        return taken and Taken(taken.rules, taken.windows_ms, taken.samples_ms)

    def raised_since(
        self, catalog: CatalogView, erased: Mapping[str, int], before: Mapping[str, int] | None
    ) -> SampleFloors:
        """Marks as floors, those alone that are later than they were; none if that is not known.

        Raises OptionsError if a selector is none any more.
        """
        if before is None:
            return SampleFloors(MIN_MS, None, ())
        marks = {
            text: t_ms if t_ms > before.get(text, before.get(COMMON, NOTHING_MS)) else MIN_MS
            for text, t_ms in erased.items()
        }
        common_ms = marks.pop(COMMON, MIN_MS)
        rules = RuleSet([RetentionRule(text, None) for text in marks], self._parse)
        groups = rules.groups(catalog) if marks else None
        return SampleFloors(common_ms, groups, tuple(marks.values()))

    def raised_by_all(self, dropped: Sequence[Span]) -> Raise:
        """What a commit raises that drops all samples of closed ranges, whatever is kept."""
        moment = self.moment()
        mark_ms = mark_after(dropped, NEVER_MS, _widest_ms(moment.options))
        kept = [rule.text for rule in moment.rules.rules if moment.keeps_no_less(rule)]
        return Raise(mark_ms, dict.fromkeys(kept, mark_ms))


def _taken(floors: SampleFloors, dropped: Sequence[Span], width_ms: int) -> Taken | None:
    """What rules take of samples in closed ranges; None for nothing."""
    rules = tuple(rule.text for rule in floors.rules)
    samples_ms = tuple(mark_after(dropped, floor_ms, width_ms) for floor_ms in floors.by_rule)
    taken = Taken(rules, samples_ms, (NOTHING_MS,) * len(rules))
    return None if taken.is_empty else taken


@dataclass(frozen=True, slots=True)
class _MadePast:
    """What groups were made of."""

    taken: tuple[Taken, ...]
    rules: tuple[Rule, ...]
    groups: PastGroups

    @property
    def catalog(self) -> CatalogView:
        """Whose series they are."""
        return self.groups.catalog

    def is_of(self, state: State, floors: SampleFloors) -> bool:
        """Whether they are those of a state's first series."""
        old, new = self.catalog, state.catalog
        is_same = self.taken is state.taken and self.rules is floors.rules
        return is_same and old.refs is new.refs and old.n_series <= new.n_series


class _PastMemo:
    """Series by what rules took of them, as made last. Thread-safe."""

    def __init__(self, parse: SelectorParser | None) -> None:
        self._parse = parse
        self._made: _MadePast | None = None
        self._rules: dict[tuple[str, ...], RuleSet | None] = {}

    def groups(self, state: State, now: RuleSet, floors: SampleFloors) -> PastGroups | None:
        """For the rules in force; None if their floors hide all that was taken."""
        made = self._made
        if not any(_is_seen(taken, now, floors) for taken in state.taken):
            if made is not None and made.catalog is not state.catalog:
                # Or memory of a catalog that was would be held for ever.
                self._made, self._rules = None, {}
            return None
        if made is not None and not made.is_of(state, floors):
            made = None
        if made is not None and made.groups.catalog is state.catalog:
            return made.groups
        # Whichever thread comes last: all are right.
        self._rules = rules = {one.rules: self._rules_of(one.rules, now) for one in state.taken}
        of_rules = {
            texts: None if own is None else own.groups(state.catalog)
            for texts, own in rules.items()
        }
        past = [(one, of_rules[one.rules]) for one in state.taken]
        known = None if made is None else made.groups
        groups = group_series(state.catalog, floors.groups, past, known)
        self._made = _MadePast(state.taken, floors.rules, groups)
        return groups

    def _rules_of(self, texts: tuple[str, ...], now: RuleSet) -> RuleSet | None:
        """The rules of a list; None for those that are for all series, or are none any more."""
        if texts == _texts(now):
            return now
        if texts == EVERY:
            return None
        known = self._rules.get(texts)
        if known is not None:
            return known
        try:
            return RuleSet([RetentionRule(text, None) for text in texts], self._parse)
        except OptionsError:
            return None


def _is_seen(taken: Taken, now: RuleSet, floors: SampleFloors) -> bool:
    """Whether the rules in force may show times of which rules took something."""
    if taken.rules != _texts(now):
        return True
    times = zip(floors.by_rule, taken.samples_ms, taken.windows_ms, strict=True)
    return any(floor_ms < max(samples, windows) for floor_ms, samples, windows in times)


def _texts(rules: RuleSet) -> tuple[str, ...]:
    return tuple(rule.text for rule in rules.rules)


def _widest_ms(options: Options) -> int:
    """Width of the widest tier; every other one's divides it."""
    return max((round(tier.width * 1000) for tier in options.tiers), default=1)
