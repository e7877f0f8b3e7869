"""Admission of a question, the same for every surface: drain, limits, body, media, and errors in the client's words."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Generic, TypeVar

from fastapi import Request
from starlette.responses import Response

from gateway.core.question import Question
from gateway.http.client_errors import errors_for_client
from gateway.http.disconnect import until_disconnect
from gateway.http.questions import read_question
from gateway.http.request_body import read_request
from gateway.http.request_fields import client_fields
from gateway.http.schemas.answer import QuestionRequest
from gateway.http.state import GatewayState, state_of

__all__ = ["Admitted", "admitted"]

R = TypeVar("R", bound=QuestionRequest)


@dataclass(frozen=True)
class Admitted(Generic[R]):
    """An admitted question.

    Attributes:
        request: Validated fields of the request.
        question: The question.
        fields: Names of the client's fields, see `errors_for_client`.
        state: Objects of this process.
        resources: Resources released with the response: the permit, and those of the surface. A response that is
            streamed takes them over with `pop_all`.
    """

    request: R
    question: Question
    fields: Mapping[str, str]
    state: GatewayState
    resources: AsyncExitStack


async def admitted(request: Request, kind: type[R], respond: Callable[[Admitted[R]], Awaitable[Response]]) -> Response:
    """Response to a question, which is admitted first.

    Args:
        request: Request whose body is still unread.
        kind: Model of its body.
        respond: Function of the surface from an admitted question to a response; cancelled if the client disconnects.

    Raises:
        ServiceError: The request is refused, or the response cannot be given. The error names the client's fields.
    """
    arrived = asyncio.get_running_loop().time()
    state = state_of(request)
    settings = state.settings
    async with state.drain.scope(), AsyncExitStack() as resources:
        state.running.check()
        with state.bodies.permit():
            parsed, uploads = await read_request(
                request,
                kind,
                timeout_s=settings.body_timeout_s,
                max_bytes=settings.max_body_bytes,
                max_images=settings.max_images,
            )
        resources.enter_context(state.running.permit())

        async def respond_to_question() -> Response:
            fields = client_fields(parsed, uploads)
            question = await read_question(parsed, uploads, state.media_loader, settings, arrived=arrived)
            with errors_for_client(fields):
                return await respond(Admitted(parsed, question, fields, state, resources))

        return await until_disconnect(request.receive, respond_to_question())
    raise AssertionError("unreachable: the stack suppresses no exception")
