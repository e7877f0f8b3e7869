"""Conversion of requests to questions of the core: fields to options, media loaded."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import fields
from typing import Any, Final

from fovea.budget import Budget
from gateway.core.deadlines import until
from gateway.core.encode_spec import EncodeSpec
from gateway.core.generate_spec import LlmPruning, Sampling
from gateway.core.question import Question
from gateway.http.request_fields import Uploads, read_text_and_media
from gateway.http.request_limits import check_limits
from gateway.http.schemas.answer import AnswerRequest, LlmPrunerRequest, QuestionRequest
from gateway.media.loader import MediaLoader
from gateway.settings import GatewaySettings

__all__ = ["read_question"]

_ENCODE_OPTIONS: Final = {item.name for item in fields(EncodeSpec)} - {"images", "videos", "text_ids", "budget"}
"""Attributes of `EncodeSpec` that are fields of requests."""
_SAMPLING: Final = [item.name for item in fields(Sampling)]


async def read_question(
    request: QuestionRequest, uploads: Uploads, loader: MediaLoader, settings: GatewaySettings, *, arrived: float
) -> Question:
    """The question of a request. Its media are moved out of `request` and `uploads`, to free memory.

    Args:
        request: A valid request.
        uploads: Uploaded files.
        loader: Loader of images and videos.
        settings: Limits of this server.
        arrived: Event-loop time at which the request arrived, in seconds; its timeout starts there.

    Raises:
        ServiceError: Fields exclude each other, a limit is exceeded, or a file cannot be loaded.
    """
    text, media_inputs = read_text_and_media(request, uploads)
    deadline = arrived + check_limits(request, text, media_inputs, settings)
    async with until(deadline):
        images, videos = await loader.load(media_inputs)
    sampling, llm_pruner = Sampling(max_tokens=1), None  # not sent where no text is generated
    if isinstance(request, AnswerRequest):
        sampling, llm_pruner = _sampling(request), _llm_pruning(request.llm_pruner)
    return Question(
        text=text,
        encode=EncodeSpec(
            images=images,
            videos=videos,
            budget=Budget.of(request.keep_tokens, request.keep_ratio),
            **_values(request, _ENCODE_OPTIONS),
        ),
        sampling=sampling,
        llm_pruner=llm_pruner,
        cache=request.cache,
        arrived=arrived,
        deadline=deadline,
    )


def _values(request: QuestionRequest, names: Iterable[str]) -> dict[str, Any]:
    """Values of those fields that this kind of request has."""
    return {name: getattr(request, name) for name in names if name in type(request).model_fields}


def _sampling(request: AnswerRequest) -> Sampling:
    return Sampling(**{**_values(request, _SAMPLING), "stop": tuple(request.stop)})


def _llm_pruning(requested: LlmPrunerRequest | None) -> LlmPruning | None:
    if requested is None:
        return None
    budget = Budget.of(requested.keep_tokens, requested.keep_ratio)
    assert budget is not None, "the schema requires a budget"
    return LlmPruning(name=requested.name, params=requested.params, budget=budget)
