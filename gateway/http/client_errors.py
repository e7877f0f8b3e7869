"""Errors in the words of the client: the fields of its own request.

Services name the fields of their messages, and the core those of a question. Here, at the edge, they become the fields
of this client's request. The error itself is not changed, because several callers may share it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Final

from fovea.errors import ServiceError

__all__ = ["errors_for_client", "errors_with_top_level_fields", "top_level_field"]

_QUESTION_FIELDS: Final = {
    "text_ids": "question",
    "input_ids": "question",
    "images": "image",
    "visual_tokens": "image",
    "videos": "video",
    "cross_attention": "maps",
    "cross_attention.layer": "cross_attention_layer",
}
"""Names of request fields by fields of the services' messages."""


@contextmanager
def errors_for_client(fields: Mapping[str, str]) -> Iterator[None]:
    """Context whose errors name the fields of a client's request.

    Args:
        fields: Fields of the request by those of a question, where they differ. A field inside one of them is that of
            the request followed by the rest of its path. `image.1` is the second of several images.
    """
    try:
        yield
    except ServiceError as error:
        param = _client_field(error.param, fields)
        if param == error.param:
            raise
        raise error.renamed(param) from error


@contextmanager
def errors_with_top_level_fields() -> Iterator[None]:
    """Context whose errors name the top-level field alone, as `POST /v1/answer` does. The message has the path."""
    try:
        yield
    except ServiceError as error:
        if error.param is None or top_level_field(error.param) == error.param:
            raise
        raise error.renamed(top_level_field(error.param)) from error


def top_level_field(field_path: str) -> str:
    """The first step of a field path: `images` of `images.2`."""
    return field_path.partition(".")[0]


def _client_field(param: str | None, fields: Mapping[str, str]) -> str | None:
    if param is None:
        return None
    message_field = param if param in _QUESTION_FIELDS else re.split(r"[.\[]", param)[0]
    question_field = _QUESTION_FIELDS.get(message_field, param)
    numbered = question_field + param.removeprefix(message_field)
    if numbered in fields:
        return fields[numbered]
    if question_field in fields:
        return fields[question_field]
    first = top_level_field(question_field)
    return fields.get(first, first) + question_field.removeprefix(first)
