"""Own metrics as a remote-write message."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from server import selfscrape
from server.telemetry import database_metrics
from tests.http import wire


def test_message_holds_every_sample_and_type():
    registry = CollectorRegistry()
    Counter("c", "Counted <things>.", ["k"], registry=registry).labels("v").inc(2)
    Gauge("g", "Measured.", registry=registry).set(-1.5)
    Histogram("h", "Spread.", buckets=(1,), registry=registry).observe(0.5)
    message = selfscrape.encode_message(registry, "host:1", 1_700_000_000_123)
    found = {}
    for labels, samples in wire.decode(message, 1):
        assert labels["job"] == "tsengine"
        assert labels["instance"] == "host:1"
        assert list(labels) == sorted(labels)
        ((t_ms, value),) = samples
        assert t_ms == 1_700_000_000_123
        found[labels["__name__"], labels.get("k"), labels.get("le")] = value
    duration = found.pop(("scrape_duration_seconds", None, None))
    assert 0 <= duration < 1
    assert found == {
        ("c_total", "v", None): 2, ("g", None, None): -1.5, ("h_bucket", None, "1.0"): 1,
        ("h_bucket", None, "+Inf"): 1, ("h_count", None, None): 1, ("h_sum", None, None): 0.5,
        ("up", None, None): 1, ("scrape_samples_scraped", None, None): 6,
    }  # fmt: skip
    metadata = {}
    for number, data in wire.fields(message):
        if number == 3:
            entry = dict(wire.fields(data))
            metadata[entry[2].decode()] = (entry[1], entry[4].decode())
    assert metadata == {"c_total": (1, "Counted <things>."), "g": (2, "Measured."),
                        "h": (3, "Spread.")}  # fmt: skip


async def test_stored_through_the_server(running):
    selfscrape.store_once(running.server, "me")
    labels = {dict(key)["__name__"] for key in running.database.rows}
    assert {"up", "tsengine_ready", "tsengine_series", "process_cpu_seconds_total"} <= labels


def test_database_metrics_keep_to_what_there_is():
    (family,) = database_metrics({"parts": 3, "unknown": 1})
    assert (family.name, family.samples[0].value) == ("tsengine_parts", 3)
