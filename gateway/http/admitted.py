"""Admission of a question, the same for every surface: drain, limits, body, media, and errors in the client's words."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, aclosing
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from fastapi import Request
from starlette.responses import Response

from gateway.access.clients import Client
from gateway.core.answer import Answer, TextDelta
from gateway.core.question import Question
from gateway.http.audit import AuditRecord, audit_record
from gateway.http.authentication import client_of
from gateway.http.client_errors import errors_for_client
from gateway.http.disconnect import until_disconnect
from gateway.http.event_stream import SEND_GRACE_S
from gateway.http.state import GatewayState, state_of
from gateway.settings import GatewaySettings

__all__ = ["Admitted", "ReadBody", "ReadRequest", "admitted"]

R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)


class ReadRequest(Protocol[R_co]):
    """A request whose body has been read, in the form of one surface."""

    @property
    def body(self) -> R_co:
        """Validated fields of the request."""

    @property
    def fields(self) -> Mapping[str, str]:
        """Names of the client's fields, see `errors_for_client`."""

    async def question(self, state: GatewayState, client: Client, *, arrived: float) -> Question:
        """The question of the request, with its media loaded.

        Args:
            state: Objects of this process.
            client: Client that asks.
            arrived: Event-loop time at which the request arrived, in seconds; its timeout starts there.

        Raises:
            ServiceError: The request is refused. The error names the client's fields.
        """


ReadBody = Callable[[Request, GatewaySettings], Awaitable[ReadRequest[R]]]
"""Function that reads and validates the body of a request."""


@dataclass(frozen=True)
class Admitted(Generic[R]):
    """An admitted question.

    Attributes:
        request: Validated fields of the request.
        question: The question.
        fields: Names of the client's fields, see `errors_for_client`.
        state: Objects of this process.
        audit: Record for the audit log.
        resources: Resources released with the response: the permit, and those of the surface. A response that is
            streamed takes them over with `pop_all`.
    """

    request: R
    question: Question
    fields: Mapping[str, str]
    state: GatewayState
    audit: AuditRecord
    resources: AsyncExitStack

    async def answer(self) -> AsyncGenerator[TextDelta | Answer]:
        """Events of the answer, see `AnswerService.answer`. Its costs go into the audit record."""
        async with aclosing(self.state.answers.answer(self.question)) as events:
            async for event in events:
                if isinstance(event, Answer):
                    self.audit.add_answer(event)
                yield event


async def admitted(
    request: Request, read: ReadBody[R], respond: Callable[[Admitted[R]], Awaitable[Response]]
) -> Response:
    """Response to a question, which is admitted first.

    Args:
        request: Request whose body is still unread.
        read: Function of the surface that reads the body.
        respond: Function of the surface from an admitted question to a response; cancelled if the client disconnects.

    Raises:
        ServiceError: The request is refused, or the response cannot be given. The error names the client's fields.
    """
    now = asyncio.get_running_loop().time
    arrived = now()
    state, client, audit = state_of(request), client_of(request), audit_record(request.scope)
    async with state.drain.scope(), AsyncExitStack() as resources:
        state.running.check(client.id)
        reading_s = state.settings.body_timeout_s + state.settings.default_timeout_s
        lease = await resources.enter_async_context(state.limiter.question(client, seconds=reading_s))
        async with state.bodies.arrival(request, client.id) as arriving:
            received = await read(arriving, state.settings)
        resources.enter_context(state.running.permit(client.id))

        async def respond_to_question() -> Response:
            question = await received.question(state, client, arrived=arrived)
            audit.add_question(question)
            await lease.extend(question.deadline + SEND_GRACE_S - now())
            with errors_for_client(received.fields):
                await state.limiter.spend_pixels(client, question.encode.num_pixels)
                return await respond(Admitted(received.body, question, received.fields, state, audit, resources))

        return await until_disconnect(request.receive, respond_to_question())
