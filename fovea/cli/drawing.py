"""Input and output of drawings: the image, its explanation, and the file."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from PIL import Image

from fovea.cli.media import is_url
from fovea.cli.parsing import UsageError
from fovea.client import AnswerError
from fovea.client.form_parts import Medium
from fovea.errors import ServiceError
from fovea.media.images import decode
from fovea.visualization.explanation import ExplainedImage

__all__ = ["decode_image", "read_explanation", "require_folder", "require_local"]


def require_local(word: str) -> None:
    """Checks that an image is on this machine, where it is drawn.

    Raises:
        UsageError: the image is a URL.
    """
    if is_url(word):
        raise UsageError("the image is a URL; accepted for a drawing: a file, or - for standard input")


def read_explanation(question: str, response: Mapping[str, Any]) -> ExplainedImage:
    """Explanation of the only image of a response.

    Raises:
        AnswerError: the image cannot be drawn.
    """
    try:
        return ExplainedImage.from_response(question, response)
    except ServiceError as error:
        raise AnswerError(error.message) from error


def decode_image(medium: Medium) -> Image.Image:
    """Decoded image of the command line, for drawing.

    Args:
        medium: image that the gateway has accepted; not a URL.

    Raises:
        AnswerError: the image cannot be decoded.
    """
    assert not isinstance(medium, str)  # checked by `require_local`
    data = medium if isinstance(medium, bytes) else medium.read_bytes()
    try:
        return decode(data, max_bytes=len(data), max_pixels=sys.maxsize)
    except ServiceError as error:
        raise AnswerError(error.message) from error


def require_folder(path: Path) -> None:
    """Checks, before a server is asked, that the folder of an output file exists.

    Raises:
        AnswerError: there is no such folder.
    """
    if not path.absolute().parent.is_dir():
        raise AnswerError(f"there is no folder {path.parent}")
