"""POST /api/v1/otlp/v1/metrics: OpenTelemetry's metrics, as protobuf or JSON.

The request is read, decompressed and parsed with caps, translated (`otlp_translation`) and written
as a remote-write 2.0 message, all off the event loop. What is refused is told as OTLP's partial
success. Unlike in Prometheus, a refused point does not undo the others.
"""

from __future__ import annotations

import base64
import zlib
from functools import partial
from typing import TYPE_CHECKING, Any

import orjson
from aiohttp import web

import tsengine

from .. import feature_switches, ingest
from ..errors import BadRequest, TooManySeries, classify, is_foreseen, text_response
from ..limits import MIB
from ..logs import LOGGER
from .otlp_names import STRATEGIES
from .otlp_translation import Settings, Translation, translate
from .remote_write import describe_shed
from .write_message import encode

if TYPE_CHECKING:
    from ..config import Config
    from ..state import Server

_PROTOBUF, _JSON = "application/x-protobuf", "application/json"
_MESSAGE_SIZE_MAX = 16 * MIB
"""Bytes of a decompressed message. Parsed, one of empty points takes thirty times its bytes."""
_PARSED_RATIO = 12
"""Memory of a parsed message against its bytes."""
_REASONS_MAX = 10


async def handle(server: Server, request: web.Request) -> web.Response:
    """Store what can be stored; 200 with a partial success when some was refused."""
    if not server.config.enable_otlp:
        return web.Response(
            status=404, text="otlp write receiver needs to be enabled with "
            "--web.enable-otlp-receiver\n",
        )  # fmt: skip
    try:
        media, is_gzip = negotiate(
            request.headers.get("Content-Type", ""), request.headers.get("Content-Encoding", "")
        )
        translation = await ingest.receive(
            server,
            request,
            lambda body: _content_size(body, is_gzip=is_gzip) * _PARSED_RATIO,
            partial(_store, server, media, request.remote or "", is_gzip=is_gzip),
        )
    except Exception as error:  # A request border: every failure is counted and answered.
        if not is_foreseen(error):
            LOGGER.exception("an OTLP write failed")
        if isinstance(error, TooManySeries):
            return text_response(error, server.limits.shed_retry_after_s)
        server.telemetry.count_failed_write(classify(error).status)
        return text_response(error, server.limits.retry_after_s)
    return web.Response(body=_answer(translation, media), content_type=media)


def negotiate(content_type: str, content_encoding: str) -> tuple[str, bool]:
    """Media type, and whether the body is gzipped.

    Raises
    ------
    BadRequest
        For anything else, as in Prometheus.

    """
    media = content_type.partition(";")[0].strip().lower()
    if media not in (_PROTOBUF, _JSON):
        raise BadRequest(
            f"unsupported content type: {content_type}, supported: [{_JSON}, {_PROTOBUF}]"
        )
    if content_encoding.strip().lower() not in ("", "gzip", "identity"):
        raise BadRequest(
            f'unsupported compression: {content_encoding}. Only "gzip" or no compression supported'
        )
    return media, content_encoding.strip().lower() == "gzip"


def _content_size(body: bytes, *, is_gzip: bool) -> int:
    size = claimed_size(body) if is_gzip else len(body)
    check_size(size)
    return size


def claimed_size(body: bytes) -> int:
    """Length of the content as the last bytes of a gzip file say, checked before it is unpacked."""
    if len(body) < 18:
        raise BadRequest("body is not gzip: it is too short")
    return int.from_bytes(body[-4:], "little")


def check_size(size: int) -> None:
    """Refuse what would take too much memory."""
    if size > _MESSAGE_SIZE_MAX:
        raise BadRequest(
            f"body has {size} bytes decompressed, over the limit of {_MESSAGE_SIZE_MAX}; "
            "send smaller requests"
        )


