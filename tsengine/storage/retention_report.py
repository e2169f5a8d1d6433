"""What a retention would remove, without removing anything: series, samples and bytes by reason."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from tsengine.storage.compaction_plan import partition_of, partition_range
from tsengine.storage.head import Head
from tsengine.storage.manifest import PartEntry, TierEntry
from tsengine.storage.part_reader import PartReader
from tsengine.storage.pieces import I64Array, U32Array
from tsengine.storage.retention import (
    MIN_MS,
    SampleFloors,
    expired_tiers,
    is_expired,
    is_worth_rewriting,
    shares_of,
)
from tsengine.storage.retention_overlaps import Overlaps, rules_in
from tsengine.storage.retention_policy import RetentionPolicy
from tsengine.storage.retention_rules import NO_RULE
from tsengine.storage.retention_size import Entry, is_wide, plan_size_removal
from tsengine.storage.state import State
from tsengine.storage.tier_map import touched_spans
from tsengine.storage.tier_read import tier_name


@dataclass(frozen=True, slots=True)
class PlannedFile:
    """What would happen to one part, of samples or of a tier.

    ``action``: ``remove`` the whole part; ``rewrite`` it now without the samples; ``hide`` them
    until a later rewrite or until the whole part goes, with what it overwrites; ``wait``: hide them
    until the tiers that keep longer have them.
    """

    name: str
    action: Literal["remove", "rewrite", "hide", "wait"]
    samples: int
    bytes: int


@dataclass(frozen=True, slots=True)
class PlannedRemoval:
    """What one reason removes.

    Parameters
    ----------
    reason
        ``retention``, ``retention_size``, ``tier 5m`` and the like, or the selector of a rule.
    keep_s
        Seconds; None for bytes.
    series
        That lose samples (of tiers: windows); ``series_lost`` that lose all they have.
    samples
        In parts and heads; of tiers numbers, as their parts count them.
    bytes
        Of whole parts exactly; of others as the blocks of their samples tell, about.
    files
        Parts of samples and of tiers.

    """

    reason: str
    keep_s: float | None
    series: int
    series_lost: int
    samples: int
    bytes: int
    files: tuple[PlannedFile, ...]


@dataclass(frozen=True, slots=True)
class RetentionPlan:
    """Removals in the order in which they would happen, and the size of everything before."""

    removals: tuple[PlannedRemoval, ...]
    size_bytes: int

    @property
    def freed_bytes(self) -> int:
        """Bytes that would be freed, sooner or later."""
        return sum(removal.bytes for removal in self.removals)


def plan_retention(
    state: State,
    policy: RetentionPolicy,
    *,
    size_bytes: int,
    size_limit: int | None,
    lost: Sequence[PartEntry | TierEntry] = (),
) -> RetentionPlan:
    """What ``policy`` would remove of a state whose files have ``size_bytes``.

    Parts that are ``lost``, left out because they are damaged, hold those that overwrite them.
    Reads axes of parts, no values. Raises CorruptionError.
    """
    floors = policy.sample_floors(state.catalog)
    erase = policy.erase_floors(state)
    actions = _whole_parts(state, policy, erase, lost)
    removals = []
    for number in (NO_RULE, *range(len(floors.by_rule))):
        if floors.of_rule(number) != MIN_MS:
            removals.append(_of_rule(state, number, floors, erase, actions, policy.keep_s(number)))
    removals += _of_tiers(state, policy, lost)
    if size_limit is not None:
        gone = {f.name for removal in removals for f in removal.files if f.action == "remove"}
        freed = sum(f.bytes for r in removals for f in r.files if f.action != "wait")
        parts = [part.entry for part in state.parts if part.entry.name not in gone]
        tiers = [tier.entry for tier in state.tiers if tier.entry.name not in gone]
        removals.append(_for_size(state, parts, tiers, size_bytes - freed, size_limit, lost))
    found = tuple(removal for removal in removals if removal.files or removal.samples)
    return RetentionPlan(found, size_bytes)


def _whole_parts(
    state: State,
    policy: RetentionPolicy,
    erase: SampleFloors,
    lost: Sequence[PartEntry | TierEntry],
) -> dict[str, Literal["remove", "rewrite"]]:
    """The parts that go or are written anew in the end: what lies below a part is so before."""
    overlaps = Overlaps(state.parts, lost, lambda part: rules_in(part, erase.groups))
    actions: dict[str, Literal["remove", "rewrite"]] = {}
    gone: set[str] = set()
    cut: dict[str, Callable[[int], int]] = {}
    for part in state.parts:
        entry = part.entry
        if entry.mint >= erase.highest_ms:
            continue
        shares = shares_of(part, erase.groups)
        lowered = policy.lowered(erase, overlaps.first_kept([entry], gone, cut))
        if is_expired(entry, shares, lowered):
            actions[entry.name] = "remove"
            gone.add(entry.name)
        elif is_worth_rewriting(entry, shares, erase) and is_worth_rewriting(
            entry, shares, lowered
        ):
            actions[entry.name] = "rewrite"
            cut[entry.name] = lowered.of_rule
    return actions


def _of_rule(
    state: State,
    number: int,
    floors: SampleFloors,
    erase: SampleFloors,
    actions: Mapping[str, Literal["remove", "rewrite"]],
    keep_s: float | None,
) -> PlannedRemoval:
    floor_ms = floors.of_rule(number)
    loses = _Losers(state, number, floors)
    files = []
    n_samples = 0
    for part in state.parts:
        if part.entry.mint >= floor_ms:
            continue
        refs = loses.of_source(part.refs)
        pieces = part.pieces(refs, MIN_MS, floor_ms - 1)
        if not pieces.n_samples:
            continue
        loses.add(refs[np.unique(pieces.rows)])
        n_samples += pieces.n_samples
        files.append(
            PlannedFile(
                part.entry.name,
                actions.get(part.entry.name) or _later(part.entry, erase.of_rule(number), floor_ms),
                pieces.n_samples,
                bytes_before(part, refs, floor_ms),
            )
        )
    for head in _heads(state):
        if head.n_samples and head.mint < floor_ms:
            view = head.view()
            columns = view.collect_bits(loses.of_source(view.refs()), MIN_MS, floor_ms - 1)
            loses.add(columns.refs)
            n_samples += len(columns.t_ms)
    size = sum(file.bytes for file in files)
    text = "retention"
    if number != NO_RULE and floors.groups is not None:
        text = floors.groups.rules[number].text
    return PlannedRemoval(
        text, keep_s, loses.n, loses.n_lost(floor_ms), n_samples, size, tuple(files)
    )


def _later(entry: PartEntry, erase_ms: int, floor_ms: int) -> Literal["hide", "wait"]:
    return "wait" if erase_ms <= entry.mint < floor_ms else "hide"


class _Losers:
    """Series of one rule that lose samples."""

    def __init__(self, state: State, number: int, floors: SampleFloors) -> None:
        self._state = state
        self._number = number
        self._floors = floors
        self._refs: list[U32Array] = []

    def of_source(self, refs: U32Array) -> U32Array:
        """Those of some refs that are of the rule."""
        groups = self._floors.groups
        return refs if groups is None else refs[groups.of_refs(refs) == self._number]

    def add(self, refs: U32Array) -> None:
        """These lose something."""
        self._refs.append(refs)

    @property
    def n(self) -> int:
        """How many lose something."""
        return len(self._all())

    def n_lost(self, floor_ms: int) -> int:
        """How many have no block that reaches to the floor."""
        kept = [p.series_samples(floor_ms, 2**63 - 1)[0] for p in self._state.parts]
        kept += [h.view().refs() for h in _heads(self._state) if h.maxt >= floor_ms]
        return len(np.setdiff1d(self._all(), np.concatenate(kept)))

    def _all(self) -> U32Array:
        return np.unique(np.concatenate([np.empty(0, np.uint32), *self._refs]))


def _heads(state: State) -> Iterator[Head]:
    yield from (frozen.head for frozen in state.frozen)
    yield state.head


def bytes_before(part: PartReader, refs: U32Array, floor_ms: int) -> int:
    """About the bytes of a part that the samples of some series before a floor take.

    Blocks that share a payload share its bytes; what is in no block belongs to all alike. Exact if
    these are all samples of the part.
    """
    index = part.index
    sizes = np.diff(index.payload_offsets)
    shared = np.bincount(index.block_payload, minlength=len(sizes))
    weights = sizes[index.block_payload] / shared[index.block_payload]
    # Axes are shared by all; each sample has as much of them.
    axes = np.diff(index.axis_offsets)
    of_axis = np.bincount(index.block_axis, weights=index.block_size, minlength=len(axes))
    weights += axes[index.block_axis] * index.block_size / of_axis[index.block_axis]
    mint, maxt = index.axis_mint[index.block_axis], index.axis_maxt[index.block_axis]
    gone = np.clip((floor_ms - mint) / (maxt - mint + 1), 0.0, 1.0)
    counts: I64Array = np.diff(index.series_blocks)
    is_of_refs = np.repeat(np.isin(part.refs, refs), counts)
    share = float((weights * gone)[is_of_refs].sum()) / max(1e-9, float(weights.sum()))
    return round(part.entry.size_bytes * share)


def _of_tiers(
    state: State, policy: RetentionPolicy, lost: Sequence[PartEntry | TierEntry]
) -> list[PlannedRemoval]:
    removals = []
    readers = {tier.entry.name: tier for tier in state.tiers}
    floors = policy.tier_floors()
    for width_ms in sorted(floors):
        entries = expired_tiers(
            [tier.entry for tier in state.tiers], {width_ms: floors[width_ms]}, lost
        )
        refs = [readers[entry.name].refs for entry in entries]
        kept = [
            tier.refs
            for tier in state.tiers
            if tier.entry.width_ms == width_ms and tier.entry not in entries
        ]
        files = [PlannedFile(e.name, "remove", e.n_samples, e.size_bytes) for e in entries]
        removals.append(
            _of_files(f"tier {tier_name(width_ms)}", policy.tier_keep_s(width_ms), files, refs,
                      kept)
        )  # fmt: skip
    return removals


def _for_size(
    state: State,
    parts: list[PartEntry],
    tiers: list[TierEntry],
    size_bytes: int,
    limit_bytes: int,
    lost: Sequence[PartEntry | TierEntry],
) -> PlannedRemoval:
    kept = frozenset(part.entry.name for part in state.parts if part.remote_bytes)
    split = {
        part.entry.name: _as_split(part)
        for part in state.parts
        if is_wide(part.entry) and part.entry.name not in kept and not lost
    }
    plan = plan_size_removal(
        [own for entry in parts for own in split.get(entry.name, [entry])],
        tiers,
        size_bytes=size_bytes,
        limit_bytes=limit_bytes,
        kept=kept,
        lost=lost,
    )
    gone: dict[str, list[Entry]] = {}
    for entry in plan.removal.entries:
        gone.setdefault(entry.name.partition("/")[0], []).append(entry)
    whole = {name for name, found in gone.items() if len(found) == len(split.get(name, found))}
    sources = [(p.entry.name, p.refs) for p in state.parts]
    sources += [(t.entry.name, t.refs) for t in state.tiers]
    sources += [("", head.view().refs()) for head in _heads(state)]
    return _of_files(
        "retention_size",
        None,
        [
            PlannedFile(
                name,
                "remove" if name in whole else "rewrite",
                sum(entry.n_samples for entry in found),
                sum(entry.size_bytes for entry in found),
            )
            for name, found in gone.items()
        ],
        [refs for name, refs in sources if name in gone],
        [refs for name, refs in sources if name not in whole],
    )


def _as_split(part: PartReader) -> list[PartEntry]:
    """A part of several days as a split leaves it, about: as much of each day that it has."""
    entry = part.entry
    days: dict[int, list[tuple[int, int]]] = {}
    for mint, maxt in touched_spans(part).tolist():
        for day in range(partition_of(mint), partition_of(maxt) + 1):
            first, last = partition_range(day)
            days.setdefault(day, []).append((max(mint, first), min(maxt, last)))
    return [
        replace(
            entry,
            name=f"{entry.name}/{day}",
            mint=min(mint for mint, _ in spans),
            maxt=max(maxt for _, maxt in spans),
            n_samples=max(1, entry.n_samples // len(days)),
            size_bytes=entry.size_bytes // len(days),
        )
        for day, spans in days.items()
    ]


def _of_files(
    reason: str,
    keep_s: float | None,
    files: Sequence[PlannedFile],
    gone: list[U32Array],
    kept: list[U32Array],
) -> PlannedRemoval:
    """What of parts goes, the series in them and those in what stays."""
    none = np.empty(0, np.uint32)
    losers = np.unique(np.concatenate([none, *gone]))
    lost = np.setdiff1d(losers, np.concatenate([none, *kept]))
    return PlannedRemoval(
        reason,
        keep_s,
        len(losers),
        len(lost),
        sum(file.samples for file in files),
        sum(file.bytes for file in files),
        tuple(files),
    )
