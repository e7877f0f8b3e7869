"""`python -m lab.page_figures DIR`: the figures of docs/concepts.md, drawn on the demo image.

A running gateway with the shipped model answers the questions.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from PIL import Image

from fovea.checkpoints.shipped import demo_folder
from fovea.client import Client
from fovea.visualization.explanation import ExplainedImage
from fovea.visualization.figures import draw_explanations, draw_overlay
from fovea.visualization.layout import captioned, heading, page, side_by_side

__all__ = ["compare_questions", "compare_settings", "main"]

Setting = Mapping[str, Any]

_PANEL: Final = 360  # pixels of a panel's side
_COLUMNS: Final = 3
_QUALITY: Final = 90  # of a WebP file, which is a sixth of a PNG file here
_QUESTIONS: Final = ("What color is the moon?", "What letter is on the blue object?")
_PRUNERS: Final = ("desap", "fovea", "cls", "uniform", "visionzip", "hired")
_BUDGETS: Final = (8, 16, 32, 48, 96, 144)


def compare_questions(client: Client, image: Path, questions: Sequence[str], setting: Setting) -> Image.Image:
    """Page of `fovea explain`: a row for each question.

    Args:
        client: client of the gateway.
        image: image file.
        questions: questions about the image.
        setting: fields of each request.
    """
    pixels = Image.open(image).convert("RGB")
    answers = [(question, client.answer(image, question, explain=True, **setting)) for question in questions]
    return draw_explanations((pixels, ExplainedImage.from_response(*answer)) for answer in answers)


def compare_settings(client: Client, image: Path, question: str, settings: Sequence[Setting]) -> Image.Image:
    """Page with a panel for each setting: kept, merged and dropped patches, and the answer.

    Args:
        client: client of the gateway.
        image: image file.
        question: question about the image.
        settings: fields of each request.
    """
    pixels = Image.open(image).convert("RGB")
    panels = []
    for setting in settings:
        answer = client.answer(image, question, explain=True, **setting)
        overlay = draw_overlay(pixels, ExplainedImage.from_response(question, answer))
        usage = answer["usage"]
        kept, total = usage["visual_tokens_kept"], usage["visual_tokens_total"]
        caption = f'{setting["pruner"]}, {kept} of {total}: "{answer["answer"]}"'
        panels.append(captioned(overlay.resize((_PANEL, _PANEL), Image.Resampling.LANCZOS), caption))
    rows = [side_by_side(panels[start : start + _COLUMNS]) for start in range(0, len(panels), _COLUMNS)]
    return page([heading(question, "", "", rows[0].width), *rows])


def _figures(client: Client, image: Path) -> Mapping[str, Image.Image]:
    pruners = [{"pruner": name, "keep_tokens": 16} for name in _PRUNERS]
    budgets = [{"pruner": "desap", "keep_tokens": count} for count in _BUDGETS]
    return {
        "questions": compare_questions(client, image, _QUESTIONS, {"pruner": "desap", "keep_tokens": 16}),
        "pruners": compare_settings(client, image, "How many red objects are there?", pruners),
        "budgets": compare_settings(client, image, "What color is the moon?", budgets),
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line of `python -m lab.page_figures`."""
    parser = argparse.ArgumentParser(prog="python -m lab.page_figures", description=__doc__)
    parser.add_argument("folder", type=Path, metavar="DIR")
    parser.add_argument("--url", help="address of the gateway (default: variable FOVEA_URL, else port 8000 here)")
    options = parser.parse_args(arguments)
    with Client(options.url) as client:
        for name, figure in _figures(client, demo_folder() / "demo.png").items():
            file = options.folder / f"{name}.webp"
            figure.save(file, quality=_QUALITY, method=6)
            print(file)


if __name__ == "__main__":
    main()
