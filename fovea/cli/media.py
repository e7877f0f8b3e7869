"""Images and videos named on the command line: files, URLs, and - for standard input."""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from fovea.cli.parsing import UsageError
from fovea.client import AnswerError
from fovea.client.form_parts import Medium, UnreadableMedium, read_file, read_stream
from fovea.media.file_formats import detect_format

__all__ = ["IMAGE_HELP", "is_url", "media", "names_medium", "read_media", "require_images", "split_question"]

IMAGE_HELP: Final = "JPEG, PNG, WebP, GIF or BMP file, https URL, or - for standard input"
_URL: Final = re.compile(r"https?://|data:", re.IGNORECASE)
_MEDIA_SUFFIXES: Final = (".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".mp4", ".webm", ".mkv", ".avi", ".mov")
_HEAD_BYTES: Final = 1024
"""First bytes of a file, which tell its format."""


def is_url(word: str) -> bool:
    """Whether a word is a URL, which the gateway resolves."""
    return _URL.match(word) is not None


def names_medium(word: str) -> bool:
    """Whether a word in the place of a question names an image or a video: standard input, a URL, or a file."""
    suffix = Path(word[-255:]).suffix.lower()
    return word == "-" or is_url(word) or (suffix in _MEDIA_SUFFIXES and Path(word).is_file())


def split_question(words: Sequence[str]) -> tuple[list[str], str]:
    """Words of the media, and the question, which is the last word.

    Raises:
        UsageError: there is no word, or the last word names an image or a video.
    """
    if not words:
        raise UsageError("the question is missing")
    *images, question = words
    if names_medium(question):
        raise UsageError(f"the question is missing; the last word is {question!r:.80}")
    return images, question


def media(words: Sequence[str]) -> list[Medium]:
    """Media that the words name. Standard input and other pipes are read here, once.

    Raises:
        UsageError: standard input is named twice, or is a terminal.
        AnswerError: the input is closed, empty or too large.
    """
    if words.count("-") > 1:
        raise UsageError("standard input (-) is one image or the video; it was named more than once")
    try:
        return [_medium(word) for word in words]
    except UnreadableMedium as error:
        raise AnswerError(str(error)) from error


def require_images(words: Sequence[str], images: Sequence[Medium], instead: str) -> None:
    """Checks by its first bytes that no image is a video. What a URL names is known to the gateway alone.

    Args:
        words: words that name the images.
        images: the images, in the same order.
        instead: what to do with a video, for the error; {video} stands for its word, as a shell reads it.

    Raises:
        UsageError: an image is a video.
    """
    for word, image in zip(words, images, strict=True):
        file_format = detect_format(_first_bytes(image))
        if file_format is not None and file_format.endswith(" video"):
            name = "standard input" if word == "-" else f"{word!r:.80}"
            raise UsageError(f"{name} is {file_format}; {instead.format(video=shlex.quote(word))}")


def _first_bytes(medium: Medium) -> bytes:
    """First bytes of a medium; none of a URL, and of a file that cannot be read, whose error comes when it is sent."""
    if isinstance(medium, str):
        return b""
    if isinstance(medium, bytes):
        return medium[:_HEAD_BYTES]
    try:
        if not medium.is_file():  # what is read of a device is lost
            return b""
        with medium.open("rb") as file:
            return file.read(_HEAD_BYTES)
    except OSError:
        return b""


def read_media(words: Sequence[str]) -> list[Medium]:
    """Media that the words name, with the content of the files, which are read here; see `media`."""
    try:
        return [read_file(medium) if isinstance(medium, Path) else medium for medium in media(words)]
    except UnreadableMedium as error:
        raise AnswerError(str(error)) from error


def _medium(word: str) -> Medium:
    if word == "-":
        return _standard_input()
    if is_url(word):
        return word
    path = Path(word)
    if not path.is_fifo():
        return path
    with path.open("rb") as pipe:  # a later question or a drawing needs the content again
        return read_stream(pipe, word)


def _standard_input() -> bytes:
    if sys.stdin is None:
        raise AnswerError("standard input is closed")
    if sys.stdin.isatty():
        raise UsageError("- reads standard input, and nothing is piped into it")
    return read_stream(sys.stdin.buffer, "standard input")
