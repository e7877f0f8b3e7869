"""Validation of the fields of `POST /v1/chat/completions`, with errors that name the whole path of a field."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from fovea.errors import InvalidRequest
from gateway.http.schemas.chat import ChatCompletionRequest, FoveaOptions
from gateway.http.schemas.chat_unsupported import check_supported
from gateway.http.schemas.messages import PARTS_ACCEPTED
from gateway.http.schemas.options import LlmPrunerRequest
from gateway.http.schemas.parsing import client_path
from gateway.http.schemas.reasons import reason

__all__ = ["parse_chat_request"]

_MAX_CHARS: Final = 120
_OBJECTS: Final = ("stream_options", "fovea")
"""Fields in which null is the same as a field that is left out, too."""
_ONLY_IN_FOVEA: Final = (
    "pruner",
    "pruner_params",
    "keep_tokens",
    "keep_ratio",
    "num_frames",
    "seconds_per_frame",
    "video_budget",
    "image_fit",
    "llm_pruner",
    "wire_dtype",
    "max_wire_bytes",
)
"""Options of Fovea whose names no other server has. At the top of the body they would be ignored as unknown fields, and
a comparison of budgets would compare one budget with itself."""


def parse_chat_request(fields: Mapping[str, Any]) -> ChatCompletionRequest:
    """Validates the fields of a request.

    Args:
        fields: Values by field name, from JSON.

    Raises:
        InvalidRequest: A field is wrong, or would change the answer and is not offered; the error names the first one
            and what is accepted.
    """
    given = _without_nulls(fields)
    for name in _OBJECTS:
        if isinstance(given.get(name), dict):
            given[name] = _without_nulls(given[name])
    check_supported(given)
    _refuse_misplaced(given)
    try:
        return ChatCompletionRequest.model_validate(given, strict=True)
    except ValidationError as error:
        raise _error(error.errors(include_url=False, include_input=False)[0], given) from None


def _refuse_misplaced(fields: Mapping[str, Any]) -> None:
    for name in _ONLY_IN_FOVEA:
        if name in fields:
            raise InvalidRequest(
                f'{name} is an option of Fovea; accepted in the field fovea: {{"fovea": {{"{name}": ...}}}}', param=name
            )


def _without_nulls(fields: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value is not None}


def _error(first: ErrorDetails, fields: Mapping[str, Any]) -> InvalidRequest:
    path = client_path(first["loc"], fields)
    name = ".".join(map(str, path))[:_MAX_CHARS]
    if first["type"] == "extra_forbidden":
        kind = LlmPrunerRequest if path[1] == "llm_pruner" else FoveaOptions
        return InvalidRequest(
            f"there is no field {name!r}; accepted in {path[-2]} are {', '.join(kind.model_fields)}", param=name
        )
    if first["type"] == "one_budget":
        return InvalidRequest(first["msg"], param="fovea.keep_ratio")
    if first["type"] == "top_logprobs":
        return InvalidRequest(first["msg"], param="top_logprobs")
    if first["type"] == "union_tag_invalid":
        tag = str(first["ctx"]["tag"])
        return InvalidRequest(f"{name}: type {tag!r:.40} is not accepted; {PARTS_ACCEPTED}", param=name)
    return InvalidRequest(f"{name}: {reason(first)}", param=name or None)
