"""Conversion of requests with Fovea's own fields to questions of the core: fields to options, media loaded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Generic, TypeVar

from fastapi import Request

from gateway.access.clients import Client
from gateway.core.deadlines import until
from gateway.core.generate_spec import Sampling
from gateway.core.question import Question
from gateway.http.admitted import ReadBody
from gateway.http.client_errors import errors_with_top_level_fields
from gateway.http.question_options import encode_spec, llm_pruning, sampling_of
from gateway.http.request_body import read_request
from gateway.http.request_fields import Uploads, client_fields, read_text_and_media
from gateway.http.request_limits import check_limits
from gateway.http.schemas.answer import AnswerRequest, QuestionRequest
from gateway.http.state import GatewayState
from gateway.settings import GatewaySettings

__all__ = ["reader_of"]

R = TypeVar("R", bound=QuestionRequest)


@dataclass(frozen=True)
class _ReadQuestion(Generic[R]):
    """A request with Fovea's own fields.

    Attributes:
        body: Validated fields.
        uploads: Uploaded files.
        fields: Names of the client's fields, see `errors_for_client`.
    """

    body: R
    uploads: Uploads
    fields: Mapping[str, str]

    async def question(self, state: GatewayState, client: Client, *, arrived: float) -> Question:
        """The question. Its media are moved out of `body` and `uploads`, to free memory.

        Raises:
            ServiceError: Fields exclude each other, a limit is exceeded, or a file cannot be loaded.
        """
        request = self.body
        text, media_inputs = read_text_and_media(request, self.uploads)
        deadline = arrived + check_limits(request, text, media_inputs, state.settings)
        with errors_with_top_level_fields():
            images, videos = await state.media_loader.load(media_inputs, deadline=deadline)
        sampling, llm_pruner = Sampling(max_tokens=1), None  # not sent where no text is generated
        if isinstance(request, AnswerRequest):
            sampling = sampling_of(request, max_tokens=await _max_tokens(request, state, deadline))
            llm_pruner = llm_pruning(request.llm_pruner)
        return Question(
            text=text,
            encode=encode_spec(request, images, videos),
            sampling=sampling,
            llm_pruner=llm_pruner,
            cache=request.cache,
            cache_salt=client.tenant,
            client=client.id,
            arrived=arrived,
            deadline=deadline,
        )


async def _max_tokens(request: AnswerRequest, state: GatewayState, deadline: float) -> int:
    """Maximum number of tokens: what the client sent, else the default up to the limits of gateway and LLM service.

    The LLM service refuses a number above its limit. A client that sent none could not tell why.
    """
    if request.sent_max_tokens is not None:
        return request.sent_max_tokens
    async with until(deadline):
        llm = await state.llm.info()
    return min(request.max_tokens, state.settings.max_tokens, llm.max_tokens or request.max_tokens)


def reader_of(kind: type[R]) -> ReadBody[R]:
    """Reader of requests, as JSON or as a form.

    Args:
        kind: Model of the requests.
    """

    async def read(request: Request, settings: GatewaySettings) -> _ReadQuestion[R]:
        body, uploads = await read_request(request, kind, settings)
        return _ReadQuestion(body, uploads, client_fields(body, uploads))

    return read
