"""Remote-write bodies made fast: a message is encoded once, then values and times are put in."""

from __future__ import annotations

from collections.abc import Sequence

import cramjam
import numpy as np
import numpy.typing as npt

from bench.side_by_side import dataset
from tests.reference import remote_write as wire

_TIME_SIZE = 6
"""Bytes of the varint of a time between 2004 and 2109."""
_SAMPLE_TAIL = 8 + 1 + _TIME_SIZE


class Template:
    """The message of some hosts, in which values and times are replaced.

    Parameters
    ----------
    hosts
        Their numbers, which their labels are made of.
    rows
        Where they are in a scrape; the numbers themselves if None.

    """

    def __init__(self, hosts: Sequence[int], rows: slice | None = None) -> None:
        self.hosts = hosts
        self._rows = slice(hosts[0], hosts[-1] + 1) if rows is None else rows
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
        values = np.ascontiguousarray(scrape.values[self._rows]).reshape(-1)
        self._message[self._values] = values.view(np.uint8).reshape(-1, 8)
        digits = _varints(scrape.t_ms[self._rows])
        self._message[self._times] = np.repeat(digits, dataset.SERIES_PER_HOST, axis=0)
        return bytes(cramjam.snappy.compress_raw(self._message))


def _varints(t_ms: npt.NDArray[np.int64]) -> npt.NDArray[np.uint8]:
    """``u8[H, 6]``: the bytes of the varints of times."""
    shifts = 7 * np.arange(_TIME_SIZE)
    digits = (t_ms[:, None] >> shifts) & 0x7F
    digits[:, :-1] |= 0x80
    return digits.astype(np.uint8)
