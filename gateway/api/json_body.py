"""JSON of clients to values, within bounds that hold before anything is made of it."""

from __future__ import annotations

import codecs
import re
from itertools import islice
from typing import Any, Final

from pydantic_core import from_json

from fovea.errors import MalformedRequest, UnsupportedMedia

__all__ = ["MAX_VALUES", "json_object", "json_value"]

MAX_VALUES: Final = 16_384
"""Most values, at any depth: texts, numbers, true, false, null, lists and objects. Names of fields do not count."""

_TOKENS: Final = re.compile(
    rb"""  "(?: [^"]*+(?<!\\)" | [^"\\]*+ (?:\\.[^"\\]*+)*+ "? )  # a text; those whose first quote ends them read fast
        | [\[{][\ \t\r\n]*+[\]}]                            # an empty list or object
        | ([,\[{])                                          # stands for one more value
    """,
    re.DOTALL | re.VERBOSE,
)
_OTHER_UTF: Final = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE, codecs.BOM_UTF32_BE)
_REASONS: Final = {
    "recursion limit exceeded": "is nested more than 200 deep; up to 200 are accepted",
    "number out of range": "holds a whole number of more than 4,300 digits; up to 4,300 are accepted",
}


def json_object(text: bytes, what: str, param: str | None) -> dict[str, Any]:
    """As `json_value`, of an object.

    Raises:
        MalformedRequest: Not an object.
    """
    value = json_value(text, what, param)
    if not isinstance(value, dict):
        raise MalformedRequest(f"{what} is not a JSON object", param=param)
    return value


def json_value(text: bytes, what: str, param: str | None) -> Any:
    """The value that `text` writes.

    Args:
        text: UTF-8, with or without a byte order mark.
        what: Name for messages.
        param: The request field.

    Raises:
        UnsupportedMedia: the body is UTF-16 or UTF-32.
        MalformedRequest: Not JSON, or more than is accepted.
    """
    text = text.removeprefix(codecs.BOM_UTF8)
    if text.startswith(_OTHER_UTF) or b"\0" in text[:4]:  # JSON begins with ASCII
        raise UnsupportedMedia(f"{what} is not UTF-8, the only encoding of characters accepted", param=param)
    if _more_values_than(MAX_VALUES, text):
        raise MalformedRequest(f"{what} holds more than the {MAX_VALUES:,} JSON values accepted", param=param)
    try:
        return from_json(text, allow_inf_nan=False)
    except ValueError as error:
        reason = next((said for start, said in _REASONS.items() if str(error).startswith(start)), None)
        raise MalformedRequest(f"{what} {reason or f'is not valid JSON: {error}'}", param=param) from error


def _more_values_than(limit: int, text: bytes) -> bool:
    # Counting is quick; making millions of objects would hold up everybody else.
    if 1 + sum(map(text.count, (b",", b"[", b"{"))) <= limit:
        return False
    # Sound JSON has at most a text before and after each comma or bracket: beyond that the parser soon stops by itself.
    tokens = islice(_TOKENS.finditer(text), 4 * limit)
    return 1 + sum(token.lastindex is not None for token in tokens) > limit
