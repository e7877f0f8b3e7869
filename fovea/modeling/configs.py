"""config.json of a checkpoint, as a dict and as a config class of transformers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

from fovea.checkpoints import shown_name
from fovea.modeling.errors import CheckpointError

__all__ = ["config_part", "read_config", "read_family_config"]

_MAX_ERROR_CHARS: Final = 300


def read_config(checkpoint: Path) -> dict[str, object]:
    """Content of a checkpoint's config.json.

    Raises:
        CheckpointError: the file is missing or is not a JSON object.
    """
    try:
        config = json.loads((checkpoint / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{checkpoint.name!r} has no readable config.json") from error
    if not isinstance(config, dict):
        raise CheckpointError(f"the config.json of {checkpoint.name!r} is not a JSON object")
    return config


def read_family_config(kind: type[Any], checkpoint: Path) -> Any:
    """Config of a checkpoint as a `kind`, the config class of its family in transformers.

    Raises:
        CheckpointError: transformers refuses the content of config.json.
    """
    try:
        return kind.from_pretrained(checkpoint)
    except Exception as error:  # a wrong field may raise any exception
        raise CheckpointError(
            f"{shown_name(checkpoint)!r} has a config.json that transformers cannot read as {kind.model_type}:"
            f" {_reason(error)}"
        ) from error


def config_part(kind: type[Any], part: object, *, what: str) -> Any:
    """A part of config.json as a `kind`, a config class of transformers.

    Args:
        kind: config class with a `from_dict`.
        part: value of the part in config.json.
        what: name of the part for the error ("vision tower").

    Raises:
        CheckpointError: transformers refuses the value.
    """
    try:
        return kind.from_dict(part)
    except Exception as error:  # a wrong field may raise any exception
        raise CheckpointError(f"transformers cannot read the config of the {what}: {_reason(error)}") from error


def _reason(error: Exception) -> str:
    return " ".join(str(error).split())[:_MAX_ERROR_CHARS]
