"""Remote-write bodies on disk, built before any system runs: sending them costs next to nothing.

A file holds bodies of one load, in the order of their rounds; its index says where each begins. A
body is a Snappy block of a remote-write 1.0 request.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import cramjam
import numpy as np
import numpy.typing as npt

from bench.side_by_side import dataset
from tests.reference import remote_write as wire

_TIME_SIZE = 6
"""Bytes of the varint of a time between 2004 and 2109."""
_SAMPLE_TAIL = 8 + 1 + _TIME_SIZE


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


class _Template:
    """The message of some hosts, in which values and times are replaced."""

    def __init__(self, hosts: range) -> None:
        self.hosts = hosts
        out = bytearray()
        ends = []
        for host in hosts:
            for metric in dataset.HOST_METRICS:
                labels = b"".join(
                    wire.label_v1(name.encode(), value.encode())
                    for name, value in dataset.labels_of(host, metric)
                )
                sample = wire.length_field(2, wire.sample(1_700_000_000_000, 0))
                out += wire.length_field(1, labels + sample)
                ends.append(len(out))
        self._message = np.frombuffer(bytes(out), np.uint8).copy()
        starts = np.array(ends) - _SAMPLE_TAIL
        self._values = starts[:, None] + np.arange(8)
        self._times = starts[:, None] + 9 + np.arange(_TIME_SIZE)

    def fill(self, scrape: dataset.Scrape) -> bytes:
        """The compressed body of a round."""
        rows = slice(self.hosts.start, self.hosts.stop)
        values = np.ascontiguousarray(scrape.values[rows]).reshape(-1)
        self._message[self._values] = values.view(np.uint8).reshape(-1, 8)
        digits = _varints(scrape.t_ms[rows])
        self._message[self._times] = np.repeat(digits, dataset.SERIES_PER_HOST, axis=0)
        return bytes(cramjam.snappy.compress_raw(self._message))


def _varints(t_ms: npt.NDArray[np.int64]) -> npt.NDArray[np.uint8]:
    """``u8[H, 6]``: the bytes of the varints of times."""
    shifts = 7 * np.arange(_TIME_SIZE)
    digits = (t_ms[:, None] >> shifts) & 0x7F
    digits[:, :-1] |= 0x80
    return digits.astype(np.uint8)


def build(
    path: Path, n_hosts: int, n_rounds: int, *, start_ms: int, seed: int, body_samples: int = 2000
) -> Load:
    """Build a load, or find it built: the file's name must tell loads apart."""
    index = path.with_suffix(".json")
    if not index.exists():
        _write(path, n_hosts, n_rounds, start_ms, seed, body_samples)
    facts = json.loads(index.read_text())
    wanted = [n_hosts, n_rounds, start_ms, seed, body_samples]
    assert facts["made_of"] == wanted, f"{path} is another load; remove it"
    return Load(
        path,
        np.array(facts["offsets"]),
        np.array(facts["rounds"]),
        np.array(facts["samples"]),
        start_ms,
        start_ms + n_rounds * dataset.SCRAPE_MS,
        n_hosts * dataset.SERIES_PER_HOST,
    )


def _write(
    path: Path, n_hosts: int, n_rounds: int, start_ms: int, seed: int, body_samples: int
) -> None:
    hosts = dataset.Hosts(n_hosts, start_ms, seed)
    step = max(1, body_samples // dataset.SERIES_PER_HOST)
    templates = [_Template(range(i, min(n_hosts, i + step))) for i in range(0, n_hosts, step)]
    offsets, rounds, samples = [0], [], []
    with open(path, "wb") as file:
        for number in range(n_rounds):
            scrape = hosts.scrape()
            for template in templates:
                offsets.append(offsets[-1] + file.write(template.fill(scrape)))
                rounds.append(number)
                samples.append(len(template.hosts) * dataset.SERIES_PER_HOST)
    path.with_suffix(".json").write_text(
        json.dumps(
            {
                "made_of": [n_hosts, n_rounds, start_ms, seed, body_samples],
                "offsets": offsets,
                "rounds": rounds,
                "samples": samples,
            }
        )
    )


def read(load: Load, first: int, last: int) -> Iterator[bytes]:
    """Bodies first to last - 1."""
    with open(load.path, "rb") as file:
        file.seek(int(load.offsets[first]))
        for k in range(first, last):
            yield file.read(int(load.offsets[k + 1] - load.offsets[k]))
