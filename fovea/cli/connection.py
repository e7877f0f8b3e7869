"""Client of the gateway that the options name."""

from __future__ import annotations

import argparse
import sys
from typing import Final

from fovea.client import AnswerError, Client

__all__ = ["describe", "gateway_client"]

_UNAUTHORIZED: Final = 401
_UNSUPPORTED: Final = 415
_VIDEO_AS_IMAGE: Final = " video; JPEG"
"""Text of the gateway about a video in the place of an image, whose accepted formats begin with JPEG."""


def gateway_client(args: argparse.Namespace) -> Client:
    """Client with the options of `add_gateway`, which tells on standard error that it waits.

    Raises:
        AnswerError: the URL is not accepted.
    """
    return Client(args.url, api_key=args.api_key or "", timeout_s=args.timeout_s, on_retry=_tell)


def _tell(error: AnswerError, wait_s: float) -> None:
    print(f"fovea: {error}; trying again in {max(wait_s, 1):.0f} s", file=sys.stderr, flush=True)


def describe(error: Exception, api_key: str | None) -> str:
    """Text of an error for the terminal. It says where the API key is given if the gateway does not accept the caller,
    and how a video is given if one was sent as an image.

    Args:
        error: what ended the command, or one question of a chat.
        api_key: API key that was sent; None for none.
    """
    if not isinstance(error, AnswerError):
        return str(error)
    if error.status == _UNSUPPORTED and _VIDEO_AS_IMAGE in str(error):
        return f"{error}; fovea ask takes a video as --video"
    if error.status != _UNAUTHORIZED:
        return str(error)
    if api_key:
        return f"{error}; the key of FOVEA_API_KEY or --api-key is none of this gateway's"
    return f"{error}; give the key as the variable FOVEA_API_KEY, or as --api-key KEY"
