"""Fields of clients to requests, or to an error in their words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any, Final, TypeVar

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from fovea.errors import InvalidRequest
from gateway.schemas.answer import LlmPrunerRequest, QuestionRequest
from gateway.schemas.messages import MESSAGE_FIELDS, PARTS_ACCEPTED

__all__ = ["parse_request"]

R = TypeVar("R", bound=QuestionRequest)

_MAX_CHARS: Final = 80
_SAID: Final = {
    "model_type": "an object is accepted",  # pydantic's own words name a class of ours
    "model_attributes_type": "an object is accepted",
    "union_tag_invalid": PARTS_ACCEPTED,
    "union_tag_not_found": PARTS_ACCEPTED,
}


def parse_request(kind: type[R], fields: Mapping[str, Any], *, strict: bool) -> R:
    """Validates the fields of a request.

    Args:
        kind: model that the fields are validated against.
        fields: Field names and values, as read from JSON or a form.
        strict: Types must match (JSON). A form knows text alone, so there "0.5" is a number and "true" a truth value.

    Raises:
        InvalidRequest: The first field that is wrong, with what is accepted.
    """
    try:
        return kind.model_validate(dict(fields), strict=strict)
    except ValidationError as error:
        raise _error(kind, error.errors(include_url=False, include_input=False)[0], fields) from None


def _error(kind: type[QuestionRequest], first: ErrorDetails, fields: Mapping[str, Any]) -> InvalidRequest:
    path = _written_path(first["loc"], fields)
    where = ".".join(map(str, path))[:_MAX_CHARS]
    if first["type"] == "extra_forbidden":
        return InvalidRequest(f"there is no field {where!r}; accepted are {_accepted(kind, path)}", param=where)
    if first["type"] == "one_budget":
        return InvalidRequest(first["msg"], param="keep_ratio")
    said = _SAID.get(first["type"], first["msg"].replace(" after validation", ""))
    param = str(path[0])[:_MAX_CHARS] if path else None
    return InvalidRequest(f"{where}: {said[:1].lower()}{said[1:300]}", param=param)


def _accepted(kind: type[QuestionRequest], path: Sequence[int | str]) -> str:
    if len(path) == 1:
        return ", ".join(kind.model_fields)
    return ", ".join(LlmPrunerRequest.model_fields) if path[0] == "llm_pruner" else MESSAGE_FIELDS


def _written_path(loc: Sequence[int | str], fields: Mapping[str, Any]) -> Sequence[int | str]:
    """The way to what is wrong in the client's own data.

    A `loc` of pydantic names besides which member of a union was tried, and what validators made. The way is the
    longest part of it that leads through what was sent; its end, where possible, is that of `loc`.
    """
    parts = [part for length in range(len(loc), 0, -1) for part in combinations(loc, length)]
    ways = [part for part in parts if _leads(part, fields)]
    return next((way for way in ways if way[-1] == loc[-1]), ways[0] if ways else ())


def _leads(part: Sequence[int | str], value: Any) -> bool:
    """Whether there is something at each step; in an object the last may be what is missing."""
    for step in part[:-1]:
        if not _has(value, step):
            return False
        value = value[step]
    return _has(value, part[-1]) or (isinstance(value, Mapping) and isinstance(part[-1], str))


def _has(value: Any, step: int | str) -> bool:
    if isinstance(value, Mapping):
        return step in value
    return isinstance(value, list) and isinstance(step, int) and step < len(value)
