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

__all__ = ["errors_for_client"]

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
        fields: Fields of the request by those of a question, where they differ.
    """
    try:
        yield
    except ServiceError as error:
        param = _client_field(error.param, fields)
        if param == error.param:
            raise
        raise error.renamed(param) from error


def _client_field(param: str | None, fields: Mapping[str, str]) -> str | None:
    if param is None:
        return None
    message_field = param if param in _QUESTION_FIELDS else re.split(r"[.\[]", param)[0]
    question_field = _QUESTION_FIELDS.get(message_field, param)
    return fields.get(question_field, question_field)
