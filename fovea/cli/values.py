"""Types of option values. A wrong value is refused with a message that names what is accepted."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fovea.api_keys.key_lines import LIMIT_VALUES, NAME_FORM, is_name
from fovea.client.api_key import is_api_key
from fovea.client.gateway_url import gateway_url
from fovea.rpc.server import split_address

__all__ = [
    "api_key",
    "client_limit",
    "client_name",
    "count",
    "count_or_auto",
    "counts",
    "image_file",
    "image_size",
    "json_object",
    "listen",
    "number",
    "seed",
    "text",
    "url",
]

_IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")


def _refused(value: str, accepted: str) -> argparse.ArgumentTypeError:
    return argparse.ArgumentTypeError(f"{value!r:.80} is not accepted; accepted: {accepted}")


def _whole(value: str, least: int, below: int, accepted: str) -> int:
    try:
        number = int(value)
    except ValueError:
        number = least - 1
    if not least <= number < below:
        raise _refused(value, accepted)
    return number


def count(value: str) -> int:
    """A whole number of at least 1."""
    return _whole(value, 1, 2**32, "a whole number of at least 1")


def count_or_auto(value: str) -> int | str:
    """A whole number of at least 1, or "auto"."""
    return value if value == "auto" else _whole(value, 1, 2**32, "a whole number of at least 1, or auto")


def counts(value: str) -> list[int]:
    """Whole numbers of at least 1, separated by commas; each once."""
    accepted = "whole numbers of at least 1, separated by commas"
    return list(dict.fromkeys(_whole(part, 1, 2**16, accepted) for part in value.split(",")))


def image_size(value: str) -> tuple[int, int]:
    """Width and height in pixels."""
    accepted = "WIDTHxHEIGHT in pixels such as 640x480, each up to 16384"
    width, _, height = value.lower().partition("x")
    return _whole(width, 1, 16385, accepted), _whole(height, 1, 16385, accepted)


def client_limit(value: str) -> int:
    """A limit of an API key."""
    accepted = f"a whole number from {LIMIT_VALUES[0]} to {LIMIT_VALUES[-1]}"
    return _whole(value, LIMIT_VALUES.start, LIMIT_VALUES.stop, accepted)


def client_name(value: str) -> str:
    """Name of a client or tenant."""
    if not is_name(value):
        raise _refused(value, NAME_FORM)
    return value


def api_key(value: str) -> str:
    """An API key. The error does not quote it."""
    if not is_api_key(value):
        raise argparse.ArgumentTypeError(
            "the key is not accepted; accepted: ASCII letters, digits and signs, no spaces"
        )
    return value


def seed(value: str) -> int:
    """An unsigned integer of 64 bits."""
    return _whole(value, 0, 2**64, "a whole number from 0 to 2^64 - 1")


def number(accepted: str, fits: Callable[[float], bool]) -> Callable[[str], float]:
    """Type of a number within bounds.

    Args:
        accepted: text of the bounds for the error.
        fits: function that returns whether a number is within the bounds; false for NaN.
    """

    def read(value: str) -> float:
        try:
            number = float(value)
        except ValueError:
            number = float("nan")
        if not fits(number):
            raise _refused(value, accepted)
        return number

    return read


def text(value: str) -> str:
    """A text that is not empty."""
    if not value:
        raise _refused(value, "a text of at least one character")
    return value


def json_object(value: str) -> dict[str, Any]:
    """A JSON object."""
    try:
        read = json.loads(value)
    except (ValueError, RecursionError):
        read = None
    if not isinstance(read, dict):
        raise _refused(value, 'a JSON object such as {"task_share": 1}')
    return read


def url(value: str) -> str:
    """Base URL of a gateway."""
    try:
        return gateway_url(value)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def listen(value: str) -> str:
    """An address host:port."""
    try:
        port = split_address(value)[1]
    except ValueError:
        port = 0
    if not port:
        raise _refused(value, "HOST:PORT such as 127.0.0.1:8000, the port from 1 to 65535")
    return value


def image_file(value: str) -> Path:
    """Path of an image file to write."""
    path = Path(value)
    if path.suffix.lower() not in _IMAGE_SUFFIXES:
        raise _refused(value, f"a file name that ends in {', '.join(_IMAGE_SUFFIXES)}")
    return path
