"""`POST /v1/answer`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, aclosing
from typing import Any, Final

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, Response

from fovea.errors import InternalError
from gateway.http.dependencies import get_admission, get_body_admission, get_drain, get_pipeline
from gateway.http.disconnect import until_disconnect
from gateway.http.event_stream import Event, EventStream
from gateway.http.openapi import ERRORS, request_body
from gateway.http.request_body import read_request
from gateway.http.schemas.answer import AnswerRequest
from gateway.http.schemas.answer_response import AnswerResponse

__all__ = ["router"]

router = APIRouter()

_SEND_GRACE_S: Final = 5.0


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
_OK: Final[dict[str, Any]] = {
    "description": "The answer; with `stream`, the events `token`, `done` and `error`.",
    "content": {
        "application/json": {"example": _ANSWER},
        "text/event-stream": {"schema": {"type": "string"}, "example": 'event: token\ndata: {"text":"red"}\n\n'},
    },
}


@router.post(
    "/v1/answer",
    response_model=AnswerResponse,
    response_model_exclude_none=True,
    responses={200: _OK, **ERRORS},
    openapi_extra=request_body(AnswerRequest, _EXAMPLE),
    summary="Answer a question about images or a video",
)
async def answer(request: Request) -> Response:
    """Answers a question about images or a video. The body is JSON with images and videos as data URLs, or
    multipart/form-data with files `image`, `images` (one or more) and `video`.

    With `stream` the answer is sent as server-sent events. An error before the first token is an ordinary error
    response; a later one is the event `error`.
    """
    arrived = asyncio.get_running_loop().time()
    pipeline, admission, drain = get_pipeline(request), get_admission(request), get_drain(request)
    settings = pipeline.settings
    async with drain.scope(), AsyncExitStack() as resources:
        admission.check()
        with get_body_admission(request).permit():
            parsed, uploads = await read_request(
                request,
                AnswerRequest,
                timeout_s=settings.body_timeout_s,
                max_bytes=settings.max_body_bytes,
                max_images=settings.max_images,
            )
        resources.enter_context(admission.permit())
        events = await resources.enter_async_context(aclosing(pipeline.answer(parsed, uploads, arrived=arrived)))
        if parsed.stream:
            first = await until_disconnect(request.receive, _next(events))
            give_up_at = arrived + (parsed.timeout_s or settings.default_timeout_s) + _SEND_GRACE_S
            return EventStream(first, events, resources.pop_all(), drain, give_up_at=give_up_at)
        response = await until_disconnect(request.receive, _last(events))
        return JSONResponse(response.model_dump(exclude_none=True))
    raise AssertionError("unreachable: the stack suppresses no exception")


async def _next(events: AsyncGenerator[Event]) -> Event:
    return await anext(events)


async def _last(events: AsyncGenerator[Event]) -> AnswerResponse:
    async for event in events:
        if isinstance(event, AnswerResponse):
            return event
    raise InternalError("the answer ended before it was done")
