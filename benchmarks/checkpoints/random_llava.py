"""Random LLaVA-1.5s of several sizes, up to LLaVA-1.5-7B, that are written as fast as the disk takes them.

The weights are bfloat16, from a block of random numbers that is repeated. Answers are noise without an end token, so
every answer has its full length.
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from safetensors.torch import save_file
from transformers import (
    CLIPConfig,
    CLIPModel,
    CLIPTextConfig,
    CLIPVisionConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
)

from benchmarks.checkpoints.full_size import MODELS, tensor_shapes
from benchmarks.checkpoints.in_memory import llama_config
from benchmarks.checkpoints.random_weights import DEVIATION
from benchmarks.checkpoints.tiny import llava
from benchmarks.checkpoints.tiny.tokenizers import clip_tokenizer, vicuna_tokenizer

__all__ = ["SIZES", "Checkpoint", "Size", "num_parameters", "provide"]

_SHARD_BYTES: Final = 2**30
_BLOCK: Final = 2**22 - 3  # a prime number, so that no two rows of a matrix are the same
_HEAD: Final = 64
_RENAME: Final = MODELS["llava-1.5-7b"].rename


@dataclass(frozen=True)
class Size:
    """Size of a LLaVA and of the CLIP of its text tower.

    Attributes:
        layers, width: Of the language model; the width is a multiple of 128.
        tower_layers, tower_width: Of the vision tower; this width and the next are multiples of 64.
        text_layers, text_width: Of the text tower.
        image_size: Pixels of a side; a patch has 14.
        vocab_size: Token ids of the language model, at least those of its tokenizer, which has some hundred.
    """

    layers: int
    width: int = 4096
    tower_layers: int = 24
    tower_width: int = 1024
    text_layers: int = 12
    text_width: int = 768
    image_size: int = 336
    vocab_size: int = 0


SIZES: Final = {
    "tiny": Size(2, 128, 3, 64, 2, 64, image_size=56, vocab_size=512),
    "small": Size(8, 256, 6, 128, 2, 64),
    "wide": Size(8, 1024, 8, 768, 2, 64),
    "7b-4-layers": Size(4),
    "7b-8-layers": Size(8),
    "7b": Size(32, vocab_size=32064),
}


@dataclass(frozen=True)
class Checkpoint:
    """Folders of a LLaVA and of the CLIP of its text tower."""

    model: Path
    text_tower: Path


def provide(folder: Path, name: str) -> Checkpoint:
    """The checkpoint of a size in `folder`, which is written if it is not there."""
    whole, part = folder / name, folder / f"{name}.part"
    if not whole.exists():
        shutil.rmtree(part, ignore_errors=True)  # of a run that was cut short
        _write_llava(part / "llava", SIZES[name])
        _write_clip(part / "clip", SIZES[name])
        part.rename(whole)
    return Checkpoint(whole / "llava", whole / "clip")


def num_parameters(name: str) -> dict[str, int]:
    """Parameters of the vision tower and of the language model."""
    shapes = _llava_shapes(_llava_config(SIZES[name], vicuna_tokenizer(llava.SPECIALS)))
    return {
        part: sum(math.prod(shape) for tensor, shape in shapes.items() if tensor.startswith(f"{part}."))
        for part in ("vision_tower", "language_model")
    }


def _vision_config(size: Size) -> Any:
    return CLIPVisionConfig(
        hidden_size=size.tower_width,
        intermediate_size=4 * size.tower_width,
        num_hidden_layers=size.tower_layers,
        num_attention_heads=size.tower_width // _HEAD,
        image_size=size.image_size,
        patch_size=14,
        projection_dim=size.text_width,
    )


def _llava_config(size: Size, tokenizer: Any) -> Any:
    text = llama_config(
        size.layers,
        max(size.vocab_size, len(tokenizer)),
        width=size.width,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    return LlavaConfig(
        vision_config=_vision_config(size),
        text_config=text,
        image_token_index=tokenizer.convert_tokens_to_ids(llava.SPECIALS[-1]),
        vision_feature_layer=-2,
        vision_feature_select_strategy="default",
        dtype=torch.bfloat16,
    )


def _llava_shapes(config: Any) -> dict[str, tuple[int, ...]]:
    return tensor_shapes(LlavaForConditionalGeneration, config, _RENAME)


def _write_llava(folder: Path, size: Size) -> None:
    tokenizer = vicuna_tokenizer(llava.SPECIALS, image_token=llava.SPECIALS[-1])
    config = _llava_config(size, tokenizer)
    config.save_pretrained(folder)
    llava.processor(tokenizer, image_size=size.image_size).save_pretrained(folder)
    numbers = _Numbers()

    def tensor(name: str, shape: Sequence[int]) -> torch.Tensor:
        weights = numbers.tensor(name, shape)
        if name.endswith("lm_head.weight"):
            weights[tokenizer.eos_token_id] = 0  # a logit of 0 is never the largest of some hundred
        return weights

    _write_shards(folder, _llava_shapes(config), tensor)


def _write_clip(folder: Path, size: Size) -> None:
    """Writes the text tower and both projections; the vision tower is never read."""
    tokenizer = clip_tokenizer()
    text = CLIPTextConfig(
        hidden_size=size.text_width,
        intermediate_size=4 * size.text_width,
        num_hidden_layers=size.text_layers,
        num_attention_heads=size.text_width // _HEAD,
        vocab_size=len(tokenizer),
        projection_dim=size.text_width,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    config = CLIPConfig(text_config=text, vision_config=_vision_config(size), projection_dim=size.text_width)
    config.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    shapes = tensor_shapes(CLIPModel, config, {})
    read = {name: shape for name, shape in shapes.items() if not name.startswith(("vision_model.", "logit_scale"))}
    _write_shards(folder, read, _Numbers().tensor)


class _Numbers:
    """Weights from a block of random numbers. Each tensor begins where the one before it ended."""

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(0)
        self._block = torch.empty(_BLOCK).normal_(0, DEVIATION, generator=generator).to(torch.bfloat16)
        self._start = 0

    def tensor(self, name: str, shape: Sequence[int]) -> torch.Tensor:
        """Ones for a norm, zeros for a bias, else random numbers."""
        if name.endswith(".bias"):
            return torch.zeros(*shape, dtype=torch.bfloat16)
        if name.endswith(".weight") and len(shape) == 1:
            return torch.ones(*shape, dtype=torch.bfloat16)
        end = self._start + math.prod(shape)
        numbers = self._block.repeat(-(-end // _BLOCK))[self._start : end]
        self._start = end % _BLOCK
        return numbers.view(*shape)


def _write_shards(
    folder: Path, shapes: Mapping[str, Sequence[int]], tensor: Callable[[str, Sequence[int]], torch.Tensor]
) -> None:
    """Writes tensors into files of about a gibibyte, and their index."""
    weight_map: dict[str, str] = {}
    for number, names in enumerate(_shards(shapes), 1):
        file = f"model-{number:05}.safetensors"
        save_file({name: tensor(name, shapes[name]) for name in names}, folder / file, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(names, file)
    total = sum(torch.bfloat16.itemsize * math.prod(shape) for shape in shapes.values())
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")


def _shards(shapes: Mapping[str, Sequence[int]]) -> Iterator[list[str]]:
    """Names of the tensors of each file."""
    names: list[str] = []
    num_bytes = 0
    for name, shape in shapes.items():
        names.append(name)
        num_bytes += torch.bfloat16.itemsize * math.prod(shape)
        if num_bytes >= _SHARD_BYTES:
            yield names
            names, num_bytes = [], 0
    if names:
        yield names
