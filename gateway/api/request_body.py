"""JSON and multipart/form-data bodies to one validated request."""

from __future__ import annotations

import asyncio
from typing import Any

from fastapi import Request
from pydantic_core import from_json
from starlette.datastructures import FormData, UploadFile
from starlette.requests import ClientDisconnect

from fovea.errors import Cancelled, InvalidRequest, MalformedRequest, UnsupportedMedia
from gateway.errors import RequestTimeout
from gateway.schemas.answer import AnswerRequest, parse_answer_request

__all__ = ["read_answer_request"]

_MAX_FIELDS = 64


async def read_answer_request(
    request: Request, *, timeout_s: float, max_bytes: int
) -> tuple[AnswerRequest, bytes | None]:
    """Reads and validates the body.

    Args:
        request: With its body unread.
        timeout_s: How long the client may take to send it.
        max_bytes: Largest single form field.

    Returns:
        The request, and the picture if it came as a file.

    Raises:
        MalformedRequest: Not JSON, not a form.
        UnsupportedMedia: Another content type.
        InvalidRequest: A field holds what is not accepted.
        RequestTimeout: The client was too slow.
        Cancelled: The client has gone.
    """
    kind = request.headers.get("content-type", "application/json").partition(";")[0].strip().lower()
    try:
        async with asyncio.timeout(timeout_s):
            if kind == "application/json":
                return parse_answer_request(_json_object(await request.body()), strict=True), None
            if kind == "multipart/form-data":
                async with request.form(max_files=2, max_fields=_MAX_FIELDS, max_part_size=max_bytes) as form:
                    fields, upload = await _form_fields(form)
                return parse_answer_request(fields, strict=False), upload
    except TimeoutError:
        raise RequestTimeout(f"the request body did not arrive within {timeout_s:g} s") from None
    except ClientDisconnect:
        raise Cancelled("the client closed the connection while sending") from None
    raise UnsupportedMedia("the content type is neither application/json nor multipart/form-data")


def _json(text: bytes | str, what: str, param: str | None) -> dict[str, Any]:
    try:
        value = from_json(text, allow_inf_nan=False)
    except ValueError as error:
        raise MalformedRequest(f"{what} is not valid JSON: {error}", param=param) from error
    if not isinstance(value, dict):
        raise MalformedRequest(f"{what} is not a JSON object", param=param)
    return value


def _json_object(body: bytes) -> dict[str, Any]:
    return _json(body, "the request body", None)


async def _form_fields(form: FormData) -> tuple[dict[str, Any], bytes | None]:
    fields: dict[str, Any] = {}
    upload: bytes | None = None
    for name in form:
        values = form.getlist(name)
        if any(isinstance(value, UploadFile) for value in values) and name != "image":
            raise InvalidRequest("a file is accepted in the field image only", param=name)
        if name == "stop":
            fields[name] = values
        elif name == "image" and len(values) == 2 and {type(value) for value in values} == {str, UploadFile}:
            raise InvalidRequest("image was given twice, as a file and as a field", param=name)
        elif len(values) != 1:
            raise InvalidRequest(f"{name} was given {len(values)} times; once is accepted", param=name)
        elif isinstance(values[0], UploadFile):
            upload = await values[0].read()
        elif name == "pruner_params":
            fields[name] = _json(values[0], name, name)
        else:
            fields[name] = values[0]
    return fields, upload
