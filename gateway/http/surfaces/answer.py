"""`POST /v1/answer`."""

from __future__ import annotations

from contextlib import aclosing
from typing import Any, Final

from fastapi import APIRouter, Request
from starlette.responses import Response

from fovea.errors import InternalError
from gateway.core.answer import Answer, TextDelta
from gateway.http.admitted import Admitted, admitted
from gateway.http.event_stream import SEND_GRACE_S, EventStream, event_frame
from gateway.http.openapi import ERRORS, EXAMPLE_IMAGE, request_body
from gateway.http.questions import reader_of
from gateway.http.request_route import RequestRoute
from gateway.http.responses import answer_response
from gateway.http.schemas.answer import AnswerRequest
from gateway.http.schemas.answer_response import AnswerResponse, TokenEvent

__all__ = ["router"]

router = APIRouter(route_class=RequestRoute)

_EXAMPLE: Final = {
    "question": "What colour is the large circle?",
    "image": EXAMPLE_IMAGE,
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
    return await admitted(request, reader_of(AnswerRequest), _respond)


async def _respond(admission: Admitted[AnswerRequest]) -> Response:
    model = admission.state.settings.model_name
    events = admission.answer()
    await admission.resources.enter_async_context(aclosing(events))
    if not admission.request.stream:
        async for event in events:
            if isinstance(event, Answer):
                body = answer_response(event, model=model).model_dump_json(exclude_none=True)
                return Response(body, media_type="application/json")
        raise InternalError("the answer ended before it was done")

    def frame(event: TextDelta | Answer) -> bytes:
        if isinstance(event, TextDelta):
            return event_frame("token", TokenEvent(text=event.text))
        return event_frame("done", answer_response(event, model=model))

    return EventStream(
        await anext(events),
        events,
        frame=frame,
        fields=admission.fields,
        resources=admission.resources.pop_all(),
        drain=admission.state.drain,
        give_up_at=admission.question.deadline + SEND_GRACE_S,
    )
