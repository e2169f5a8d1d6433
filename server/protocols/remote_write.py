"""Remote write 1.0 and 2.0: negotiation, Snappy with caps, answers. The scan is the engine's.

Specifications: Prometheus remote write 1.0 and 2.0 (2.0-rc.4). Differences to Prometheus's own
receiver are named in ``docs/http-api.md``.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Literal

import cramjam
import numpy as np
from aiohttp import web

from tsengine import errors

from .. import ingest
from ..errors import (
    BadRequest,
    TooManySeries,
    UnsupportedMedia,
    classify,
    is_foreseen,
    text_response,
)
from ..limits import ServerLimits
from ..logs import LOGGER

if TYPE_CHECKING:
    import tsengine

    from ..state import Server

Version = Literal[1, 2]

_MEDIA_TYPE = "application/x-protobuf"
_MESSAGES: dict[str, Version] = {
    "prometheus.WriteRequest": 1,
    "io.prometheus.write.v2.Request": 2,
}
_WRITTEN = "X-Prometheus-Remote-Write-{}-Written"
# A Snappy copy element of 3 bytes makes at most 64 bytes, so no honest header claims more.
_SNAPPY_RATIO_MAX = 64 / 3
_MESSAGE_SIZE_KEPT_MAX = 4 << 20
"""Larger messages get memory of their own, which goes when they are stored."""
_SERIES_TEXT_MAX = 200
_REJECTS_LISTED_MAX = 10


async def handle(server: Server, request: web.Request) -> web.Response:
    """POST /api/v1/write and /write."""
    try:
        version = negotiate(
            request.headers.get("Content-Type", ""), request.headers.get("Content-Encoding", "")
        )
    except UnsupportedMedia as error:
        return text_response(error, server.limits.retry_after_s)
    try:
        result = await ingest.receive(
            server,
            request,
            partial(decompressed_size, limits=server.limits),
            partial(_decompress_and_append, server, version, request.remote or ""),
        )
    except Exception as error:  # A request border: every failure carries the counts.
        count_failure(server, error)
        return answer(server, None, error)
    return answer(server, result, None)


def count_failure(server: Server, error: BaseException) -> None:
    """Count a write of which nothing was stored, and log what nobody foresaw."""
    if not is_foreseen(error):
        LOGGER.error("a write failed", exc_info=error)
    server.telemetry.count_failed_write(classify(error).status)


def answer(
    server: Server, result: tsengine.WriteResult | None, error: BaseException | None
) -> web.Response:
    """What the client is told: of what was stored, or (result None) why nothing was."""
    if result is None:
        assert error is not None, "one of the two"
        return _with_counts(text_response(error, server.limits.retry_after_s), 0, 0, 0)
    response = web.Response(status=204)
    if result.shed:
        text = describe_rejects(result, server.limits.reject_text_size_max)
        response = text_response(TooManySeries(text.rstrip()), server.limits.shed_retry_after_s)
    elif result.rejected:
        text = describe_rejects(result, server.limits.reject_text_size_max)
        if any(reject.n_samples for reject in result.rejected):
            response = web.Response(status=400, text=text)
        else:
            # As in Prometheus, bad exemplars never fail a request.
            LOGGER.warning("exemplars of a write were refused: %s", text)
    return _with_counts(response, result.samples, result.histograms, result.exemplars)


def _decompress_and_append(
    server: Server, version: Version, sender: str, body: bytes
) -> tsengine.WriteResult:
    server.telemetry.write_body_bytes.inc(len(body))
    message = decompress(body)
    return ingest.append_message(
        server.database, server.telemetry, message, version=version, sender=sender
    )


def negotiate(content_type: str, content_encoding: str) -> Version:
    """Message version by the headers; absent ones mean 1.0 and Snappy.

    Raises
    ------
    UnsupportedMedia
        For anything else, with what would be right.

    """
    encoding = content_encoding.strip().lower()
    if encoding not in ("", "snappy"):
        raise UnsupportedMedia(
            f"Content-Encoding {content_encoding!r} is not supported; send snappy (block format)"
        )
    if not content_type.strip():
        return 1
    media_type, *parameters = (part.strip() for part in content_type.split(";"))
    version: Version | None = 1 if media_type.lower() == _MEDIA_TYPE else None
    for parameter in parameters:
        key, _, value = parameter.partition("=")
        if version is not None and key.strip().lower() == "proto":
            version = _MESSAGES.get(value.strip().strip('"'))
    if version is None:
        raise UnsupportedMedia(
            f"Content-Type {content_type!r} is not supported; send {_MEDIA_TYPE} or "
            + " or ".join(f"{_MEDIA_TYPE};proto={name}" for name in _MESSAGES)
        )
    return version


def decompressed_size(body: bytes, limits: ServerLimits) -> int:
    """As `claimed_size`, of a whole body."""
    return claimed_size(body[:5], len(body), limits)


def claimed_size(head: bytes, n_bytes: int, limits: ServerLimits) -> int:
    """Length that a raw Snappy block claims to have, checked before any memory is spent on it.

    Parameters
    ----------
    head
        Its first 5 bytes, or as many as there are.
    n_bytes
        Its size.

    Raises
    ------
    BadRequest
        When there is no such header, or the claim is over the limit or impossible.

    """
    size = 0
    for position, byte in enumerate(head):
        size |= (byte & 0x7F) << (7 * position)
        if byte < 0x80:
            break
    else:
        raise BadRequest("body is not Snappy (block format): it has no length header")
    if size > limits.write_message_size_max:
        raise BadRequest(
            f"body claims to be {size} bytes decompressed, over the limit of "
            f"{limits.write_message_size_max}; send smaller requests"
        )
    if size > n_bytes * _SNAPPY_RATIO_MAX:
        raise BadRequest(
            f"body is not Snappy (block format): {n_bytes} bytes can't decompress to {size}"
        )
    return size


def decompress(body: bytes | memoryview) -> memoryview:
    """The message in a raw Snappy block whose header was checked."""
    try:
        return memoryview(cramjam.snappy.decompress_raw(body))
    except cramjam.DecompressionError as error:
        raise errors.MalformedRequest(f"body is not Snappy (block format): {error}") from None


class Decompressor:
    """Decompresses one message after the other into memory that it keeps. One thread."""

    def __init__(self) -> None:
        self._memory = np.empty(_MESSAGE_SIZE_KEPT_MAX, np.uint8).data

    def __call__(self, body: bytes | memoryview) -> memoryview:
        """The message in a body whose header was checked, valid until the next one is asked for."""
        claimed = cramjam.snappy.decompress_raw_len(body)
        if claimed > len(self._memory):
            return decompress(body)
        try:
            size = cramjam.snappy.decompress_raw_into(body, self._memory)
        except cramjam.DecompressionError as error:
            raise errors.MalformedRequest(f"body is not Snappy (block format): {error}") from None
        return self._memory[:size]


def describe_rejects(result: tsengine.WriteResult, size_max: int) -> str:
    """The refused series with their reasons, cut to a length that fits a log line."""
    lines = []
    for reject in result.rejected[:_REJECTS_LISTED_MAX]:
        series = _shortened(reject.series, _SERIES_TEXT_MAX)
        lines.append(f"{series}: {_shortened(reject.reason, _SERIES_TEXT_MAX)}")
    omitted = len(result.rejected) - len(lines)
    n_stored = result.samples + result.histograms
    if result.shed:
        head = f"{describe_shed(result)}\n{n_stored} samples of the others stored; refused are:\n"
    else:
        head = f"{len(result.rejected)} series refused, {n_stored} samples of the others stored:\n"
    tail = f"\n... and {omitted} more" if omitted else ""
    text = head + "\n".join(lines)[: size_max - len(head) - len(tail)] + tail + "\n"
    return text.encode("utf-8", "replace").decode()


def describe_shed(result: tsengine.WriteResult) -> str:
    """How many new series are refused, and why."""
    return f"{result.shed} new series are refused: {result.shed_reason}"


def _shortened(text: str, length_max: int) -> str:
    return text if len(text) <= length_max else text[:length_max] + "..."


def _with_counts(
    response: web.Response, samples: int, histograms: int, exemplars: int
) -> web.Response:
    """Add the headers that tell a 2.0 sender what was stored."""
    counts = {"Samples": samples, "Histograms": histograms, "Exemplars": exemplars}
    for kind, count in counts.items():
        response.headers[_WRITTEN.format(kind)] = str(count)
    return response
