"""Every limit of the server that protects it from its clients, by name.

The query limits can be set by flags (`config.py`); the others are fixed: they bound what one
request or one connection may hold in memory.
"""

from __future__ import annotations

from dataclasses import dataclass

KIB = 1024
MIB = 1024 * KIB


@dataclass(frozen=True, slots=True)
class ServerLimits:
    """Limits of one server process.

    Parameters
    ----------
    connections_max
        Connections open at once; further ones are closed.
    query_timeout_s
        Longest time a query may wait and run.
    query_samples_max
        Samples one query may hold in memory.
    queries_running_max
        Queries evaluated at once; further ones wait.
    queries_waiting_max
        Queries that may wait for a turn; further ones are answered with 503.
    search_results_max
        What ``limit`` of the search calls may ask for; 0 for any number.
    search_terms_max
        Terms of one search.
    query_steps_max
        Intervals of one range query: ``(end - start) / step``.
    reads_running_max
        Remote reads answered at once; further ones wait.
    read_samples_max
        Samples of one remote read.
    write_body_size_max
        Bytes of a compressed remote-write body.
    write_message_size_max
        Bytes of a remote-write message after decompression.
    writes_in_flight_size_max
        Bytes of all remote-write requests being read, decompressed or written.
    write_threads
        Requests that may wait for the same fsync.
    write_timeout_s
        Longest time a write may wait for its fsync before it is answered with 503.
    form_size_max
        Bytes of a form body.
    form_fields_max
        Parameters of one request.
    url_size_max
        Bytes of a request line.
    header_size_max
        Bytes of one header.
    body_read_timeout_s
        Longest time a client may take to send its body.
    answer_write_timeout_s
        Longest time a client may take to receive one piece of an answer that is streamed.
    retry_after_s
        What the ``Retry-After`` header of a 503 asks for.
    shed_retry_after_s
        What the ``Retry-After`` header of a 429 asks for: memory gets free by flushes.
    warnings_max
        Warnings (and infos) listed in one answer.
    reject_text_size_max
        Characters of the text that names refused series.
    shutdown_s
        From the signal to the end of the process; what is not flushed by then stays in the log.

    """

    connections_max: int = 10_000
    query_timeout_s: float = 120.0
    query_samples_max: int = 50_000_000
    queries_running_max: int = 20
    queries_waiting_max: int = 1000
    search_results_max: int = 10_000
    search_terms_max: int = 32
    query_steps_max: int = 11_000
    reads_running_max: int = 10
    read_samples_max: int = 10_000_000
    write_body_size_max: int = 32 * MIB
    write_message_size_max: int = 64 * MIB
    writes_in_flight_size_max: int = 256 * MIB
    write_threads: int = 16
    write_timeout_s: float = 30.0
    form_size_max: int = 10 * MIB
    form_fields_max: int = 10_000
    url_size_max: int = MIB
    header_size_max: int = 64 * KIB
    body_read_timeout_s: float = 60.0
    answer_write_timeout_s: float = 60.0
    retry_after_s: int = 1
    shed_retry_after_s: int = 10
    warnings_max: int = 10
    reject_text_size_max: int = 4 * KIB
    shutdown_s: float = 8.5


class ByteBudget:
    """Bytes that requests hold together. Used on the event loop only, so it needs no lock."""

    def __init__(self, size_max: int) -> None:
        self.size_max = size_max
        self.used = 0

    def take(self, size: int) -> bool:
        """Reserve `size` bytes; False (and nothing reserved) when they are not there."""
        if self.used + size > self.size_max:
            return False
        self.used += size
        return True

    def give_back(self, size: int) -> None:
        """Return bytes that were taken."""
        assert 0 <= size <= self.used, "more bytes returned than taken"
        self.used -= size
