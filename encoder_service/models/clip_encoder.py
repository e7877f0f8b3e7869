"""Base of the LLaVA families: a CLIP vision tower from their checkpoint, text tower and projections from a CLIP
checkpoint.

Language model and projector are not loaded: they belong to the LLM service.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import CLIPConfig, CLIPVisionConfig
from transformers.models.clip.modeling_clip import CLIPTextModel, CLIPVisionModel

from encoder_service.models.base import LoadOptions
from encoder_service.models.clip_text import ClipTextTower
from encoder_service.models.clip_vision import ClipVisionTower
from encoder_service.models.fingerprint import settings_fingerprint
from encoder_service.models.media import MediaProcessor
from encoder_service.models.pixel_normalizer import PixelNormalizer
from encoder_service.pruners.base import TextFeatures
from encoder_service.pruners.tower_outputs import ALL_OUTPUTS
from fovea import checkpoints
from fovea.checkpoints.text_towers import DEFAULT_TEXT_TOWERS
from fovea.modeling.compute import for_inference, num_parameters, resolve_device, resolve_dtype
from fovea.modeling.configs import config_part, read_config
from fovea.modeling.errors import CheckpointError
from fovea.modeling.weights import assign_weights, read_tensors

__all__ = ["ClipEncoder"]


_WEIGHTS = (*checkpoints.CONFIG_FILES, "*.safetensors")


class ClipEncoder:
    """See `EncoderModel`; a family adds `encode`, from tower inputs to features.

    Args:
        checkpoint: Directory of the checkpoint.
        options: How to load it.
        media: Factory of the media processor, from the image size of the tower and its grid of patches.

    Raises:
        CheckpointError: The layout is not LLaVA's, or the text tower is missing or does not fit.
        FileNotFoundError: The text tower's checkpoint cannot be found.
    """

    family: str
    grid: tuple[int, int] | None
    text_tower_types: tuple[str, ...] = ("clip",)  # `model_type` of checkpoints with CLIP's tensors
    tower_name = "vision_tower"
    max_images = 8
    max_videos = 0
    min_text_ids = 3  # BOS, a word, EOS
    reads_language_model_ids = False
    outputs = ALL_OUTPUTS
    num_planes = 0
    prunes_in_tower = True

    def __init__(
        self, checkpoint: Path, options: LoadOptions, media: Callable[[int, tuple[int, int]], MediaProcessor]
    ) -> None:
        config = read_config(checkpoint)
        _require_second_last_layer(config, self.family)
        clip = _resolve_text_tower(options.text_tower or DEFAULT_TEXT_TOWERS[self.family] or "")
        clip_config = read_config(clip)
        if clip_config.get("model_type") not in self.text_tower_types:
            raise CheckpointError(
                f"the text tower {clip.name!r} is a {clip_config.get('model_type')!r} checkpoint;"
                f" a CLIP one is needed: {', '.join(self.text_tower_types)}"
            )
        self.device = resolve_device(options.device)
        vision_model = _vision_model(checkpoint, config, options.attn_implementation, self.tower_name)
        self.dtype = resolve_dtype(options.dtype, self.device, vision_model.pre_layrnorm.weight.dtype)
        vision_config = vision_model.config
        visual_projection = _projection(clip, "visual_projection", vision_config.hidden_size, "vision tower")
        text_model = _text_model(clip, clip_config)
        text_projection = _projection(clip, "text_projection", text_model.config.hidden_size, "text tower")
        if visual_projection.out_features != text_projection.out_features:
            raise CheckpointError(
                f"visual_projection of {clip.name!r} makes {visual_projection.out_features} channels,"
                f" text_projection {text_projection.out_features}"
            )
        self.vision_tower = for_inference(ClipVisionTower(vision_model, visual_projection), self.device, self.dtype)
        self.text_tower = for_inference(ClipTextTower(text_model, text_projection), self.device, self.dtype)
        if options.compile:
            self.vision_tower.compile_layers()
        size = int(vision_config.image_size)
        self.media = media(size, self.vision_tower.grid)
        self.pixel_values = PixelNormalizer(self.media.pixel_tables(), (3, size, size), self.device, self.dtype)

        self.num_parameters = num_parameters(self.vision_tower, self.text_tower)
        self.hidden_size = int(vision_config.hidden_size)
        self.max_text_ids = self.text_tower.max_positions
        self.text_vocab_size = int(text_model.config.vocab_size)
        self.fingerprint = checkpoints.fingerprint(checkpoint)
        self.text_tower_fingerprint = checkpoints.fingerprint(clip)
        self.settings_fingerprint = settings_fingerprint(options, self.device, self.dtype, self.media.describe())

    def _load_another_tower(self, checkpoint: Path, options: LoadOptions, name: str) -> ClipVisionTower:
        """A second vision tower of the same checkpoint and config, with the same projection."""
        model = _vision_model(checkpoint, read_config(checkpoint), options.attn_implementation, name)
        return for_inference(ClipVisionTower(model, self.vision_tower.visual_projection), self.device, self.dtype)

    def encode_texts(self, texts: Sequence[Sequence[int]], *, eos_attention: bool = False) -> TextFeatures:
        features: TextFeatures = self.text_tower(texts, eos_attention=eos_attention)
        return features


def _require_second_last_layer(config: dict[str, Any], family: str) -> None:
    vision = config.get("vision_config") or {}
    if vision.get("model_type") not in ("clip_vision_model", "clip"):
        raise CheckpointError(f"the vision tower is a {vision.get('model_type')!r}; family {family} takes a CLIP one")
    layer, strategy = config.get("vision_feature_layer", -2), config.get("vision_feature_select_strategy", "default")
    if int(vision.get("num_hidden_layers", 12)) < 2:
        raise CheckpointError(f"the vision tower has one layer; family {family} takes two or more")
    if layer != -2 or strategy != "default":
        raise CheckpointError(
            f"the checkpoint reads vision layer {layer} with strategy {strategy!r};"
            f" family {family} reads layer -2 with strategy 'default', as the published checkpoints do"
        )


def _resolve_text_tower(model: str) -> Path:
    clip = checkpoints.resolve(model, files=_WEIGHTS)
    if not any(clip.glob("*.safetensors")):
        clip = checkpoints.resolve(model, files=(*checkpoints.CONFIG_FILES, "pytorch_model*.bin"))
    return clip


def _vision_model(checkpoint: Path, config: dict[str, Any], attn_implementation: str, name: str) -> CLIPVisionModel:
    with torch.device("meta"):
        model = CLIPVisionModel._from_config(
            config_part(CLIPVisionConfig, config["vision_config"], what="vision tower"),
            attn_implementation=attn_implementation,
        )
    # The hub's checkpoints have <name>.vision_model.*, transformers 5 saves <name>.* or model.<name>.*.
    prefixes = (f"{start}{name}.{end}" for end in ("vision_model.", "") for start in ("", "model."))
    tensors = read_tensors(checkpoint, dict.fromkeys(prefixes, ""), reads_bin=True)
    _fill(model, model.embeddings, tensors, name.replace("_", " "))
    return model


def _text_model(clip: Path, config: dict[str, Any]) -> CLIPTextModel:
    # The vision config is left out: LanguageBind's has settings that CLIP's has not.
    text_part = {key: value for key, value in config.items() if not key.startswith("vision_config")}
    with torch.device("meta"):
        text_config = config_part(CLIPConfig, text_part, what="text tower").text_config
        model = CLIPTextModel._from_config(text_config, attn_implementation="sdpa")
    _fill(model, model.embeddings, read_tensors(clip, {"text_model.": ""}, reads_bin=True), "text tower")
    return model


def _fill(model: nn.Module, embeddings: Any, tensors: dict[str, Tensor], what: str) -> None:
    """Loads a tower that was built on the meta device, where a random initialisation costs neither time nor memory."""
    assign_weights(model, tensors, what=what)
    # The only buffer that is computed rather than stored.
    embeddings.position_ids = torch.arange(embeddings.position_ids.shape[-1]).expand((1, -1))


def _projection(clip: Path, name: str, width: int, tower: str) -> nn.Linear:
    tensors = read_tensors(clip, {f"{name}.weight": "weight"}, reads_bin=True)
    if "weight" not in tensors:
        raise CheckpointError(f"the text tower {clip.name!r} holds no {name}; a whole CLIP checkpoint is needed")
    out_channels, in_channels = tensors["weight"].shape
    if in_channels != width:
        raise CheckpointError(
            f"{name} of {clip.name!r} takes {in_channels} channels, the {tower} has {width};"
            " --text-tower must name the CLIP that this LLaVA was built on"
        )
    linear = nn.Linear(in_channels, out_channels, bias=False, device="meta")
    assign_weights(linear, tensors, what=name)
    return linear
