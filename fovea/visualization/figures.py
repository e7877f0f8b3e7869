"""Figures of explanations, with question, counts, patches, maps and a legend.

`draw_explanations` follows figures 6, 8 and 9 of arXiv 2604.11240. It shows kept, merged and dropped patches beside the
two maps that select the kept ones. `draw_activation_maps` follows figure 7, which shows four activation maps.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from PIL import Image, ImageDraw

from fovea.visualization.canvas import PatchCanvas, faded, padding, place_on_canvas
from fovea.visualization.colors import heat_colors
from fovea.visualization.explanation import ExplainedImage
from fovea.visualization.layout import (
    FAINT,
    LINE,
    MARGIN,
    PAPER,
    ROW,
    TEXT,
    arranged,
    captioned,
    fits_row,
    font,
    heading,
    labelled,
    page,
    side_by_side,
    wrapped,
)
from fovea.visualization.overlay import draw_heatmap, draw_patches

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
_MIN_TEXT_WIDTH: Final = 720  # minimum width of a line of text in pixels
_BAR: Final = 12  # height of a scale of colours
_GAP: Final = 6
_MEANINGS: Final = {"task map": "relevance to the question", "saliency map": "what stands out"}
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
    """Page with a row for each explanation (image, patches, task map, saliency map), and a legend.

    Args:
        explanations: images in RGB with their explanations; at least one.
    """
    blocks: list[Image.Image] = []
    last_question = None
    surroundings: dict[str, Image.Image] = {}
    for image, explanation in explanations:
        canvas = _canvas(image, explanation, _PANEL, num_panels=4)
        surroundings |= _surroundings(canvas)
        panels = [
            (canvas.compose(canvas.patches), "the image"),
            (canvas.compose(_draw_patches(canvas, explanation)), "what the language model gets"),
            _map_panel(canvas, explanation, explanation.task_map, "task map", "does not read the question"),
            _map_panel(canvas, explanation, explanation.saliency_map, "saliency map", "does not use one"),
        ]
        row = arranged([captioned(panel, caption) for panel, caption in panels])
        # Consecutive images with the same question have one heading with its text.
        is_repeated = explanation.question == last_question and explanation.name != ""
        question = "" if is_repeated else explanation.question
        last_question = explanation.question
        blocks += [heading(question, explanation.answer, explanation.counts, max(row.width, _MIN_TEXT_WIDTH)), row]
    return page([*blocks, _legend(blocks[-1].width), *_surroundings_legend(surroundings)])


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
        is_column = not fits_row(panels)
        captions = ["image", *ACTIVATION_MAPS.values()] if number == 0 or is_column else [""] * len(panels)
        row = arranged([captioned(panel, caption) for panel, caption in zip(panels, captions, strict=True)])
        blocks += [heading(explanation.question, explanation.answer, "", max(row.width, _MIN_TEXT_WIDTH)), row]
    return page([*blocks, side_by_side([_scale()]), *_surroundings_legend(surroundings)])


def _canvas(image: Image.Image, explanation: ExplainedImage, side: int, *, num_panels: int) -> PatchCanvas:
    """Canvas of a panel: one of several side by side or, for a long image without room there, alone in its row."""
    in_row = (ROW - MARGIN * (num_panels - 1)) // num_panels
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
    """Panel and its caption. The panel shows a map with its scale, or the reason for its absence."""
    size = canvas.compose(canvas.patches).size
    if not values:
        return _with_scale(_placeholder(size, f"no {name}: {explanation.pruner} {reason}"), ()), name
    heatmap = draw_heatmap(canvas.patches, explanation.grid, values)
    return _with_scale(canvas.compose(heatmap), values), f"{_MEANINGS[name]} ({name})"


def _with_scale(panel: Image.Image, values: Sequence[float]) -> Image.Image:
    """Panel with the colours of its map below it, from the smallest value to the largest; empty without values."""
    height = _BAR + round(TEXT * LINE)
    canvas = Image.new("RGB", (panel.width, panel.height + _GAP + height), PAPER)
    canvas.paste(panel, (0, 0))
    if values:
        bar = _heat_scale((panel.width, _BAR))
        top = panel.height + _GAP
        canvas.paste(bar, (0, top))
        pen, high = ImageDraw.Draw(canvas), _scale_text(max(values), values)
        pen.text((0, top + _BAR), _scale_text(min(values), values), FAINT, font(TEXT))
        pen.text((panel.width - font(TEXT).getlength(high), top + _BAR), high, FAINT, font(TEXT))
    return canvas


def _scale_text(value: float, values: Sequence[float]) -> str:
    """Value of a map as a multiple of its mean, which compares maps of different units; as it is where some are < 0."""
    mean = sum(values) / len(values)
    return f"{value / mean:.2f} x mean" if mean > 0 and min(values) >= 0 else f"{value:.3g}"


def _placeholder(size: tuple[int, int], reason: str) -> Image.Image:
    panel = Image.new("RGB", size, (236, 236, 238))
    lines = wrapped(reason, font(TEXT), size[0] - 2 * MARGIN, limit=4)
    pen = ImageDraw.Draw(panel)
    top = (size[1] - len(lines) * TEXT * LINE) / 2
    for number, line in enumerate(lines):
        left = (size[0] - font(TEXT).getlength(line)) / 2
        pen.text((left, top + number * TEXT * LINE), line, FAINT, font(TEXT))
    return panel


def _legend(width: int) -> Image.Image:
    """Swatches of a kept, a merged and a dropped patch."""
    patches = draw_patches(Image.new("RGB", (72, 24), (150, 150, 150)), (1, 3), [0], [0, 0, -1])
    labels = ("kept", "merged into the token whose frame has this colour", "dropped")
    # The crop leaves out the border line between two patches.
    swatches = [patches.crop((24 * i + (i > 0), 0, 24 * i + 24, 24)) for i in range(len(labels))]
    legend = side_by_side(list(map(labelled, swatches, labels)))
    canvas = Image.new("RGB", (max(width, legend.width), legend.height), PAPER)
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
    return [side_by_side([labelled(swatch, label) for label, swatch in swatches.items()])] if swatches else []


def _scale() -> Image.Image:
    return labelled(_heat_scale((120, 24)), "maps: low to high, each on its own scale")


def _heat_scale(size: tuple[int, int]) -> Image.Image:
    """Colours of maps from the lowest, on the left, to the highest."""
    width, height = size
    line = heat_colors(column / (width - 1) for column in range(width))
    return Image.frombytes("RGB", size, line * height)
