"""Figures of explanations, with question, counts, patches, maps and a legend.

`draw_explanations` follows figures 6, 8 and 9 of arXiv 2604.11240. It shows kept, merged and dropped patches beside the
two maps that select the kept ones. `draw_activation_maps` follows figure 7, which shows four activation maps.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from fovea.visualization.canvas import PatchCanvas, faded, padding, place_on_canvas
from fovea.visualization.explanation import ExplainedImage
from fovea.visualization.overlay import draw_heatmap, draw_patches, heatmap_colors

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
_LONGEST: Final = 1112  # most pixels of a panel of a long image
_ROW: Final = 1600  # most pixels of panels side by side; wider ones lie below each other
_MIN_CAPTION: Final = 264
_MIN_TEXT_WIDTH: Final = 720  # minimum width of a line of text in pixels
_MARGIN: Final = 16
_TEXT: Final = 15
_TITLE: Final = 19
_LINE: Final = 1.35  # line height as a multiple of the font size
_MAX_TITLE_LINES: Final = 3
_PAPER: Final = (255, 255, 255)
_INK: Final = (20, 20, 24)
_FAINT: Final = (105, 105, 112)
_FADED_SWATCH: Final = (120, 140, 160)


def draw_overlay(image: Image.Image, explanation: ExplainedImage) -> Image.Image:
    """Whole image with its kept, merged and dropped patches, without text.

    Args:
        image: image in RGB.
        explanation: explanation of the image.
    """
    canvas = place_on_canvas(
        image, explanation.grid, explanation.viewed, side=_OVERLAY, max_sizes=[(_LONGEST, _LONGEST)]
    )
    return canvas.compose(_draw_patches(canvas, explanation))


def draw_explanations(explanations: Iterable[tuple[Image.Image, ExplainedImage]]) -> Image.Image:
    """Page with a row for each explanation (patches, task map, saliency map), and a legend.

    Args:
        explanations: images in RGB with their explanations; at least one.
    """
    blocks: list[Image.Image] = []
    last_question = None
    surroundings: dict[str, Image.Image] = {}
    for image, explanation in explanations:
        canvas = _canvas(image, explanation, _PANEL, num_panels=3)
        surroundings |= _surroundings(canvas)
        panels = [
            (canvas.compose(_draw_patches(canvas, explanation)), "kept, merged and dropped patches"),
            _map_panel(canvas, explanation, explanation.task_map, "task map", "does not read the question"),
            _map_panel(canvas, explanation, explanation.saliency_map, "saliency map", "does not use one"),
        ]
        row = _arranged([_captioned(panel, caption) for panel, caption in panels])
        # Consecutive images with the same question have one heading with its text.
        is_repeated = explanation.question == last_question and explanation.name != ""
        question = "" if is_repeated else explanation.question
        last_question = explanation.question
        blocks += [_heading(question, explanation.counts, max(row.width, _MIN_TEXT_WIDTH)), row]
    return _page([*blocks, _legend(blocks[-1].width), *_surroundings_legend(surroundings)])


def draw_activation_maps(explanations: Iterable[tuple[Image.Image, ExplainedImage]]) -> Image.Image:
    """Page like figure 7 of the paper. Each explanation has a row with its image and its four activation maps.

    Args:
        explanations: images in RGB with their explanations, which have `activation_maps`; at least one.
    """
    blocks = []
    surroundings: dict[str, Image.Image] = {}
    for number, (image, explanation) in enumerate(explanations):
        canvas = _canvas(image, explanation, _SMALL_PANEL, num_panels=1 + len(ACTIVATION_MAPS))
        surroundings |= _surroundings(canvas)
        whole = canvas.compose(canvas.patches)
        panels = [whole]
        for name in ACTIVATION_MAPS:
            values = explanation.activation_maps.get(name, ())
            if values:
                panels.append(canvas.compose(draw_heatmap(canvas.patches, explanation.grid, values)))
            else:
                panels.append(_placeholder(whole.size, f"no {name}"))
        is_column = not _fits_row(panels)
        captions = ["image", *ACTIVATION_MAPS.values()] if number == 0 or is_column else [""] * len(panels)
        row = _arranged([_captioned(panel, caption) for panel, caption in zip(panels, captions, strict=True)])
        blocks += [_heading(explanation.question, "", max(row.width, _MIN_TEXT_WIDTH)), row]
    return _page([*blocks, _side_by_side([_scale()]), *_surroundings_legend(surroundings)])


def _canvas(image: Image.Image, explanation: ExplainedImage, side: int, *, num_panels: int) -> PatchCanvas:
    """Canvas of a panel: one of several side by side or, for a long image without room there, alone in its row."""
    in_row = (_ROW - _MARGIN * (num_panels - 1)) // num_panels
    return place_on_canvas(
        image,
        explanation.grid,
        explanation.viewed,
        side=side,
        max_sizes=[(in_row, _LONGEST), (_LONGEST, _LONGEST)],
    )


def _draw_patches(canvas: PatchCanvas, explanation: ExplainedImage) -> Image.Image:
    return draw_patches(canvas.patches, explanation.grid, explanation.kept, explanation.merged_into)


def _map_panel(
    canvas: PatchCanvas, explanation: ExplainedImage, values: Sequence[float], name: str, reason: str
) -> tuple[Image.Image, str]:
    """Panel and its caption. The panel shows a map, or the reason for its absence."""
    if not values:
        size = canvas.compose(canvas.patches).size
        return _placeholder(size, f"no {name}: {explanation.pruner} {reason}"), name
    heatmap = draw_heatmap(canvas.patches, explanation.grid, values)
    return canvas.compose(heatmap), f"{name}, {min(values):.3g} to {max(values):.3g}"


def _placeholder(size: tuple[int, int], reason: str) -> Image.Image:
    panel = Image.new("RGB", size, (236, 236, 238))
    lines = _wrapped(reason, _font(_TEXT), size[0] - 2 * _MARGIN, limit=4)
    pen = ImageDraw.Draw(panel)
    top = (size[1] - len(lines) * _TEXT * _LINE) / 2
    for number, line in enumerate(lines):
        left = (size[0] - _font(_TEXT).getlength(line)) / 2
        pen.text((left, top + number * _TEXT * _LINE), line, _FAINT, _font(_TEXT))
    return panel


def _captioned(panel: Image.Image, caption: str) -> Image.Image:
    if not caption:
        return panel
    width = max(panel.width, min(_MIN_CAPTION, math.ceil(_font(_TEXT).getlength(caption))))
    canvas = Image.new("RGB", (width, panel.height + round(_TEXT * _LINE)), _PAPER)
    (line,) = _wrapped(caption, _font(_TEXT), width, limit=1)
    ImageDraw.Draw(canvas).text((0, 0), line, _FAINT, _font(_TEXT))
    canvas.paste(panel, (0, canvas.height - panel.height))
    return canvas


def _heading(question: str, counts: str, width: int) -> Image.Image:
    """Question in up to three lines, with the counts below it."""
    title = _wrapped(question, _font(_TITLE), width, limit=_MAX_TITLE_LINES) if question else []
    lines = [(line, _TITLE, _INK) for line in title]
    if counts:
        lines.append((counts, _TEXT, _FAINT))
    canvas = Image.new("RGB", (width, round(sum(size * _LINE for _, size, _ in lines))), _PAPER)
    pen, top = ImageDraw.Draw(canvas), 0.0
    for line, size, color in lines:
        pen.text((0, top), line, color, _font(size))
        top += size * _LINE
    return canvas


def _legend(width: int) -> Image.Image:
    """Swatches of a kept, a merged and a dropped patch, and the color scale of the maps."""
    patches = draw_patches(Image.new("RGB", (72, 24), (150, 150, 150)), (1, 3), [0], [0, 0, -1])
    labels = ("kept", "merged into the token whose frame has this colour", "dropped")
    # The crop leaves out the border line between two patches.
    swatches = [patches.crop((24 * i + (i > 0), 0, 24 * i + 24, 24)) for i in range(len(labels))]
    legend = _side_by_side([*map(_labelled, swatches, labels), _scale()])
    canvas = Image.new("RGB", (max(width, legend.width), legend.height), _PAPER)
    canvas.paste(legend, (0, 0))
    return canvas


def _surroundings(canvas: PatchCanvas) -> dict[str, Image.Image]:
    """Labels and swatches of what a canvas shows besides patches."""
    swatches = {}
    if canvas.is_cut:
        shrunk = " and drawn smaller" * canvas.is_shrunk
        swatches[f"cut off{shrunk}: the model did not see it"] = faded(Image.new("RGB", (24, 24), _FADED_SWATCH))
    if canvas.has_padding:
        swatches["padding around the image"] = padding((24, 24))
    return swatches


def _surroundings_legend(swatches: Mapping[str, Image.Image]) -> list[Image.Image]:
    """Line of the legend for images that were cut or padded; none for other images."""
    return [_side_by_side([_labelled(swatch, label) for label, swatch in swatches.items()])] if swatches else []


def _scale() -> Image.Image:
    ramp = heatmap_colors(np.linspace(0, 1, 120)).round().astype(np.uint8)
    bar = Image.fromarray(np.broadcast_to(ramp, (24, 120, 3)).copy(), "RGB")
    return _labelled(bar, "maps: low to high, each on its own scale")


def _labelled(swatch: Image.Image, label: str) -> Image.Image:
    font = _font(_TEXT)
    canvas = Image.new("RGB", (swatch.width + 8 + round(font.getlength(label)) + 1, swatch.height), _PAPER)
    canvas.paste(swatch, (0, 0))
    ImageDraw.Draw(canvas).text((swatch.width + 8, (swatch.height - _TEXT * _LINE) / 2), label, _INK, font)
    return canvas


def _side_by_side(panels: Sequence[Image.Image]) -> Image.Image:
    width = sum(panel.width for panel in panels) + _MARGIN * (len(panels) - 1)
    canvas = Image.new("RGB", (width, max(panel.height for panel in panels)), _PAPER)
    left = 0
    for panel in panels:
        canvas.paste(panel, (left, 0))
        left += panel.width + _MARGIN
    return canvas


def _fits_row(panels: Sequence[Image.Image]) -> bool:
    return sum(panel.width for panel in panels) + _MARGIN * (len(panels) - 1) <= _ROW


def _arranged(panels: Sequence[Image.Image]) -> Image.Image:
    """Panels side by side, or below each other where they are too wide."""
    if _fits_row(panels):
        return _side_by_side(panels)
    height = sum(panel.height for panel in panels) + _MARGIN * (len(panels) - 1)
    canvas = Image.new("RGB", (max(panel.width for panel in panels), height), _PAPER)
    top = 0
    for panel in panels:
        canvas.paste(panel, (0, top))
        top += panel.height + _MARGIN
    return canvas


def _page(blocks: Sequence[Image.Image]) -> Image.Image:
    width = max(block.width for block in blocks) + 2 * _MARGIN
    canvas = Image.new("RGB", (width, sum(block.height + _MARGIN for block in blocks) + _MARGIN), _PAPER)
    top = _MARGIN
    for block in blocks:
        canvas.paste(block, (_MARGIN, top))
        top += block.height + _MARGIN
    return canvas


@functools.lru_cache
def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """Font of Pillow, which needs no font files. It has Latin letters only; other letters are drawn as boxes."""
    return ImageFont.load_default(size)


def _wrapped(text: str, font: Any, width: float, *, limit: int) -> list[str]:
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
