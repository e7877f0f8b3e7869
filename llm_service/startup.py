"""From settings to a model that is ready to answer."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Final

from tokenizers import Tokenizer

import fovea
from fovea import checkpoints
from fovea.modeling.compute import resolve_device, set_threads
from fovea.modeling.errors import CheckpointError
from fovea.wire import basis_file
from llm_service.engines.base import Engine
from llm_service.engines.transformers import TransformersEngine
from llm_service.models import load_model, load_visual
from llm_service.models.base import VisualSide
from llm_service.prompts import PromptLimits
from llm_service.servicer import ServedModel
from llm_service.settings import LLMSettings

__all__ = ["load"]

log = logging.getLogger(__name__)


def load(settings: LLMSettings) -> ServedModel:
    """Finds the checkpoint, loads its language side and builds the engine around it, not yet started. Takes seconds;
    with vLLM a minute or more.

    Raises:
        CheckpointError: The checkpoint cannot be served, or the settings ask of it what it cannot do.
        FileNotFoundError: There is no such checkpoint.
        BasisError: The wire basis cannot be used.
    """
    checkpoint = checkpoints.resolve(
        settings.model, files=[*checkpoints.CONFIG_FILES, "*.safetensors"], revision=settings.revision
    )
    engine, visual, max_model_len = _ENGINES[settings.engine](settings, checkpoint)
    return ServedModel(
        name=settings.served_model_name or checkpoints.public_name(settings.model),
        family=visual.family,
        limits=PromptLimits(
            vocab_size=visual.vocab_size,
            image_token_id=visual.image_token_id,
            video_token_id=visual.video_token_id,
            has_newline=visual.has_newline,
            has_grid_positions=visual.has_grid_positions,
            visual_hidden_size=visual.visual_hidden_size,
            max_visual_tokens=settings.max_visual_tokens,
            max_model_len=max_model_len,
            fingerprint=checkpoints.fingerprint(checkpoint),
            wire_basis=basis_file.find(
                settings.wire_basis, settings.model, settings.revision, visual.visual_hidden_size
            ),
        ),
        max_tokens=settings.max_tokens,
        settings_fingerprint=_settings_fingerprint(settings, visual, max_model_len),
        engine=engine,
    )


def _transformers(settings: LLMSettings, checkpoint: Path) -> tuple[Engine, VisualSide, int]:
    model = load_model(
        checkpoint,
        device=resolve_device(settings.device),
        dtype=settings.dtype,
        attn_implementation=settings.attn_implementation,
        quantization=settings.quantization,
    )
    set_threads(settings.num_threads, model.causal_lm.num_parameters())
    max_model_len = _max_model_len(settings, model)
    engine = TransformersEngine(
        model,
        _load_tokenizer(checkpoint),
        max_model_len=max_model_len,
        max_batch_size=settings.max_batch_size,
        max_batch_delay_ms=settings.max_batch_delay_ms,
        max_queue_size=settings.max_queue_size,
    )
    return engine, model, max_model_len


def _vllm(settings: LLMSettings, checkpoint: Path) -> tuple[Engine, VisualSide, int]:
    try:
        from llm_service.engines.vllm.arguments import engine_arguments, vllm_device
        from llm_service.engines.vllm.engine import VllmEngine
    except ImportError as error:
        raise CheckpointError(
            f"engine vllm needs the package vllm, which cannot be imported ({error}): pip install 'fovea[vllm]'"
        ) from error
    visual = load_visual(checkpoint, device=vllm_device(settings.device), dtype=settings.dtype)
    max_model_len = _max_model_len(settings, visual)
    arguments = engine_arguments(
        checkpoint,
        visual,
        settings.engine_args,
        max_model_len=max_model_len,
        max_batch_size=settings.max_batch_size,
    )
    engine = VllmEngine(
        visual,
        _load_tokenizer(checkpoint),
        arguments,
        max_model_len=max_model_len,
        max_batch_size=settings.max_batch_size,
        max_queue_size=settings.max_queue_size,
    )
    return engine, visual, max_model_len


_ENGINES: Final[dict[str, Callable[[LLMSettings, Path], tuple[Engine, VisualSide, int]]]] = {
    "transformers": _transformers,
    "vllm": _vllm,
}


def _max_model_len(settings: LLMSettings, model: VisualSide) -> int:
    if settings.max_model_len > model.max_model_len:
        raise CheckpointError(
            f"max_model_len {settings.max_model_len} is more than the model's context of {model.max_model_len}"
        )
    return settings.max_model_len or model.max_model_len


def _load_tokenizer(checkpoint: Path) -> Tokenizer:
    try:
        return Tokenizer.from_file(str(checkpoint / "tokenizer.json"))
    except Exception as error:  # the library raises nothing narrower
        raise CheckpointError(f"{checkpoint.name!r} has no tokenizer.json that can be read") from error


def _settings_fingerprint(settings: LLMSettings, model: VisualSide, max_model_len: int) -> str:
    """16 hex digits that change when the same checkpoint may answer otherwise."""
    facts = {
        "version": fovea.__version__,
        "engine": settings.engine,
        "engine_args": settings.engine_args,
        "vllm": version("vllm") if settings.engine == "vllm" else None,
        "device": model.device.type,
        "dtype": str(model.dtype),
        "quantization": settings.quantization,
        "attn_implementation": settings.attn_implementation,
        "max_model_len": max_model_len,
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]
