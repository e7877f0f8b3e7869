"""Pixel values of an RGB image, by the checkpoint's own image processor."""

from __future__ import annotations

from pathlib import Path

import torch
from PIL import Image
from torch import Tensor
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from fovea.modeling.errors import CheckpointError

__all__ = ["ImageProcessor"]


class ImageProcessor:
    """transformers' PIL processor of CLIP; its results equal LlavaProcessor's, and it does not need torchvision.

    Args:
        checkpoint: Directory with preprocessor_config.json or processor_config.json.
        image_size: Side of the square that the tower takes.

    Raises:
        CheckpointError: Neither file exists, or the processor makes another size.
    """

    def __init__(self, checkpoint: Path, image_size: int) -> None:
        try:
            self._processor = CLIPImageProcessorPil.from_pretrained(checkpoint, local_files_only=True)
        except (OSError, ValueError) as error:
            raise CheckpointError(f"{checkpoint.name!r} has no readable preprocessor_config.json") from error
        shape = self(Image.new("RGB", (8, 8))).shape
        if shape != (3, image_size, image_size):
            raise CheckpointError(
                f"the image processor of {checkpoint.name!r} makes {list(shape)} pixel values,"
                f" its vision tower takes {[3, image_size, image_size]}"
            )

    def __call__(self, image: Image.Image) -> Tensor:
        """[3, H, W] float32 of an image in RGB. Keeps no state, so any thread may call it."""
        values = self._processor(images=self._resized(image), return_tensors="pt")["pixel_values"][0]
        return torch.as_tensor(values, dtype=torch.float32)

    def _resized(self, image: Image.Image) -> Image.Image:
        """The image at the size to which the processor resizes it. The processor would copy the whole image to numpy
        and back first; this way it only gets the small one.
        """
        size, resample = self._processor.size, self._processor.resample
        edge, short = size.get("shortest_edge"), min(image.size)
        if not self._processor.do_resize or not edge or size.get("longest_edge") or resample is None:
            return image
        width, height = (edge if side == short else int(edge * side / short) for side in image.size)
        return image.resize((width, height), resample)

    def describe(self) -> str:
        """Configuration as text; equal for processors that give equal results."""
        return str(self._processor.to_json_string())
