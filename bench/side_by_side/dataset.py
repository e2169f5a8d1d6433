"""The data that all systems get: scrapes of hosts, seeded, so that every run sends the same bytes.

A host has 100 series with ten labels, about 256 label bytes each: 45 integer counters (12 of them
buckets of a classic histogram), 15 counters with 2 decimals, 25 gauges that walk with 1 or 2
decimals, 10 constants, 5 floats of full precision. All series of a host share its timestamps; hosts
start at different ms, and one scrape in 20 is off by 1 or 2 ms.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

SERIES_PER_HOST = 100
SCRAPE_MS = 15_000
BOUNDS = ("0.005", "0.01", "0.025", "0.05", "0.1", "0.25", "0.5", "1", "2.5", "5", "10", "+Inf")
_MODES = ("idle", "iowait", "irq", "nice", "softirq", "steal", "system", "user")
_DEVICES = ("eth0", "eth1", "eth2", "eth3")
_DISKS = ("nvme0n1", "nvme1n1", "sda", "sdb")
_MOUNTS = ("/", "/var", "/home", "/srv/data")
_N_INTEGERS = 33
_N_CENTS = 15
_N_GAUGES = 25
_N_CONSTANTS = 10
_N_FLOATS = 5
_LATE_SHARE = 0.05

Labels = dict[str, str]


def _host_metrics() -> list[Labels]:
    """Names and own labels of the 100 series of a host, in the order of the values."""
    found: list[Labels] = []

    def add(name: str, **own: str) -> None:
        found.append({"__name__": name, **own})

    for bound in BOUNDS:
        add("http_request_duration_seconds_bucket", le=bound)
    for code in ("200", "301", "404", "500", "503"):
        add("http_requests_total", code=code)
    for device in _DEVICES:
        add("node_network_receive_bytes_total", device=device)
        add("node_network_transmit_bytes_total", device=device)
    for disk in _DISKS:
        add("node_disk_reads_completed_total", device=disk)
        add("node_disk_writes_completed_total", device=disk)
    names = (
        "context_switches", "forks", "intr", "vmstat_pgfault", "vmstat_pgmajfault", "vmstat_pgpgin",
        "vmstat_pgpgout", "vmstat_pswpin", "vmstat_pswpout", "netstat_Tcp_InSegs",
        "netstat_Tcp_OutSegs", "netstat_Udp_InDatagrams",
    )  # fmt: skip
    for name in names:
        add(f"node_{name}_total")
    for cpu, modes in (("0", _MODES), ("1", _MODES[:7])):
        for mode in modes:
            add("node_cpu_seconds_total", cpu=cpu, mode=mode)
    for name in ("node_load1", "node_load5", "node_load15"):
        add(name)
    for sensor in range(10):
        add("node_hwmon_temp_celsius", sensor=f"temp{sensor}")
    for name in "MemFree MemAvailable Buffers Cached Active Inactive Dirty Slab".split():
        add(f"node_memory_{name}_megabytes")
    for mount in _MOUNTS:
        add("node_filesystem_avail_gigabytes", mountpoint=mount)
    add("node_os_info", version="22.04.5-LTS")
    for mount in _MOUNTS:
        add("node_filesystem_size_gigabytes", mountpoint=mount)
    for name in ("up", "node_boot_time_seconds", "node_cpu_count", "node_memory_MemTotal_bytes"):
        add(name)
    add("node_exporter_build_info", version="1.9.1")
    for name in ("cpu", "memory", "io", "irq", "net"):
        add(f"node_pressure_{name}_share")
    assert len(found) == SERIES_PER_HOST, len(found)
    return found


HOST_METRICS = _host_metrics()


def labels_of(host: int, metric: Labels) -> list[tuple[str, str]]:
    """Ten labels of one series, sorted by name."""
    labels = {
        **metric,
        "datacenter": f"eu-west-1{'abc'[host % 3]}",
        "env": "production" if host % 5 else "staging",
        "instance": f"host-{host:05d}.eu-west-1.compute.internal:9100",
        "job": "node-exporter",
        "service": f"service-{host % 29:02d}-checkout-and-payments",
        "team": f"team-{host % 17:02d}-platform-engineering",
    }
    filling = {
        "os": "Ubuntu22.04.5-LTS-jammy", "arch": "x86_64", "cluster": "prod-eu-west-1-blue",
        "rack": f"rack-{host % 40:02d}",
    }  # fmt: skip
    for name, value in filling.items():
        if len(labels) < 10:
            labels[name] = value
    return sorted(labels.items())


@dataclass(frozen=True, slots=True)
class Scrape:
    """One round of all hosts: ``t_ms: i64[H]``, ``values: f64[H, 100]``."""

    t_ms: npt.NDArray[np.int64]
    values: npt.NDArray[np.float64]


class Hosts:
    """Scrapes of `n` hosts from `start_ms` on, round after round."""

    def __init__(self, n: int, start_ms: int, seed: int) -> None:
        self._rng = np.random.default_rng(seed)
        rng = self._rng
        self.n = n
        self._next_ms = start_ms + rng.integers(0, SCRAPE_MS, n)
        self._requests = 10 ** rng.uniform(0, 3, (n, 1))
        self._bucket_shares = rng.dirichlet(np.full(len(BOUNDS), 1.5), n)
        self._buckets = np.zeros((n, len(BOUNDS)))
        self._paces = 10 ** rng.uniform(0, 5, (n, _N_INTEGERS))
        self._integers = np.floor(self._paces * rng.uniform(0, 1e4, (n, _N_INTEGERS)))
        self._cents = np.floor(rng.uniform(0, 1e8, (n, _N_CENTS)))
        self._cent_paces = rng.dirichlet(np.full(_N_CENTS, 0.5), n) * 3000
        self._gauges = np.floor(rng.uniform(1e3, 1e5, (n, _N_GAUGES)))
        self._strides = 10 ** rng.uniform(0, 2, (n, _N_GAUGES))
        # Loads and file systems have two decimals, temperatures and memory one.
        two = np.r_[[True] * 3, [False] * 18, [True] * 4]
        self._decimals = np.where(two, 100.0, 10.0)
        constants = [1, 50, 200, 800, 4000, 1, 1_700_000_000, 16, 68_719_476_736, 1]
        self._constants = np.tile(constants, (n, 1))

    def replace(self, rows: npt.NDArray[np.intp]) -> None:
        """Other hosts take the places of some: their counters begin anew, at their clocks."""
        others = Hosts(len(rows), 0, int(self._rng.integers(1 << 31)))
        for name, values in vars(self).items():
            if isinstance(values, np.ndarray) and values.ndim == 2:
                values[rows] = getattr(others, name)

    def scrape(self) -> Scrape:
        """The next round."""
        rng, n = self._rng, self.n
        late = (rng.random(n) < _LATE_SHARE) * rng.integers(1, 3, n)
        t_ms = self._next_ms + late
        self._next_ms = self._next_ms + SCRAPE_MS
        self._buckets += rng.poisson(self._requests * self._bucket_shares)
        self._integers += rng.poisson(self._paces)
        self._cents += rng.poisson(self._cent_paces)
        self._gauges += np.round(rng.normal(0, self._strides))
        values = np.concatenate(
            (
                np.cumsum(self._buckets, axis=1),
                self._integers,
                self._cents / 100,
                self._gauges / self._decimals,
                self._constants,
                rng.random((n, _N_FLOATS)),
            ),
            axis=1,
        )
        return Scrape(t_ms, values)
