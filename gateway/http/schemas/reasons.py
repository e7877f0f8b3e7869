"""What the validation of a field refused, in words for a client: pydantic's own texts speak of Python's types."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from pydantic_core import ErrorDetails

from gateway.http.schemas.messages import PARTS_ACCEPTED

__all__ = ["reason"]

_OBJECT: Final = "an object is accepted"
_LIST: Final = "a list is accepted"
_TEXT: Final = "a text is accepted"
_WHOLE: Final = "a whole number is accepted"
_NUMBER: Final = "a number is accepted"
_BOOLEAN: Final = "true or false is accepted"
_TEXTS: Final = {
    "bool_parsing": _BOOLEAN,
    "bool_type": _BOOLEAN,
    "dict_type": _OBJECT,
    "finite_number": "a number other than NaN and infinity is accepted",
    "float_parsing": _NUMBER,
    "float_type": _NUMBER,
    "greater_than": "a number above {gt} is accepted",
    "greater_than_equal": "a number of at least {ge} is accepted",
    "int_from_float": _WHOLE,
    "int_parsing": _WHOLE,
    "int_parsing_size": _WHOLE,
    "int_type": _WHOLE,
    "less_than": "a number below {lt} is accepted",
    "less_than_equal": "a number of at most {le} is accepted",
    "list_type": _LIST,
    "literal_error": "accepted: {expected}",
    "missing": "the field is missing",
    "model_attributes_type": _OBJECT,
    "model_type": _OBJECT,
    "string_too_long": "a text of at most {max_length} characters is accepted",
    "string_too_short": "a text of {min_length} or more characters is accepted",
    "string_type": _TEXT,
    "string_unicode": "a text of Unicode characters is accepted",
    "too_long": "a list of at most {max_length} entries is accepted, not of {actual_length}",
    "too_short": "a list of {min_length} or more entries is accepted, not of {actual_length}",
    "tuple_type": _LIST,
    "union_tag_invalid": PARTS_ACCEPTED,
    "union_tag_not_found": PARTS_ACCEPTED,
}
"""Texts by pydantic's type of the error. Values in braces are those of its context."""


def reason(error: ErrorDetails) -> str:
    """What is wrong or accepted. The text of a validator of our own is taken as it is."""
    text = _TEXTS.get(error["type"])
    if text is None:
        return f"{error['msg'][:1].lower()}{error['msg'][1:300]}"
    return text.format_map(_shown(error.get("ctx", {})))


def _shown(context: Mapping[str, Any]) -> dict[str, str]:
    return {name: f"{value:,g}" if isinstance(value, float) else str(value) for name, value in context.items()}
