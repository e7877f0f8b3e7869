"""RGB images of decoded frames as a player shows them: colours, shape of the pixels, orientation."""

from __future__ import annotations

import struct
from fractions import Fraction
from typing import TYPE_CHECKING, Any, Final

from PIL import Image

from fovea.errors import UnsupportedMedia
from fovea.media import images, orientation

if TYPE_CHECKING:  # PyAV is an extra
    from av.video.reformatter import Colorspace

__all__ = ["display_size", "to_image"]

# Pixels with a larger aspect ratio are taken for square: films have at most 2.
_MAX_PIXEL_ASPECT: Final = 4
# Sine of the largest angle at which a display matrix still counts as one of the eight orientations, as in ffmpeg.
_MAX_SKEW: Final = 0.0175

# Matrices from YCbCr to RGB, by their numbers in ITU-T H.273. FFmpeg applies the known ones itself, and BT.601 where
# none is specified. BT.2020 with constant luminance is treated like BT.2020 with non-constant luminance.
_KNOWN_MATRICES: Final = frozenset({0, 1, 2, 3, 4, 5, 6, 7, 9})
_BT2020_CONSTANT: Final = 10
_BY_PRIMARIES: Final = frozenset({12, 13})
_BT2020_PRIMARIES: Final = 9


def display_size(width: int, height: int, pixel_aspect: Fraction | None) -> tuple[int, int]:
    """Width and height in square pixels, before rotation. One side is stretched and none shrunk, so no pixel is lost.

    Args:
        width: Stored width of the frame, in pixels.
        height: Stored height of the frame, in pixels.
        pixel_aspect: Ratio of a pixel's width to its height; None or 0: unknown.
    """
    if not pixel_aspect or not 1 / _MAX_PIXEL_ASPECT <= pixel_aspect <= _MAX_PIXEL_ASPECT:
        return width, height
    if pixel_aspect > 1:
        return round(width * pixel_aspect), height
    return width, round(height / pixel_aspect)


def to_image(frame: Any, size: tuple[int, int]) -> Image.Image:
    """A frame in RGB and upright; transparent areas become white.

    Args:
        frame: Decoded frame of PyAV.
        size: `display_size` of the frame.

    Raises:
        UnsupportedMedia: The colour space is not known.
    """
    has_alpha = any(component.is_alpha for component in frame.format.components) or frame.format.has_palette
    pixels = frame.to_ndarray(
        format="rgba" if has_alpha else "rgb24",
        width=size[0],
        height=size[1],
        src_colorspace=_matrix(frame),
        threads=1,
    )
    return orientation.apply_orientation(images.to_rgb(Image.fromarray(pixels)), _orientation(frame))


def _matrix(frame: Any) -> Colorspace | None:
    """Colour space to pass to FFmpeg; None where FFmpeg reads it from the frame."""
    from av.video.reformatter import Colorspace

    if frame.colorspace in _KNOWN_MATRICES:
        return None
    if frame.colorspace == _BT2020_CONSTANT:
        return Colorspace.BT2020
    if frame.colorspace in _BY_PRIMARIES:
        return Colorspace.BT2020 if frame.color_primaries == _BT2020_PRIMARIES else Colorspace.ITU709
    raise UnsupportedMedia(
        "the video's colours are in a form that is not accepted, such as YCgCo or ICtCp;"
        " accepted: RGB, and YCbCr by BT.601, BT.709 or BT.2020",
        param="video",
    )


def _orientation(frame: Any) -> int:
    """EXIF orientation of the display matrix of the frame or its file; upright where it is none of the eight."""
    from av.sidedata.sidedata import Type as SideDataType

    try:
        side_data = list(frame.side_data)
    except ValueError:  # PyAV lists none where one is of an unknown kind, such as EXIF
        return {90: 8, 180: 3, 270: 6}.get(frame.rotation % 360, orientation.UPRIGHT)
    for data in side_data:
        if data.type is SideDataType.DISPLAYMATRIX:
            return _orientation_of_matrix(struct.unpack_from("=9i", bytes(data)))
    return orientation.UPRIGHT


def _orientation_of_matrix(matrix: tuple[int, ...]) -> int:
    """EXIF orientation of a matrix that maps (x, y) to (a x + c y, b x + d y); its other numbers are ignored."""
    a, b, _, c, d, *_ = matrix
    if a and d and max(abs(b / a), abs(c / d)) < _MAX_SKEW:
        return {(False, False): 1, (True, False): 2, (True, True): 3, (False, True): 4}[a < 0, d < 0]
    if b and c and max(abs(a / b), abs(d / c)) < _MAX_SKEW:
        return {(False, False): 5, (True, False): 6, (True, True): 7, (False, True): 8}[c < 0, b < 0]
    return orientation.UPRIGHT
