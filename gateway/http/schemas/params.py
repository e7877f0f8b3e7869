"""Parameters of a pruner in a request: any JSON object of bounded depth, size and numbers."""

from __future__ import annotations

import json
import sys
from typing import Annotated, Any, Final

from pydantic import AfterValidator
from pydantic_core import PydanticCustomError

__all__ = ["BoundedParams"]

_MAX_PARAMS_DEPTH: Final = 8
_MAX_PARAMS_BYTES: Final = 4096


def _depth(value: Any) -> int:
    """Nesting depth of objects and lists. The recursion is bounded: request bodies have at most 200 levels."""
    if isinstance(value, (dict, list)):
        return 1 + max(map(_depth, value.values() if isinstance(value, dict) else value), default=0)
    return 0


def _is_finite(value: Any) -> bool:
    """Whether all numbers are in the range of a finite double."""
    if isinstance(value, (dict, list)):
        return all(map(_is_finite, value.values() if isinstance(value, dict) else value))
    return not isinstance(value, (int, float)) or abs(value) <= sys.float_info.max


def _num_bytes(params: dict[str, Any]) -> int:
    """Size in bytes as JSON without spaces.

    Raises:
        PydanticCustomError: A text is not valid Unicode.
    """
    try:
        return len(json.dumps(params, ensure_ascii=False, separators=(",", ":")).encode())
    except UnicodeEncodeError:
        raise PydanticCustomError("params_text", "texts of whole Unicode characters are accepted") from None


def _bounded(params: dict[str, Any]) -> dict[str, Any]:
    if (depth := _depth(params)) > _MAX_PARAMS_DEPTH:
        raise PydanticCustomError(
            "params_depth", f"nested {depth} deep; an object nested up to {_MAX_PARAMS_DEPTH} deep is accepted"
        )
    if not _is_finite(params):
        raise PydanticCustomError("params_numbers", "finite numbers are accepted, up to 1.8e308")
    if (size := _num_bytes(params)) > _MAX_PARAMS_BYTES:
        raise PydanticCustomError(
            "params_bytes", f"{size} bytes as JSON without spaces; up to {_MAX_PARAMS_BYTES} bytes are accepted"
        )
    return params


BoundedParams = Annotated[dict[str, Any], AfterValidator(_bounded)]
