"""Pixels of an RGB image at the size of the tower, by the checkpoint's own image processor."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image
from transformers.image_transforms import get_size_with_aspect_ratio
from transformers.image_utils import get_image_size_for_max_height_width
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from encoder_service.models.image_fit import WHOLE, Box, padding_color, square_on, viewed_box
from encoder_service.models.pixel_table import NUM_CHANNELS, PixelTable, calibration_image, read_table
from fovea.media import images
from fovea.media.images import Size
from fovea.modeling.errors import CheckpointError
from fovea.wire.image_fits import ImageFit

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

    def __call__(
        self, image: Image.Image, full_size: Size | None = None, fit: ImageFit = "crop"
    ) -> npt.NDArray[np.uint8]:
        """[3, H, W] of an image in RGB, padded, resized and cropped. Keeps no state, so any thread may call it.

        Args:
            image: The image, not smaller than `needed_size` of its full size.
            full_size: Its size before a decoder reduced it; None if none did.
            fit: Fit of the image, one of `fits`.
        """
        full_size = full_size or image.size
        resized = self._resized(image, full_size) if fit == "crop" else self._resized_square(image, full_size)
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

    @property
    def fits(self) -> tuple[ImageFit, ...]:
        """Fits of images. A processor that cuts nothing off leaves nothing to pad."""
        return ("crop", "pad") if self._processor.do_center_crop and self._edge else ("crop",)

    @property
    def _edge(self) -> int | None:
        """Length to which the shorter side is resized; None where the processor resizes in another way."""
        processor = self._processor
        if not processor.do_resize or processor.size.get("longest_edge") or processor.resample is None:
            return None
        return processor.size.get("shortest_edge") or None

    def needed_size(self, size: Size, fit: ImageFit = "crop") -> Size:
        """Size to which an image of `size` is resized; `size` itself where the processor decides that while it runs."""
        if fit == "pad":
            side = self.needed_size((max(size),) * 2)[0]
            width, height = (-(-side * of_image // max(size)) for of_image in size)
            return width, height
        if not self._edge:
            return size
        width, height = (self._edge if side == min(size) else int(self._edge * side / min(size)) for side in size)
        return width, height

    def viewed(self, size: Size, fit: ImageFit = "crop") -> Box:
        """Area of an image of `size` that the pixels show."""
        processor = self._processor
        if not processor.do_center_crop:
            return WHOLE
        crop = processor.crop_size
        return viewed_box(size, self._resized_size(size, fit), (crop["width"], crop["height"]), fit)

    def _resized_size(self, size: Size, fit: ImageFit) -> Size:
        """Size to which the processor resizes an image of `size`, or the square with it."""
        if fit == "pad":
            size = max(size), max(size)
        processor, (width, height) = self._processor, size
        target = processor.size
        if not processor.do_resize or self._edge:
            return self.needed_size(size)
        if target.get("shortest_edge") and target.get("longest_edge"):
            height, width = get_size_with_aspect_ratio((height, width), target["shortest_edge"], target["longest_edge"])
        elif target.get("max_height"):
            height, width = get_image_size_for_max_height_width(
                (height, width), target["max_height"], target["max_width"]
            )
        else:
            height, width = target["height"], target["width"]
        return int(width), int(height)

    def _resized(self, image: Image.Image, full_size: Size) -> Image.Image:
        """The image at the size to which the processor resizes it. The processor would copy the whole image to numpy
        and back first; this way it only gets the small one.
        """
        size = self.needed_size(full_size)
        return image if size == full_size else images.resize(image, size, self._processor.resample, full_size)

    def _resized_square(self, image: Image.Image, full_size: Size) -> Image.Image:
        """The square with the image in its middle, resized."""
        canvas, square = square_on(image, full_size, padding_color(self._processor.image_mean))
        side = max(full_size)
        size = self.needed_size((side, side))
        return canvas if size == (side, side) else canvas.resize(size, self._processor.resample, box=square)

    def describe(self) -> str:
        """Configuration as text; equal for processors that give equal results."""
        return str(self._processor.to_json_string())
