"""Explanations as pictures for people: question, counts, patches and maps side by side, with a legend.

After figures 6 to 9 of arXiv 2604.11240: what was kept and what became of the rest, next to the two maps that chose
(`draw_explanations`), and the four activation maps of figure 7 (`draw_activation_maps`).
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence
from typing import Any, Final

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from fovea.visualization.explanation import ImageExplanation
from fovea.visualization.overlay import crop_to_grid, draw_heatmap, draw_patches, heatmap_colors

__all__ = ["draw_activation_maps", "draw_explanations", "draw_overlay"]

ACTIVATION_MAPS: Final = {
    "cls_attention": "[CLS] attention",
    "cross_attention": "cross-attention",
    "vanilla_similarity": "vanilla similarity",
    "decoupled_similarity": "decoupled similarity",
}

_PANEL: Final = 360  # pixels of a panel's longer side, where its grid allows
_SMALL_PANEL: Final = 264
_OVERLAY: Final = 576
_LEAST_WIDTH: Final = 720  # of a line of text
_MARGIN: Final = 16
_TEXT: Final = 15
_TITLE: Final = 19
_LINE: Final = 1.35
_TITLE_LINES: Final = 3
_PAPER: Final = (255, 255, 255)
_INK: Final = (20, 20, 24)
_FAINT: Final = (105, 105, 112)


def draw_overlay(image: Image.Image, explained: ImageExplanation) -> Image.Image:
    """The patches alone, without words.

    Args:
        image: The picture in RGB.
        explained: The question.
    """
    seen = crop_to_grid(image, explained.grid, _OVERLAY)
    return draw_patches(seen, explained.grid, explained.kept, explained.merged_into)


def draw_explanations(shown: Iterable[tuple[Image.Image, ImageExplanation]]) -> Image.Image:
    """For each picture and question, one below the other: patches, task map, saliency map; one legend.

    Args:
        shown: Pictures in RGB, each with a question about it; at least one.
    """
    blocks: list[Image.Image] = []
    asked = None
    for image, one in shown:
        seen = crop_to_grid(image, one.grid, _PANEL)
        panels = [
            (draw_patches(seen, one.grid, one.kept, one.merged_into), "what became of each patch"),
            _map_panel(seen, one, one.task_map, "task map", "does not read the question"),
            _map_panel(seen, one, one.saliency_map, "saliency map", "does not use one"),
        ]
        row = _beside([_captioned(panel, caption) for panel, caption in panels])
        # The question once for all pictures that follow under it.
        question = one.question if one.question != asked or not one.name else ""
        asked = one.question
        blocks += [_heading(question, one.counts, max(row.width, _LEAST_WIDTH)), row]
    return _page([*blocks, _legend(blocks[-1].width)])


def draw_activation_maps(shown: Iterable[tuple[Image.Image, ImageExplanation]]) -> Image.Image:
    """The paper's figure 7: a row for each question, its picture and the four activation maps.

    Args:
        shown: Pictures in RGB, each with a question about it and its `activation_maps`; at least one.
    """
    blocks = []
    for number, (image, one) in enumerate(shown):
        seen = crop_to_grid(image, one.grid, _SMALL_PANEL)
        panels = [seen]
        for name in ACTIVATION_MAPS:
            values = one.activation_maps.get(name, ())
            panels.append(draw_heatmap(seen, one.grid, values) if values else _absent(seen.size, f"no {name}"))
        captions = ["picture", *ACTIVATION_MAPS.values()] if number == 0 else [""] * len(panels)
        row = _beside([_captioned(panel, caption) for panel, caption in zip(panels, captions, strict=True)])
        blocks += [_heading(one.question, "", max(row.width, _LEAST_WIDTH)), row]
    return _page([*blocks, _beside([_scale()])])


def _map_panel(
    seen: Image.Image, one: ImageExplanation, values: Sequence[float], name: str, without: str
) -> tuple[Image.Image, str]:
    if not values:
        return _absent(seen.size, f"no {name}: {one.pruner} {without}"), name
    return draw_heatmap(seen, one.grid, values), f"{name}, {min(values):.3g} to {max(values):.3g}"


def _absent(size: tuple[int, int], why: str) -> Image.Image:
    panel = Image.new("RGB", size, (236, 236, 238))
    lines = _wrapped(why, _font(_TEXT), size[0] - 2 * _MARGIN, limit=4)
    pen = ImageDraw.Draw(panel)
    top = (size[1] - len(lines) * _TEXT * _LINE) / 2
    for number, line in enumerate(lines):
        left = (size[0] - _font(_TEXT).getlength(line)) / 2
        pen.text((left, top + number * _TEXT * _LINE), line, _FAINT, _font(_TEXT))
    return panel


def _captioned(panel: Image.Image, caption: str) -> Image.Image:
    if not caption:
        return panel
    made = Image.new("RGB", (panel.width, panel.height + round(_TEXT * _LINE)), _PAPER)
    (line,) = _wrapped(caption, _font(_TEXT), panel.width, limit=1)
    ImageDraw.Draw(made).text((0, 0), line, _FAINT, _font(_TEXT))
    made.paste(panel, (0, made.height - panel.height))
    return made


def _heading(question: str, counts: str, width: int) -> Image.Image:
    """The question in up to three lines, and the counts below it."""
    title = _wrapped(question, _font(_TITLE), width, limit=_TITLE_LINES) if question else []
    lines = [(line, _TITLE, _INK) for line in title]
    if counts:
        lines.append((counts, _TEXT, _FAINT))
    made = Image.new("RGB", (width, round(sum(size * _LINE for _, size, _ in lines))), _PAPER)
    pen, top = ImageDraw.Draw(made), 0.0
    for line, size, color in lines:
        pen.text((0, top), line, color, _font(size))
        top += size * _LINE
    return made


def _legend(width: int) -> Image.Image:
    """Swatches of what a patch can be, drawn by the code that draws patches, and the scale of the maps."""
    patches = draw_patches(Image.new("RGB", (72, 24), (150, 150, 150)), (1, 3), [0], [0, 0, -1])
    fates = ("kept", "merged into the token whose frame has this colour", "dropped")
    # Without the line between two patches of different fates.
    swatches = [patches.crop((24 * i + (i > 0), 0, 24 * i + 24, 24)) for i in range(len(fates))]
    made = _beside([*map(_labelled, swatches, fates), _scale()])
    canvas = Image.new("RGB", (max(width, made.width), made.height), _PAPER)
    canvas.paste(made, (0, 0))
    return canvas


def _scale() -> Image.Image:
    ramp = heatmap_colors(np.linspace(0, 1, 120)).round().astype(np.uint8)
    bar = Image.fromarray(np.broadcast_to(ramp, (24, 120, 3)).copy(), "RGB")
    return _labelled(bar, "maps: low to high, each on its own scale")


def _labelled(swatch: Image.Image, words: str) -> Image.Image:
    font = _font(_TEXT)
    made = Image.new("RGB", (swatch.width + 8 + round(font.getlength(words)) + 1, swatch.height), _PAPER)
    made.paste(swatch, (0, 0))
    ImageDraw.Draw(made).text((swatch.width + 8, (swatch.height - _TEXT * _LINE) / 2), words, _INK, font)
    return made


def _beside(parts: Sequence[Image.Image]) -> Image.Image:
    width = sum(part.width for part in parts) + _MARGIN * (len(parts) - 1)
    made = Image.new("RGB", (width, max(part.height for part in parts)), _PAPER)
    left = 0
    for part in parts:
        made.paste(part, (left, 0))
        left += part.width + _MARGIN
    return made


def _page(blocks: Sequence[Image.Image]) -> Image.Image:
    width = max(block.width for block in blocks) + 2 * _MARGIN
    made = Image.new("RGB", (width, sum(block.height + _MARGIN for block in blocks) + _MARGIN), _PAPER)
    top = _MARGIN
    for block in blocks:
        made.paste(block, (_MARGIN, top))
        top += block.height + _MARGIN
    return made


@functools.lru_cache
def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """Pillow's own font, so that no machine needs one installed. It has Latin letters; others are drawn as boxes."""
    return ImageFont.load_default(size)


def _wrapped(text: str, font: Any, width: float, *, limit: int) -> list[str]:
    """Up to `limit` lines, cut with an ellipsis where there is more; line breaks and controls are blanks."""
    words = _pieces("".join(c if c.isprintable() else " " for c in text).split(), font, width)
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


def _pieces(words: Iterable[str], font: Any, width: float) -> Iterable[str]:
    """Words, those wider than a line in pieces that fit."""
    for word in words:
        rest = word
        while font.getlength(rest) > width and len(rest) > 1:
            fits = len(rest)
            while fits > 1 and font.getlength(rest[:fits]) > width:
                fits //= 2
            yield rest[:fits]
            rest = rest[fits:]
        yield rest
