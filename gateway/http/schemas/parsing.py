"""Validation of the fields of a request, with errors that name the client's fields."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any, Final, TypeVar

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from fovea.errors import InvalidRequest
from gateway.http.schemas.answer import QuestionRequest
from gateway.http.schemas.messages import MESSAGE_FIELDS
from gateway.http.schemas.options import LlmPrunerRequest
from gateway.http.schemas.reasons import reason

__all__ = ["client_path", "parse_request"]

R = TypeVar("R", bound=QuestionRequest)

_MAX_CHARS: Final = 80


def parse_request(kind: type[R], fields: Mapping[str, Any], *, strict: bool) -> R:
    """Validates the fields of a request.

    Args:
        kind: Model of the request.
        fields: Values by field name, from JSON or a form.
        strict: Whether types must match (JSON). The values of a form are texts, so "0.5" is accepted as a number and
            "true" as a boolean.

    Raises:
        InvalidRequest: A field is wrong; the error names the first one and what is accepted.
    """
    try:
        return kind.model_validate(dict(fields), strict=strict)
    except ValidationError as error:
        raise _error(kind, error.errors(include_url=False, include_input=False)[0], fields) from None


def _error(kind: type[QuestionRequest], first: ErrorDetails, fields: Mapping[str, Any]) -> InvalidRequest:
    path = client_path(first["loc"], fields)
    name = ".".join(map(str, path))[:_MAX_CHARS]
    if first["type"] == "extra_forbidden":
        return InvalidRequest(f"there is no field {name!r}; accepted are {_accepted(kind, path)}", param=name)
    if first["type"] == "one_budget":
        return InvalidRequest(first["msg"], param="keep_ratio")
    param = str(path[0])[:_MAX_CHARS] if path else None
    return InvalidRequest(f"{name}: {reason(first)}", param=param)


def _accepted(kind: type[QuestionRequest], path: Sequence[int | str]) -> str:
    if len(path) == 1:
        return ", ".join(kind.model_fields)
    return ", ".join(LlmPrunerRequest.model_fields) if path[0] == "llm_pruner" else MESSAGE_FIELDS


def client_path(loc: Sequence[int | str], fields: Mapping[str, Any]) -> Sequence[int | str]:
    """Path of the error in the client's data.

    A `loc` of pydantic also names the member of a union that was tried, and values made by validators. The path is the
    longest subsequence of `loc` that exists in the client's data, preferably one that ends as `loc` does.
    """
    candidates = [path for length in range(len(loc), 0, -1) for path in combinations(loc, length)]
    paths = [path for path in candidates if _exists(path, fields)]
    return next((path for path in paths if path[-1] == loc[-1]), paths[0] if paths else ())


def _exists(path: Sequence[int | str], value: Any) -> bool:
    """Whether `value` has each step of the path; the last step may be a missing field of an object."""
    for step in path[:-1]:
        if not _has(value, step):
            return False
        value = value[step]
    return _has(value, path[-1]) or (isinstance(value, Mapping) and isinstance(path[-1], str))


def _has(value: Any, step: int | str) -> bool:
    if isinstance(value, Mapping):
        return step in value
    return isinstance(value, list) and isinstance(step, int) and step < len(value)
