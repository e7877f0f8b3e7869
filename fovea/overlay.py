"""The picture as the language model got it: kept patches bright, merged ones dimmed, each with its centre's outline."""

from __future__ import annotations

import io
from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageEnhance

__all__ = ["draw_kept"]

_SIDE = 576  # pixels of the shorter side of the drawing


def draw_kept(picture: bytes, grid: tuple[int, int], kept: Sequence[int]) -> Image.Image:
    """Draws which patches were kept.

    Args:
        picture: The encoded file. It is shown as the encoder saw it: shorter side scaled, centre cropped.
        grid: Rows and columns of patches.
        kept: Raster indices of the kept patches.

    Returns:
        An RGB image of square patches; dropped ones are grey and dark, kept ones framed.
    """
    rows, columns = grid
    cell = max(_SIDE // max(rows, columns), 4)
    width, height = columns * cell, rows * cell
    image = Image.open(io.BytesIO(picture)).convert("RGB")
    scale = max(width / image.width, height / image.height)
    image = image.resize((max(round(image.width * scale), width), max(round(image.height * scale), height)))
    left, top = (image.width - width) // 2, (image.height - height) // 2
    image = image.crop((left, top, left + width, top + height))
    drawing = ImageEnhance.Brightness(ImageEnhance.Color(image).enhance(0.15)).enhance(0.45)
    pen = ImageDraw.Draw(drawing)
    for index in kept:
        row, column = divmod(index, columns)
        box = (column * cell, row * cell, (column + 1) * cell, (row + 1) * cell)
        drawing.paste(image.crop(box), box[:2])
        pen.rectangle((box[0], box[1], box[2] - 1, box[3] - 1), outline=(255, 214, 10), width=max(cell // 16, 1))
    return drawing
