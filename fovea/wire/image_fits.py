"""Fits of an image to the square of the vision tower, as settings and requests name them, and messages number them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Literal, TypeAlias

from fovea.v1 import encoder_pb2

__all__ = ["IMAGE_FITS", "ImageFit", "image_fit_of"]

ImageFit: TypeAlias = Literal["crop", "pad"]

IMAGE_FITS: Final[Mapping[ImageFit, encoder_pb2.ImageFit]] = {
    "crop": encoder_pb2.IMAGE_FIT_CROP,
    "pad": encoder_pb2.IMAGE_FIT_PAD,
}
"""Values in messages by name."""


def image_fit_of(value: encoder_pb2.ImageFit) -> ImageFit | None:
    """Name of a value in a message; None for an unspecified or unknown one."""
    return next((name for name, number in IMAGE_FITS.items() if number == value), None)
