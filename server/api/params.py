"""Parameters of API calls: forms, times, durations, limits, label names.

Texts of refusals are Prometheus's where clients may look at them.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from urllib.parse import unquote, unquote_to_bytes

from aiohttp import StreamReader, web

from ..errors import BadParameter, BadRequest, BodyTimeout, BodyTooLarge
from ..limits import ServerLimits
from ..plain_requests import PlainRequest
from ..times import MS_MAX, parse_duration_ms, parse_time_ms

_INTEGER = re.compile(r"[+-]?\d{1,30}", re.ASCII)
_ESCAPE_DIGITS = re.compile(r"[0-9a-fA-F]{0,6}", re.ASCII)
_BAD_ESCAPE = re.compile(rb"%(?![0-9A-Fa-f]{2})")


@dataclass(frozen=True, slots=True)
class Params:
    """Parameters of one request: those of the body stand before those of the URL."""

    fields: Mapping[str, Sequence[str]]

    def get(self, name: str) -> str:
        """First value, or an empty text."""
        values = self.fields.get(name)
        return values[0] if values else ""

    def all(self, name: str) -> Sequence[str]:
        """Every value of a repeatable parameter."""
        return self.fields.get(name, ())

    def time_ms(self, name: str, default: int | None = None) -> int:
        """A time in ms; `default` when the parameter is absent, required without one."""
        text = self.get(name)
        if not text and default is not None:
            return default
        value = parse_time_ms(text)
        if value is None:
            raise BadParameter(name, f'cannot parse "{text}" to a valid timestamp')
        return value

    def range_ms(self) -> tuple[int | None, int | None]:
        """Optional ``start`` and ``end`` of the metadata calls."""
        start = self.time_ms("start") if self.get("start") else None
        end = self.time_ms("end") if self.get("end") else None
        if start is not None and end is not None and end < start:
            raise BadParameter("end", "end timestamp must not be before start time")
        return start, end

    def duration_ms(self, name: str) -> int:
        """A required duration in ms; it may be zero or negative."""
        text = self.get(name)
        value = parse_duration_ms(text)
        if value is None:
            raise BadParameter(name, f'cannot parse "{text}" to a valid duration')
        return value

    def limit(self, name: str = "limit", *, signed: bool = False) -> int:
        """A limit, 0 for none. With `signed`, negative values mean "absent"."""
        text = self.get(name)
        if not text:
            return -1 if signed else 0
        if not _INTEGER.fullmatch(text) or abs(int(text)) > MS_MAX:
            raise BadParameter(name, f'cannot parse "{text}" to an integer')
        if int(text) < 0 and not signed:
            raise BadParameter(name, "limit must be non-negative")
        return int(text)


async def read_params(request: web.Request | PlainRequest, limits: ServerLimits) -> Params:
    """Parameters of the URL and, for POST and PUT, of a form body."""
    query = request.raw_path.partition("?")[2].encode("utf-8", "surrogateescape")
    body = b""
    if isinstance(request, PlainRequest):
        body = request.body
    elif request.method in ("POST", "PUT") and _is_form(request):
        body = await read_body(request, limits.form_size_max, limits)
    if len(body) + len(query) > 64 * 1024:
        return await asyncio.to_thread(parse_form, body, query, limits.form_fields_max)
    return parse_form(body, query, limits.form_fields_max)


def _is_form(request: web.Request) -> bool:
    return request.content_type == "application/x-www-form-urlencoded"


def parse_form(body: bytes, query: bytes, fields_max: int) -> Params:
    """Merge both sources; the body's values come first."""
    fields: dict[str, list[str]] = {}
    for source in (body, query):
        if not source:
            continue
        if _BAD_ESCAPE.search(source):
            raise BadRequest("error parsing form values: invalid percent escape")
        try:
            text = source.decode()
            if text.count("&") >= fields_max:
                raise BadRequest(f"error parsing form values: more than {fields_max} parameters")
            for pair in text.split("&"):
                if pair:
                    name, _, value = pair.partition("=")
                    fields.setdefault(_unescape(name), []).append(_unescape(value))
        except UnicodeDecodeError:
            raise BadRequest("error parsing form values: text is not valid UTF-8") from None
    return Params(fields)


def _unescape(text: str) -> str:
    if "+" in text:
        text = text.replace("+", " ")
    if "%" not in text:
        return text
    if text.isascii():
        return unquote_to_bytes(text).decode()
    return unquote(text, errors="strict")


async def read_body(
    request: web.Request,
    size_max: int,
    limits: ServerLimits,
    on_chunk: Callable[[int], None] | None = None,
) -> bytes:
    """The whole body, refused as soon as it is known to be over `size_max`.

    ``on_chunk`` is told the size of each piece that arrived; what it raises ends the reading.
    """
    if request.content_length is not None and request.content_length > size_max:
        raise BodyTooLarge(_too_large(request.content_length, size_max))
    if request.content.is_eof():
        return _arrived_body(request.content, size_max, on_chunk)
    chunks: list[bytes] = []
    size = 0
    try:
        async with asyncio.timeout(limits.body_read_timeout_s):
            async for chunk in request.content.iter_any():
                size += len(chunk)
                if size > size_max:
                    raise BodyTooLarge(_too_large(size, size_max))
                if on_chunk is not None:
                    on_chunk(len(chunk))
                chunks.append(chunk)
    except TimeoutError:
        raise BodyTimeout(
            f"the request body did not arrive within {limits.body_read_timeout_s:g} s"
        ) from None
    except (web.RequestPayloadError, ConnectionError) as error:
        raise BadRequest(f"the request body ended early: {error}") from None
    return b"".join(chunks)


def _arrived_body(
    content: StreamReader, size_max: int, on_chunk: Callable[[int], None] | None
) -> bytes:
    """A body that came with the head of its request, as small ones do."""
    try:
        body = content.read_nowait(-1)
    except (web.RequestPayloadError, ConnectionError) as error:
        raise BadRequest(f"the request body ended early: {error}") from None
    if len(body) > size_max:
        raise BodyTooLarge(_too_large(len(body), size_max))
    if on_chunk is not None and body:
        on_chunk(len(body))
    return body


def _too_large(size: int, size_max: int) -> str:
    return (
        f"request body of at least {size} bytes is over the limit of {size_max}; "
        "send smaller requests"
    )


def unescape_label_name(name: str) -> str:
    """A label name from a URL: ``U__`` marks escapes as ``_xx_`` (a code point) and ``__``.

    A name whose escapes are malformed stands for itself, as in Prometheus.
    """
    if not name.startswith("U__"):
        return name
    out: list[str] = []
    pos = 3
    while pos < len(name):
        if name[pos] != "_":
            out.append(name[pos])
            pos += 1
            continue
        end = name.find("_", pos + 1)
        digits = name[pos + 1 : end]
        if end < 0 or not _ESCAPE_DIGITS.fullmatch(digits):
            return name
        code = int(digits or "5f", 16)
        if code > 0x10FFFF or 0xD800 <= code <= 0xDFFF:
            return name
        out.append(chr(code))
        pos = end + 1
    return "".join(out)


def is_api_path(path: str) -> bool:
    """Whether errors of this path are JSON, and CORS applies."""
    return path.startswith("/api/v1/")
