"""Which tokens end an answer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import GenerationConfig

from fovea.modeling.errors import CheckpointError

__all__ = ["eos_token_ids"]


def eos_token_ids(checkpoint: Path, text_config: Any) -> frozenset[int]:
    """What `generate` of transformers would stop at: generation_config.json if there is one, else the text config.

    Raises:
        CheckpointError: Neither names one.
    """
    if (checkpoint / "generation_config.json").is_file():
        ids = GenerationConfig.from_pretrained(checkpoint).eos_token_id
    else:
        ids = text_config.eos_token_id
    if ids is None:
        raise CheckpointError("neither generation_config.json nor config.json names an eos_token_id")
    return frozenset([ids] if isinstance(ids, int) else ids)
