"""Reading and validation of request bodies: JSON or multipart/form-data."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, Final, TypeVar

from fastapi import Request
from multipart import parse_options_header
from starlette.requests import ClientDisconnect

from fovea.errors import Cancelled, UnsupportedMedia
from gateway.http.errors import UnsupportedEncoding
from gateway.http.form_body import read_form
from gateway.http.headers import header
from gateway.http.json_body import json_object
from gateway.http.request_fields import Uploads
from gateway.http.schemas.answer import QuestionRequest
from gateway.http.schemas.parsing import parse_request
from gateway.settings import GatewaySettings

__all__ = ["read_json", "read_request"]

R = TypeVar("R", bound=QuestionRequest)
T = TypeVar("T")

_LARGE_BYTES: Final = 64 * 1024
_MAX_CONTENT_TYPE_CHARS: Final = 1024


async def read_request(request: Request, kind: type[R], settings: GatewaySettings) -> tuple[R, Uploads]:
    """Reads and validates the body.

    Args:
        request: Request whose body is still unread.
        kind: Model of the request.
        settings: Limits of this server.

    Returns:
        The validated request, and the uploaded files.

    Raises:
        MalformedRequest: The body is neither JSON nor a form.
        UnsupportedMedia: The content type is another one, the charset is not UTF-8, or the body is compressed.
        InvalidRequest: A field has a value that is not accepted.
        Cancelled: The client disconnected.
    """
    _check_encoding(request)
    media_type, boundary = _content_type(request, "application/json", "multipart/form-data")
    if media_type == "application/json":
        return parse_request(kind, await _unless_disconnected(_read_json(request)), strict=True), {}
    form = read_form(request, boundary, max_images=settings.max_images)
    fields, uploads = await _unless_disconnected(form)
    return parse_request(kind, fields, strict=False), uploads


async def read_json(request: Request) -> dict[str, Any]:
    """The fields of a JSON body, not validated.

    Raises:
        ServiceError: See `read_request`; a form is an UnsupportedMedia.
    """
    _check_encoding(request)
    _content_type(request, "application/json")
    return await _unless_disconnected(_read_json(request))


async def _unless_disconnected(reading: Coroutine[Any, Any, T]) -> T:
    """Result of reading a body."""
    try:
        return await reading
    except ClientDisconnect:
        raise Cancelled("the client closed the connection while sending") from None


def _check_encoding(request: Request) -> None:
    # Content encodings are refused: a small body may decompress to any size, and media are compressed already.
    given = [value.decode("latin-1") for name, value in request.scope["headers"] if name == b"content-encoding"]
    if given and any(encoding.strip() not in ("", "identity") for encoding in ",".join(given).lower().split(",")):
        raise UnsupportedEncoding("the body is sent in a Content-Encoding; it is accepted as it is (identity)")


def _content_type(request: Request, *accepted: str) -> tuple[str, str]:
    """The media type of the body, and its boundary; empty for none."""
    given = header(request.scope, b"content-type")
    if given is None:
        return accepted[0], ""
    if len(given) > _MAX_CONTENT_TYPE_CHARS:  # its parameters take 1 us a character to parse, twice for a form
        raise UnsupportedMedia(
            f"Content-Type has {len(given):,} characters; up to {_MAX_CONTENT_TYPE_CHARS:,} are accepted"
        )
    media_type, options = parse_options_header(given)
    if media_type not in accepted:
        one, *other = accepted
        names = f"neither {one} nor {other[0]}" if other else f"not {one}, the only one accepted"
        raise UnsupportedMedia(f"the content type is {names}")
    if options.get("charset", "utf-8").lower() not in ("utf-8", "utf8"):
        raise UnsupportedMedia("the charset of the content type is not utf-8, the only one accepted")
    return media_type, options.get("boundary", "")


async def _read_json(request: Request) -> dict[str, Any]:
    # Not `request.body()`, which keeps the bytes until the end of the request.
    body = b"".join([chunk async for chunk in request.stream()])
    if len(body) < _LARGE_BYTES:
        return json_object(body, "the request body", None)
    return await asyncio.to_thread(json_object, body, "the request body", None)
