"""Images and videos named on the command line: files, URLs, and - for standard input."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from fovea.cli.parsing import UsageError
from fovea.client import AnswerError
from fovea.client.form_parts import Medium, UnreadableMedium, read_file, read_stream

__all__ = ["IMAGE_HELP", "is_url", "media", "read_media", "split_question"]

IMAGE_HELP: Final = "JPEG, PNG, WebP, GIF or BMP file, https URL, or - for standard input"
_URL: Final = re.compile(r"https?://|data:", re.IGNORECASE)
_MEDIA_SUFFIXES: Final = (".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".mp4", ".webm", ".mkv", ".avi", ".mov")


def is_url(word: str) -> bool:
    """Whether a word is a URL, which the gateway resolves."""
    return _URL.match(word) is not None


def split_question(words: Sequence[str]) -> tuple[list[str], str]:
    """Words of the media, and the question, which is the last word.

    Raises:
        UsageError: there is no word, or the last word names an image or a video.
    """
    if not words:
        raise UsageError("the question is missing")
    *images, question = words
    suffix = Path(question[-255:]).suffix.lower()
    if question == "-" or is_url(question) or (suffix in _MEDIA_SUFFIXES and Path(question).is_file()):
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
