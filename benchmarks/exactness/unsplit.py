"""The unsplit model of transformers, fed by its own processors: what the split services are compared with.

Pictures go through the PIL image processors. transformers' video processors need torchvision, which Fovea does not:
where it is missing, videos cannot be compared (benchmarks/README.md tells how to set it up beside).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor
from transformers import AutoConfig, AutoModelForImageTextToText
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.llava_next.image_processing_pil_llava_next import LlavaNextImageProcessorPil
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil
from transformers.utils import is_torchvision_available

__all__ = ["Clip", "Unsplit", "UnsplitRun"]

FloatArray = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Clip:
    """Frames of a video as the model is to see them."""

    frames: tuple[Image.Image, ...]
    seconds_per_frame: float


@dataclass(frozen=True)
class UnsplitRun:
    """What the unsplit model made of one prompt.

    Attributes:
        pixel_values: Of each picture, then of each video, as its tower takes them.
        inputs_embeds: [L, H], visual tokens among words.
        position_ids: [L] or [3, L].
        logprobs: [V] of the first token.
        token_ids: Greedy, the end token included where it came.
    """

    pixel_values: list[FloatArray]
    inputs_embeds: FloatArray
    position_ids: npt.NDArray[np.int64]
    logprobs: npt.NDArray[np.float64]
    token_ids: list[int]


@dataclass(frozen=True)
class _Media:
    """Model inputs, and how many tokens each picture and each video takes."""

    inputs: dict[str, Any]
    pixel_values: list[FloatArray]
    image_counts: list[int]
    video_counts: list[int]


class Unsplit:
    """A checkpoint in float32.

    Args:
        folder: As `benchmarks.checkpoints.tiny` writes it.
    """

    def __init__(self, folder: Path) -> None:
        config = AutoConfig.from_pretrained(folder)
        self.family = str(config.model_type)
        self.model: Any = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32).eval()
        self.image_token_id = int(getattr(config, "image_token_id", None) or config.image_token_index)
        video = getattr(config, "video_token_id", None) or getattr(config, "video_token_index", None)
        self.video_token_id = None if video is None else int(video)
        processors = {"llava_next": LlavaNextImageProcessorPil, "qwen2_5_vl": Qwen2VLImageProcessorPil}
        self._processor: Any = processors.get(self.family, CLIPImageProcessorPil).from_pretrained(folder)
        self._video_processor: Any = None
        if self.video_token_id is not None and is_torchvision_available():
            from transformers import AutoVideoProcessor

            self._video_processor = AutoVideoProcessor.from_pretrained(folder)

    @property
    def takes_videos(self) -> bool:
        """The family takes videos, and transformers' processor of them runs here."""
        return self._video_processor is not None

    def _video(self, clip: Clip) -> Any:
        """What transformers' processor makes of a clip."""
        frames = np.stack([np.asarray(frame) for frame in clip.frames])
        return self._video_processor(videos=[frames], do_sample_frames=False, return_tensors="pt")

    @torch.inference_mode()
    def run(
        self, ids: Sequence[int], pictures: Sequence[Image.Image], clips: Sequence[Clip], max_tokens: int
    ) -> UnsplitRun:
        """Answers a prompt that has one image or video token for each picture or clip."""
        media = self._media(pictures, clips)
        expanded = self._expand(ids, media)
        inputs: dict[str, Any] = {
            "input_ids": torch.tensor([expanded]),
            "attention_mask": torch.ones(1, len(expanded), dtype=torch.long),
            **media.inputs,
        }
        if self.family == "qwen2_5_vl":
            kinds = [1 if i == self.image_token_id else 2 if i == self.video_token_id else 0 for i in expanded]
            inputs["mm_token_type_ids"] = torch.tensor([kinds], dtype=torch.int32)
        seen: dict[str, Tensor] = {}

        def look(module: Any, args: Any, kwargs: dict[str, Any]) -> None:
            seen.update({k: kwargs[k] for k in ("inputs_embeds", "position_ids") if kwargs.get(k) is not None})

        hook = self.model.model.language_model.register_forward_pre_hook(look, with_kwargs=True)
        try:
            logits = self.model(**inputs).logits[0, -1]
        finally:
            hook.remove()
        made = self.model.generate(**inputs, max_new_tokens=max_tokens, do_sample=False)
        positions = seen.get("position_ids", torch.arange(len(expanded))[None])
        return UnsplitRun(
            pixel_values=media.pixel_values,
            inputs_embeds=seen["inputs_embeds"][0].numpy(),
            position_ids=(positions[-3:, 0] if positions.ndim == 3 else positions[0]).numpy(),
            logprobs=torch.log_softmax(logits.double(), dim=-1).numpy(),
            token_ids=made[0, len(expanded) :].tolist(),
        )

    def _expand(self, ids: Sequence[int], media: _Media) -> list[int]:
        images, videos = iter(media.image_counts), iter(media.video_counts)
        expanded: list[int] = []
        for i in ids:
            count = next(images) if i == self.image_token_id else next(videos) if i == self.video_token_id else 1
            expanded += [i] * count
        return expanded

    def _media(self, pictures: Sequence[Image.Image], clips: Sequence[Clip]) -> _Media:
        return getattr(self, f"_media_{self.family}")(pictures, clips)  # type: ignore[no-any-return]

    def _pixels(self, pictures: Sequence[Image.Image]) -> Tensor:
        """[n, 3, H, W] of a processor that makes all pictures alike."""
        return torch.cat([self._processor(images=one, return_tensors="pt")["pixel_values"] for one in pictures])

    def _media_llava(self, pictures: Sequence[Image.Image], clips: Sequence[Clip]) -> _Media:
        if not pictures:
            return _Media({}, [], [], [])
        pixels = self._pixels(pictures)
        vision = self.model.config.vision_config
        return _Media(
            {"pixel_values": pixels},
            [one.numpy() for one in pixels],
            [(vision.image_size // vision.patch_size) ** 2] * len(pictures),
            [],
        )

    def _media_llava_next(self, pictures: Sequence[Image.Image], clips: Sequence[Clip]) -> _Media:
        made = self._processor(images=list(pictures), return_tensors="pt")
        inputs = {"pixel_values": made["pixel_values"], "image_sizes": made["image_sizes"]}
        alone = [self._processor(images=one, return_tensors="pt")["pixel_values"][0].numpy() for one in pictures]
        features = self.model.get_image_features(**inputs).pooler_output
        return _Media(inputs, alone, [len(one) for one in features], [])

    def _media_video_llava(self, pictures: Sequence[Image.Image], clips: Sequence[Clip]) -> _Media:
        vision = self.model.config.vision_config
        patches = (vision.image_size // vision.patch_size) ** 2
        inputs, pixels = {}, []
        if pictures:
            inputs["pixel_values_images"] = self._pixels(pictures)
            pixels += [one.numpy() for one in inputs["pixel_values_images"]]
        if clips:
            inputs["pixel_values_videos"] = torch.cat([self._video(clip)["pixel_values_videos"] for clip in clips])
            pixels += [one.numpy() for one in inputs["pixel_values_videos"]]
        counts = [len(clip.frames) * (patches + 1) for clip in clips]
        return _Media(inputs, pixels, [patches] * len(pictures), counts)

    def _media_qwen2_5_vl(self, pictures: Sequence[Image.Image], clips: Sequence[Clip]) -> _Media:
        vision = self.model.config.vision_config
        group, depth = vision.spatial_merge_size**2, vision.temporal_patch_size
        inputs: dict[str, Any] = {}
        pixels: list[FloatArray] = []
        image_counts, video_counts = [], []
        if pictures:
            made = self._processor(images=list(pictures), return_tensors="pt")
            inputs |= {"pixel_values": made["pixel_values"], "image_grid_thw": made["image_grid_thw"]}
            image_counts = (made["image_grid_thw"].prod(dim=-1) // group).tolist()
            pixels += [p.numpy() for p in made["pixel_values"].split(made["image_grid_thw"].prod(dim=-1).tolist())]
        if clips:
            made = [self._video(clip) for clip in clips]
            patches = [one["pixel_values_videos"] for one in made]
            grids = [one["video_grid_thw"][0].tolist() for one in made]
            inputs |= {"pixel_values_videos": torch.cat(patches), "video_grid_thw": torch.tensor(grids)}
            inputs["second_per_grid_ts"] = torch.tensor([depth * clip.seconds_per_frame for clip in clips])
            video_counts = [t * h * w // group for t, h, w in grids]
            pixels += [one.numpy() for one in patches]
        return _Media(inputs, pixels, image_counts, video_counts)
