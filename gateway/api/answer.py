"""`POST /v1/answer`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, aclosing
from typing import Any, Final

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, Response

from fovea.errors import InternalError
from gateway.api.dependencies import get_admission, get_body_admission, get_drain, get_pipeline
from gateway.api.disconnect import until_disconnect
from gateway.api.event_stream import Event, EventStream
from gateway.api.request_body import read_answer_request
from gateway.schemas.answer import AnswerRequest, AnswerResponse
from gateway.schemas.error import ErrorBody

__all__ = ["router"]

router = APIRouter()

_SEND_GRACE_S: Final = 5.0


def _inlined(schema: Any, definitions: dict[str, Any]) -> Any:
    """`schema` with each reference replaced by what it means: `$defs` cannot be reached inside an OpenAPI document."""
    if isinstance(schema, list):
        return [_inlined(item, definitions) for item in schema]
    if not isinstance(schema, dict):
        return schema
    if "$ref" in schema:
        return _inlined(definitions[schema["$ref"].rpartition("/")[2]], definitions)
    return {key: _inlined(value, definitions) for key, value in schema.items() if key != "$defs"}


_WITH_REFERENCES: Final = AnswerRequest.model_json_schema()
_SCHEMA: Final = {
    **_inlined(_WITH_REFERENCES, _WITH_REFERENCES.get("$defs", {})),
    "required": ["question", "image"],
}
_FORM: Final = {
    **_SCHEMA,
    "properties": {**_SCHEMA["properties"], "image": {"type": "string", "format": "binary"}},
}
_EXAMPLE: Final = {
    "question": "What colour is the large circle?",
    "image": "data:image/png;base64,iVBORw0KGgo...",
    "pruner": "desap",
    "keep_ratio": 0.111,
    "max_tokens": 16,
}
_ANSWER: Final = {
    "id": "ans-0f3c",
    "model": "llava-hf/llava-1.5-7b-hf",
    "answer": "red",
    "finish_reason": "stop",
    "usage": {
        "prompt_tokens": 105,
        "completion_tokens": 1,
        "visual_tokens_total": 576,
        "visual_tokens_kept": 64,
        "wire_dtype": "float16",
        "wire_bytes": 131234,
    },
    "cache": {"answer": "miss", "visual_tokens": "miss", "features": "hit"},
    "timing_ms": {
        "queue": 0.4,
        "tokenize": 0.3,
        "encode": 12.1,
        "time_to_first_token": 20.5,
        "generate": 31.0,
        "total": 44.2,
    },
}
_BODY: Final[dict[str, Any]] = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {"schema": _SCHEMA, "example": _EXAMPLE},
            "multipart/form-data": {"schema": _FORM},
        },
    }
}
_ERRORS: Final[dict[int | str, dict[str, Any]]] = {
    status: {"model": ErrorBody, "description": description}
    for status, description in {
        400: "The body cannot be read.",
        404: "No such model or pruner.",
        408: "The body did not arrive in time.",
        413: "Body or picture too large.",
        415: "Not a picture, or another content type or charset.",
        422: "A field holds what is not accepted.",
        429: "Overloaded; see Retry-After.",
        502: "A service answered nonsense.",
        503: "A service is down; see Retry-After.",
        504: "Not done within timeout_s.",
    }.items()
}
_OK: Final[dict[str, Any]] = {
    "description": "The answer; with `stream` the events `token`, `done`, `error`.",
    "content": {
        "application/json": {"example": _ANSWER},
        "text/event-stream": {"schema": {"type": "string"}, "example": 'event: token\ndata: {"text":"red"}\n\n'},
    },
}


@router.post(
    "/v1/answer",
    response_model=AnswerResponse,
    response_model_exclude_none=True,
    responses={200: _OK, **_ERRORS},
    openapi_extra=_BODY,
    summary="Answer a question about a picture",
)
async def answer(request: Request) -> Response:
    """Send JSON with the picture as a data URL, or multipart/form-data with the picture as the file `image`.

    With `stream` the answer comes as server-sent events. Whatever fails before the first token is an ordinary error
    response; afterwards it is the event `error`.
    """
    arrived = asyncio.get_running_loop().time()
    pipeline, admission, drain = get_pipeline(request), get_admission(request), get_drain(request)
    settings = pipeline.settings
    async with drain.scope(), AsyncExitStack() as resources:
        admission.check()
        with get_body_admission(request).permit():
            parsed, upload = await read_answer_request(
                request, timeout_s=settings.body_timeout_s, max_bytes=settings.max_body_bytes
            )
        resources.enter_context(admission.permit())
        events = await resources.enter_async_context(aclosing(pipeline.answer(parsed, upload, arrived=arrived)))
        if parsed.stream:
            first = await until_disconnect(request.receive, _next(events))
            give_up_at = arrived + (parsed.timeout_s or settings.default_timeout_s) + _SEND_GRACE_S
            return EventStream(first, events, resources.pop_all(), drain, give_up_at=give_up_at)
        whole = await until_disconnect(request.receive, _last(events))
        return JSONResponse(whole.model_dump(exclude_none=True))
    raise AssertionError("unreachable: the stack swallows no exception")


async def _next(events: AsyncGenerator[Event]) -> Event:
    return await anext(events)


async def _last(events: AsyncGenerator[Event]) -> AnswerResponse:
    async for event in events:
        if isinstance(event, AnswerResponse):
            return event
    raise InternalError("the answer ended before it was done")
