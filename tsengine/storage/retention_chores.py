"""Data past their retention leave the disk: whole parts at once, of others what is worth a rewrite.

Whatever is past its retention is hidden from reads before any of this runs (`view.py`). Merges of
other chores leave it out too.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from tsengine.model.times import text_of_ms
from tsengine.storage.chores import Job, JobContext
from tsengine.storage.compaction_chores import live_parts, merge_space
from tsengine.storage.compaction_plan import partition_of
from tsengine.storage.holes import inside, joined
from tsengine.storage.manifest import PartEntry, TierEntry
from tsengine.storage.part_reader import PartReader
from tsengine.storage.retention import (
    PartShare,
    SampleFloors,
    expired_parts,
    expired_tiers,
    is_expired,
    is_tier_worth_rewriting,
    is_worth_rewriting,
    shares_of,
    tier_shares_of,
)
from tsengine.storage.retention_marks import Raise
from tsengine.storage.retention_overlaps import Overlaps
from tsengine.storage.retention_size import Entry, Removal, plan_size_removal
from tsengine.storage.state import State
from tsengine.storage.tier_map import Span
from tsengine.storage.tier_reader import TierReader
from tsengine.storage.tiering import (
    TierPlanner,
    build_job,
    build_range,
    head_days,
    is_buildable,
)
from tsengine.storage.tiering_plan import DAY_MS, TierRange, TierSources, kept_range, plan_builds

if TYPE_CHECKING:
    from tsengine.storage.database import StorageDatabase
    from tsengine.storage.retention_rules import RuleGroups

_LOG = logging.getLogger(__name__)


class PartShares:
    """The shares of rules in parts, which never change: remembered while rules and parts live."""

    def __init__(self) -> None:
        self._rules: object = None
        self._known: dict[str, tuple[PartShare, ...]] = {}

    def of(self, part: PartReader | TierReader, groups: RuleGroups | None) -> tuple[PartShare, ...]:
        """See `retention.shares_of` and `retention.tier_shares_of`."""
        rules = None if groups is None else groups.rules
        if rules is not self._rules:
            self._rules, self._known = rules, {}
        found = self._known.get(part.entry.name)
        if found is None:
            made = (
                shares_of(part, groups)
                if isinstance(part, PartReader)
                else tier_shares_of(part, groups)
            )
            found = self._known[part.entry.name] = made
        return found

    def rules_of(self, groups: RuleGroups | None) -> Callable[[PartReader], Collection[int]]:
        """As `retention_overlaps.rules_in`."""
        return lambda part: {share.rule for share in self.of(part, groups)}

    def forget_others(self, state: State) -> None:
        """Keep only what is known of the parts of a state."""
        names = {part.entry.name for part in state.parts}
        names |= {tier.entry.name for tier in state.tiers}
        self._known = {name: one for name, one in self._known.items() if name in names}


class Expiry:
    """Whole parts of samples and tiers go; no disk space is needed for that.

    What the limit of bytes would take, but is of several days, is split first, and windows that
    lack something of what goes are built first, if there is space.
    """

    name = "expiry"

    def __init__(self, database: StorageDatabase) -> None:
        self._database = database
        self._shares = PartShares()
        self._planner = TierPlanner(database)
        self._held = frozenset[str]()
        self._has_flushed = False

    def plan(self, state: State, now_ms: int) -> list[Job]:
        """See `Chore.plan`."""
        self._shares.forget_others(state)
        floors = self._database.retention.erase_floors(state)
        jobs = self._of_samples(state, floors)
        tiers = expired_tiers(
            [tier.entry for tier in state.tiers],
            self._database.tier_floors(),
            self._database.recovery.lost,
        )
        if tiers:
            jobs.append(_removing({"time": Removal((), tuple(tiers))}))
        if jobs:
            return jobs  # the limit of bytes counts what is left
        return self._for_size(state, now_ms)

    def _of_samples(self, state: State, floors: SampleFloors) -> list[Job]:
        """One job: what lies on others goes in the commit in which they go, whatever the reason."""
        database = self._database
        overlaps = Overlaps(
            state.parts, database.recovery.lost, self._shares.rules_of(floors.groups)
        )
        readers = {part.entry.name: part for part in state.parts}
        gone: dict[str, PartEntry] = {}
        by_reason: dict[str, list[PartEntry]] = {}
        for entry in expired_parts(live_parts(state), floors.highest_ms):
            # What lies below came before.
            shares = self._shares.of(readers[entry.name], floors.groups)
            if is_expired(entry, shares, floors) and not overlaps.first_kept([entry], gone):
                gone[entry.name] = entry
                reason = "time" if entry.maxt < floors.common_ms else "rule"
                by_reason.setdefault(reason, []).append(entry)
        if not gone:
            return []
        removals = {reason: Removal(tuple(found), ()) for reason, found in by_reason.items()}
        return [_removing(removals, database.retention.raised(floors, _spans(gone.values())))]

    def _for_size(self, state: State, now_ms: int) -> list[Job]:
        limit = self._database.options.retention_size
        size = 0 if limit is None else self._database.size_bytes(state)
        if limit is None or size <= limit:
            self._tell(())
            self._has_flushed = False
            return []
        # To remove what is in an object store would free nothing here.
        plan = plan_size_removal(
            live_parts(state),
            [tier.entry for tier in state.tiers],
            size_bytes=size,
            limit_bytes=limit,
            kept=frozenset(part.entry.name for part in state.parts if part.remote_bytes),
            lost=self._database.recovery.lost,
        )
        self._tell(() if plan.splits else plan.held)
        if plan.removal.entries:
            return self._removing(plan.removal, state, now_ms)
        jobs = [_splitting(entry) for entry in plan.splits]
        return jobs + (self._removing(plan.rest, state, now_ms) if plan.rest.entries else [])

    def _removing(self, removal: Removal, state: State, now_ms: int) -> list[Job]:
        """The removal last: it goes on while the rest fails, or lacks space.

        Windows of days in which heads have samples can't be built. So heads are flushed, once: late
        samples that come all the time hold nothing up.
        """
        jobs: list[Job] = []
        if removal.parts and self._database.options.tiers:
            spans = joined(_spans(removal.parts))
            if not self._has_flushed and _have_samples_of(head_days(state), spans):
                jobs.append(Job("flushing heads that have samples of these days", 0, self._flush))
            sources = self._planner.sources(state, now_ms, eager=True)
            builds = plan_builds(_without_lost(sources, self._database.recovery.lost))
            jobs += [
                build_job("building", state, build)
                for build in builds
                if inside(build.mint, build.maxt, spans)
            ]
        raised = self._database.retention.raised_by_all(_spans(removal.parts))
        return [*jobs, _removing({"size": removal}, raised)]

    def _flush(self, context: JobContext) -> None:
        context.database.flush()
        self._has_flushed = True

    def _tell(self, held: Sequence[Entry]) -> None:
        """Say once what the limit of bytes would take if it did not overwrite what stays."""
        names = frozenset(entry.name for entry in held)
        if names - self._held:
            _LOG.warning(
                "over the limit of bytes, but %d parts (%d bytes) stay, the first is %s: they "
                "overwrite others that are damaged or in an object store",
                len(names), sum(entry.size_bytes for entry in held), held[0].name,
            )  # fmt: skip
        self._held = names
        self._database.retention.counters.hold(sum(entry.size_bytes for entry in held))


class RetentionRewriting:
    """Parts of which much is past its retention are written anew without that."""

    name = "retention_rewriting"

    def __init__(self, database: StorageDatabase) -> None:
        self._database = database
        self._shares = PartShares()

    def plan(self, state: State, now_ms: int) -> list[Job]:
        """See `Chore.plan`."""
        self._shares.forget_others(state)
        floors = self._database.retention.erase_floors(state)
        overlaps = Overlaps(
            state.parts, self._database.recovery.lost, self._shares.rules_of(floors.groups)
        )
        jobs = [
            _rewriting(part.entry, floors)
            for part in state.parts
            if part.entry.mint < floors.highest_ms and self._is_due(part, overlaps, floors)
        ]
        if floors.groups is not None:
            jobs += [
                _rebuilding(tier.entry)
                for tier in state.tiers
                if self._is_tier_due(tier, state, floors.of_tiers())
            ]
        return jobs

    def _is_due(self, part: PartReader, overlaps: Overlaps, floors: SampleFloors) -> bool:
        """Whether a rewrite is worth it, and would be if it left what lies on others."""
        entry, shares = part.entry, self._shares.of(part, floors.groups)
        if not is_worth_rewriting(entry, shares, floors):
            return False
        lowered = self._database.retention.lowered(floors, overlaps.first_kept([entry]))
        return lowered is floors or is_worth_rewriting(entry, shares, lowered)

    def _is_tier_due(self, tier: TierReader, state: State, floors: SampleFloors) -> bool:
        """Whether rules hide much of a part of a tier, and it alone answers for its time."""
        entry = tier.entry
        if entry.n_samples == 0 or entry.mint >= floors.highest_ms:
            return False
        kept = kept_range(_range_of(entry), self._database.tier_floors())
        if kept is None:
            return False
        shares = self._shares.of(tier, floors.groups)
        return (
            is_tier_worth_rewriting(entry, shares, floors)
            and any(
                owned.mint <= kept.mint
                and kept.maxt <= owned.maxt
                and state.tiers[owned.tier] is tier
                for owned in state.tier_map.clean(entry.width_ms)
            )
            and is_buildable(self._database, state, kept)
        )


def _spans(entries: Iterable[PartEntry]) -> list[Span]:
    return [(entry.mint, entry.maxt) for entry in entries]


def _without_lost(sources: TierSources, lost: Sequence[Entry]) -> TierSources:
    """What windows are made of while damaged parts are left out.

    Those that were made without them would hold when they are there again.
    """
    tiers = [(e.cover_min, e.cover_max) for e in lost if isinstance(e, TierEntry)]
    parts = [(e.mint, e.maxt) for e in lost if isinstance(e, PartEntry)]
    return replace(
        sources,
        holes=joined([*sources.holes, *parts]),
        awaited=joined([*sources.awaited, *parts, *tiers]),
    )


def _have_samples_of(days: Iterable[Span], spans: Sequence[Span]) -> bool:
    """Whether closed ranges of days touch those of some times, or windows of these."""
    return any(inside(first * DAY_MS, (last + 1) * DAY_MS, spans) for first, last in days)


def _removing(removals: Mapping[str, Removal], raised: Raise | None = None) -> Job:
    """One commit for what goes by several reasons."""
    texts = {reason: _described(reason, removal) for reason, removal in removals.items()}
    parts = frozenset(entry.name for removal in removals.values() for entry in removal.parts)
    tiers = frozenset(entry.name for removal in removals.values() for entry in removal.tiers)

    def run(context: JobContext) -> None:
        if parts:
            context.replace_parts(parts, (), raised)
        if tiers:
            context.replace_tiers(tiers, ())
        if "size" in removals:
            context.database.retention.give_up(removals["size"].tiers)
        for reason, removal in removals.items():
            entries = removal.entries
            context.database.retention.counters.add(reason, len(entries), removal.size_bytes)
            _LOG.info(
                "removing %s: %d bytes, from %s to %s", texts[reason], removal.size_bytes,
                text_of_ms(min(entry.mint for entry in entries)),
                text_of_ms(max(entry.maxt for entry in entries)),
            )  # fmt: skip

    size = sum(removal.size_bytes for removal in removals.values())
    what = f"removing {' and '.join(texts.values())}"
    if "size" in removals:
        # It is due again and again, and each time another job.
        what += f", part {min(parts | tiers).lstrip('0')} first"
    return Job(what, size, run)


def _splitting(entry: PartEntry) -> Job:
    return Job(
        f"splitting part {entry.name.lstrip('0')}, of which something is over the limit of bytes",
        entry.size_bytes,
        lambda context: context.merge([entry], entry.level + 1),
        merge_space([entry]),
    )


def _described(reason: str, removal: Removal) -> str:
    why = {
        "time": "past the retention",
        "rule": "past the retention of rules",
        "size": "over the limit of bytes",
    }[reason]
    counts = [
        f"{len(found)} part{'s' * (len(found) != 1)} of {what}"
        for found, what in ((removal.parts, "samples"), (removal.tiers, "tiers"))
        if found
    ]
    return f"{' and '.join(counts)} {why}"


def _rewriting(entry: PartEntry, floors: SampleFloors) -> Job:
    """A merge of one part, which splits it if it is of several days."""
    is_whole = partition_of(entry.mint) == partition_of(entry.maxt)
    level = entry.level if is_whole else entry.level + 1
    reason = "time" if floors.groups is None else "rule"

    def run(context: JobContext) -> None:
        known = {part.entry.name for part in context.state.parts}
        context.merge([entry], level)
        new = [part.entry for part in context.state.parts if part.entry.name not in known]
        freed = entry.size_bytes - sum(
            part.size_bytes for part in new if part.seq_max == entry.seq_max
        )
        context.database.retention.counters.add(reason, 1, max(0, freed))
        _LOG.info("part %s was rewritten: %d bytes freed by retention", entry.name, freed)

    return Job(
        f"rewriting part {entry.name.lstrip('0')} without what is past its retention",
        entry.size_bytes,
        run,
        merge_space([entry]),
    )


def _range_of(entry: TierEntry) -> TierRange:
    return TierRange(entry.width_ms, entry.cover_min, entry.cover_max)


def _rebuilding(entry: TierEntry) -> Job:
    """The windows of a part of a tier once more, from itself, without those that rules hide."""

    def run(context: JobContext) -> None:
        build_range(context, _range_of(entry))
        new = [
            tier.entry.size_bytes
            for tier in context.state.tiers
            if tier.entry.width_ms == entry.width_ms and tier.entry.cover_max == entry.cover_max
        ]
        freed = max(0, entry.size_bytes - sum(new))
        context.database.retention.counters.add("rule", 1, freed)
        _LOG.info("part %s of a tier was rewritten: %d bytes freed by rules", entry.name, freed)

    return Job(
        f"rewriting part {entry.name.lstrip('0')} of a tier without what rules hide",
        entry.size_bytes,
        run,
        merge_space([entry.part]),
    )