def _store(server: Server, media: str, sender: str, body: bytes, *, is_gzip: bool) -> Translation:
    server.telemetry.write_body_bytes.inc(len(body))
    if is_gzip:
        body = _unpacked(body, claimed_size(body))
    translation = translate(parse(body, media), settings_of(server.config))
    if not translation.series:
        return translation
    message = memoryview(encode(translation.series))
    result = ingest.append_message(
        server.database, server.telemetry, message, version=2, sender=f"otlp {sender}",
        protocol="otlp",
    )  # fmt: skip
    for reject in result.rejected:
        translation.refuse(max(reject.n_samples, 1), f"{reject.series}: {reject.reason}")
    if result.shed:
        raise TooManySeries(describe_shed(result))
    return translation


def _unpacked(body: bytes, size: int) -> bytes:
    unpacker = zlib.decompressobj(31)
    try:
        content = unpacker.decompress(body, size + 1)
    except zlib.error as error:
        raise BadRequest(f"body is not gzip: {error}") from None
    if len(content) != size or not unpacker.eof:
        raise BadRequest(f"body is not gzip: its content is not the {size} bytes that it claims")
    return content


def settings_of(config: Config) -> Settings:
    """What the server's flags say about the translation."""
    return Settings(
        strategy=STRATEGIES[config.otlp_strategy],
        promoted=config.otlp_promoted,
        keeps_identifying=config.otlp_keeps_identifying,
        accepts_delta=feature_switches.NATIVE_DELTA in config.features,
        lookback_ms=max(round(config.query_lookback_s * 1000), 2),
    )


def parse(body: bytes, media: str) -> Any:
    """An ``ExportMetricsServiceRequest``.

    Raises
    ------
    MalformedRequest
        The body is not one.

    """
    # Imported late: it takes a tenth of a second, and most servers never need it.
    from google.protobuf.json_format import ParseDict, ParseError
    from google.protobuf.message import DecodeError
    from opentelemetry.proto.collector.metrics.v1 import metrics_service_pb2

    request = metrics_service_pb2.ExportMetricsServiceRequest()
    try:
        if media == _PROTOBUF:
            request.ParseFromString(body)
        else:
            tree = orjson.loads(body)
            _hex_to_base64(tree)
            ParseDict(tree, request, ignore_unknown_fields=True)
    except (
        DecodeError,
        ParseError,
        ValueError,
        TypeError,
        AttributeError,
        RecursionError,
    ) as error:
        raise tsengine.errors.MalformedRequest(
            f"body is not an ExportMetricsServiceRequest: {error}"
        ) from None
    return request


def _hex_to_base64(tree: Any) -> None:
    """OTLP's JSON writes ids of traces in hexadecimal, protobuf's JSON would in base64."""
    pending = [tree]
    while pending:
        part = pending.pop()
        if isinstance(part, list):
            pending += part
        elif isinstance(part, dict):
            for name in ("traceId", "spanId", "trace_id", "span_id"):
                if isinstance(part.get(name), str):
                    part[name] = base64.b64encode(bytes.fromhex(part[name])).decode()
            pending += part.values()


def _answer(translation: Translation, media: str) -> bytes:
    """An ``ExportMetricsServiceResponse``, empty when everything was stored."""
    if not translation.n_refused:
        return b"{}" if media == _JSON else b""
    text = describe(translation)
    if media == _JSON:
        partial_success = {
            "rejectedDataPoints": str(translation.n_refused), "errorMessage": text,
        }  # fmt: skip
        return orjson.dumps({"partialSuccess": partial_success})
    from opentelemetry.proto.collector.metrics.v1 import metrics_service_pb2

    answer = metrics_service_pb2.ExportMetricsServiceResponse()
    answer.partial_success.rejected_data_points = translation.n_refused
    answer.partial_success.error_message = text
    encoded: bytes = answer.SerializeToString()
    return encoded


def describe(translation: Translation) -> str:
    """The reasons of refusals, each with how many points it cost."""
    reasons = list(translation.reasons.items())
    lines = [f"{reason} ({n} points)" for reason, n in reasons[:_REASONS_MAX]]
    if len(reasons) > _REASONS_MAX:
        lines.append(f"... and {len(reasons) - _REASONS_MAX} more reasons")
    return "; ".join(lines).encode("utf-8", "replace").decode()
