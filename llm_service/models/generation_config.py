"""End tokens of a checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import GenerationConfig

from fovea.modeling.errors import CheckpointError

__all__ = ["read_eos_token_ids"]


def read_eos_token_ids(checkpoint: Path, text_config: Any) -> frozenset[int]:
    """End tokens as in `generate` of transformers: from generation_config.json if it exists, else from the text config.

    Raises:
        CheckpointError: Neither file has an eos_token_id.
    """
    if (checkpoint / "generation_config.json").is_file():
        ids = GenerationConfig.from_pretrained(checkpoint).eos_token_id
    else:
        ids = text_config.eos_token_id
    if ids is None:
        raise CheckpointError("neither generation_config.json nor config.json has an eos_token_id")
    return frozenset([ids] if isinstance(ids, int) else ids)
