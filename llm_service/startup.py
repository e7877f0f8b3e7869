"""Loading of the model and construction of its engine."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib
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
from fovea.modeling.device_memory import report_device_memory
from fovea.modeling.errors import CheckpointError
from fovea.wire import basis_file
from llm_service.engine.base import LLMEngine
from llm_service.engine.cache_memory import slot_classes
from llm_service.engine.choice import EngineName, choose_engine
from llm_service.engine.launching import launching_on
from llm_service.engine.transformers import TransformersEngine
from llm_service.frame_prompt import FramePrompt
from llm_service.models import family_of, load_model, load_visual_embedder
from llm_service.models.base import VisualEmbedder
from llm_service.models.generation_config import GenerationDefaults, read_generation_defaults
from llm_service.prompts import PromptLimits
from llm_service.pruners import PRUNERS
from llm_service.sampling import TokenSampling
from llm_service.server.served_model import ServedModel
from llm_service.settings import LLMSettings
from llm_service.vllm_plugin import ARCHITECTURES

__all__ = ["load"]

log = logging.getLogger(__name__)

# Engine, visual embedder, tokenizer, max_model_len, and the sampling parameters of a request that sets none.
_Loaded = tuple[LLMEngine, VisualEmbedder, Tokenizer, int, TokenSampling]


def load(settings: LLMSettings) -> ServedModel:
    """Resolves the checkpoint, loads its language model and builds the engine without starting it.

    Takes seconds; with vLLM a minute or more.

    Raises:
        CheckpointError: The checkpoint is not supported, or does not support the settings.
        FileNotFoundError: There is no such checkpoint.
        BasisError: The wire basis cannot be used.
        PluginError: A pruner of another package cannot be used.
    """
    PRUNERS.load()
    checkpoint = checkpoints.resolve(
        settings.model, files=[*checkpoints.CONFIG_FILES, "*.safetensors"], revision=settings.revision
    )
    engine_name = _engine_name(settings, family_of(checkpoint))
    engine, embedder, tokenizer, max_model_len, default_sampling = _ENGINES[engine_name](settings, checkpoint)
    return ServedModel(
        name=settings.served_model_name or checkpoints.public_name(settings.model),
        family=embedder.family,
        limits=PromptLimits(
            vocab_size=embedder.vocab_size,
            image_token_id=embedder.image_token_id,
            video_token_id=embedder.video_token_id,
            has_newline=embedder.has_newline,
            has_grid_positions=embedder.has_grid_positions,
            frame_prompt=_frame_prompt(tokenizer, embedder),
            num_planes=embedder.num_planes,
            visual_hidden_size=embedder.visual_hidden_size,
            max_visual_tokens=settings.max_visual_tokens,
            max_model_len=max_model_len,
            fingerprint=checkpoints.fingerprint(checkpoint),
            wire_basis=basis_file.find(
                settings.wire_basis, settings.model, settings.revision, embedder.visual_hidden_size
            ),
        ),
        max_tokens=settings.max_tokens,
        settings_fingerprint=_settings_fingerprint(settings, engine_name, embedder, max_model_len),
        engine=engine,
        default_sampling=_supported(default_sampling, engine),
    )


def _frame_prompt(tokenizer: Tokenizer, embedder: VisualEmbedder) -> FramePrompt | None:
    if embedder.frame_token_ids is None:
        return None
    start, video, end = embedder.frame_token_ids
    return FramePrompt(tokenizer, video, start, end)


def _engine_name(settings: LLMSettings, family: str) -> EngineName:
    if settings.engine == "vllm" and family not in ARCHITECTURES:
        raise CheckpointError(
            f"engine vllm does not serve the family {family!r}, only {', '.join(ARCHITECTURES)}; --engine transformers"
            " does"
        )
    if settings.engine != "auto":
        return settings.engine
    name, reason = choose_engine(
        family=family,
        has_cuda=resolve_device(settings.device).type == "cuda",
        transformers_only=settings.transformers_only_flag,
        import_vllm=lambda: importlib.import_module("llm_service.engine.vllm.engine"),
    )
    log.info("engine %s: %s", name, reason)
    return name


def _load_transformers(settings: LLMSettings, checkpoint: Path) -> _Loaded:
    model = load_model(
        checkpoint,
        device=resolve_device(settings.device),
        dtype=settings.dtype,
        attn_implementation=settings.attn_implementation,
        quantization=settings.quantization,
    )
    report_device_memory(model.device)
    set_threads(settings.num_threads, model.causal_lm.num_parameters())
    max_model_len = _max_model_len(settings, model)
    defaults = _generation_defaults(settings, checkpoint, model)
    tokenizer = _load_tokenizer(checkpoint)
    engine = TransformersEngine(
        model,
        tokenizer,
        eos_token_ids=defaults.eos_token_ids,
        max_model_len=max_model_len,
        max_batch_size=settings.max_batch_size,
        max_batch_delay_ms=settings.max_batch_delay_ms,
        max_queue_size=settings.max_queue_size,
        max_queue_time_s=settings.max_queue_time_s,
        slot_classes=slot_classes(
            model, settings.kv_cache_gib, max_model_len=max_model_len, max_batch_size=settings.max_batch_size
        ),
        max_prefill_tokens=settings.max_prefill_tokens,
        launching=launching_on(model.device, graphs=settings.cuda_graphs == "auto"),
    )
    return engine, model, tokenizer, max_model_len, defaults.sampling


def _load_vllm(settings: LLMSettings, checkpoint: Path) -> _Loaded:
    try:
        from llm_service.engine.vllm.arguments import engine_arguments, vllm_device
        from llm_service.engine.vllm.engine import VllmEngine
    except ImportError as error:
        raise CheckpointError(
            f"engine vllm needs the package vllm, which cannot be imported ({error}): pip install 'fovea[vllm]'"
        ) from error
    embedder = load_visual_embedder(checkpoint, device=vllm_device(settings.device), dtype=settings.dtype)
    max_model_len = _max_model_len(settings, embedder)
    defaults = _generation_defaults(settings, checkpoint, embedder)
    arguments = engine_arguments(
        checkpoint,
        embedder,
        settings.engine_args,
        max_model_len=max_model_len,
        max_batch_size=settings.max_batch_size,
    )
    tokenizer = _load_tokenizer(checkpoint)
    engine = VllmEngine(
        embedder,
        tokenizer,
        arguments,
        eos_token_ids=defaults.eos_token_ids,
        max_model_len=max_model_len,
        max_batch_size=settings.max_batch_size,
        max_queue_size=settings.max_queue_size,
        max_queue_time_s=settings.max_queue_time_s,
    )
    return engine, embedder, tokenizer, max_model_len, defaults.sampling


_ENGINES: Final[dict[str, Callable[[LLMSettings, Path], _Loaded]]] = {
    "transformers": _load_transformers,
    "vllm": _load_vllm,
}


def _max_model_len(settings: LLMSettings, model: VisualEmbedder) -> int:
    if settings.max_model_len > model.max_model_len:
        raise CheckpointError(
            f"max_model_len {settings.max_model_len} is more than the model's context of {model.max_model_len}"
        )
    return settings.max_model_len or model.max_model_len


def _generation_defaults(settings: LLMSettings, checkpoint: Path, model: VisualEmbedder) -> GenerationDefaults:
    return read_generation_defaults(checkpoint, model.config_eos_token_ids, settings.generation_defaults)


def _supported(sampling: TokenSampling, engine: LLMEngine) -> TokenSampling:
    """Default sampling parameters without those that the engine does not apply; a warning names them."""
    neutral = TokenSampling()
    for field in dataclasses.fields(TokenSampling):
        name, value = field.name, getattr(sampling, field.name)
        if name not in engine.sampling_parameters and value != getattr(neutral, name):
            log.warning("the checkpoint's %s %g is ignored: engine %s does not apply it", name, value, engine.name)
            sampling = dataclasses.replace(sampling, **{name: getattr(neutral, name)})
    return sampling


def _load_tokenizer(checkpoint: Path) -> Tokenizer:
    try:
        return Tokenizer.from_file(str(checkpoint / "tokenizer.json"))
    except Exception as error:  # the library raises plain Exception
        raise CheckpointError(f"{checkpoint.name!r} has no tokenizer.json that can be read") from error


def _settings_fingerprint(settings: LLMSettings, engine: EngineName, model: VisualEmbedder, max_model_len: int) -> str:
    """16 hex digits that change with everything, except the checkpoint, that can change answers."""
    facts = {
        "version": fovea.__version__,
        "engine": engine,
        "engine_args": settings.engine_args,
        "vllm": version("vllm") if engine == "vllm" else None,
        "device": model.device.type,
        "dtype": str(model.dtype),
        "quantization": settings.quantization,
        "attn_implementation": settings.attn_implementation,
        "max_model_len": max_model_len,
        "generation_defaults": settings.generation_defaults,
        "pruners": PRUNERS.fingerprint,
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]
