"""Remote-write bodies of known series that become one entry of the log and one batch of the head.

What the log, the head and those who wait cost for an entry is as much as the scan of a usual body.
A group belongs to one thread, which has the lane from the first body until the entry is queued: in
between no series may leave the catalog.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tsengine.model.batch import SampleBatch
from tsengine.storage.append_outcome import AppendOutcome, OnAppended
from tsengine.storage.ingest_log import OnDone

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Member:
    """A body's samples, its weight in the queue of the log, and who waits for it."""

    batch: SampleBatch
    n_bytes: int
    on_done: OnAppended


Told = tuple[OnAppended, AppendOutcome, BaseException | None]
"""Who is to be told what."""


class AppendGroup:
    """Bodies in their order, all of them float samples without start timestamps."""

    def __init__(self) -> None:
        self.has_lane = False
        self.n_rows = 0
        self._members: list[Member] = []

    def add(self, member: Member) -> None:
        """Add a body."""
        n_rows = self.n_rows + len(member.batch)
        self._members.append(member)
        self.n_rows = n_rows

    def take(self) -> list[Member]:
        """All bodies; the group is empty then."""
        members, self._members, self.n_rows = self._members, [], 0
        return members


def joined(members: Sequence[Member]) -> SampleBatch:
    """The samples of all, in their order."""
    batches = [member.batch for member in members]
    return SampleBatch(
        np.concatenate([batch.refs for batch in batches]),
        np.concatenate([batch.t_ms for batch in batches]),
        np.concatenate([batch.bits for batch in batches]),
    )


def teller(members: Sequence[Member]) -> OnDone:
    """What is called when the entry of some bodies is durable and visible, or with its error.

    It does not keep their samples, which the entry has.
    """
    outcomes = [(one.on_done, AppendOutcome(len(one.batch), 0, 0, ())) for one in members]

    def tell_all(error: BaseException | None) -> None:
        for on_done, outcome in outcomes:
            tell((on_done, outcome, error))

    return tell_all


def tell(told: Told) -> None:
    """Tell somebody; if that fails, it is the caller's bug, and others are still told."""
    on_done, outcome, error = told
    try:
        on_done(outcome, error)
    except Exception:
        _LOG.exception("who was told that an append is done failed")
