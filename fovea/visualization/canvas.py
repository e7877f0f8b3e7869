"""Canvas of a drawing: the whole image, with its patches where the vision tower saw them.

Each patch has the same whole number of pixels. What preprocessing cut off is faded, and padding is hatched. In a long
image the patches would have no room, so what was cut off is drawn at a smaller scale if necessary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

from PIL import Image, ImageDraw, ImageOps

from fovea.visualization.overlay import crop_to_grid

__all__ = ["PatchCanvas", "Viewed", "faded", "padding", "place_on_canvas"]

Viewed: TypeAlias = tuple[float, float, float, float]
"""Left, top, right and bottom of the area that the patches cover, in units of the image's width and height. It extends
beyond 0..1 where there is padding."""

_PixelBox: TypeAlias = tuple[int, int, int, int]

_MIN_CELL: Final = 4  # pixels of a patch's side
_MIN_VIEWED: Final = 192  # pixels of the patches' longer side, below which what was cut off is shrunk instead
_FRAME: Final = 2
_FRAME_COLOR: Final = (20, 20, 24)
_EDGE_COLOR: Final = (110, 110, 116)
_FADED: Final = 0.62
_STRIPES: Final = (206, 226)
_STRIPE: Final = 5


@dataclass(frozen=True)
class PatchCanvas:
    """A whole image with room for its patches.

    Attributes:
        image: the image as drawn, with hatched padding.
        viewed: pixels of the canvas that the patches cover: left, top, right, bottom.
        content: pixels of the canvas that show the image and not padding.
        is_cut: whether a part of the image lies outside the patches.
        is_shrunk: whether that part is drawn at a smaller scale than the patches.
    """

    image: Image.Image
    viewed: _PixelBox
    content: _PixelBox
    is_cut: bool = False
    is_shrunk: bool = False

    @property
    def patches(self) -> Image.Image:
        """The part under the patches."""
        return self.image.crop(self.viewed)

    @property
    def has_padding(self) -> bool:
        """Whether patches cover padding."""
        (left, top, right, bottom), content = self.viewed, self.content
        return left < content[0] or top < content[1] or right > content[2] or bottom > content[3]

    def compose(self, drawing: Image.Image) -> Image.Image:
        """The canvas with a drawing of the patches in a frame, and all around it faded.

        Args:
            drawing: drawing as large as `patches`.
        """
        if not self.is_cut and not self.has_padding:
            return drawing
        composed = faded(self.image)
        composed.paste(drawing, self.viewed[:2])
        composed = ImageOps.expand(composed, _FRAME, "white")  # room for frames at the edge
        pen = ImageDraw.Draw(composed)
        if self.has_padding:
            _outline(pen, self.content, _EDGE_COLOR, 1)
        if self.is_cut:
            _outline(pen, self.viewed, _FRAME_COLOR, _FRAME)
        return composed


def faded(image: Image.Image) -> Image.Image:
    """An image in pale colours."""
    return Image.blend(image, Image.new("RGB", image.size, "white"), _FADED)


def padding(size: tuple[int, int]) -> Image.Image:
    """Grey stripes that stand for padding."""
    width, height = size
    period = bytes(level for level in _STRIPES for _ in range(_STRIPE))
    line = period * (width // len(period) + 2)
    starts = (row % len(period) for row in range(height))
    return Image.frombytes("L", size, b"".join(line[start : start + width] for start in starts)).convert("RGB")


def place_on_canvas(
    image: Image.Image,
    grid: tuple[int, int],
    viewed: Viewed | None,
    *,
    side: int,
    max_sizes: Sequence[tuple[int, int]],
) -> PatchCanvas:
    """Canvas of an image.

    Args:
        image: image in RGB.
        grid: rows and columns of patches.
        viewed: area that the patches cover; None if it is unknown: the middle of the image in the shape of the grid is
            then the whole canvas.
        side: most pixels of the patches' longer side, where 4 for each patch are not more.
        max_sizes: most width and height of a composed drawing. Of several, the first counts in which nothing is shrunk,
            or else the last; exceeded only by many patches.
    """
    if viewed is None:
        patches = crop_to_grid(image, grid, side)
        whole = (0, 0, *patches.size)
        return PatchCanvas(patches, whole, whole)
    for max_size in max_sizes:
        across, down = _axes(grid, viewed, side, max_size)
        if not (across.is_shrunk or down.is_shrunk):
            break
    canvas = padding((across.length, down.length))
    for (left, right), (from_x, to_x) in across.pieces:
        for (top, bottom), (from_y, to_y) in down.pieces:
            box = (left * image.width, top * image.height, right * image.width, bottom * image.height)
            piece = image.resize((to_x - from_x, to_y - from_y), Image.Resampling.BICUBIC, box=box)
            canvas.paste(piece, (from_x, from_y))
    return PatchCanvas(
        canvas,
        (across.viewed[0], down.viewed[0], across.viewed[1], down.viewed[1]),
        (across.content[0], down.content[0], across.content[1], down.content[1]),
        is_cut=across.is_cut or down.is_cut,
        is_shrunk=across.is_shrunk or down.is_shrunk,
    )


def _axes(grid: tuple[int, int], viewed: Viewed, side: int, max_size: tuple[int, int]) -> tuple[_Axis, _Axis]:
    """The canvas across and down."""
    rows, columns = grid
    width, height = (most - 2 * _FRAME for most in max_size)
    spans = ((viewed[0], viewed[2]), (viewed[1], viewed[3]))
    cell = _cell(spans, (columns, rows), side, (width, height))
    return _Axis.of(*spans[0], cell * columns, width), _Axis.of(*spans[1], cell * rows, height)


def _cell(spans: Sequence[tuple[float, float]], counts: tuple[int, int], side: int, max_size: tuple[int, int]) -> int:
    """Pixels of a patch's side: as many as the largest canvas allows, but enough for the patches to be seen."""
    most = max(side // max(counts), _MIN_CELL)
    least = min(max(-(-_MIN_VIEWED // max(counts)), _MIN_CELL), most)
    for (start, end), count, size in zip(spans, counts, max_size, strict=True):
        whole = (max(end, 1.0) - min(start, 0.0)) / (end - start)  # of the canvas, in lengths of the patches
        most = min(most, int(size / (whole * count)))
    return max(most, least)


@dataclass(frozen=True)
class _Axis:
    """One direction of a canvas.

    Attributes:
        length: pixels of the canvas.
        viewed: first pixel of the patches, and the first one after them.
        content: the same of the image.
        pieces: ranges of the image, in units of its length, with their pixels.
        is_cut: whether a part of the image lies outside the patches.
        is_shrunk: whether that part is drawn at a smaller scale.
    """

    length: int
    viewed: tuple[int, int]
    content: tuple[int, int]
    pieces: tuple[tuple[tuple[float, float], tuple[int, int]], ...]
    is_cut: bool
    is_shrunk: bool

    @classmethod
    def of(cls, start: float, end: float, size: int, most: int) -> _Axis:
        """The axis of an image whose patches cover `start` to `end` in `size` pixels; at most `most` in all."""
        scale = size / (end - start)
        before, after = max(start, 0.0) * scale, max(1 - end, 0.0) * scale
        room = max(most - size, size // 2)
        share = min(1.0, room / (before + after)) if before + after else 1.0
        first, last = round(before * share), round(after * share)
        shown_from = first + round(max(-start, 0.0) * scale)
        shown_to = max(first + size - round(max(end - 1, 0.0) * scale), shown_from + 1)
        pieces = [
            ((0.0, max(start, 0.0)), (0, first)),
            ((max(start, 0.0), min(end, 1.0)), (shown_from, shown_to)),
            ((min(end, 1.0), 1.0), (first + size, first + size + last)),
        ]
        return cls(
            length=first + size + last,
            viewed=(first, first + size),
            content=(0 if first else shown_from, first + size + last if last else shown_to),
            pieces=tuple(piece for piece in pieces if piece[1][1] > piece[1][0]),
            is_cut=first + last > 0,
            is_shrunk=share < 1,
        )


def _outline(pen: ImageDraw.ImageDraw, box: _PixelBox, color: tuple[int, int, int], width: int) -> None:
    """Draws a frame around a box of a canvas to which a border of `_FRAME` was added."""
    left, top, right, bottom = (edge + _FRAME for edge in box)
    pen.rectangle((left - width, top - width, right + width - 1, bottom + width - 1), outline=color, width=width)
