"""Hosts that come and go: every few rounds a tenth of them is replaced by new ones."""

from __future__ import annotations

import numpy as np

from bench.side_by_side import dataset
from bench.side_by_side.templates import Template

GROUPS = 10
"""Each host lives through so many replacements."""


class Fleet:
    """Bodies of scrapes. Every `n_groups`-th host leaves when its group's turn comes.

    Parameters
    ----------
    n_hosts
        At a time.
    start_ms, seed
        As those of `dataset.Hosts`.
    n_groups, hosts_per_body
        How the hosts are divided for replacements, and into bodies.

    """

    def __init__(
        self,
        n_hosts: int,
        start_ms: int,
        seed: int,
        *,
        n_groups: int = GROUPS,
        hosts_per_body: int = 20,
    ) -> None:
        self._hosts = dataset.Hosts(n_hosts, start_ms, seed)
        self._numbers = np.arange(n_hosts)
        self._n_groups = n_groups
        self._hosts_per_body = hosts_per_body
        self._turn = 0
        self._make_templates()

    def _make_templates(self) -> None:
        n, step = len(self._numbers), self._hosts_per_body
        spans = [(at, min(n, at + step)) for at in range(0, n, step)]
        self.templates = [Template(self._numbers[a:b].tolist(), slice(a, b)) for a, b in spans]

    @property
    def n_series(self) -> int:
        """Series that there ever were."""
        return (int(self._numbers.max()) + 1) * dataset.SERIES_PER_HOST

    def replace(self) -> None:
        """The hosts of the next group are gone, as many new ones there."""
        rows = np.arange(self._turn % self._n_groups, len(self._numbers), self._n_groups)
        self._turn += 1
        self._numbers[rows] = self._numbers.max() + 1 + np.arange(len(rows))
        self._hosts.replace(rows)
        self._make_templates()

    def scrape(self) -> tuple[int, list[bytes]]:
        """Newest time and bodies of the next round."""
        scrape = self._hosts.scrape()
        return int(scrape.t_ms.max()), [template.fill(scrape) for template in self.templates]
