"""`POST /v1/chat/completions`."""

from __future__ import annotations

from contextlib import aclosing
from typing import Any, Final

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, Response

from fovea.errors import InternalError
from gateway.core.answer import Answer
from gateway.http.admitted import Admitted, admitted
from gateway.http.chat_questions import read_chat
from gateway.http.chat_responses import ChatResponder, error_frame
from gateway.http.event_stream import SEND_GRACE_S, EventStream
from gateway.http.openapi import ERRORS, EXAMPLE_IMAGE, json_body
from gateway.http.request_route import RequestRoute
from gateway.http.schemas.chat import ChatCompletionRequest
from gateway.http.schemas.chat_response import ChatCompletion

__all__ = ["router"]

router = APIRouter(route_class=RequestRoute)

_EXAMPLE: Final = {
    "messages": [
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "What colour is the large circle?"},
                {"type": "image_url", "image_url": {"url": EXAMPLE_IMAGE}},
            ],
        }
    ],
    "max_completion_tokens": 16,
    "temperature": 0,
    "fovea": {"pruner": "desap", "keep_tokens": 64},
}
_COMPLETION: Final = {
    "id": "chatcmpl-0f3c",
    "object": "chat.completion",
    "created": 1785000000,
    "model": "llava-hf/llava-1.5-7b-hf",
    "choices": [
        {
            "index": 0,
            "message": {"role": "assistant", "content": "red", "refusal": None},
            "logprobs": None,
            "finish_reason": "stop",
        }
    ],
    "usage": {
        "prompt_tokens": 105,
        "completion_tokens": 1,
        "total_tokens": 106,
        "prompt_tokens_details": {"cached_tokens": 0, "image_tokens": 64, "image_tokens_before": 576},
        "completion_tokens_details": {"reasoning_tokens": 0},
    },
}
_CHUNK: Final = (
    'data: {"id":"chatcmpl-0f3c","created":1785000000,"model":"llava-hf/llava-1.5-7b-hf",'
    '"object":"chat.completion.chunk","choices":[{"index":0,"delta":{"content":"red"},"logprobs":null,'
    '"finish_reason":null}]}\n\n'
)
_OK: Final[dict[str, Any]] = {
    "description": "The answer; with `stream`, chunks of it as server-sent events, then `data: [DONE]`.",
    "content": {
        "application/json": {"example": _COMPLETION},
        "text/event-stream": {"schema": {"type": "string"}, "example": _CHUNK},
    },
}


@router.post(
    "/v1/chat/completions",
    response_model=ChatCompletion,
    responses={200: _OK, **ERRORS},
    openapi_extra=json_body(ChatCompletionRequest, _EXAMPLE),
    summary="Answer a chat in OpenAI's format",
)
async def chat_completions(request: Request) -> Response:
    """Answers a chat in the format of OpenAI's API, with or without images and videos.

    Fields that this server does not know are ignored, and those that would change the answer are refused. Pruning is
    chosen in the field `fovea`, or in the model's name as `NAME@PRUNER:KEEP_TOKENS`. An error before the first token of
    a stream is an ordinary error response; a later one is an event with the same body, after which no `[DONE]` follows.
    """
    return await admitted(request, read_chat, _respond)


async def _respond(admission: Admitted[ChatCompletionRequest]) -> Response:
    request, state = admission.request, admission.state
    responder = ChatResponder(
        request.model if request.model is not None else state.settings.model_name,
        include_usage=request.stream_options.include_usage,
        report=request.fovea is not None,
    )
    events = admission.answer()
    await admission.resources.enter_async_context(aclosing(events))
    if not request.stream:
        async for event in events:
            if isinstance(event, Answer):
                return JSONResponse(responder.completion(event))
        raise InternalError("the answer ended before it was done")
    return EventStream(
        await anext(events),
        events,
        frame=responder.frame,
        error_frame=error_frame,
        fields=admission.fields,
        resources=admission.resources.pop_all(),
        drain=state.drain,
        give_up_at=admission.question.deadline + SEND_GRACE_S,
    )
