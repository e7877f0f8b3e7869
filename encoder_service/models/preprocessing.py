"""From an RGB picture to pixel values, by the checkpoint's own image processor."""

from __future__ import annotations

from pathlib import Path

import torch
from PIL import Image
from torch import Tensor
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from encoder_service.models.base import CheckpointError

__all__ = ["ImageProcessor"]


class ImageProcessor:
    """transformers' PIL processor of CLIP: the numbers are those of LlavaProcessor, and torchvision is not needed.

    Args:
        checkpoint: Directory with preprocessor_config.json or processor_config.json.
        image_size: Side of the square that the tower takes.

    Raises:
        CheckpointError: Neither file is there, or it makes pictures of another size.
    """

    def __init__(self, checkpoint: Path, image_size: int) -> None:
        try:
            self._processor = CLIPImageProcessorPil.from_pretrained(checkpoint, local_files_only=True)
        except (OSError, ValueError) as error:
            raise CheckpointError(f"{checkpoint.name!r} has no readable preprocessor_config.json") from error
        made = self(Image.new("RGB", (8, 8))).shape
        if made != (3, image_size, image_size):
            raise CheckpointError(
                f"the image processor of {checkpoint.name!r} makes {list(made)} pixel values,"
                f" its vision tower takes {[3, image_size, image_size]}"
            )

    def __call__(self, image: Image.Image) -> Tensor:
        """[3, H, W], float32. Keeps no state, so any thread may call it."""
        values = self._processor(images=image, return_tensors="pt")["pixel_values"][0]
        return torch.as_tensor(values, dtype=torch.float32)

    def describe(self) -> str:
        """Its configuration, the same text for the same numbers."""
        return str(self._processor.to_json_string())
