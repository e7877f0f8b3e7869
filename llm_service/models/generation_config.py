"""Defaults of generation that a checkpoint has in generation_config.json: end tokens and sampling parameters."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from fovea.errors import InvalidRequest
from fovea.modeling.errors import CheckpointError
from llm_service.sampling import TokenSampling

__all__ = ["GenerationDefaults", "GenerationDefaultsMode", "as_token_ids", "read_generation_defaults"]

GenerationDefaultsMode = Literal["greedy", "full", "none"]

_FILE: Final = "generation_config.json"
# Fields of the file that transformers' `generate` applies to sampling only.
_SAMPLING_FIELDS: Final = ("temperature", "top_p", "top_k", "min_p")


@dataclass(frozen=True)
class GenerationDefaults:
    """Defaults of generation.

    Attributes:
        eos_token_ids: Ids that end an answer, at least one.
        sampling: Sampling parameters of a request that sets none.
    """

    eos_token_ids: frozenset[int]
    sampling: TokenSampling


def read_generation_defaults(
    checkpoint: Path, config_eos_token_ids: frozenset[int], mode: GenerationDefaultsMode
) -> GenerationDefaults:
    """Defaults of a checkpoint. A value that its generation_config.json does not contain has Fovea's default.

    The file itself is read, because transformers' `GenerationConfig` would add defaults of the library.

    Args:
        checkpoint: Checkpoint directory.
        config_eos_token_ids: End tokens of config.json; may be empty.
        mode: `greedy` for the end tokens and repetition_penalty, as in `generate(do_sample=False)`. `full` adds
            temperature, top_p, top_k and min_p if the file has do_sample true; temperature is then 1 if the file has
            none. `none` ignores the file, except for the end tokens if config.json has none.

    Raises:
        CheckpointError: The file cannot be read, a value of it is not accepted, or neither file has an end token.
    """
    if mode == "none":
        sampling = TokenSampling()
        eos_token_ids = config_eos_token_ids or _eos_token_ids(_read(checkpoint))
    else:
        content = _read(checkpoint)
        sampling = _sampling(content, full=mode == "full")
        eos_token_ids = _eos_token_ids(content) or config_eos_token_ids
    if not eos_token_ids:
        raise CheckpointError(f"neither {_FILE} nor config.json has an eos_token_id")
    return GenerationDefaults(eos_token_ids, sampling)


def as_token_ids(value: int | Sequence[int] | None) -> frozenset[int]:
    """Token ids of a config's value: one id, several, or none."""
    if value is None:
        return frozenset()
    return frozenset([value] if isinstance(value, int) else value)


def _read(checkpoint: Path) -> dict[str, Any]:
    """Content of the checkpoint's generation_config.json without fields that are null; empty without the file."""
    try:
        content = json.loads((checkpoint / _FILE).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{_FILE} cannot be read: {error}") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{_FILE} must hold a JSON object, not a {type(content).__name__}")
    return {name: value for name, value in content.items() if value is not None}


def _sampling(content: dict[str, Any], *, full: bool) -> TokenSampling:
    names = ["repetition_penalty"]
    values: dict[str, Any] = {}
    if full and content.get("do_sample") is True:
        names += _SAMPLING_FIELDS
        values["temperature"] = 1.0
    for name in names:
        if name in content:
            values[name] = _number(name, content[name], int if name == "top_k" else float)
    try:
        return TokenSampling(**values)
    except InvalidRequest as error:
        raise _not_accepted(error.message) from error


def _number(name: str, value: Any, kind: type[int] | type[float]) -> int | float:
    accepted = int if kind is int else (int, float)
    if isinstance(value, bool) or not isinstance(value, accepted):
        expected = "a whole number" if kind is int else "a number"
        raise _not_accepted(f"{name} must be {expected}, not {value!r:.64}")
    return kind(value)


def _eos_token_ids(content: dict[str, Any]) -> frozenset[int]:
    value = content.get("eos_token_id", [])
    ids = value if isinstance(value, list) else [value]
    if not all(isinstance(token_id, int) and not isinstance(token_id, bool) and token_id >= 0 for token_id in ids):
        raise CheckpointError(f"{_FILE}: eos_token_id must be a token id or a list of them, not {value!r:.64}")
    return frozenset(ids)


def _not_accepted(reason: str) -> CheckpointError:
    return CheckpointError(f"{_FILE}: {reason}; correct it, or ignore the file with --generation-defaults none")
