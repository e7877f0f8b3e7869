"""Towers in full-size shapes, through the classes of the service, with random weights: those of CLIP ViT-L/14 at 336
pixels, and Qwen3-VL-2B's.

The checkpoints hold zeros and take no disk. The weights are drawn on the device after loading, which takes seconds.
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import torch
from transformers import CLIPVisionConfig, CLIPVisionModel
from transformers.models.qwen3_vl.modeling_qwen3_vl import Qwen3VLVisionModel, Qwen3VLVisionRotaryEmbedding
from transformers.utils import logging

from benchmarks.checkpoints import full_size
from benchmarks.checkpoints.random_weights import draw_all_weights, draw_weights
from benchmarks.checkpoints.tiny import clip, llava, qwen3_vl
from benchmarks.speed.encoder_requests import Subject
from encoder_service import models
from encoder_service.models.base import LoadOptions
from encoder_service.models.media_features import TowerInputs
from fovea.modeling.compute import for_inference, resolve_device

__all__ = [
    "LLAVA",
    "QWEN3_VL",
    "SHAPES",
    "add_towers",
    "can_compile",
    "conditions",
    "device_of",
    "dtype_of",
    "plain_arguments",
    "plain_tower",
    "subject",
]

LLAVA: Final = "llava-1.5-7b"
QWEN3_VL: Final = "qwen3-vl-2b"
SHAPES: Final = ("full", "tiny")
_TINY: Final[dict[str, Any]] = {LLAVA: llava, QWEN3_VL: qwen3_vl}
_IMAGE_SIZES: Final = {LLAVA: (480, 360), QWEN3_VL: (448, 448)}  # 196 visual tokens of Qwen3-VL
_VISION: Final[dict[str, Any]] = {
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "image_size": 336,
    "patch_size": 14,
    "projection_dim": 768,
}


def add_towers(parser: argparse.ArgumentParser, *, compiles: bool = False, has_models: bool = False) -> None:
    """Adds --device, --dtype and --shapes; with `compiles` also --compile, with `has_models` also --model."""
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument(
        "--dtype",
        choices=("auto", "float32", "bfloat16", "float16"),
        default="auto",
        help="auto: float32 on a CPU, bfloat16 on a GPU",
    )
    parser.add_argument("--shapes", choices=SHAPES, default="full", help="full: those of the published model")
    if has_models:
        parser.add_argument("--model", choices=(LLAVA, QWEN3_VL), default=LLAVA)
    if compiles:
        parser.add_argument("--compile", action="store_true", help="with the layers of the service's towers compiled")


def device_of(args: argparse.Namespace) -> torch.device:
    """The device of --device. Messages of transformers about its progress are switched off."""
    logging.disable_progress_bar()
    return resolve_device(args.device)


def dtype_of(args: argparse.Namespace, device: torch.device) -> torch.dtype:
    """The dtype of --dtype."""
    name = args.dtype if args.dtype != "auto" else "float32" if device.type == "cpu" else "bfloat16"
    dtype: torch.dtype = getattr(torch, name)
    return dtype


def conditions(args: argparse.Namespace, device: torch.device) -> dict[str, Any]:
    """Facts about a run, for its result file: device, dtype, threads, and arguments that change its figures."""
    optional = {name: getattr(args, name) for name in ("compile", "model") if hasattr(args, name)}
    return {
        "device": device.type,
        "dtype": str(dtype_of(args, device)).removeprefix("torch."),
        "threads": torch.get_num_threads(),
        "shapes": args.shapes,
        **optional,
        "keep": args.keep,
        "num_rounds": args.rounds,
        "clock": args.clock,
    }


def subject(args: argparse.Namespace, device: torch.device, scratch: Path) -> Subject:
    """A model of random weights: a LLaVA with its text tower, or what --model names.

    Args:
        args: Arguments of `add_towers`.
        device: Device of the towers.
        scratch: Folder for the checkpoints.
    """
    name, is_full = _model(args), args.shapes == "full"
    checkpoint, text_tower = scratch / name, scratch / "clip"
    if is_full:
        full_size.write(checkpoint, name, "encoder")
    else:
        _TINY[name].write(checkpoint)
    options: dict[str, Any] = {"device": device.type, "dtype": str(dtype_of(args, device)).removeprefix("torch.")}
    if name == LLAVA:
        (full_size.write_clip if is_full else clip.write)(text_tower)
        options["text_tower"] = str(text_tower)
    model = models.load(str(checkpoint), LoadOptions(**options, **_compiled(args)))
    draw_all_weights(model)  # rows of Qwen's embedding table stay in the file, and are zeros
    return Subject(f"{args.shapes} shapes", model, _IMAGE_SIZES[name])


def _model(args: argparse.Namespace) -> str:
    name: str = getattr(args, "model", LLAVA)
    return name


def can_compile() -> bool:
    """Whether the service has an option that compiles the layers of its towers."""
    return "compile" in {field.name for field in dataclasses.fields(LoadOptions)}


def _compiled(args: argparse.Namespace) -> dict[str, Any]:
    if not args.compile:
        return {}
    if not can_compile():
        raise SystemExit("--compile: the encoder service has no such option; leave it out")
    return {"compile": True}


def plain_arguments(args: argparse.Namespace, inputs: Sequence[TowerInputs]) -> dict[str, Any]:
    """Arguments of `plain_tower` beside the pixel values of `inputs`."""
    if _model(args) == LLAVA:
        return {"output_hidden_states": True}
    layouts = [media.layout for media in inputs]
    return {"grid_thw": torch.tensor([[one.num_inputs, 2 * one.rows, 2 * one.columns] for one in layouts])}


def plain_tower(args: argparse.Namespace, device: torch.device) -> Any:
    """transformers' own vision tower with all its layers and sdpa, in the same shapes; Qwen3-VL's has its mergers."""
    if _model(args) == QWEN3_VL:
        return _plain_qwen_tower(args, device)
    config = CLIPVisionConfig(**_VISION) if args.shapes == "full" else clip.vision_config()
    with torch.device("meta"):
        tower = CLIPVisionModel._from_config(config, attn_implementation="sdpa")
    tower = tower.to_empty(device=device)
    tower.embeddings.position_ids = torch.arange(tower.embeddings.num_positions, device=device).expand((1, -1))
    tower = for_inference(tower, device, dtype_of(args, device))
    draw_weights(tower)
    return tower


def _plain_qwen_tower(args: argparse.Namespace, device: torch.device) -> Any:
    config = full_size.MODELS[QWEN3_VL].config() if args.shapes == "full" else qwen3_vl.config()
    with torch.device("meta"):
        tower = Qwen3VLVisionModel._from_config(config.vision_config, attn_implementation="sdpa")
    tower = for_inference(tower.to_empty(device=device), device, dtype_of(args, device))
    draw_weights(tower)
    tower.rotary_pos_emb = Qwen3VLVisionRotaryEmbedding(config.vision_config).to(device)
    return tower
