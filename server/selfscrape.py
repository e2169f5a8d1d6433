"""The server's own metrics, stored like those of a scraped target.

They travel as a remote-write 1.0 message through the same path as everybody's data, so that types
and help texts arrive too.
"""

from __future__ import annotations

import asyncio
import struct
import time
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from .logs import LOGGER
from .protobuf import bytes_field, varint
from .times import now_ms

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry

    from .state import Server

JOB = "tsengine"
# Numbers of remote write 1.0's MetricMetadata.MetricType.
_TYPES = {"counter": 1, "gauge": 2, "histogram": 3, "summary": 5, "info": 6}


async def run(server: Server, instance: str) -> None:
    """Store a round at once and then every interval, until cancelled."""
    interval_s = server.config.self_scrape_s
    assert interval_s is not None, "started only when switched on"
    due = time.monotonic()
    while True:
        try:
            await server.executor.background(store_once, server, instance)
        except Exception as error:  # A task border: the next round may succeed.
            server.telemetry.self_scrape_failures.inc()
            LOGGER.warning("own metrics were not stored: %s: %s", type(error).__name__, error)
        due += interval_s
        if due < time.monotonic():
            due = time.monotonic() + interval_s
        await asyncio.sleep(due - time.monotonic())


def store_once(server: Server, instance: str) -> None:
    """Collect all metrics and store them with the present time. Runs in a thread."""
    message = encode_message(server.telemetry.registry, instance, now_ms())
    server.database.append_remote_write(message, version=1, sender="self-scrape")


def encode_message(registry: CollectorRegistry, instance: str, t_ms: int) -> bytes:
    """Every sample of the registry, and ``up``, as a WriteRequest with one time."""
    started = time.perf_counter()
    target = {"job": JOB, "instance": instance}
    out = []
    n_samples = 0
    for family in registry.collect():
        # Types are looked up by the name that queries use, which for counters has a suffix.
        name = family.name + ("_total" if family.type == "counter" else "")
        out.append(_metadata(name, family.type, family.documentation))
        for sample in family.samples:
            if sample.name.endswith("_created"):
                continue
            labels = {"__name__": sample.name, **sample.labels, **target}
            out.append(_series(labels, sample.value, t_ms))
            n_samples += 1
    about_scrape = {
        "up": 1.0,
        "scrape_samples_scraped": float(n_samples),
        "scrape_duration_seconds": time.perf_counter() - started,
    }
    for name, value in about_scrape.items():
        out.append(_series({"__name__": name, **target}, value, t_ms))
    return b"".join(out)


def _series(labels: Mapping[str, str], value: float, t_ms: int) -> bytes:
    pairs = b"".join(
        bytes_field(1, bytes_field(1, name.encode()) + bytes_field(2, text.encode()))
        for name, text in sorted(labels.items())
        if text
    )
    sample = b"\x09" + struct.pack("<d", value) + b"\x10" + varint(t_ms)
    return bytes_field(1, pairs + bytes_field(2, sample))


def _metadata(name: str, kind: str, text: str) -> bytes:
    parts: Iterable[bytes] = (
        b"\x08" + varint(_TYPES.get(kind, 0)),
        bytes_field(2, name.encode()),
        bytes_field(4, text.encode()),
    )
    return bytes_field(3, b"".join(parts))
