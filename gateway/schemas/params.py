"""Parameters of a pruner as a client sends them: any JSON object within bounds that every later step can rely on."""

from __future__ import annotations

import json
import sys
from typing import Annotated, Any, Final

from pydantic import AfterValidator
from pydantic_core import PydanticCustomError

__all__ = ["BoundedParams"]

_MAX_PARAMS_DEPTH: Final = 8
_MAX_PARAMS_BYTES: Final = 4096


def _is_plain(value: Any, depth: int) -> bool:
    """Whether all numbers are finite doubles and nothing is nested deeper than `depth`."""
    if isinstance(value, (dict, list)):
        items = value.values() if isinstance(value, dict) else value
        return depth > 0 and all(_is_plain(item, depth - 1) for item in items)
    return not isinstance(value, (int, float)) or abs(value) <= sys.float_info.max


def _bounded(params: dict[str, Any]) -> dict[str, Any]:
    try:
        accepted = (
            _is_plain(params, _MAX_PARAMS_DEPTH)
            and len(json.dumps(params, ensure_ascii=False).encode()) <= _MAX_PARAMS_BYTES
        )
    except ValueError:  # a lone surrogate, an integer of thousands of digits
        accepted = False
    if not accepted:
        raise PydanticCustomError(
            "pruner_params",
            "an object of finite numbers, texts and the like is accepted, nested up to {depth} deep, with up to"
            " {bytes} bytes as JSON",
            {"depth": _MAX_PARAMS_DEPTH, "bytes": _MAX_PARAMS_BYTES},
        )
    return params


BoundedParams = Annotated[dict[str, Any], AfterValidator(_bounded)]
