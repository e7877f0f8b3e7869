"""Drawings of what was kept: the image, what became of its patches, and where the file goes."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from PIL import Image

from fovea.cli.media import is_url
from fovea.cli.parsing import UsageError
from fovea.client import AnswerError
from fovea.client.form_parts import Medium
from fovea.errors import ServiceError
from fovea.media.images import decode
from fovea.visualization.explanation import ImageExplanation

__all__ = ["explained", "image_to_draw", "require_folder", "require_local"]


def require_local(word: str) -> None:
    """Raises UsageError for a URL: a drawing is made of an image that is here."""
    if is_url(word):
        raise UsageError("the drawing is made here, of a file or standard input; the image is a URL")


def explained(question: str, response: dict[str, Any]) -> ImageExplanation:
    """What a response says of the kept patches of one image."""
    try:
        return ImageExplanation.from_response(question, response)
    except ServiceError as error:
        raise AnswerError(error.message) from error


def image_to_draw(medium: Medium) -> Image.Image:
    """An image that the gateway has accepted, decoded as the encoder service decodes it."""
    assert not isinstance(medium, str)  # `require_local` has seen to it
    data = medium if isinstance(medium, bytes) else medium.read_bytes()
    try:
        return decode(data, max_bytes=len(data), max_pixels=sys.maxsize)
    except ServiceError as error:
        raise AnswerError(error.message) from error


def require_folder(path: Path) -> None:
    """Before anything is paid for: the folder that a drawing goes into."""
    if not path.absolute().parent.is_dir():
        raise AnswerError(f"there is no folder {path.parent}")
