"""The unsplit model of transformers with its own processors, the reference of the split services.

Images go through the PIL image processors. The video processors of transformers need torchvision, which Fovea does not
need. Without it videos are not compared (benchmarks/README.md describes an environment that has it).
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
from transformers import AutoConfig, AutoModelForImageTextToText, AutoTokenizer
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.llava_next.image_processing_pil_llava_next import LlavaNextImageProcessorPil
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil
from transformers.models.qwen3_vl.processing_qwen3_vl import Qwen3VLProcessor
from transformers.utils import is_torchvision_available
from transformers.video_utils import VideoMetadata

__all__ = ["Clip", "Unsplit", "UnsplitRun"]

FloatArray = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Clip:
    """Sampled frames of a video, and the seconds between two of them."""

    frames: tuple[Image.Image, ...]
    seconds_per_frame: float


@dataclass(frozen=True)
class UnsplitRun:
    """Inputs and answer of the unsplit model for one prompt.

    Attributes:
        pixel_values: Pixel values of each image, then of each video, in the shape that the tower takes.
        inputs_embeds: [L, H] embeddings of text and visual tokens.
        position_ids: [L] or [3, L] positions.
        logprobs: [V] log-probabilities of the first token.
        token_ids: Greedy tokens, with the end token where the answer ended.
    """

    pixel_values: list[FloatArray]
    inputs_embeds: FloatArray
    position_ids: npt.NDArray[np.int64]
    logprobs: npt.NDArray[np.float64]
    token_ids: list[int]


@dataclass(frozen=True)
class _Media:
    """Model inputs of images and videos, and the number of visual tokens of each."""

    inputs: dict[str, Any]
    pixel_values: list[FloatArray]
    image_counts: list[int]
    video_counts: list[int]


class Unsplit:
    """The unsplit model of a checkpoint, in float32.

    Args:
        folder: Checkpoint directory, as `benchmarks.checkpoints.tiny` writes it.
    """

    def __init__(self, folder: Path) -> None:
        config = AutoConfig.from_pretrained(folder)
        self.family = str(config.model_type)
        self.model: Any = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32).eval()
        self.image_token_id = int(getattr(config, "image_token_id", None) or config.image_token_index)
        video = getattr(config, "video_token_id", None) or getattr(config, "video_token_index", None)
        self.video_token_id = None if video is None else int(video)
        processors = {
            "llava_next": LlavaNextImageProcessorPil,
            "qwen2_5_vl": Qwen2VLImageProcessorPil,
            "qwen3_vl": Qwen2VLImageProcessorPil,
        }
        self._processor: Any = processors.get(self.family, CLIPImageProcessorPil).from_pretrained(folder)
        self._video_processor: Any = None
        if self.video_token_id is not None and is_torchvision_available():
            from transformers import AutoVideoProcessor

            self._video_processor = AutoVideoProcessor.from_pretrained(folder)
        self._tokenizer: Any = AutoTokenizer.from_pretrained(folder) if self.family == "qwen3_vl" else None

    @property
    def takes_videos(self) -> bool:
        """Whether the family takes videos and its video processor runs here."""
        return self._video_processor is not None

    def _video(self, clip: Clip) -> Any:
        """Model inputs of a clip, from the video processor of transformers."""
        frames = np.stack([np.asarray(frame) for frame in clip.frames])
        return self._video_processor(videos=[frames], do_sample_frames=False, return_tensors="pt")

    @torch.inference_mode()
    def run(
        self, ids: Sequence[int], images: Sequence[Image.Image], clips: Sequence[Clip], max_tokens: int
    ) -> UnsplitRun:
        """Answers a prompt that has one image or video token for each image or clip."""
        media = self._media(images, clips)
        expanded = self._expand(ids, media, clips)
        inputs: dict[str, Any] = {
            "input_ids": torch.tensor([expanded]),
            "attention_mask": torch.ones(1, len(expanded), dtype=torch.long),
            **media.inputs,
        }
        if self.family in ("qwen2_5_vl", "qwen3_vl"):
            kinds = [1 if i == self.image_token_id else 2 if i == self.video_token_id else 0 for i in expanded]
            inputs["mm_token_type_ids"] = torch.tensor([kinds], dtype=torch.int32)
        recorded: dict[str, Tensor] = {}

        def record(module: Any, args: Any, kwargs: dict[str, Any]) -> None:
            recorded.update({k: kwargs[k] for k in ("inputs_embeds", "position_ids") if kwargs.get(k) is not None})

        hook = self.model.model.language_model.register_forward_pre_hook(record, with_kwargs=True)
        try:
            logits = self.model(**inputs).logits[0, -1]
        finally:
            hook.remove()
        generated = self.model.generate(**inputs, max_new_tokens=max_tokens, do_sample=False)
        positions = recorded.get("position_ids", torch.arange(len(expanded))[None])
        return UnsplitRun(
            pixel_values=media.pixel_values,
            inputs_embeds=recorded["inputs_embeds"][0].numpy(),
            position_ids=(positions[-3:, 0] if positions.ndim == 3 else positions[0]).numpy(),
            logprobs=torch.log_softmax(logits.double(), dim=-1).numpy(),
            token_ids=generated[0, len(expanded) :].tolist(),
        )

    def _expand(self, ids: Sequence[int], media: _Media, clips: Sequence[Clip]) -> list[int]:
        images, videos = iter(media.image_counts), iter(media.video_counts)
        expanded: list[int] = []
        if self._tokenizer is not None and clips:
            return self._with_frame_times(ids, media, clips)
        for i in ids:
            count = next(images) if i == self.image_token_id else next(videos) if i == self.video_token_id else 1
            expanded += [i] * count
        return expanded

    def _with_frame_times(self, ids: Sequence[int], media: _Media, clips: Sequence[Clip]) -> list[int]:
        """Ids of a prompt of Qwen3-VL, whose processor writes videos into the text, frame by frame."""
        processor = Qwen3VLProcessor(self._processor, self._tokenizer, self._video_processor)
        images = [processor.image_token * count for count in media.image_counts]
        metadata = [
            VideoMetadata(
                len(clip.frames), fps=1 / clip.seconds_per_frame, frames_indices=list(range(len(clip.frames)))
            )
            for clip in clips
        ]
        inputs = {"video_grid_thw": media.inputs["video_grid_thw"], "video_metadata": metadata}
        videos = [processor.replace_video_token(inputs, i) for i in range(len(clips))]
        text = self._tokenizer.decode(ids)
        texts, _ = processor.get_text_with_replacements([text], images, videos)
        expanded: list[int] = self._tokenizer(texts[0], add_special_tokens=False)["input_ids"]
        return expanded

    def _media(self, images: Sequence[Image.Image], clips: Sequence[Clip]) -> _Media:
        return getattr(self, f"_media_{self.family}")(images, clips)  # type: ignore[no-any-return]

    def _pixels(self, images: Sequence[Image.Image]) -> Tensor:
        """[n, 3, H, W] pixel values of a processor that gives all images one size."""
        return torch.cat([self._processor(images=image, return_tensors="pt")["pixel_values"] for image in images])

    def _media_llava(self, images: Sequence[Image.Image], clips: Sequence[Clip]) -> _Media:
        if not images:
            return _Media({}, [], [], [])
        pixels = self._pixels(images)
        vision = self.model.config.vision_config
        return _Media(
            {"pixel_values": pixels},
            [values.numpy() for values in pixels],
            [(vision.image_size // vision.patch_size) ** 2] * len(images),
            [],
        )

    def _media_llava_next(self, images: Sequence[Image.Image], clips: Sequence[Clip]) -> _Media:
        processed = self._processor(images=list(images), return_tensors="pt")
        inputs = {"pixel_values": processed["pixel_values"], "image_sizes": processed["image_sizes"]}
        # Each image by itself: in a batch, the processor pads to the largest number of tiles.
        unpadded = [self._processor(images=image, return_tensors="pt")["pixel_values"][0].numpy() for image in images]
        features = self.model.get_image_features(**inputs).pooler_output
        return _Media(inputs, unpadded, [len(tokens) for tokens in features], [])

    def _media_video_llava(self, images: Sequence[Image.Image], clips: Sequence[Clip]) -> _Media:
        vision = self.model.config.vision_config
        patches = (vision.image_size // vision.patch_size) ** 2
        inputs, pixels = {}, []
        if images:
            inputs["pixel_values_images"] = self._pixels(images)
            pixels += [values.numpy() for values in inputs["pixel_values_images"]]
        if clips:
            inputs["pixel_values_videos"] = torch.cat([self._video(clip)["pixel_values_videos"] for clip in clips])
            pixels += [values.numpy() for values in inputs["pixel_values_videos"]]
        counts = [len(clip.frames) * (patches + 1) for clip in clips]
        return _Media(inputs, pixels, [patches] * len(images), counts)

    def _media_qwen2_5_vl(self, images: Sequence[Image.Image], clips: Sequence[Clip]) -> _Media:
        vision = self.model.config.vision_config
        group, depth = vision.spatial_merge_size**2, vision.temporal_patch_size
        inputs: dict[str, Any] = {}
        pixels: list[FloatArray] = []
        image_counts, video_counts = [], []
        if images:
            processed = self._processor(images=list(images), return_tensors="pt")
            grids, patches = processed["image_grid_thw"], processed["pixel_values"]
            inputs |= {"pixel_values": patches, "image_grid_thw": grids}
            image_counts = (grids.prod(dim=-1) // group).tolist()
            pixels += [values.numpy() for values in patches.split(grids.prod(dim=-1).tolist())]
        if clips:
            videos = [self._video(clip) for clip in clips]
            video_patches = [video["pixel_values_videos"] for video in videos]
            video_grids = [video["video_grid_thw"][0].tolist() for video in videos]
            inputs |= {"pixel_values_videos": torch.cat(video_patches), "video_grid_thw": torch.tensor(video_grids)}
            if self.family == "qwen2_5_vl":
                inputs["second_per_grid_ts"] = torch.tensor([depth * clip.seconds_per_frame for clip in clips])
            video_counts = [t * h * w // group for t, h, w in video_grids]
            pixels += [values.numpy() for values in video_patches]
        return _Media(inputs, pixels, image_counts, video_counts)

    _media_qwen3_vl = _media_qwen2_5_vl
