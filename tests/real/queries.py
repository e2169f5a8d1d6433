"""25 queries of the kinds that node dashboards ask. ``$w`` is the window of rates.

Each gives a non-empty answer on any Linux machine. None depends on the order of equal values.
"""

from __future__ import annotations

QUERIES = (
    # CPU
    'sum by (mode) (rate(node_cpu_seconds_total[$w]))',
    '100 * (1 - avg by (instance) (rate(node_cpu_seconds_total{mode="idle"}[$w])))',
    'sum by (instance) (irate(node_cpu_seconds_total{mode!~"idle|iowait"}[$w])) '
    '/ on (instance) group_left count by (instance) (node_cpu_seconds_total{mode="idle"})',
    'count(count by (cpu) (node_cpu_seconds_total))',
    'max by (cpu) (increase(node_cpu_seconds_total{mode=~"user|system"}[$w]))',
    # Load and processes
    'node_load1 / on (instance) count by (instance) (node_cpu_seconds_total{mode="idle"})',
    '{__name__=~"node_load(1|5|15)"}',
    'rate(node_context_switches_total[$w])',
    'avg_over_time(node_procs_running[$w]) + max_over_time(node_procs_blocked[$w])',
    # Memory
    '(1 - node_memory_MemAvailable_bytes / node_memory_MemTotal_bytes) * 100',
    'node_memory_MemTotal_bytes - node_memory_MemFree_bytes - node_memory_Cached_bytes '
    '- node_memory_Buffers_bytes',
    'topk(1, {__name__=~"node_memory_.*_bytes", __name__!~".*Vmalloc.*"})',
    'clamp_min(deriv(node_memory_MemFree_bytes[$w]), 0)',
    'delta(node_memory_Active_bytes[$w])',
    # Disk and file systems
    '1 - node_filesystem_avail_bytes{fstype!~"tmpfs|overlay"} '
    '/ node_filesystem_size_bytes{fstype!~"tmpfs|overlay"} or node_filesystem_files',
    'predict_linear(node_filesystem_free_bytes[$w], 4 * 3600)',
    'sum without (device) (rate(node_disk_written_bytes_total[$w])) or '
    'rate(node_vmstat_pgpgout[$w])',
    # Network
    'sum by (device) (rate(node_network_receive_bytes_total[$w]) * 8)',
    '-sum by (device) (rate(node_network_transmit_bytes_total{device!="lo"}[$w]) * 8) or '
    'vector(0)',
    'rate(node_netstat_Tcp_InSegs[$w]) / (rate(node_netstat_Tcp_OutSegs[$w]) > 0) or '
    'node_netstat_Tcp_CurrEstab',
    # Time, identity, targets
    'time() - node_boot_time_seconds',
    'label_replace(node_uname_info, "host", "$1", "nodename", "(.*)")',
    'min_over_time(up[$w]) * on (instance) group_left (nodename) node_uname_info',
    'sort_desc(quantile by (job) (0.9, scrape_duration_seconds))',
    # A classic histogram of Prometheus itself
    'histogram_quantile(0.9, sum by (le, handler) '
    '(rate(prometheus_http_request_duration_seconds_bucket[$w])))',
)  # fmt: skip
assert len(QUERIES) == 25
