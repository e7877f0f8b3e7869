"""Parsing of JSON from clients, with limits that are checked before any object is created."""

from __future__ import annotations

import codecs
import re
from itertools import islice
from typing import Any, Final

from pydantic_core import from_json

from fovea.errors import MalformedRequest, UnsupportedMedia

__all__ = ["MAX_VALUES", "json_object", "json_value"]

MAX_VALUES: Final = 16_384
"""Most values at any depth: strings, numbers, true, false, null, lists and objects. Field names do not count."""

_TOKENS: Final = re.compile(
    rb"""  "(?: [^"]*+(?<!\\)" | [^"\\]*+ (?:\\.[^"\\]*+)*+ "? )  # a string; fast path: no quote inside
        | [\[{][\ \t\r\n]*+[\]}]                            # an empty list or object
        | ([,\[{])                                          # one more value
    """,
    re.DOTALL | re.VERBOSE,
)
_OTHER_UTF: Final = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE, codecs.BOM_UTF32_BE)
_REASONS: Final = {
    "recursion limit exceeded": "is nested more than 200 deep; up to 200 are accepted",
    "number out of range": "holds a whole number of more than 4,300 digits; up to 4,300 are accepted",
}


def json_object(text: bytes, name: str, param: str | None) -> dict[str, Any]:
    """A JSON object, see `json_value`.

    Raises:
        MalformedRequest: The value is not an object.
    """
    value = json_value(text, name, param)
    if not isinstance(value, dict):
        raise MalformedRequest(f"{name} is not a JSON object", param=param)
    return value


def json_value(text: bytes, name: str, param: str | None) -> Any:
    """A JSON value.

    Args:
        text: JSON in UTF-8, with or without a byte order mark.
        name: Name of the text, for messages.
        param: Request field, for errors.

    Raises:
        UnsupportedMedia: The text is UTF-16 or UTF-32.
        MalformedRequest: The text is not JSON, or exceeds a limit.
    """
    text = text.removeprefix(codecs.BOM_UTF8)
    if text.startswith(_OTHER_UTF) or b"\0" in text[:4]:  # JSON begins with ASCII
        raise UnsupportedMedia(f"{name} is not UTF-8, the only encoding of characters accepted", param=param)
    if not text or text.isspace():
        raise MalformedRequest(f"{name} is empty; JSON is accepted", param=param)
    if _more_values_than(MAX_VALUES, text):
        raise MalformedRequest(f"{name} holds more than the {MAX_VALUES:,} JSON values accepted", param=param)
    try:
        return from_json(text, allow_inf_nan=False)
    except ValueError as error:
        reason = next((reason for start, reason in _REASONS.items() if str(error).startswith(start)), None)
        raise MalformedRequest(f"{name} {reason or f'is not valid JSON: {error}'}", param=param) from error


def _more_values_than(limit: int, text: bytes) -> bool:
    # Counting is fast; creating millions of objects would block the event loop.
    if 1 + sum(map(text.count, (b",", b"[", b"{"))) <= limit:
        return False
    # Valid JSON has at most one string before and after each comma or bracket; the parser refuses any other text early.
    tokens = islice(_TOKENS.finditer(text), 4 * limit)
    return 1 + sum(token.lastindex is not None for token in tokens) > limit
