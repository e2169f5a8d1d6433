"""The retention of an open database: its options, its clock and its catalog made floors."""

from __future__ import annotations

from collections.abc import Callable

from tsengine.clock import Clock
from tsengine.options import Options
from tsengine.storage.catalog_view import CatalogView
from tsengine.storage.retention import MIN_MS, SampleFloors, erase_floor
from tsengine.storage.retention_counters import RetentionCounters
from tsengine.storage.retention_rules import NO_RULE, RuleSet, SelectorParser
from tsengine.storage.state import State


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
        self._rules = RuleSet((), None)
        self.counters = RetentionCounters()
        self.check(options())

    def check(self, options: Options) -> None:
        """Raise OptionsError if a rule of options that are to come into force has no selector."""
        if options.retention_rules != self._rules.given:
            self._rules = RuleSet(options.retention_rules, self._parse)

    def common_floor(self) -> int | None:
        """Samples of series without a rule before it are past the retention; None keeps all."""
        retention = self._options().retention
        return None if retention is None else self._clock() - round(retention * 1000)

    @property
    def has_rules(self) -> bool:
        """Whether floors differ by series."""
        return bool(self._rules.rules)

    def highest_floor(self) -> int | None:
        """Of every series samples from it on are kept; None keeps all."""
        floors = [self.common_floor()]
        kept = [rule.keep_ms for rule in self._rules.rules if rule.keep_ms is not None]
        floors += [self._clock() - keep_ms for keep_ms in kept]
        return max((floor for floor in floors if floor is not None), default=None)

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
        if common_ms is None:
            floor = self.common_floor()
            common_ms = MIN_MS if floor is None else floor
        rules = self._rules
        if not rules.rules:
            return SampleFloors(common_ms, None, ())
        by_rule = tuple(
            MIN_MS if rule.keep_ms is None else self._clock() - rule.keep_ms for rule in rules.rules
        )
        return SampleFloors(common_ms, rules.groups(catalog), by_rule)

    def erase_floors(self, state: State) -> SampleFloors:
        """As `sample_floors`: what may go for good. Samples wait for the tiers that keep longer."""
        common = self.common_floor()
        if common is not None:
            floors = {round(tier.width * 1000): MIN_MS for tier in self._options().tiers}
            floors |= self.tier_floors()
            views = [frozen.head.view() for frozen in state.frozen] + [state.head.view()]
            heads = [span for view in views if view.n_samples for span in view.touched_spans()]
            common = erase_floor(common, state.parts, state.tier_map, floors, heads)
        return self.sample_floors(state.catalog, common)
