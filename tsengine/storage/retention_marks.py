"""Up to where samples were erased: what the manifest remembers, by the selectors of rules. Pure.

Floors follow the clock and the options; a retention that is raised moves them back. What was erased
does not come back, so each commit that drops samples by a floor raises **marks**: of the series
without a longer rule (the selector ``""``), and of each rule that keeps at least as long. Before a
mark samples may be gone, and what tiers say holds; from it on samples are complete. By rules
windows go too; what they took is remembered beside (`retention_taken`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tsengine.storage.retention_taken import Taken
    from tsengine.storage.tier_map import Span

COMMON = ""
"""The selector of the series without a longer rule."""
NOTHING_MS = -(2**63)
"""The mark of series of which nothing was erased."""
NEVER_MS = 2**62
"""The floor of what is not kept at all."""


@dataclass(frozen=True, slots=True)
class Marks:
    """Samples before these times may be gone: of series without a rule, and of each rule."""

    common_ms: int = NOTHING_MS
    by_rule: tuple[int, ...] = ()

    @classmethod
    def of(cls, erased: Mapping[str, int], selectors: Sequence[str]) -> Marks:
        """Those of the rules with these selectors.

        The series of a rule that has none were perhaps erased with the others until now.
        """
        common_ms = erased.get(COMMON, NOTHING_MS)
        return cls(common_ms, tuple(erased.get(text, common_ms) for text in selectors))


@dataclass(frozen=True, slots=True)
class Raise:
    """What a commit that drops samples does to the marks: none is ever lowered.

    Parameters
    ----------
    common_ms
        The least that the common mark becomes.
    longer
        Likewise by the selector of each rule that keeps no less. Marks of other selectors go: when
        such a rule comes again, its series have been erased with the others.
    taken
        What the rules in force take; None for nothing.

    """

    common_ms: int
    longer: Mapping[str, int]
    taken: Taken | None = None

    def applied(self, erased: Mapping[str, int]) -> dict[str, int]:
        """The marks afterwards."""
        common_ms = erased.get(COMMON, NOTHING_MS)
        raised = {
            text: max(erased.get(text, common_ms), t_ms) for text, t_ms in self.longer.items()
        }
        raised[COMMON] = max(common_ms, self.common_ms)
        # Of the others no mark says the same, and that nothing is known.
        return {text: t_ms for text, t_ms in raised.items() if text or t_ms > NOTHING_MS}


def mark_after(dropped: Sequence[Span], floor_ms: int, width_ms: int) -> int:
    """The mark of series that lose what closed ranges have before a floor; NOTHING_MS for nothing.

    ``floor_ms`` is the start of a window of ``width_ms``, the widest that there are.
    """
    lost = [min(maxt + 1, floor_ms) for mint, maxt in dropped if mint < floor_ms]
    return window_start_after(max(lost), width_ms) if lost else NOTHING_MS


def window_start(t_ms: int, width_ms: int) -> int:
    """Where the window begins that holds a time."""
    return (t_ms - 1) // width_ms * width_ms + 1


def window_start_after(t_ms: int, width_ms: int) -> int:
    """Where the first window begins that does not begin before a time."""
    return -(-(t_ms - 1) // width_ms) * width_ms + 1
