"""Pixels of an RGB image at the size of the tower, by the checkpoint's own image processor."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from encoder_service.models.pixel_table import NUM_CHANNELS, PixelTable, calibration_image, read_table
from fovea.media import images
from fovea.media.images import Size
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
                f"the image processor of {checkpoint.name!r} makes {list(shape)} pixels,"
                f" its vision tower takes {[3, image_size, image_size]}"
            )

    def __call__(self, image: Image.Image, full_size: Size | None = None) -> npt.NDArray[np.uint8]:
        """[3, H, W] of an image in RGB, resized and cropped. Keeps no state, so any thread may call it.

        Args:
            image: The image, not smaller than `needed_size` of its full size.
            full_size: Its size before a decoder reduced it; None if none did.
        """
        resized = self._resized(image, full_size or image.size)
        made = self._processor(images=resized, do_rescale=False, do_normalize=False)
        return np.ascontiguousarray(made["pixel_values"][0])

    def pixel_table(self) -> PixelTable:
        """Table with which the processor rescales and normalises.

        Raises:
            CheckpointError: The processor does something else besides.
        """
        image, at_own_size = calibration_image(), {"do_resize": False, "do_center_crop": False}
        pixel_values = np.asarray(self._processor(images=image, **at_own_size)["pixel_values"])
        pixels = np.asarray(image).transpose(2, 0, 1)
        return read_table(pixels.reshape(1, NUM_CHANNELS, -1), pixel_values.reshape(1, NUM_CHANNELS, -1))

    def needed_size(self, size: Size) -> Size:
        """Size to which an image of `size` is resized; `size` itself where the processor decides that while it runs."""
        processor, short = self._processor, min(size)
        edge = processor.size.get("shortest_edge")
        if not processor.do_resize or not edge or processor.size.get("longest_edge") or processor.resample is None:
            return size
        width, height = (edge if side == short else int(edge * side / short) for side in size)
        return width, height

    def _resized(self, image: Image.Image, full_size: Size) -> Image.Image:
        """The image at the size to which the processor resizes it. The processor would copy the whole image to numpy
        and back first; this way it only gets the small one.
        """
        size = self.needed_size(full_size)
        return image if size == full_size else images.resize(image, size, self._processor.resample, full_size)

    def describe(self) -> str:
        """Configuration as text; equal for processors that give equal results."""
        return str(self._processor.to_json_string())
