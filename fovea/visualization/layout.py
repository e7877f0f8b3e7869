"""Text and panels on a page: captions, headings, rows and columns."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Sequence
from typing import Any, Final

from PIL import Image, ImageDraw, ImageFont

__all__ = [
    "FAINT",
    "LINE",
    "MARGIN",
    "PAPER",
    "ROW",
    "TEXT",
    "arranged",
    "captioned",
    "fits_row",
    "font",
    "heading",
    "labelled",
    "page",
    "side_by_side",
    "wrapped",
]

ROW: Final = 1600  # most pixels of panels side by side; wider ones lie below each other
_MIN_CAPTION: Final = 264
MARGIN: Final = 16
TEXT: Final = 15
_TITLE: Final = 19
LINE: Final = 1.35  # line height as a multiple of the font size
_MAX_TITLE_LINES: Final = 3
PAPER: Final = (255, 255, 255)
_INK: Final = (20, 20, 24)
_ANSWER: Final = (0, 82, 148)
FAINT: Final = (105, 105, 112)


def captioned(panel: Image.Image, caption: str) -> Image.Image:
    if not caption:
        return panel
    width = max(panel.width, min(_MIN_CAPTION, math.ceil(font(TEXT).getlength(caption))))
    canvas = Image.new("RGB", (width, panel.height + round(TEXT * LINE)), PAPER)
    (line,) = wrapped(caption, font(TEXT), width, limit=1)
    ImageDraw.Draw(canvas).text((0, 0), line, FAINT, font(TEXT))
    canvas.paste(panel, (0, canvas.height - panel.height))
    return canvas


def heading(question: str, answer: str, counts: str, width: int) -> Image.Image:
    """Question and answer, each in up to three lines, with the counts below them."""
    title = wrapped(question, font(_TITLE), width, limit=_MAX_TITLE_LINES) if question else []
    lines = [(line, _TITLE, _INK) for line in title]
    if answer:
        lines += [(line, _TITLE, _ANSWER) for line in wrapped(answer, font(_TITLE), width, limit=_MAX_TITLE_LINES)]
    if counts:
        lines.append((counts, TEXT, FAINT))
    canvas = Image.new("RGB", (width, round(sum(size * LINE for _, size, _ in lines))), PAPER)
    pen, top = ImageDraw.Draw(canvas), 0.0
    for line, size, color in lines:
        pen.text((0, top), line, color, font(size))
        top += size * LINE
    return canvas


def labelled(swatch: Image.Image, label: str) -> Image.Image:
    text_font = font(TEXT)
    canvas = Image.new("RGB", (swatch.width + 8 + round(text_font.getlength(label)) + 1, swatch.height), PAPER)
    canvas.paste(swatch, (0, 0))
    ImageDraw.Draw(canvas).text((swatch.width + 8, (swatch.height - TEXT * LINE) / 2), label, _INK, text_font)
    return canvas


def side_by_side(panels: Sequence[Image.Image]) -> Image.Image:
    width = sum(panel.width for panel in panels) + MARGIN * (len(panels) - 1)
    canvas = Image.new("RGB", (width, max(panel.height for panel in panels)), PAPER)
    left = 0
    for panel in panels:
        canvas.paste(panel, (left, 0))
        left += panel.width + MARGIN
    return canvas


def fits_row(panels: Sequence[Image.Image]) -> bool:
    return sum(panel.width for panel in panels) + MARGIN * (len(panels) - 1) <= ROW


def arranged(panels: Sequence[Image.Image]) -> Image.Image:
    """Panels side by side, or below each other where they are too wide."""
    if fits_row(panels):
        return side_by_side(panels)
    height = sum(panel.height for panel in panels) + MARGIN * (len(panels) - 1)
    canvas = Image.new("RGB", (max(panel.width for panel in panels), height), PAPER)
    top = 0
    for panel in panels:
        canvas.paste(panel, (0, top))
        top += panel.height + MARGIN
    return canvas


def page(blocks: Sequence[Image.Image]) -> Image.Image:
    width = max(block.width for block in blocks) + 2 * MARGIN
    canvas = Image.new("RGB", (width, sum(block.height + MARGIN for block in blocks) + MARGIN), PAPER)
    top = MARGIN
    for block in blocks:
        canvas.paste(block, (MARGIN, top))
        top += block.height + MARGIN
    return canvas


@functools.lru_cache
def font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """Font of Pillow, which needs no font files. It has Latin letters only; other letters are drawn as boxes."""
    return ImageFont.load_default(size)


def wrapped(text: str, font: Any, width: float, *, limit: int) -> list[str]:
    """Up to `limit` lines of a text. A longer text ends in an ellipsis. Control characters become spaces."""
    words = _split_long_words("".join(c if c.isprintable() else " " for c in text).split(), font, width)
    lines = [""]
    for word in words:
        longer = f"{lines[-1]} {word}".strip()
        if font.getlength(longer) <= width:
            lines[-1] = longer
        elif len(lines) == limit:
            last = lines[-1]
            while last and font.getlength(last + "...") > width:
                last = last[:-1]
            return [*lines[:-1], last + "..."]
        else:
            lines.append(word)
    return lines


def _split_long_words(words: Iterable[str], font: Any, width: float) -> Iterable[str]:
    """The words, where each word that is wider than a line is split into pieces that fit."""
    for word in words:
        rest = word
        while font.getlength(rest) > width and len(rest) > 1:
            fits = len(rest)
            while fits > 1 and font.getlength(rest[:fits]) > width:
                fits //= 2
            yield rest[:fits]
            rest = rest[fits:]
        yield rest
