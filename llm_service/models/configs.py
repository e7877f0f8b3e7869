"""The language model of a config, without its weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from fovea.checkpoints import shown_name
from fovea.modeling.errors import CheckpointError

__all__ = ["empty_text_model"]


def empty_text_model(checkpoint: Path, text_config: Any, *, attn_implementation: str, dtype: torch.dtype) -> Any:
    """Language model of a config, on the meta device. Writes `dtype` into the config.

    Raises:
        CheckpointError: The text model does not have Llama's structure or does not support the attention kernel.
    """
    if type(text_config) not in AutoModelForCausalLM._model_mapping:
        raise _unsupported_text_model(checkpoint, text_config)
    with torch.device("meta"):
        try:
            model = AutoModelForCausalLM.from_config(text_config, attn_implementation=attn_implementation, dtype=dtype)
        except (ImportError, ValueError) as error:
            raise CheckpointError(f"attn_implementation {attn_implementation} cannot be used: {error}") from error
    if not hasattr(getattr(model, "model", None), "rotary_emb"):
        raise _unsupported_text_model(checkpoint, text_config)
    return model


def _unsupported_text_model(checkpoint: Path, text_config: Any) -> CheckpointError:
    return CheckpointError(
        f"{shown_name(checkpoint)!r} is not supported: its text model is a {text_config.model_type!r}; supported are"
        " models built as Llama is (llama, mistral, qwen2)"
    )
