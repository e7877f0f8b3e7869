"""JSON and multipart/form-data bodies to validated requests."""

from __future__ import annotations

import asyncio
from typing import Any, Final, TypeVar

from fastapi import Request
from pydantic_core import from_json
from python_multipart.multipart import parse_options_header
from starlette.datastructures import FormData, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect

from fovea.errors import Cancelled, InvalidRequest, MalformedRequest, UnsupportedMedia
from gateway.errors import RequestTimeout
from gateway.question import FILE_FIELDS, Uploads
from gateway.schemas.answer import PictureQuestion
from gateway.schemas.parsing import parse_request

__all__ = ["read_request"]

R = TypeVar("R", bound=PictureQuestion)

_MAX_FIELDS: Final = 64
_MAX_VALUES: Final = 16_384
_LARGE_BYTES: Final = 64 * 1024
_MAX_NAME_CHARS: Final = 80


async def read_request(
    request: Request, kind: type[R], *, timeout_s: float, max_bytes: int, max_images: int
) -> tuple[R, Uploads]:
    """Reads and validates the body.

    Args:
        request: With its body unread.
        kind: What the body must be.
        timeout_s: How long the client may take to send it.
        max_bytes: Largest single form field.
        max_images: Most pictures; more files are not read.

    Returns:
        The request, and what came as files.

    Raises:
        MalformedRequest: Not JSON, not a form.
        UnsupportedMedia: Another content type, or a charset other than UTF-8.
        InvalidRequest: A field holds what is not accepted.
        RequestTimeout: The client was too slow.
        Cancelled: The client has gone.
    """
    media_type = _content_type(request)
    try:
        async with asyncio.timeout(timeout_s):
            if media_type == "application/json":
                fields, uploads = await _read_json(request), Uploads()
            else:
                # One more, and a video, so that one picture too many is told in the words for JSON.
                fields, uploads = await _read_form(request, max_bytes, max_files=max_images + 2)
    except TimeoutError:
        raise RequestTimeout(f"the request body did not arrive within {timeout_s:g} s") from None
    except ClientDisconnect:
        raise Cancelled("the client closed the connection while sending") from None
    return parse_request(kind, fields, strict=media_type == "application/json"), uploads


def _content_type(request: Request) -> str:
    kind, options = parse_options_header(request.headers.get("content-type", "application/json"))
    if kind.lower() not in (b"application/json", b"multipart/form-data"):
        raise UnsupportedMedia("the content type is neither application/json nor multipart/form-data")
    if options.get(b"charset", b"utf-8").lower() not in (b"utf-8", b"utf8"):
        raise UnsupportedMedia("the charset of the content type is not utf-8, the only one accepted")
    return kind.decode().lower()


async def _read_json(request: Request) -> dict[str, Any]:
    # Not `request.body()`, which keeps the bytes as long as the request lives.
    body = b"".join([chunk async for chunk in request.stream()])
    if len(body) < _LARGE_BYTES:
        return _json_object(body, "the request body", None)
    return await asyncio.to_thread(_json_object, body, "the request body", None)


class _FormParser(MultiPartParser):
    """Starlette's parser, which reads what is not UTF-8 as Latin-1 and a form cut short as a whole one."""

    complete = False

    def on_part_end(self) -> None:
        if self._current_part.file is None:
            try:
                self._current_part.data.decode()
            except UnicodeDecodeError:
                raise MultiPartException("a field is not UTF-8 text") from None
        super().on_part_end()

    def on_end(self) -> None:
        self.complete = True

    def close(self) -> None:
        """Deletes the files, that of a part cut short too."""
        for file in self._files_to_close_on_error:
            file.close()


async def _read_form(request: Request, max_bytes: int, max_files: int) -> tuple[dict[str, Any], Uploads]:
    parser = _FormParser(
        request.headers, request.stream(), max_files=max_files, max_fields=_MAX_FIELDS, max_part_size=max_bytes
    )
    try:
        form = await parser.parse()
    except MultiPartException as error:
        raise MalformedRequest(f"the form cannot be read: {error.message}") from error
    try:
        if not parser.complete:
            raise MalformedRequest("the form ends before its closing boundary")
        return await _form_fields(form)
    finally:
        parser.close()


def _json(text: bytes | str, what: str, param: str | None) -> Any:
    # Counting is quick; making millions of objects would hold up everybody else.
    if (text.count(b",") if isinstance(text, bytes) else text.count(",")) >= _MAX_VALUES:
        raise MalformedRequest(f"{what} holds more than the {_MAX_VALUES:,} JSON values accepted", param=param)
    try:
        return from_json(text, allow_inf_nan=False)
    except ValueError as error:
        raise MalformedRequest(f"{what} is not valid JSON: {error}", param=param) from error


def _json_object(text: bytes | str, what: str, param: str | None) -> dict[str, Any]:
    value = _json(text, what, param)
    if not isinstance(value, dict):
        raise MalformedRequest(f"{what} is not a JSON object", param=param)
    return value


async def _form_fields(form: FormData) -> tuple[dict[str, Any], Uploads]:
    fields: dict[str, Any] = {}
    uploads = Uploads()
    for name in form:
        if len(name) > _MAX_NAME_CHARS:
            raise InvalidRequest(f"there is no field {name[:_MAX_NAME_CHARS]!r}...")
        values = form.getlist(name)
        files = [value for value in values if isinstance(value, UploadFile)]
        texts = [value for value in values if isinstance(value, str)]
        if files:
            _check_files(name, len(files), texts)
            getattr(uploads, name).extend([await file.read() for file in files])
        elif name in ("stop", "images"):
            fields[name] = texts
        elif len(texts) != 1:
            raise InvalidRequest(f"{name} was given {len(texts)} times; once is accepted", param=name)
        elif name in ("pruner_params", "llm_pruner"):
            fields[name] = _json_object(texts[0], name, name)
        elif name == "messages":
            fields[name] = _json(texts[0], name, name)
        else:
            fields[name] = texts[0]
    return fields, uploads


def _check_files(name: str, count: int, texts: list[str]) -> None:
    if name not in FILE_FIELDS:
        raise InvalidRequest(f"files are accepted in the fields {', '.join(FILE_FIELDS)}", param=name)
    if texts:
        raise InvalidRequest(f"{name} was given twice, as a file and as a field", param=name)
    if name == "video" and count != 1:
        raise InvalidRequest(f"video was given {count} times; once is accepted", param=name)
