"""Differences between Prometheus 3.5 and tsengine, which speaks 3.14, that are no defects.

Each has a reason and a test that must hold for it; what no rule covers is a finding.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Case:
    """One query, both answers, and the engines for questions about parts of it."""

    node: object
    times: object
    expected: dict
    actual: dict
    prometheus: object
    tsengine: object


@dataclass(frozen=True)
class Rule:
    name: str
    reason: str
    holds: object


RULES = ()


def explanation(case):
    """Name of the rule that covers a difference; None when there is none."""
    for rule in RULES:
        if rule.holds(case):
            return rule.name
    return None
