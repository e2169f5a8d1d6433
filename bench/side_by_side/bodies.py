"""Remote-write bodies on disk, built before any system runs: sending them costs next to nothing.

A file holds bodies of one load, in the order of their rounds; its index says where each begins. A
body is a Snappy block of a remote-write 1.0 request.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from bench.side_by_side import dataset
from bench.side_by_side.fleet import Fleet


@dataclass(frozen=True, slots=True)
class Load:
    """Bodies of a load: ``offsets: i64[B + 1]`` into the file, ``rounds``, ``samples: i64[B]``."""

    path: Path
    offsets: npt.NDArray[np.int64]
    rounds: npt.NDArray[np.int64]
    samples: npt.NDArray[np.int64]
    start_ms: int
    end_ms: int
    n_series: int

    @property
    def n_samples(self) -> int:
        """Samples of all bodies."""
        return int(self.samples.sum())


def build(
    path: Path,
    n_hosts: int,
    n_rounds: int,
    *,
    start_ms: int,
    seed: int,
    body_samples: int = 2000,
    replaced_every: int = 0,
) -> Load:
    """Build a load, or find it built: the file's name must tell loads apart.

    After each ``replaced_every`` rounds a tenth of the hosts is replaced; 0 keeps them all.
    """
    index = path.with_suffix(".json")
    wanted = [n_hosts, n_rounds, start_ms, seed, body_samples]
    if replaced_every:
        wanted.append(replaced_every)
    if not index.exists():
        per_body = max(1, body_samples // dataset.SERIES_PER_HOST)
        fleet = Fleet(n_hosts, start_ms, seed, hosts_per_body=per_body)
        facts = _write(path, fleet, n_rounds, replaced_every)
        index.write_text(json.dumps({"made_of": wanted, **facts}))
    facts = json.loads(index.read_text())
    assert facts["made_of"] == wanted, f"{path} is another load; remove it"
    return Load(
        path,
        np.array(facts["offsets"]),
        np.array(facts["rounds"]),
        np.array(facts["samples"]),
        start_ms,
        start_ms + n_rounds * dataset.SCRAPE_MS,
        facts.get("n_series", n_hosts * dataset.SERIES_PER_HOST),
    )


def _write(path: Path, fleet: Fleet, n_rounds: int, replaced_every: int) -> dict[str, Any]:
    offsets, rounds, samples = [0], [], []
    with open(path, "wb") as file:
        for number in range(n_rounds):
            if replaced_every and number and number % replaced_every == 0:
                fleet.replace()
            _, bodies = fleet.scrape()
            for body, template in zip(bodies, fleet.templates, strict=True):
                offsets.append(offsets[-1] + file.write(body))
                rounds.append(number)
                samples.append(len(template.hosts) * dataset.SERIES_PER_HOST)
    return {"offsets": offsets, "rounds": rounds, "samples": samples, "n_series": fleet.n_series}


def read(load: Load, first: int, last: int) -> Iterator[bytes]:
    """Bodies first to last - 1."""
    with open(load.path, "rb") as file:
        file.seek(int(load.offsets[first]))
        for k in range(first, last):
            yield file.read(int(load.offsets[k + 1] - load.offsets[k]))
